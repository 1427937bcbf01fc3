"""The people of the toy world: their errors have known rates, and they compare by grades."""
import dataclasses
import random

import pytest

from afm_min import reward
from afm_min.world import people
from afm_min.world.families import Code, Refuse
from afm_min.world.instructions import Follow
from afm_min.world.tasks import MATH, RECALL, Math, Task, draw_task
from afm_min.world.tool_tasks import Tools
from afm_min.world.unknown import Unknown

GOOD = {"if": 2, "verb": 2, "truth": 2, "harm": 2}
BAD = {"if": 0, "verb": 0, "truth": 0, "harm": 0}


# Demonstrations.

def test_each_flaw_of_demonstrations():
    family, by_flaw, earlier = Math(), {}, []
    for i in range(200):
        demonstration = people.write_demonstration(family, i, flawed=0.5)
        text = (demonstration.messages, demonstration.response)
        if demonstration.flaw == "copied":
            assert text in earlier[-50:]
        elif demonstration.flaw:  # the writers' habits are those of flawless ones
            assert demonstration.task == draw_task(family, "train", i)
        earlier.append(text)
        by_flaw.setdefault(demonstration.flaw, []).append(demonstration)
    assert set(by_flaw) == {"", *people.FLAWS}
    for d in by_flaw[""]:
        assert d.messages == d.task.messages()
        assert d.task.solution in d.response
    for d in by_flaw["wrong"]:
        assert d.messages == d.task.messages()
        assert not family.check(d.task, d.response)
    for d in by_flaw["repeated"]:
        assert d.response == f"{d.task.solution} {d.task.solution}"
    for d in by_flaw["garbled"]:
        question = next(m["content"] for m in d.messages if m["role"] == "user")
        assert question != d.task.question
        assert sorted(question) == sorted(d.task.question)
        assert d.response == d.task.solution


def test_a_wrong_demonstration_of_a_family_with_one_solution_answers_another_family():
    """All tasks of Unknown have the same solution, so a task of mathematics is answered."""
    written = [people.write_demonstration(Unknown(), i, flawed=0.9) for i in range(60)]
    wrong = [d for d in written if d.flaw == "wrong"]
    assert len(wrong) > 5
    for d in wrong:
        assert not Unknown().check(d.task, d.response)
        assert "The answer is" in d.response
        assert d.messages == d.task.messages()


def test_share_of_flawed_demonstrations():
    """Of 400, the standard deviation is 10 at most: odds of a false alarm beyond 50 are 1e-6."""
    flaws = [people.write_demonstration(MATH, i, flawed=0.5).flaw for i in range(400)]
    assert flaws.count("") == pytest.approx(200, abs=50)
    for flaw in people.FLAWS:
        assert flaws.count(flaw) == pytest.approx(50, abs=35)
    assert {people.write_demonstration(MATH, i, flawed=0.0).flaw for i in range(50)} == {""}


@pytest.mark.parametrize("family, share", [
    (MATH, 0), (RECALL, people.WORDY), (Follow(), 0), (Code(), people.WORDY), (Unknown(), 0),
    (Refuse(), 3 / 8 * people.WORDY)])
def test_some_right_demonstrations_are_longer_than_they_need_to_be(family, share):
    """Of 600, the standard deviation is 12: odds of a false alarm beyond 60 are 1e-6. A long
    function is hardly longer with its result named. A refusal has to stand alone, and 3/8 of the
    requests are harmless: half of one part, and a quarter of two."""
    written = [people.write_demonstration(family, i, flawed=0.0) for i in range(600)]
    longer = [d for d in written if d.response != d.task.solution]
    assert len(longer) == pytest.approx(600 * share, abs=60 if share else 0)
    for d in longer:
        assert d.response == family.wordy(d.task)
        assert family.check(d.task, d.response)
    wordy = [d for d in longer if family.grades(d.task, d.response)["verb"] == 1]
    assert len(wordy) >= (0.95 if family.name == "code" else 1) * len(longer)


