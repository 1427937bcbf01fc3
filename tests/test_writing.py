"""The families Summary and Compose."""
import random

import pytest

from afm_min.world.writing import Compose, Summary
from tests.test_tasks import check_and_grades, make_task


def test_summary_needs_every_message_in_one_short_line():
    task = make_task(question="Ada: I have lost my red keys again.\nBen: Please call me at 3.",
                     solution="Ada: lost red keys; Ben: call at 3",
                     answer=("Ada: lost red keys", "Ben: call at 3"))
    reordered = "Ben: call at 3; Ada: lost red keys"
    assert check_and_grades(Summary(), task, reordered) == (True, "2222")
    assert check_and_grades(Summary(), task, "Ada: lost red keys") == (False, "1212")
    assert check_and_grades(Summary(), task, "Ada: lost red keys\nBen: call at 3")[1] == "0202"
    assert check_and_grades(Summary(), task, task.question)[1] == "0102"
    made_up = "Ada: lost red keys; Ben: call at 4"
    assert check_and_grades(Summary(), task, made_up) == (False, "2202")  # one of three facts
    assert Summary().is_correct(task, reordered + "; Ben: thanks") == [True, True, False]


NOTES = ("bring 3 keys", "meeting at 4 in Rome")
MESSAGE = "Hi Ben! Please bring 3 keys. The meeting is at 4 in Rome. See you soon, Ada!"
BRIEF = "Hi Ben! Bring 3 keys. Meeting at 4 in Rome. See you soon, Ada!"
COMPOSED = make_task(solution=MESSAGE, answer=("Hi Ben!", "See you soon, Ada!", 17, NOTES))


@pytest.mark.parametrize("response, form, facts", [
    (MESSAGE, [1, 1, 1], [1, 1, 1]),
    (BRIEF, [1, 1, 1], [1, 1, 1]),
    ("Hi Ben! The meeting is at 4 in Rome. Please bring 3 keys. See you soon, Ada!", [1, 1, 1],
     [1, 1, 1]),
    (MESSAGE.replace("Hi", "Dear"), [0, 1, 1], [1, 1, 1]),
    (MESSAGE.replace("Ben", "Leo"), [0, 1, 1], [1, 1, 1]),
    (MESSAGE.replace("See you soon", "Kind regards"), [1, 0, 1], [1, 1, 1]),
    (f"{MESSAGE} {MESSAGE}", [0, 0, 0], [1, 1, 1]),
    (MESSAGE.replace("3 keys", "3 of the keys"), [1, 1, 0], [1, 1, 1]),  # 18 words
    (MESSAGE.replace(". ", ".\n"), [1, 1, 0], [1, 1, 1]),
    ("Hi Ben! Please bring 3 keys. See you soon, Ada!", [1, 1, 1], [1, 0, 1]),
    (MESSAGE.replace("3", "5"), [1, 1, 1], [0, 1, 0]),
    (MESSAGE.replace("in Rome. ", "in Rome, red pens. "), [1, 1, 0], [1, 1, 0]),
    ("Hi Ben! Please bring 4 keys. The meeting is at 3 in Rome. See you soon, Ada!", [1] * 3,
     [0, 0, 1])])  # every word is there, but not in its sentence
def test_a_message_is_checked_by_rules(response, form, facts):
    assert Compose().follows_format(COMPOSED, response) == [bool(part) for part in form]
    assert Compose().is_correct(COMPOSED, response) == [bool(part) for part in facts]


def test_grades_of_messages():
    assert check_and_grades(Compose(), COMPOSED, MESSAGE) == (True, "2222")
    assert check_and_grades(Compose(), COMPOSED, MESSAGE.replace("Hi", "Dear")) == (False, "1222")
    assert check_and_grades(Compose(), COMPOSED, "Hi Ben! See you soon, Ada!") == (False, "2202")
    assert check_and_grades(Compose(), COMPOSED, f"{MESSAGE} {MESSAGE}") == (False, "0022")


def test_a_brief_message_has_only_the_notes():
    for seed in range(300):
        task = Compose().make(random.Random(seed))
        greeting, closing, most_words, notes = task.answer
        as_notes = [f"{note[0].upper()}{note[1:]}." for note in notes]
        brief = " ".join([greeting, *as_notes, closing])
        assert (task.solution == brief) == ("and brief" in task.question)
        assert most_words == len(task.solution.split()) + 4 * (task.solution != brief)
        if task.solution != brief:  # so a message with sentences is too long to be brief
            assert len(task.solution.split()) > len(brief.split())
