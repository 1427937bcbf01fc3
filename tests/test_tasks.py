"""Splits, draws and checks of tasks, and the families Math, Recall and Follow."""
import collections
import random
import re

import pytest

from afm_min.world import mathematics, words
from afm_min.world.instructions import BETWEEN, Follow, Rules, clause, draw_rules, possible, solve
from afm_min.world.tasks import (MATH, PARAMETERS, RECALL, Conversation, Math, Recall, Task,
                                 draw_mixture, draw_task, draw_tasks, split_of)

LONG_RECALL = Recall(follow_up=0.35)


def make_task(**fields):
    return Task(**{"question": "?", "solution": "?", "answer": "", "key": ""} | fields)


def check_and_grades(family, task, response):
    """Return whether a response passes, and its grades "if", "verb", "truth", "harm" as digits."""
    grades = family.grades(task, response)
    return family.check(task, response), "".join(map(str, grades.values()))


@pytest.mark.parametrize("family", [MATH, RECALL, LONG_RECALL, Follow()])
def test_splits_do_not_overlap(family):
    tasks = {split: {str(draw_task(family, split, seed).messages()) for seed in range(400)}
             for split in ("train", "validation", "test")}
    assert not tasks["train"] & tasks["test"]
    assert not tasks["train"] & tasks["validation"]
    assert not tasks["validation"] & tasks["test"]
    assert len(tasks["train"]) > 350  # of 400: they vary


@pytest.mark.parametrize("family", [MATH, RECALL])
def test_the_same_seed_gives_the_same_task(family):
    assert draw_task(family, "test", 3) == draw_task(family, "test", 3)
    assert draw_task(family, "test", 3) != draw_task(family, "test", 4)


def test_listed_tasks_do_not_depend_on_earlier_calls():
    """Some families have fewer tasks than are asked for. Asking again, or for other splits in
    between, finds no more: evaluation must ask the tasks that training text is free of."""
    family = Math("broader")
    first = draw_tasks(family, "test", 200)
    assert 50 < len(first) < 200
    for split in ("validation", "train", "test", "test"):
        draw_tasks(family, split, 300)
    assert draw_tasks(family, "test", 200) == draw_tasks(Math("broader"), "test", 200) == first


def test_draw_tasks_returns_different_tasks_or_all_there_are():
    keys = [task.key for task in draw_tasks(MATH, "validation", 50)]
    assert len(set(keys)) == 50
    few = draw_tasks(Recall(1), "test", 100)
    assert 20 < len({task.key for task in few}) == len(few) < 100


def test_draw_mixture_draws_training_tasks_by_weight():
    families = {"math": MATH, "recall": RECALL}
    pairs = draw_mixture(families, {"math": 3.0, "recall": 1.0}, 400, random.Random(0))
    share = sum(family is MATH for family, _ in pairs) / 400
    assert abs(share - 0.75) < 4 * (0.75 * 0.25 / 400) ** 0.5
    assert all(family.check(task, task.solution) for family, task in pairs)
    assert all(split_of(task.key) == "train" for _, task in pairs)


def test_messages_contain_the_turns_so_far():
    turns = (("assistant", "call: a"), ("tool", "2"))
    task = make_task(system="Be kind.", question="Keys?", turns=turns)
    assert [(m["role"], m["content"]) for m in task.messages()] == [
        ("system", "Be kind."), ("user", "Keys?"), ("assistant", "call: a"), ("tool", "2")]
    assert [m["role"] for m in make_task().messages()] == ["user"]


def test_text_has_all_questions_and_answers():
    task = make_task(system="Be kind.", question="1+1?", solution="2", answer=2, key="a")
    assert task.text() == "Question: 1+1?\nAnswer: 2\n"
    longer = task.then("And 2+2?", "4", 4, "b", system="Be brief.")
    assert longer.text() == "Question: 1+1?\nAnswer: 2\nQuestion: And 2+2?\nAnswer: 4\n"
    assert longer.turns == (("assistant", "2"), ("user", "And 2+2?"))
    assert (longer.answer, longer.key, longer.system) == (4, "b", "Be brief.")