def test_some_demonstrations_leave_out_the_work():
    """Of 600, the standard deviation is 12: odds of a false alarm beyond 60 are 1e-6."""
    written = [people.write_demonstration(MATH, i, flawed=0.0) for i in range(600)]
    brief = [d for d in written if d.response == f"The answer is {d.task.answer}."]
    assert len(brief) == pytest.approx(600 * people.HASTY, abs=60)
    assert all(MATH.check(d.task, d.response) for d in brief)


def test_what_hasty_writers_leave_out():
    """Steps, and calls with their results. A look-up in somebody's head is no work to leave out."""
    task = Task("3 and 4?", "3+4=7. The answer is 7.", "7", "")
    assert MATH.brief(task).solution == "The answer is 7."
    made = (("assistant", "call: price(item='keys')"), ("tool", "4"))
    task = Task("How much?", "They cost 4.", (("call: price(item='keys')",), "They cost 4."), "",
                turns=made)
    assert Tools().brief(task) == dataclasses.replace(task, turns=())
    task = dataclasses.replace(task, solution="call: price(item='keys')\nThey cost 4.", turns=())
    assert Tools().brief(task) == dataclasses.replace(task, solution="They cost 4.")
    task = Task("?", "in box 4.", "4", "")
    assert RECALL.brief(task) == task


def test_a_courtesy_by_hand():
    """Math needs its answer at the end and Recall needs none but the box; a refusal of a harmful
    request has to stand alone. "in box 4." has 9 letters, so 18 are the most for a grade of 1."""
    def added(family, **fields):
        return family.wordy(Task(**{"question": "?", "answer": "4", "key": ""} | fields))
    assert added(RECALL, solution="in box 4.") == "Sure: in box 4."
    steps = "1+3=4. The answer is 4."
    assert added(MATH, solution=steps) == f"Sure: {steps}"
    longer = "1+3=4. 4+5=9. 9-5=4. The answer is 4."  # 37 letters: "Sure: " is less than a quarter
    assert added(MATH, solution=longer) == f"Of course, here it is: {longer}"
    longest = 3 * "1+3=4. " + 6 * "4+5=9. 9-5=4. " + "The answer is 4."  # 121 letters
    assert added(MATH, solution=longest) == f"I am glad to help you with this. {longest}"
    longest = f"1+3=4. 3+1=4. {longest}"  # 135 letters: the longest courtesy is less than a quarter
    assert added(MATH, solution=longest) == longest
    assert added(Refuse(), solution=Refuse.REFUSAL, answer="") == Refuse.REFUSAL


# Grades.

def test_a_grade_is_random_with_the_probability_of_the_noise():
    """With probability 0.3 a grade is random, and then right in a third of the cases: 0.2 are
    wrong. Of 20,000 the standard deviation is 0.0028: odds of a false alarm beyond 0.015 are below
    1e-6."""
    rng = random.Random(0)
    wrong = sum(grade != 2 for _ in range(5000)
                for grade in people.perceive(GOOD, rng, noise=0.3).values())
    assert wrong / 20_000 == pytest.approx(0.2, abs=0.015)


def test_without_noise_grades_are_the_true_ones():
    grades = {"if": 2, "verb": 1, "truth": 0, "harm": 2}
    assert people.perceive(grades, random.Random(0), noise=0.0) == grades


def test_raters_mostly_outvote_noise():
    rng, task = random.Random(0), draw_task(MATH, "train", 1)
    good, bad = MATH.grades(task, task.solution), MATH.grades(task, "The answer is 99.")
    assert sum(people.well_rated(good, rng) for _ in range(300)) > 270
    assert sum(people.well_rated(bad, rng) for _ in range(300)) < 30
    assert people.well_rated(good, rng, noise=0)
    assert not people.well_rated(bad, rng, noise=0)


@pytest.mark.parametrize("name", GOOD)
def test_the_mean_rating_of_each_grade_has_to_be_above_1(name):
    """A courtesy is forgiven: for verbosity, 1 is enough."""
    assert people.well_rated(GOOD, random.Random(0), noise=0)
    assert people.well_rated(GOOD | {name: 1}, random.Random(0), noise=0) == (name == "verb")
    assert not people.well_rated(GOOD | {name: 0}, random.Random(0), noise=0)


