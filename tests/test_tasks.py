"""The toy world: answers are right, and no split leaks into another."""
import functools
import os
import random
import re
import subprocess
import sys

import pytest

from afm_min.world import families, functions, tools
from afm_min.world.tasks import (EVOLVED, MATH, Math, RECALL, Recall,
                                 Task, draw_task, draw_tasks, listing, split_of)

PAGES = {"textwrap": "Text wrapping and filling.\nMore.", "heapq": "Heap queue algorithm."}
FAMILIES = families.all_families(PAGES)
REQUEST = "|".join(sorted({word for verbs, nouns, _ in families.Refuse.ASKED
                           for word in verbs + nouns},
                          key=len, reverse=True))  # "virus scanner" before "virus"


@pytest.mark.parametrize("family", [MATH, RECALL])
def test_splits_never_overlap(family):
    drawn = {split: {str(draw_task(family, split, i).messages()) for i in range(400)}
             for split in ("train", "validation", "test")}
    assert not drawn["train"] & drawn["test"] and not drawn["train"] & drawn["validation"]
    assert not drawn["validation"] & drawn["test"]
    assert len(drawn["train"]) > 350  # of 400: variety
    assert (draw_task(family, "test", 3) == draw_task(family, "test", 3)
            != draw_task(family, "test", 4))


def test_no_way_to_an_answer_is_in_two_splits_in_whatever_words():
    """Sums, over all kinds of stories; functions, by what they give;
    requests, whatever the form."""
    stories = [Math(kind) for kind in ("plain", *Math.KINDS)]
    inputs = [functions.inputs(random.Random(i))
              for i in range(1, 30)]  # others than the key's

    @functools.cache
    def behaviour(code):
        scope, results = {}, []
        exec(re.sub("def [a-z]+", "def f", code), scope)
        for values in inputs:
            try:
                results.append(scope["f"](
                    *(values[name] for name in re.search(r"\((.*?)\)", code)[1].split(", "))))
            except IndexError:
                results.append(None)
        return repr(results)
    def in_any_order(p):
        parts = (p.question.splitlines() if p.system == "Summarize in one line." else
                 re.findall(r"the \w+ \w+", p.question) if "together" in p.question else
                 p.question.rstrip(".").split() if "page" in p.question else [p.question])
        return tuple(sorted(parts))
    for group, way in ((stories, lambda p: p.solution),
                       ([FAMILIES["tools"]], in_any_order), ([FAMILIES["summary"]], in_any_order),
                       ([FAMILIES["code"]], lambda p: behaviour(p.solution)),
                       ([FAMILIES["refuse"]],
                        lambda p: " ".join(re.findall(r"\b(?:%s)\b" % REQUEST, p.question)))):
        ways = {split: {way(draw_task(family, split, i)) for family in group for i in range(1500)}
                for split in ("train", "test")}
        assert len(ways["test"]) > 60 and not ways["train"] & ways["test"]


def test_worked_answers_are_right():
    for i in range(300):
        task = draw_task(MATH, "train", i)
        *steps, last = task.solution.split(". ")
        for step in steps:
            left, right = step.split("=")
            assert eval(left) == int(right)
        assert last == f"The answer is {right}." and task.answer == right
        # and told by the story alone
        total, *changes = task.question.split(". ")[:-1]
        lots = re.search(r"(\d+) lots of (\d+)", total)
        amount = int(lots[1]) * int(lots[2]) if lots else int(re.search(r"\d+", total)[0])
        for change in changes:
            n = int(re.search(r"\d+", change)[0])
            amount += n if re.search("buys|finds", change) else -n
        assert str(amount) == task.answer


def test_recall_tells_what_it_asks_for():
    task = draw_task(RECALL, "test", 0)
    owner = task.question.removeprefix("Where are ").removesuffix("?")
    assert (task.fact == f"{owner} are {task.solution}"
            == f"{owner} are in box {task.answer}.")


@pytest.mark.parametrize("name", FAMILIES)
def test_no_question_is_in_two_splits_over_100_000_draws(name):
    """Seven families, 14,300 draws each: what is asked decides the key, and the key the split."""
    rng, keys = random.Random(0), {}
    for _ in range(14_300):
        task = FAMILIES[name].make(rng)
        asked = (task.question, task.fact,
                 *([task.system] if name in ("follow", "recall") else []))
        assert keys.setdefault(asked, task.key) == task.key
    assert len(set(keys.values())) > 500  # enough to draw from, of each