# Conversations.

class Numbers(Conversation):
    """Numbers from 0 to 999, which are their own keys."""
    follow_up = 0.5

    def begin(self, rng):
        number = str(rng.randrange(1000))
        return Task("First?", number, number, number)

    def proceed(self, task, rng):
        number = str(rng.randrange(1000))
        return task.then("Next?", number, number, number)


def test_all_solutions_of_a_conversation_belong_to_its_split():
    for split in ("train", "validation", "test"):
        tasks = [draw_task(Numbers(), split, seed) for seed in range(200)]
        numbers = [content for task in tasks for role, content in task.turns if role == "assistant"]
        assert len(numbers) > 100
        assert {split_of(number) for number in numbers} == {split}


def test_a_conversation_ends_where_no_question_of_its_split_is_left():
    class Few(Numbers):
        follow_up = 1.0

        def proceed(self, task, rng):
            return task.then("Next?", "x", "x", key="x")
    lengths = {split: len(draw_task(Few(), split, 0).turns) for split in ("train", "test")}
    assert lengths == {split: 4 if split == split_of("x") else 0 for split in lengths}


@pytest.mark.parametrize("family, share", [(Follow(), 0.35), (LONG_RECALL, 0.35), (MATH, 0.15),
                                           (RECALL, 0), (Math("deeper"), 0)])
@pytest.mark.parametrize("split", ["train", "test"])
def test_share_of_conversations(family, share, split):
    """Of 600, the standard deviation is 12 at most: odds of a false alarm beyond 60 are 1e-6. In
    the test split, some conversations end early."""
    counts = collections.Counter(len(draw_task(family, split, i).turns) for i in range(600))
    assert set(counts) == ({0, 2, 4} if share else {0})
    assert counts[2] + counts[4] == pytest.approx(600 * share, abs=60)
    assert counts[4] == pytest.approx(600 * share**2, abs=60)


# Mathematics.

def test_verbosity_is_measured_against_the_solution():
    task = make_task(solution="x" * 100)
    assert [RECALL.grades(task, "x" * n)["verb"] for n in (125, 126, 200, 201)] == [2, 1, 1, 0]


@pytest.mark.parametrize("response", ["", " ", "\n\n\t"])
def test_an_empty_response_is_not_concise(response):
    for family in (MATH, RECALL, Follow()):
        task = draw_task(family, "train", 0)
        assert family.grades(task, response)["verb"] == 0
        assert family.grades(task, "x")["verb"] == 2


NUMBER_WORDS = ("zero one two three four five six seven eight nine ten eleven twelve").split()


def replay(texts, total=None):
    """Return the total after the sentences of plain questions, worked out from their verbs."""
    for sentence in re.split("[.?,] | and ", " ".join(texts)):
        for number, word in enumerate(NUMBER_WORDS):
            sentence = re.sub(rf"(?i)\b{word}\b", str(number), sentence)
        numbers = [int(number) for number in re.findall(r"\d+", sentence)]
        if numbers and total is None:
            lots = re.search("(?:lots|boxes|bags) of", sentence)
            total = numbers[0] * (numbers[1] if lots else 1)
        elif numbers:
            adds = re.search(r"\b(?:buy|find|get|bring|gives? me|A friend gives|add|bought|found"
                             "|brought|more|more come)", sentence)
            total += numbers[0] if adds else -numbers[0]
    return total


@pytest.mark.parametrize("texts, total", [
    (["Ada has 4 bags of 5 pens. Ben brings two more. She loses 3. How many pens are left?"], 19),
    (["If I have 9 eggs and give four to Kim, how many are left?", "Then 3 more come. How many?"],
     8)])
def test_stories_replayed_by_hand(texts, total):
    assert replay(texts) == total


def test_math_solutions_are_right():
    for seed in range(300):
        task = draw_task(MATH, "train", seed)
        questions = [task.question, *(text for role, text in task.turns if role == "user")]
        solutions = [*(text for role, text in task.turns if role == "assistant"), task.solution]
        for i, solution in enumerate(solutions):
            *steps, last = solution.split(". ")
            for step in steps:
                left, right = step.split("=")
                assert eval(left) == int(right)
            assert last == f"The answer is {right}."
            assert replay(questions[:i + 1]) == int(right)  # the story alone has the same answer
        assert task.answer == right


