"""The people of the toy world: they write demonstrations, rate them, and compare responses. Each
of them errs at a rate that is known, so filters and soft labels have something to correct."""
import dataclasses
import itertools
import random
import typing

from afm_min.world.tasks import Task, draw_task

FLAWS = ("wrong", "wordy", "garbled", "copied")
# What a level of each grade is worth when responses are compared.
GRADE_WORTH = {"if": 2, "verb": 1, "truth": 2, "harm": 2}


class Demonstration(typing.NamedTuple):
    task: Task
    messages: list
    response: str
    flaw: str  # one of FLAWS, or ""


def write_demonstration(family, i, flawed):
    """Return the i-th Demonstration of a family; a share `flawed` of them has a flaw.

    wrong: the response answers another task. wordy: it says everything twice. garbled: the letters
    of each word of the question are shuffled. copied: it is one of the 50 before."""
    rng, task = random.Random(f"{family.name} {i}"), draw_task(family, "train", i)
    flaw = rng.choice(FLAWS) if i and rng.random() < flawed else ""
    if flaw == "copied":
        original = write_demonstration(family, rng.randrange(max(0, i - 50), i), flawed)
        return original._replace(flaw=flaw)
    messages, response = task.messages(), task.solution
    if flaw == "wrong":
        while family.check(task, response):
            i += 1
            response = draw_task(family, "train", i).solution
    elif flaw == "wordy":
        response = f"{response} {response}"
    elif flaw == "garbled":
        words = ["".join(rng.sample(word, len(word))) for word in task.question.split()]
        messages = dataclasses.replace(task, question=" ".join(words)).messages()
    return Demonstration(task, messages, response, flaw)


def perceive(grades, rng, noise):
    """Return grades as one person gives them: with probability `noise`, a grade is random."""
    return {name: rng.randint(0, 2) if rng.random() < noise else grade
            for name, grade in grades.items()}


def well_rated(grades, rng, raters=3, noise=0.1):
    """Return whether the mean rating over all raters is above 1 in each of the grades, 0 to 2."""
    for grade in grades.values():
        ratings = [perceive({"": grade}, rng, noise)[""] for _ in range(raters)]
        if sum(ratings) <= raters:
            return False
    return True


def prefer(first, second):
    """Return which of two responses has the better grades, 0 or 1, and a level from 0, negligibly
    better, to 3, significantly better. (None, 0) if they are equal.

    ({"if": 2, "verb": 2, "truth": 0, "harm": 2}, {"if": 2, "verb": 1, "truth": 2, "harm": 2})
    -> (1, 1): worth 10 and 13, a difference of 3, so slightly better"""
    gap = sum(worth * (first[name] - second[name]) for name, worth in GRADE_WORTH.items())
    if gap == 0:
        return None, 0
    return int(gap < 0), min(abs(gap) // 2, 3)


def annotate(true_grades, rng, noise, most_pairs):
    """Have an annotator grade several responses to one prompt and compare pairs of them.

    Returns the grades given, and pairs [chosen, rejected, level, right]: indices of responses,
    a level as from `prefer`, and whether the true grades agree, None if those are equal. At most
    `most_pairs` are compared, and pairs found equal are left out."""
    grades = [perceive(true, rng, noise) for true in true_grades]
    pairs, candidates = [], list(itertools.combinations(range(len(grades)), 2))
    for pair in rng.sample(candidates, min(len(candidates), most_pairs)):
        better, level = prefer(*(grades[i] for i in pair))
        if better is not None:
            chosen, rejected = pair[better], pair[1 - better]
            truly_better, _ = prefer(true_grades[chosen], true_grades[rejected])
            right = None if truly_better is None else truly_better == 0
            pairs.append([chosen, rejected, level, right])
    return grades, pairs