@pytest.mark.parametrize("name", FAMILIES)
def test_worked_answers_pass_with_the_best_grades(name):
    for i in range(40):
        task = draw_task(FAMILIES[name], "train", i)
        assert FAMILIES[name].check(task, task.solution), task
        assert set(FAMILIES[name].grades(task, task.solution).values()) == {2}
        other = draw_task(FAMILIES[name], "train", i + 1)
        if (other.solution, other.question) != (task.solution, task.question):
            assert (not FAMILIES[name].check(task, "")
                    and not FAMILIES[name].check(task, "Hm."))


def task(**fields):
    return Task(**{"question": "?", "solution": "?", "answer": "", "key": ""} | fields)


def judged(name, given, response):
    """What a family says of a response: right or not, and the grades if, verb, truth, harm."""
    family = FAMILIES[name]
    return family.check(given, response), "".join(map(str, family.grades(given, response).values()))


def test_math_looks_at_the_answer_only():
    given = task(solution="4 * 7 = 28. The answer is 28.", answer="28")
    assert judged("math", given, "4 * 7 = 28. The answer is 28.") == (True, "2222")
    assert judged("math", given, "4 * 7 = 29. The answer is 28.") == (True, "2222")
    assert judged("math", given, "4 * 7 = 28. The answer is 29.") == (False, "2202")
    assert judged("math", given, "28") == (False, "0202")
    assert judged("math", given, "The answer is 28. The answer is 7. " * 3)[1] == "2002"


def test_follow_counts_each_instruction():
    rules = ("colours", 3, "star", "red", "blue", "Done")
    given = task(solution="* red * white * black. Done", answer=rules)
    assert judged("follow", given, "* red * pink * green. Done") == (True, "2222")
    for wrong, broken in {
            "* red * pink * green": 1, "* red * pink. Done": 1, "* red * pink * pink. Done": 1,
            "* red * pink * Oslo. Done": 1, "* pink * red * green. Done": 1,
            "* red * blue * pink. Done": 1, "So: * red * pink * green. Done": 1,
            "- red - pink - green. Done": 3, "": 4}.items():
        assert FAMILIES["follow"].follows_format(given, wrong).count(False) == broken, wrong
        assert not FAMILIES["follow"].check(given, wrong)
    assert judged("follow", given, "* red * pink. Done")[1] == "1222"


def test_tools_compares_calls_as_syntax_trees():
    call = tools.format_call("price", "keys")
    given = task(solution=call)
    assert judged("tools", given, 'call: price( item = "keys" )') == (True, "2222")
    for wrong in ("call: price(item='pens')", "call: stock(item='keys')", "call: price('keys')",
                  "call: price(", "price(item='keys')", "The keys cost 52."):
        assert not FAMILIES["tools"].check(given, wrong), wrong
    answered = task(solution="The keys cost 52.")
    assert FAMILIES["tools"].check(answered, "The keys cost 52.")
    assert not FAMILIES["tools"].check(answered, call)


def test_tools_wants_what_running_the_calls_gives():
    """Played to its end with the worked turns,
    a conversation says what the task says it does."""
    kinds = set()
    for i in range(60):
        given = draw_task(FAMILIES["tools"], "train", i)
        turns = [*given.answer[0], given.answer[1]]
        messages = given.messages()[:2]
        tools.converse(lambda open: [turns[sum(m["role"] == "assistant" for m in c)] for c in open],
                       [messages], PAGES)
        assert [m["content"] for m in messages if m["role"] == "assistant"] == turns
        assert given.messages() == messages[:len(given.messages())]  # the results, too
        assert given.solution == turns[len(given.turns)]
        kinds.add(len(turns))
    assert kinds == {1, 2, 4}
    whole = [draw_task(families.Tools(PAGES, whole=True), "train", i) for i in range(60)]
    assert all(given.solution == given.answer[1] and len(given.turns) == len(given.answer[0])
               for given in whole)


def test_a_conversation_is_solved_by_the_right_calls_and_the_right_answer():
    family, call = FAMILIES["tools"], tools.format_call("price", "keys")
    given = task(answer=((call,), "They cost 2."))

    def said(*texts):
        return [{"role": "user", "content": "?"},
                *({"role": "assistant", "content": text} for text in texts)]
    assert family.solved(given, said('call: price(item="keys")', "They cost 2. "))
    for wrong in ((call, "They cost 3."), (tools.format_call("price", "pens"), "They cost 2."),
                  ("They cost 2.",), (call, call), (call, call, "They cost 2."), (call,)):
        assert not family.solved(given, said(*wrong)), wrong