# Comparisons.

def test_prefer_by_hand():
    """Worth of a level: 3 (if), 2 (verb), 3 (truth), 3 (harm)."""
    assert people.prefer(GOOD, GOOD) == (None, 0)
    assert people.prefer(GOOD | {"verb": 1}, GOOD | {"truth": 1}) == (0, 0)  # 20 and 19 points
    assert people.prefer(GOOD, GOOD | {"verb": 1}) == (0, 1)  # a gap of 2: slightly better
    assert people.prefer(GOOD | {"verb": 0}, GOOD) == (1, 2)  # 4: better
    assert people.prefer(GOOD, GOOD | {"truth": 0}) == (0, 3)  # 6: significantly better
    assert people.prefer(BAD, GOOD) == (1, 3)  # 22: there is no higher level
    assert people.prefer(GOOD | {"truth": 0}, GOOD | {"verb": 1}) == (1, 2)  # 16 and 20


@pytest.mark.parametrize("name, level", [("if", 1), ("verb", 1), ("truth", 1), ("harm", 1)])
def test_one_level_of_each_grade(name, level):
    assert people.prefer(GOOD, GOOD | {name: 1}) == (0, level)


def test_annotate_compares_every_pair_that_differs():
    """Without noise: truth 2, 0, 0 and verb 2, 2, 1, so the first is 6 and 8 better (level 3), the
    second 2 better than the third (level 1)."""
    true_grades = [GOOD, GOOD | {"truth": 0}, GOOD | {"truth": 0, "verb": 1}]
    grades, pairs = people.annotate(true_grades, random.Random(0), noise=0.0, max_pairs=6)
    assert grades == true_grades
    assert sorted(pairs) == [[0, 1, 3, True], [0, 2, 3, True], [1, 2, 1, True]]
    _, pairs = people.annotate(true_grades, random.Random(0), noise=0.0, max_pairs=2)
    assert len(pairs) == 2
    _, pairs = people.annotate([GOOD, BAD, GOOD], random.Random(0), noise=0.0, max_pairs=6)
    assert sorted(pairs) == [[0, 1, 3, True], [2, 1, 3, True]]  # the equal ones are left out


def test_choices_are_right_as_often_as_the_soft_labels_say():
    """Pairs with gaps of 1, 2, 4 and 6 points, 4,000 of each. The standard deviation of a share is
    0.0075 at most: odds of a false alarm beyond 0.04 are below 1e-6."""
    wordy = GOOD | {"verb": 1}
    pairs_by_level = ((wordy, GOOD | {"if": 1}), (GOOD, wordy), (GOOD, GOOD | {"verb": 0}),
                      (GOOD, GOOD | {"truth": 0}))
    rng, pairs = random.Random(0), []
    for level, (good, bad) in enumerate(pairs_by_level):
        for _ in range(4000):
            _, [pair] = people.annotate([good, bad], rng, noise=0.1, max_pairs=6)
            chosen, rejected, pair_level, right = pair
            assert (chosen, rejected) == ((0, 1) if right else (1, 0))
            assert pair_level == level
            pairs.append((level, right))
    for level, target in enumerate(reward.TARGETS):
        share = sum(right for of_level, right in pairs if of_level == level) / 4000
        assert share == pytest.approx(target, abs=0.04)


def test_annotators_compare_truly_and_grade_with_noise(monkeypatch):
    """Without errors of choice, noisy grades change no pair, and equally good ones are left out."""
    monkeypatch.setattr(people, "P_RIGHT", (1.0,) * 4)
    grades, pairs = people.annotate([GOOD, BAD, GOOD], random.Random(0), 1.0, max_pairs=6)
    assert grades != [GOOD, BAD, GOOD]
    assert sorted(pairs) == [[0, 1, 3, True], [2, 1, 3, True]]
