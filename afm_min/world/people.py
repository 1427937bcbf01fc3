"""Simulated annotators: they write demonstrations, rate them, and compare responses. They err at
known rates, so filters and soft labels have something to correct."""
import dataclasses
import itertools
import random
import typing

from afm_min.world.tasks import MATH, Task, draw_task

FLAWS = ("wrong", "wordy", "garbled", "copied")
# Share of the flawless demonstrations with steps or calls to show that leave them out. A writer
# who knows the answer may do so. A model that imitates it answers without working it out.
HASTY = 0.65
WORDY = 0.6  # share of those with nothing to leave out that are longer than they need to be
# Weights of the grades (each 0 to 2) when responses are compared. Verbosity matters least.
GRADE_WORTH = {"if": 3, "verb": 2, "truth": 3, "harm": 3}
# Share of the pairs in which annotators choose the better response, by level: 0 (negligibly
# better) to 3 (significantly better).
RIGHT = (0.65, 0.75, 0.85, 0.95)


class Demonstration(typing.NamedTuple):
    task: Task
    messages: list
    response: str
    flaw: str  # one of FLAWS, or ""


def write_demonstration(family, i, flawed):
    """Return demonstration i of a family. It has a flaw with probability `flawed`:

    wrong     the response answers another task
    wordy     the response is repeated
    garbled   the letters of each word of the question are shuffled
    copied    one of the previous 50 demonstrations again, possibly with a flaw of its own"""
    rng = random.Random(f"{family.name} {i}")
    task = draw_task(family, "train", i)
    flaw = rng.choice(FLAWS) if i > 0 and rng.random() < flawed else ""
    if flaw == "copied":  # demonstration 0 has no flaw, so this recursion ends
        original = write_demonstration(family, rng.randrange(max(0, i - 50), i), flawed)
        return original._replace(flaw=flaw)
    brief = family.brief(task)  # the task itself if its solution shows no work
    shows_work = task != brief
    if shows_work and not flaw and rng.random() < HASTY:
        task = brief
    messages, response = task.messages(), task.solution
    if flaw == "wrong":
        other = i
        while family.check(task, response):  # the next task may have the same answer
            other += 1
            # All tasks of a family may have one solution: after 20 attempts, take mathematics.
            other_family = family if other < i + 20 else MATH
            response = draw_task(other_family, "train", other).solution
    elif flaw == "wordy":
        response = f"{response} {response}"
    elif flaw == "garbled":
        words = ["".join(rng.sample(word, len(word))) for word in task.question.split()]
        messages = dataclasses.replace(task, question=" ".join(words)).messages()
    elif not shows_work and rng.random() < WORDY:
        response = family.wordy(task)
    return Demonstration(task, messages, response, flaw)


def perceive(grades, rng, noise):
    """Return a person's version of the true grades: each is random with probability `noise`."""
    return {name: rng.randint(0, 2) if rng.random() < noise else grade
            for name, grade in grades.items()}


def well_rated(grades, rng, raters=3, noise=0.1):
    """Have several people rate each grade. Return True if all mean ratings are above 1. Exactly 1
    is enough for verbosity: raters accept a courtesy, but no response of twice the length."""
    for name, grade in grades.items():
        ratings = [perceive({name: grade}, rng, noise)[name] for _ in range(raters)]
        mean = sum(ratings) / raters
        if mean < 1 or (mean == 1 and name != "verb"):
            return False
    return True


def prefer(first, second):
    """Compare the grades of two responses. Return the index of the better one, 0 or 1, and a level
    from 0 (negligibly better) to 3 (significantly better), or (None, 0) if they are equal.

    ({"if": 2, "verb": 2, "truth": 0, "harm": 2}, {"if": 2, "verb": 1, "truth": 2, "harm": 2})
    -> (1, 2): 16 and 20 points, a gap of 4, so the second is better"""
    gap = sum(worth * (first[name] - second[name]) for name, worth in GRADE_WORTH.items())
    if gap == 0:
        return None, 0
    better = 0 if gap > 0 else 1
    return better, min(abs(gap) // 2, 3)


def annotate(true_grades, rng, noise, most_pairs):
    """Have an annotator grade several responses to one prompt and compare pairs of them.

    Return the annotator's grades, and pairs [chosen, rejected, level, right]: the indices of two
    responses, the level from `prefer`, and a boolean. A grade is random with probability `noise`.
    A choice is right with probability RIGHT[level], or always if noise is 0. At most `most_pairs`
    are compared, and those of equally good responses are left out."""
    grades = [perceive(true, rng, noise) for true in true_grades]
    candidates = list(itertools.combinations(range(len(grades)), 2))
    pairs = []
    for i, j in rng.sample(candidates, min(len(candidates), most_pairs)):
        better, level = prefer(true_grades[i], true_grades[j])
        if better is not None:
            chosen, rejected = (i, j) if better == 0 else (j, i)
            right = noise == 0 or rng.random() < RIGHT[level]
            if not right:
                chosen, rejected = rejected, chosen
            pairs.append([chosen, rejected, level, right])
    return grades, pairs