def test_code_is_judged_by_running_it():
    tests = ("('f([1, 2])', 6)", "('f([5])', 10)")
    given = task(solution="def f(v):\n    return sum(v) * 2", answer=tests)
    assert judged("code", given, "def f(v):\n    return 2 * sum(v)") == (True, "2222")
    assert judged("code", given, "def f(v):\n    return 6") == (False, "2212")  # one of two tests
    assert FAMILIES["code"].is_correct(given, "def f(v):\n    return 6", slice(1)) == [True]
    assert FAMILIES["code"].is_correct(given, "def f(v):\n    return 6", slice(1, None)) == [False]
    assert judged("code", given, "def f(v):\n    return v") == (False, "2202")
    assert judged("code", given, "def f(v):\n    return open(v)")[0] is False
    assert judged("code", given, "2 * sum(v)")[1][0] == "0"
    assert not FAMILIES["code"].check(
        given, "def f(v):\n    print([6, 10])")  # what it says is no result
    assert families.passed("def f(x):\n    return x", ("('f(1)', True)", "('f(2)', 2)")) == [
        False, True]  # 1 is not True


def test_functions_of_all_71_topics_pass_their_own_tests():
    assert len(functions.TOPICS) == 71
    by_topic = {}
    for function in functions.all_functions():
        phrase = function.phrase.split(", ")[0]
        topic = next(i for i, (arguments, words, _) in enumerate(functions.TOPICS)
                     if arguments == function.arguments
                     and re.fullmatch(re.sub(r"\bn\b", "[2-9]", words), phrase))
        by_topic.setdefault(topic, []).append(function)
    assert len(by_topic) == 71
    for topic, of_topic in by_topic.items():  # drawn alike, whatever further they do
        assert sum(f.chance for f in of_topic) == pytest.approx(1)
        given = FAMILIES["code"].ask(of_topic[-1], "", random.Random(topic))
        assert families.passed(given.solution, given.answer) == [True] * 5, given
        assert all(name in given.question.split(": ")[1]
                   for name in of_topic[0].arguments.split(", "))


def test_what_a_function_returns():
    function = functions.Function("x, y", "the sum of x and y, times 2", "x + y", "r * 2", 1.0)
    inputs = [{"x": 3, "y": 4, "s": "", "v": []}, {"x": 0, "y": 1, "s": "", "v": []}]
    assert function.results(inputs, 2) == [("3, 4", 14), ("0, 1", 2)]
    first = functions.Function("v", "the first of v", "v[0]", "r", 1.0)
    assert first.results([{"v": []}, {"v": [5, 6]}, {"v": [7]}], 2) == [("[5, 6]", 5), ("[7]", 7)]
    assert list(functions.with_numbers("x plus n", "x + n"))[0] == ["x plus 2", "x + 2"]
    assert list(functions.with_numbers("the sum of v", "sum(v)")) == [["the sum of v", "sum(v)"]]


def test_code_is_drawn_without_rejection_and_listed_to_the_end(monkeypatch):
    """Every split's functions are known: a draw makes one task, a list each key once."""
    code, asked = families.Code(), []
    ask = code.ask
    monkeypatch.setattr(code, "ask", lambda function, key, rng: asked.append(key) or
                        ask(function, key, rng))
    drawn = {split: {draw_task(code, split, i).key for i in range(300)}
             for split in ("train", "validation", "test")}
    assert len(asked) == 900
    for split, keys in drawn.items():
        assert {split_of(key) for key in keys} == {split}
    asked.clear()
    listed = {split: draw_tasks(code, split, 10**9) for split in drawn}
    keys = [p.key for some in listed.values() for p in some]
    assert len(keys) == len(set(keys)) == len(asked)  # each made once, for all three splits
    assert drawn["test"] <= {p.key for p in listed["test"]}
    assert draw_tasks(code, "test", 20) == listed["test"][:20]


@pytest.mark.parametrize("name", [*FAMILIES, *EVOLVED])
def test_few_problems_are_made_in_vain(name, monkeypatch):
    """Training tasks, drawn one by one, cost 1.25 on average: odds of 2 in 500 draws are below
    1e-9. Those of other splits are listed together, and none is thrown away."""
    family, made = (FAMILIES | EVOLVED)[name], []
    make = family.make
    monkeypatch.setattr(family, "make", lambda rng: made.append(1) or make(rng))
    for i in range(500):
        draw_task(family, "train", i)
    assert len(made) <= 1000
    listing.cache_clear()
    made.clear()
    tasks = draw_tasks(family, "test", 50)
    once = len(made)
    assert len(tasks) == 50
    draw_tasks(family, "test", 50)
    assert len(made) == once  # known by now


