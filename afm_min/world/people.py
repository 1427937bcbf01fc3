"""The people of the toy world: they write demonstrations, rate them, and compare responses. They
err at known rates, so filters and soft labels have something to correct."""
import dataclasses
import itertools
import random
import typing

from afm_min.world.tasks import Task, draw_task

FLAWS = ("wrong", "wordy", "garbled", "copied")
# Share of the demonstrations without a flaw that leave out the work, if there is any. The writer
# knows the answer. The model, which has to work it out, learns a bad habit from them.
HASTY = 0.65
COURTEOUS = 0.6  # share of the demonstrations without a flaw whose writer adds a courtesy
COURTESIES = ("Sure: {}", "Of course, here it is: {}", "{} I hope this helps.")
# Points for each level of a grade (0 to 2) when responses are compared. Verbosity matters least.
GRADE_WORTH = {"if": 2, "verb": 1, "truth": 2, "harm": 2}
# Share of right choices among the pairs of each level, from "negligibly" to "significantly better".
RIGHT = (0.65, 0.75, 0.85, 0.95)


class Demonstration(typing.NamedTuple):
    task: Task
    messages: list
    response: str
    flaw: str  # one of FLAWS, or ""


def write_demonstration(family, i, flawed):
    """Return the i-th Demonstration of a family. It has a flaw with probability `flawed`.

    wrong: the response answers another task. wordy: the response is repeated. garbled: the letters
    of each word of the question are shuffled. copied: it is one of the previous 50 demonstrations
    again, which may have a flaw, too. The first demonstration has none. Of those without a flaw,
    some leave out the work, see `Family.brief`; where there is none, some have a needless courtesy,
    see `add_courtesy`."""
    rng, task = random.Random(f"{family.name} {i}"), draw_task(family, "train", i)
    flaw = rng.choice(FLAWS) if i > 0 and rng.random() < flawed else ""
    if flaw == "copied":
        original = write_demonstration(family, rng.randrange(max(0, i - 50), i), flawed)
        return original._replace(flaw=flaw)
    brief = family.brief(task)
    shows_work = task != brief
    if shows_work and not flaw and rng.random() < HASTY:
        task = brief
    messages, response = task.messages(), task.solution
    if flaw == "wrong":
        while family.check(task, response):  # another task may have the same answer
            i += 1
            response = draw_task(family, "train", i).solution
    elif flaw == "wordy":
        response = f"{response} {response}"
    elif flaw == "garbled":
        words = ["".join(rng.sample(word, len(word))) for word in task.question.split()]
        messages = dataclasses.replace(task, question=" ".join(words)).messages()
    elif not shows_work and rng.random() < COURTEOUS:
        response = add_courtesy(family, task)
    return Demonstration(task, messages, response, flaw)


def add_courtesy(family, task):
    """Return the solution with the first courtesy that leaves it right and makes it too long: its
    grade for verbosity is 1. If the family accepts none, return the solution alone.

    "in box 4." -> "Sure: in box 4." """
    for courtesy in COURTESIES:
        response = courtesy.format(task.solution)
        # Check the form first, as code is executed otherwise.
        if (all(family.follows_format(task, response)) and family.check(task, response)
                and family.grades(task, response)["verb"] == 1):
            return response
    return task.solution


def perceive(grades, rng, noise):
    """Return one person's version of the true grades: each is random with probability `noise`."""
    return {name: rng.randint(0, 2) if rng.random() < noise else grade
            for name, grade in grades.items()}


def well_rated(grades, rng, raters=3, noise=0.1):
    """Return True if the mean rating of every grade, 0 to 2, is above 1, or at least 1 if it is for
    verbosity: raters forgive a courtesy, but not a response of twice the length."""
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
    -> (1, 1): 10 and 13 points, a gap of 3, so the second is slightly better"""
    gap = sum(worth * (first[name] - second[name]) for name, worth in GRADE_WORTH.items())
    if gap == 0:
        return None, 0
    better = 0 if gap > 0 else 1
    return better, min(abs(gap) // 2, 3)


def annotate(true_grades, rng, noise, most_pairs):
    """Have an annotator grade several responses to one prompt and compare pairs of them.

    Returns the annotator's grades, and pairs [chosen, rejected, level, right]: two indices of
    responses, a level as from `prefer`, and whether the choice is right. A grade is random with
    probability `noise`. A choice is right with the probability RIGHT[level], or always if there is
    no noise. At most `most_pairs` are compared; those that are equally good are left out."""
    grades = [perceive(true, rng, noise) for true in true_grades]
    pairs, candidates = [], list(itertools.combinations(range(len(grades)), 2))
    for i, j in rng.sample(candidates, min(len(candidates), most_pairs)):
        better, level = prefer(true_grades[i], true_grades[j])
        if better is not None:
            chosen, rejected = (i, j) if better == 0 else (j, i)
            right = noise == 0 or rng.random() < RIGHT[level]
            pairs.append([chosen, rejected, level, right] if right
                         else [rejected, chosen, level, right])
    return grades, pairs