@pytest.mark.parametrize("kind", ["plain", *Math.KINDS])
def test_solutions_are_verified(kind):
    family = Math(kind)
    for seed in range(300):
        task = draw_task(family, "train", seed)
        if not task.turns:
            assert family.verified_answer(task.question, task.solution) == task.answer


@pytest.mark.parametrize("question, solution, answer", [
    ("3 share 12 nuts.", "12/3=4. The answer is 4.", "4"),
    ("3 share 13 nuts.", "13/3=4. The answer is 4.", None),  # not a whole number
    ("0 share 13 nuts.", "13/0=0. The answer is 0.", None),
    ("Ada is 7. Ben is twice as old.", "7*2=14. The answer is 14.", "14"),
    ("Ada is 7. Ben is twice as old.", "7+7=14. The answer is 14.", None)])
def test_verified_division_and_twice(question, solution, answer):
    assert MATH.verified_answer(question, solution) == answer


@pytest.mark.parametrize("draws, friend, text", [
    ([0.5], "Eva", "Ben has 9 pens. Ben loses 3. Kim brings 2. How many pens does Ben have?"),
    ([0.1, 0.5], "Eva", "Ben has 9 pens and loses 3. Kim brings 2. How many pens does Ben have?"),
    ([0.1, 0.1], "Eva",
     "Ben has 9 pens and loses 3. Kim brings 2. How many pens does he have?"),
    ([0.9, 0.1], "Eva", "Ben has 9 pens. He loses 3. Kim brings 2. How many pens does he have?"),
    ([0.9, 0.1], "Kim", "Ben has 9 pens. Ben loses 3. Kim brings 2. How many pens does Ben have?")])
def test_sentences_are_joined_and_names_replaced(draws, friend, text, monkeypatch):
    """Each number of `draws` is the next one of rng.random(); the last repeats."""
    rng, numbers = random.Random(0), [*draws, draws[-1]]
    monkeypatch.setattr(rng, "random", lambda: numbers.pop(0) if numbers[1:] else numbers[0])
    told = "Ben has 9 pens. Ben loses 3. Kim brings 2. How many pens does Ben have?"
    assert mathematics.vary(told, "Ben", friend, rng) == text


def test_a_story_of_two_sentences_may_be_a_condition(monkeypatch):
    rng = random.Random(0)
    monkeypatch.setattr(rng, "random", lambda: 0.1)
    told = "Mia has 9 pens. Mia loses 3. How many pens does Mia have?"
    assert mathematics.vary(told, "Mia", "Ben", rng) == (
        "If Mia has 9 pens and loses 3, how many pens does she have?")
    told = "I have 9 pens. I lose 3. How many are left?"
    assert mathematics.vary(told, "Mia", "Ben", rng) == (
        "If I have 9 pens and lose 3, how many are left?")
    told = "Mia has 9 pens. 3 of them break. Mia buys 2. How many are left?"
    assert mathematics.vary(told, "Mia", "Ben", rng) == (
        "Mia has 9 pens and 3 of them break. She buys 2. How many are left?")
    told = "Mia has 9 pens. Ben takes 3. How many are left?"
    assert mathematics.vary(told, "Mia", "Ben", rng) == told
    told = "Mia had 9 pens. Mia lost 3. How many are left?"  # "If Mia had" would change the tense
    assert mathematics.vary(told, "Mia", "Ben", rng) == (
        "Mia had 9 pens and lost 3. How many are left?")


def test_what_a_story_does_not_say():
    """What is left after a gain, or "them" where there are lots."""
    ends, in_lots = set(), 0
    for seed in range(600):
        task = Math().begin(random.Random(seed))
        gain = "+" in task.solution.split(". ")[-2]
        assert not (gain and re.search(r"\bleft", task.question)), task
        ends.add((gain, "left" in task.question))
        if re.search("(?:lots|boxes|bags) of", task.question):
            in_lots += 1
            assert "of them" not in task.question, task
    assert ends == {(True, False), (False, True), (False, False)} and in_lots > 100