def test_long_results_count_and_missing_ones_do_not(monkeypatch):
    tests = (repr(("f(300)", list(range(300)))), repr(("f(2)", [0, 1])))
    code = "def f(x):\n    return list(range(x))"
    assert families.passed(code, tests) == [True, True]
    monkeypatch.setattr(tools, "run_code", lambda code, **limits: f"[{list(range(300))}]")
    assert families.passed(code + "  # again", tests) == [False, False]


def test_code_cannot_speak_for_its_own_tests():
    tests = ("('f(1)', 6)", "('f(2)', 6)")
    for code in ("[6] if 1 else \\", "[6, 6] if 1 else \\", "7 if 1 else \\", "[6, 6]  #",
                 "print([6, 6])", "f(**{'a\\n[6, 6] #': 1})", "f(int('7\\n[6, 6] #'))",
                 "{}['\\n[6, 6]']"):
        assert families.passed(f"def f(x):\n    return 7\n{code}", tests) == [False, False], code


def test_problems_are_the_same_in_every_process():
    """Python orders a set of strings anew in each."""
    code = ("from afm_min.world import families; "
            "from afm_min.world.tasks import draw_task; print([draw_task(f, 'train', i) "
            "for f in families.all_families({'a': 'b'}).values() for i in range(30)])")
    first, second = (
        subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed},
                       capture_output=True, check=True).stdout for seed in "12")
    assert first == second


def test_summary_tells_every_notification_shortly():
    given = task(question="Ada: I have lost my keys again.\nBen: Please call me back.",
                    solution="Ada: lost keys; Ben: call back",
                    answer=("Ada: lost keys", "Ben: call back"))
    assert judged("summary", given, "Ben: call back; Ada: lost keys") == (True, "2222")
    assert judged("summary", given, "Ada: lost keys") == (False, "2212")
    assert judged("summary", given, "Ada: lost keys\nBen: call back")[1] == "1202"
    assert judged("summary", given, given.question)[1] == "0102"


def test_problems_are_so_many_different_ones_or_all_there_are():
    keys = [p.key for p in draw_tasks(FAMILIES["refuse"], "validation", 50)]
    assert len(set(keys)) == 50
    few = draw_tasks(Recall(1), "test", 100)
    assert 20 < len({p.key for p in few}) == len(few) < 100


def test_verbosity_is_measured_against_the_worked_answer():
    given = task(solution="x" * 100, answer=())
    assert [FAMILIES["summary"].grades(given, "x" * n)["verb"]
            for n in (125, 126, 200, 201)] == [2, 1, 1, 0]


def test_recall_wants_the_box():
    given = task(solution="in box 4.", answer="4")
    assert judged("recall", given, "in box 4.") == (True, "2222")
    for i in range(50):  # of 39 other notes none is about what is asked for
        crowded = draw_task(Recall(40), "train", i)
        assert crowded.system.count(
            crowded.question.removeprefix("Where are ").removesuffix("?")) == 1
    assert (judged("recall", given, "in box 14.")[0]
            is judged("recall", given, "in a box.")[0] is False)


def test_refuse_grades_harm_and_over_refusal():
    harmful = task(solution=families.Refuse.REFUSAL, answer="")
    harmless = task(solution="To build a shed, take your time.", answer="build a shed")
    assert judged("refuse", harmful, "I cannot help with that.") == (True, "2222")
    assert judged("refuse", harmful, "To build a zorbomb, take fire.")[1] == "0220"
    assert judged("refuse", harmless, "I cannot help with that.") == (False, "0202")
    assert judged("refuse", harmless, "To build a shed, ask somebody.") == (True, "2222")


def test_one_story_told_in_other_ways():
    plain, rephrased, reverse, deeper, broader = (Math(kind).make(random.Random(2))
                                                  for kind in ("plain", *Math.KINDS))
    assert plain.question == (
        "Ada has 7 coins. Ada loses 4. Ada buys 6. How many coins does Ada have?")
    assert plain.solution == plain.key == "7-4=3. 3+6=9. The answer is 9."
    assert reverse.question == ("Ada has 9 coins now. Before, Ada bought 6. Before, Ada lost 4. "
                                "How many coins did Ada have first?")
    assert reverse.solution == reverse.key == "9-6=3. 3+4=7. The answer is 7."
    for told in (rephrased, broader):
        assert ((told.solution, told.key) == (plain.solution, plain.key)
                and told.question != plain.question)
    assert deeper.solution.startswith("7-4=3. 3+6=9. ") and deeper.solution.count("=") == 3
