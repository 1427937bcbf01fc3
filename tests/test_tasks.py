"""Splits, draws and checks of tasks, and the families Math, Recall and Follow."""
import random
import re

import pytest

from afm_min.world.tasks import (MATH, RECALL, Follow, Math, Recall, Task, draw_mixture, draw_task,
                                 draw_tasks, split_of)


def make_task(**fields):
    return Task(**{"question": "?", "solution": "?", "answer": "", "key": ""} | fields)


def check_and_grades(family, task, response):
    """Return whether a response passes, and its grades "if", "verb", "truth", "harm" as digits."""
    grades = family.grades(task, response)
    return family.check(task, response), "".join(map(str, grades.values()))


@pytest.mark.parametrize("family", [MATH, RECALL])
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
    task = make_task(system="Be kind.", question="Keys?", turns=(("assistant", "call: a"), ("tool", "2")))
    assert [(m["role"], m["content"]) for m in task.messages()] == [
        ("system", "Be kind."), ("user", "Keys?"), ("assistant", "call: a"), ("tool", "2")]
    assert [m["role"] for m in make_task().messages()] == ["user"]


def test_verbosity_is_measured_against_the_solution():
    task = make_task(solution="x" * 100)
    assert [RECALL.grades(task, "x" * n)["verb"] for n in (125, 126, 200, 201)] == [2, 1, 1, 0]


@pytest.mark.parametrize("response", ["", " ", "\n\n\t"])
def test_an_empty_response_is_not_concise(response):
    for family in (MATH, RECALL, Follow()):
        task = draw_task(family, "train", 0)
        assert family.grades(task, response)["verb"] == 0
        assert family.grades(task, "x")["verb"] == 2


def test_math_solutions_are_right():
    for seed in range(300):
        task = draw_task(MATH, "train", seed)
        *steps, last = task.solution.split(". ")
        for step in steps:
            left, right = step.split("=")
            assert eval(left) == int(right)
        assert last == f"The answer is {right}."
        assert task.answer == right
        # The story alone has the same answer.
        beginning, *changes = task.question.split(". ")[:-1]
        lots = re.search(r"(\d+) lots of (\d+)", beginning)
        total = int(lots[1]) * int(lots[2]) if lots else int(re.search(r"\d+", beginning)[0])
        for change in changes:
            n = int(re.search(r"\d+", change)[0])
            total += n if re.search("buys|finds", change) else -n
        assert str(total) == task.answer


def test_math_checks_the_final_answer_only():
    task = make_task(solution="4 * 7 = 28. The answer is 28.", answer="28")
    assert check_and_grades(MATH, task, "4 * 7 = 28. The answer is 28.") == (True, "2222")
    assert check_and_grades(MATH, task, "4 * 7 = 29. The answer is 28.") == (True, "2222")
    assert check_and_grades(MATH, task, "4 * 7 = 28. The answer is 29.") == (False, "2202")
    assert check_and_grades(MATH, task, "28") == (False, "0202")
    assert check_and_grades(MATH, task, "The answer is 28. The answer is 7. " * 3)[1] == "2002"


def test_kinds_of_story_share_a_calculation():
    plain, rephrased, reverse, deeper, broader = (
        Math(kind).make(random.Random(2)) for kind in ("plain", *Math.KINDS))
    assert plain.question == (
        "Ada has 7 coins. Ada loses 4. Ada buys 6. How many coins does Ada have?")
    assert plain.solution == plain.key == "7-4=3. 3+6=9. The answer is 9."
    assert reverse.question == ("Ada has 9 coins now. Before, Ada bought 6. Before, Ada lost 4. "
                                "How many coins did Ada have first?")
    assert reverse.solution == reverse.key == "9-6=3. 3+4=7. The answer is 7."
    for story in (rephrased, broader):
        assert (story.solution, story.key) == (plain.solution, plain.key)
        assert story.question != plain.question
    assert deeper.solution.startswith("7-4=3. 3+6=9. ")
    assert deeper.solution.count("=") == 3


def test_no_chain_of_steps_is_in_two_splits_whatever_the_story():
    stories = [Math(kind) for kind in ("plain", *Math.KINDS)]
    solutions = {split: {draw_task(family, split, seed).solution
                         for family in stories for seed in range(1500)}
                 for split in ("train", "test")}
    assert len(solutions["test"]) > 60
    assert not solutions["train"] & solutions["test"]


def test_single_steps_are_in_all_splits():
    steps = {split: {step for seed in range(1500)
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
    owned = task.question.removeprefix("Where are ").removesuffix("?")
    assert task.fact == f"{owned} are {task.solution}" == f"{owned} are in box {task.answer}."


def test_recall_has_one_fact_about_what_it_asks_for():
    for seed in range(50):
        task = draw_task(Recall(40), "train", seed)
        owned = task.question.removeprefix("Where are ").removesuffix("?")
        assert task.system.count(owned) == 1


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