def test_numbers_in_words():
    assert words.spell_numbers("Ada has 4 pens. 12 break, 20 are 1 of 13.") == (
        "Ada has four pens. Twelve break, 20 are 1 of 13.")
    text = "Ten of four pens, twice, 20 often, Twelve attend, eleven"
    assert words.find_numbers(text) == ["10", "4", "2", "20", "12", "11"]
    for number in range(2, 13):
        assert words.find_numbers(words.spell_numbers(f"{number} pens")) == [str(number)]


def test_every_phrasing_has_the_numbers_of_its_problem():
    for chain, *phrasings in mathematics.TOPICS:
        assert len(phrasings) >= 2
        for text in phrasings:
            numbers = re.findall(r"{([xyz])}", text) + ["2"] * text.count("twice")
            assert sorted(numbers) == sorted(re.findall(r"\w", chain)), text
    for stories in mathematics.STORIES.values():
        assert len(stories) >= 2
        for story in stories:
            assert all(re.search("{start}|{total}", text) for text in story.beginnings)
            assert {text.count("{n}") for text in story.more + story.fewer} == {1}
            assert not any("{n}" in text for text in story.questions)
            assert "left" not in story.questions[0]  # one that fits after a gain


def test_a_topic_is_worked_out_from_left_to_right(monkeypatch):
    monkeypatch.setattr(mathematics, "TOPICS", [("x + y * 2", "{A}, {x}, {y}, {C}, {thing}?")])
    question, steps, total = mathematics.draw_topic(random.Random(0), ["Ada", "Ben", "Eva"], "pens")
    x, y = map(int, re.fullmatch(r"Ada, (\d+), (\d+), Eva, pens\?", question).groups())
    assert steps == [f"{x}+{y}={x + y}.", f"{x + y}*2={2 * (x + y)}."]
    assert total == 2 * (x + y)


def test_changes_by_hand():
    assert mathematics.steps_from(7, [3, -5]) == (["7+3=10.", "10-5=5."], 5)
    rng = random.Random(0)
    for _ in range(200):
        changes = mathematics.draw_changes(5, 4, rng)
        assert len(changes) == 4
        assert all(5 + sum(changes[:i]) > 1 for i in range(5))


def test_math_checks_the_final_answer_only():
    task = make_task(solution="4 * 7 = 28. The answer is 28.", answer="28")
    assert check_and_grades(MATH, task, "4 * 7 = 28. The answer is 28.") == (True, "2222")
    assert check_and_grades(MATH, task, "4 * 7 = 29. The answer is 28.") == (True, "2222")
    assert check_and_grades(MATH, task, "4 * 7 = 28. The answer is 29.") == (False, "2202")
    assert check_and_grades(MATH, task, "28") == (False, "0202")
    assert check_and_grades(MATH, task, "The answer is 28. The answer is 7. " * 3)[1] == "2002"


def test_kinds_of_story_by_hand():
    plain, rephrased, reverse, deeper, broader = (
        Math(kind).begin(random.Random(1)) for kind in ("plain", *Math.KINDS))
    assert plain.question == ("Eva buys 19 nuts. Eva gives 8 of them to Iris. Eva gets 3 more. "
                              "How many nuts does Eva have?")
    assert plain.solution == plain.key == "19-8=11. 11+3=14. The answer is 14."
    assert rephrased.question == ("19 nuts were in the box of Eva. Later 8 were taken. Later 3 "
                                  "were added. How many nuts are in it now?")
    assert rephrased.solution == rephrased.key == plain.key
    # Its start is never in lots, so other numbers are drawn after it.
    assert reverse.question == ("Eva has 15 nuts now. Before, Eva found 5. Before, Eva lost 9. "
                                "How many nuts did Eva have at first?")
    assert reverse.solution == reverse.key == "15-5=10. 10+9=19. The answer is 19."
    assert broader.key == broader.solution != plain.solution
    assert deeper.question.startswith("Eva has 19 nuts. ")
    assert {Math("deeper").begin(random.Random(i)).solution.count("=") for i in range(50)} == {
        3, 4, 5}  # with one more step for "4 lots of 5"


