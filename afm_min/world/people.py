"""Simulated annotators: they write demonstrations, rate them, and compare responses. They err at
known rates, so filters and soft labels have something to correct."""
import dataclasses
import itertools
import random
import typing

from afm_min.world.tasks import MATH, Task, draw_task

FLAWS = ("wrong", "repeated", "garbled", "copied")
# Habits of the writers of flawless demonstrations, as probabilities. HASTY: give only the final
# answer, although the solution shows steps or calls. A model that imitates this answers without
# working it out. WORDY: write more than is needed if there is nothing to leave out, where the
# family has a wordy response.
HASTY, WORDY = 0.65, 0.75
# Grades are from 0 (worst) to 2: "verb" 2 is concise, "harm" 2 is harmless. Their weights when
# responses are compared:
GRADE_WEIGHTS = {"if": 3, "verb": 2, "truth": 3, "harm": 3}
# The probability that an annotator chooses the better response, by level: 0 (negligibly better) to
# 3 (significantly better).
P_RIGHT = (0.65, 0.75, 0.85, 0.95)


class Demonstration(typing.NamedTuple):
    task: Task
    messages: list
    response: str
    flaw: str  # one of FLAWS, or ""


def write_demonstration(family, i, flawed):
    """Return demonstration i of a family. All but the first have a flaw with probability `flawed`:

    wrong     the response is the solution of another task
    repeated  the response is given twice
    garbled   the letters of each word of the question are shuffled
    copied    one of the previous 50 demonstrations again, possibly with a flaw of its own

    Those without a flaw show the writers' habits, HASTY and WORDY."""
    rng = random.Random(f"{family.label} {i}")
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
            # In Unknown, all tasks have one solution: after 19 attempts, take one of mathematics.
            other_family = family if other < i + 20 else MATH
            response = draw_task(other_family, "train", other).solution
    elif flaw == "repeated":
        response = f"{response} {response}"
    elif flaw == "garbled":
        words = ["".join(rng.sample(word, len(word))) for word in task.question.split()]
        messages = dataclasses.replace(task, question=" ".join(words)).messages()
    elif not shows_work and rng.random() < WORDY:
        response = family.wordy(task)
    return Demonstration(task, messages, response, flaw)


def perceive(grades, rng, noise):
    """Return noisy grades: each is replaced by a random one with probability `noise`."""
    return {name: rng.randint(0, 2) if rng.random() < noise else grade
            for name, grade in grades.items()}


def well_rated(grades, rng, raters=3, noise=0.1):
    """Return True if the mean of several noisy ratings is above 1 for every grade. For verbosity a
    mean of 1 is enough: a courtesy (grade 1) passes, a response given twice (grade 0) does not."""
    for name, grade in grades.items():
        ratings = [perceive({name: grade}, rng, noise)[name] for _ in range(raters)]
        mean = sum(ratings) / raters
        if mean < 1 or (mean == 1 and name != "verb"):
            return False
    return True


def prefer(first, second):
    """Compare the grades of two responses. Return the index of the better one, 0 or 1, and a level
    from 0 (negligibly better) to 3 (significantly better), or (None, 0) if they are equal. The
    level is half of the gap between the weighted sums of grades, rounded down, at most 3.

    ({"if": 2, "verb": 2, "truth": 0, "harm": 2}, {"if": 2, "verb": 1, "truth": 2, "harm": 2})
    -> (1, 2): 16 and 20 points, a gap of 4, so the second is better"""
    gap = sum(weight * (first[name] - second[name]) for name, weight in GRADE_WEIGHTS.items())
    if gap == 0:
        return None, 0
    better = 0 if gap > 0 else 1
    return better, min(abs(gap) // 2, 3)


def annotate(true_grades, rng, noise, max_pairs):
    """Have an annotator grade several responses to one prompt and compare pairs of them.

    Return noisy grades, and a list of pairs [chosen, rejected, level, right]. chosen, rejected:
    indices of responses. level: that of `prefer` for the true grades. right: False if the annotator
    chose the worse response; it is True with probability P_RIGHT[level], or always if noise is 0.
    At most `max_pairs` random pairs are compared; those of equally good responses are left out."""
    grades = [perceive(true, rng, noise) for true in true_grades]
    candidates = list(itertools.combinations(range(len(grades)), 2))
    pairs = []
    for i, j in rng.sample(candidates, min(len(candidates), max_pairs)):
        better, level = prefer(true_grades[i], true_grades[j])
        if better is not None:
            chosen, rejected = (i, j) if better == 0 else (j, i)
            right = noise == 0 or rng.random() < P_RIGHT[level]
            if not right:
                chosen, rejected = rejected, chosen
            pairs.append([chosen, rejected, level, right])
    return grades, pairs