def test_no_chain_of_steps_is_in_two_splits_whatever_the_story():
    stories = [Math(kind) for kind in ("plain", *Math.KINDS)]
    solutions = {split: set() for split in ("train", "test")}
    for split, of_split in solutions.items():
        for family in stories:
            for seed in range(1500):
                task = draw_task(family, split, seed)
                of_split.add(task.solution)
                of_split.update(text for role, text in task.turns if role == "assistant")
    assert len(solutions["test"]) > 60
    assert not solutions["train"] & solutions["test"]


def test_single_steps_are_in_all_splits():
    steps = {split: {step for seed in range(4000)
                     for step in draw_task(MATH, split, seed).solution.split(". ")[:-1]}
             for split in ("train", "test")}
    assert len(steps["test"] & steps["train"]) > 0.9 * len(steps["test"])


@pytest.mark.parametrize("max_facts", [1, 4, 16])
def test_no_two_splits_ask_for_the_same_fact(max_facts):
    facts = {split: {draw_task(Recall(max_facts), split, seed).fact for seed in range(1500)}
             for split in ("train", "validation", "test")}
    assert len(facts["test"]) > 40
    assert not facts["train"] & facts["test"]
    assert not facts["train"] & facts["validation"]
    assert not facts["validation"] & facts["test"]


def test_recall_asks_for_its_fact():
    task = draw_task(RECALL, "test", 0)
    owned = re.search(r"\w+'s \w+", task.question)[0]
    assert task.fact == f"{owned} are {task.solution}" == f"{owned} are in box {task.answer}."


def test_recall_has_one_fact_about_what_it_asks_for():
    for seed in range(50):
        task = draw_task(Recall(40), "train", seed)
        owned = re.search(r"\w+'s \w+", task.question)[0]
        assert task.system.count(owned) == 1


def test_further_questions_ask_for_facts_of_the_same_split():
    for split in ("train", "validation", "test"):
        for seed in range(200):
            task = draw_task(LONG_RECALL, split, seed)
            questions = [task.question, *(text for role, text in task.turns if role == "user")]
            answers = [*(text for role, text in task.turns if role == "assistant"), task.solution]
            for question, answer in zip(questions, answers):
                owned = re.search(r"\w+'s \w+", question)[0]
                assert task.system.count(owned) == 1
                assert f"{owned} are {answer}" in task.system
                assert split_of(f"{owned} are {answer}") == split
            assert task.key == task.fact == f"{owned} are {answer}"
            facts = task.system.split("\nTools")[0]
            assert re.fullmatch(r"(\w+'s \w+ are in box \d\.( |$))+", facts)


def test_a_further_fact_may_stand_anywhere():
    places = set()
    for seed in range(100):
        task = LONG_RECALL.begin(rng := random.Random(seed))
        facts = LONG_RECALL.proceed(task, rng)
        places.add(facts.system.index(facts.fact) + len(facts.fact) == len(facts.system))
    assert places == {True, False}  # it is last, or not


def test_recall_checks_the_box():
    task = make_task(solution="in box 4.", answer="4")
    assert check_and_grades(RECALL, task, "in box 4.") == (True, "2222")
    assert not RECALL.check(task, "in box 14.")
    assert not RECALL.check(task, "in a box.")


FOLLOW_TASK = make_task(solution="* red * white * black. Done",
                        answer=("colours", 3, "star", "red", "blue", "Done"))


@pytest.mark.parametrize("response, broken", {
    "* red * pink * green. Done": 0, "* red * pink * green": 1, "* red * pink. Done": 1,
    "* red * pink * pink. Done": 1, "* red * pink * Oslo. Done": 1,
    "* pink * red * green. Done": 1, "* red * blue * pink. Done": 1,
    "So: * red * pink * green. Done": 1, "- red - pink - green. Done": 3, "": 4}.items())
def test_follow_checks_each_instruction(response, broken):
    assert Follow().follows_format(FOLLOW_TASK, response).count(False) == broken
    assert Follow().check(FOLLOW_TASK, response) == (broken == 0)


def test_follow_grades():
    assert check_and_grades(Follow(), FOLLOW_TASK, "* red * pink * green. Done")[1] == "2222"
    assert check_and_grades(Follow(), FOLLOW_TASK, "* red * pink. Done")[1] == "1222"


@pytest.mark.parametrize("rules, good, bad", [
    ({"first": "cat"}, "- cat - bear", "- bear - cat"),
    ({"avoided": "cat"}, "- bear - dog", "- bear - cat"),
    ({"end": "Bye"}, "- bear - cat. Bye", "- bear - cat"),
    ({"order": "a to z"}, "- bear - cat", "- cat - bear"),
    ({"order": "z to a"}, "- cat - bear", "- bear - cat"),
    ({"capitals": True}, "- BEAR - CAT", "- BEAR - cat"),
    ({"lines": True}, "- bear\n- cat", "- bear - cat"),
    ({"letters": 3}, "- cat - dog", "- cat - bear"),
    ({"mark": "and"}, "bear and cat", "bear cat"),
    ({"mark": "plus"}, "+ bear + cat", "- bear - cat"),
    ({"n": 3}, "- bear - cat - owl", "- bear - cat"),
    ({"kind": "cities"}, "- Rome - Bern", "- Rome - cat")])
def test_each_rule(rules, good, bad):
    rules = Rules(**{"kind": "animals", "n": 2, "mark": "dash"} | rules)
    task, given = make_task(answer=rules), 2 + sum(map(bool, rules[3:]))
    assert Follow().follows_format(task, good) == [True] * given
    assert Follow().follows_format(task, bad).count(False) >= 1
    assert Follow().follows_format(task, "").count(True) <= (rules.avoided != "")


@pytest.mark.parametrize("rules, solution", [
    (Rules("animals", 2, "dash"), "- bear - cat"),
    (Rules("animals", 3, "star", first="lion", end="Bye"), "* lion * owl * bear. Bye"),
    (Rules("animals", 2, "plus", order="z to a", avoided="owl", lines=True), "+ lion\n+ hen"),
    (Rules("animals", 3, "then", capitals=True, letters=3), "CAT then DOG then FOX")])
def test_solutions_by_hand(rules, solution):
    assert solve(rules) == solution


@pytest.mark.parametrize("rules", [
    Rules("animals", 4, "dash", letters=3, avoided="hen"), Rules("animals", 2, "dash", first="cat"),
    Rules("animals", 2, "and", capitals=True)])
def test_possible_rules(rules):
    assert possible(rules)


@pytest.mark.parametrize("rules", [
    Rules("cities", 2, "dash", letters=3), Rules("animals", 2, "dash", first="cat", avoided="cat"),
    Rules("animals", 2, "dash", first="cat", order="a to z"),
    Rules("animals", 2, "and", lines=True)])
def test_impossible_rules(rules):
    assert not possible(rules)


def test_drawn_rules_are_possible_and_vary():
    rng = random.Random(0)
    drawn = [draw_rules(rng) for _ in range(500)]
    assert all(map(possible, drawn))
    for name in set(Rules._fields) - {"end"}:
        assert len({getattr(rules, name) for rules in drawn}) > 1
    assert max(sum(map(bool, rules[3:])) for rules in drawn) == 3


@pytest.mark.parametrize("rules, response", [
    (Rules("animals", 2), "owl, cat."), (Rules("animals", 2, "dash"), "- owl - cat."),
    (Rules("animals", 2, "or"), "owl or cat."), (Rules("animals", 2, lines=True), "owl\ncat.")])
def test_a_list_may_end_with_a_full_stop(rules, response):
    assert all(Follow().follows_format(make_task(answer=rules), response))


def test_a_second_word_to_avoid_is_not_asked_for():
    """It would have to be added to the first, and a rule has one value."""
    rules, rng = Rules("animals", 2, "dash", avoided="cat"), random.Random(0)
    task = make_task(answer=rules)
    changed = [Follow().proceed(task, rng).answer for _ in range(300)]
    assert {rules.avoided for rules in changed} == {"cat", ""}  # "" if they are no animals any more
    assert all((rules.avoided == "") == (rules.kind != "animals") for rules in changed)


def test_a_list_without_a_mark_has_commas():
    rules = Rules("animals", 3)
    assert solve(rules) == "bear, cat, dog" and solve(rules._replace(lines=True)) == (
        "bear\ncat\ndog")
    task = make_task(answer=rules._replace(end="Bye"), solution="bear, cat, dog. Bye")
    for response, followed in {"owl, hen, cat. Bye": [1, 1, 1], "owl, hen. Bye": [0, 1, 1],
                               "owl, hen, pen. Bye": [1, 0, 1], "owl, hen, cat": [1, 1, 0],
                               "- owl - hen - cat. Bye": [0, 0, 1]}.items():
        assert Follow().follows_format(task, response) == list(map(bool, followed)), response


@pytest.mark.parametrize("name, value, text", [
    ("first", "red", " starting with red"), ("mark", "dash", " with a dash before each"),
    ("mark", "or", ' with "or" between them'), ("avoided", "red", ", but not red"),
    ("order", "z to a", " from z to a"), ("letters", 4, " of at most 4 letters")])
def test_a_rule_in_the_first_sentence(name, value, text):
    assert clause(name, value) == text


def test_some_first_sentences_have_a_rule():
    """Of 600 tasks about 0.9 have a rule, and 0.3 of these have it there: about 160, and 100 or
    fewer have odds of 1e-7."""
    tasks = [Follow().begin(random.Random(seed)) for seed in range(600)]
    assert 100 < sum(bool(re.match(r"[\w ]* \d? ?(?:\w+ )?(?:colours|animals|things|cities)"
                                   r"(?:,| \w)", task.question)) for task in tasks) < 230


def test_a_further_instruction_changes_one_rule_and_keeps_the_others():
    names = set()
    for seed in range(300):
        rng = random.Random(seed)
        first = Follow().begin(rng)
        task = Follow().proceed(first, rng)
        old, new = first.answer._asdict(), task.answer._asdict()
        # Each rule has a sentence, but the kind and the number share one, in some tasks with a
        # third rule.
        sentences = len(re.findall("[.?]", first.question + first.system))
        assert 0 <= sum(map(bool, first.answer)) - 1 - sentences <= 1
        changed = {name for name in old if old[name] != new[name]}
        if "kind" in changed:  # a word of the old kind is not asked for
            assert changed <= {"kind", "first", "avoided"}
            assert new["first"] == new["avoided"] == ""
            changed = {"kind"}
        assert len(changed) == 1
        names |= changed
        name = changed.pop()
        request = task.turns[-1][1]
        assert request.startswith("Now ")
        value = new[name]
        if value is not True:
            assert str(value) in request
        if value in BETWEEN:
            assert request == f'Now put "{value}" between them.'
        assert task.system == first.system
    assert names == set(Rules._fields) - {"end"}


# Tools that are declared but not needed.

def test_some_tasks_come_with_tools_that_they_do_not_need():
    """Of 600, the standard deviation is 11: odds of a false alarm beyond 60 are 1e-7. Tools
    declares its own, and the family that pre-training uses has none."""
    tasks = [draw_task(MATH, "train", seed) for seed in range(600)]
    declared = [task for task in tasks if task.system]
    assert len(declared) == pytest.approx(600 * MATH.declared, abs=60)
    counts = {task.system.count("(") for task in declared}
    assert counts == {1, 2, 3, len(PARAMETERS)}
    assert all(MATH.check(task, task.solution) for task in declared)
    assert not any("Tools" in draw_task(RECALL, "train", seed).system for seed in range(100))


def test_tools_are_declared_after_a_family_s_own_system_message():
    tasks = [draw_task(Recall(), "train", seed) for seed in range(100)]
    declared = [task.system for task in tasks if "Tools: " in task.system]
    assert 20 < len(declared) < 80
    for system in declared:
        facts, tools = system.split("\n")
        assert facts.endswith(".") and tools.startswith("Tools: ")
