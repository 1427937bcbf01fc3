"""All functions that the toy world asks a model to write, and which split each belongs to.

There are about a thousand, so they are listed once: a problem is then drawn from its split's list,
and nobody has to guess until one of the right split comes up.
"""
import contextlib
import dataclasses
import functools
import itertools
import random
import re

from afm_min.filters import table
from afm_min.tasks import COLOURS, THINGS, split_of

TOPICS = table("functions")  # arguments, phrase, expression
FURTHER = table("further")  # type of a result r, phrase, expression


def inputs(rng):
    """Values for all arguments that topics have: numbers x and y, a text s, a list v."""
    x = rng.choice((rng.randint(1, 12), rng.randint(10, 120)))
    return {"x": x, "y": rng.choice((x, *(rng.randint(1, 30) for _ in range(3)))),
            "s": " ".join(rng.sample(THINGS + COLOURS, rng.randint(1, 3))),
            "v": [rng.randint(1, 20) for _ in range(rng.randint(4, 6))]}


@dataclasses.dataclass(frozen=True)
class Function:
    """A function that the topics express: "x, y", "the sum of x and y, times 2", "x + y",
    "r * 2". It returns `then`, with the value of `expression` as r."""
    arguments: str
    phrase: str
    expression: str
    then: str
    chance: float  # of being drawn, among all

    def results(self, inputs, count):
        """`count` pairs: the values in a call, as text, and what the call returns: ("3, 4", 14).

        inputs: dicts of values for every argument; those that raise an IndexError are skipped, as
        nobody asks for the first of an empty list."""
        compute = eval(f"lambda {self.arguments}: (lambda r: {self.then})({self.expression})")
        names, pairs = self.arguments.split(", "), []
        for values in inputs:
            given = [values[name] for name in names]
            with contextlib.suppress(IndexError):
                pairs.append((", ".join(map(repr, given)), compute(*given)))
            if len(pairs) == count:
                return pairs


def with_numbers(*texts):
    """Yield ("x plus n", "x + n") with n = 2, 3, ... 9 in all texts, or once if there is no n."""
    numbers = range(2, 10) if re.search(r"\bn\b", texts[0]) else [""]
    for n in numbers:
        yield [re.sub(r"\bn\b", str(n), text) for text in texts]


def all_functions():
    """Yield all functions that the topics express, about a thousand.

    A function has one number at most: with two, such a model learns the first and ignores the
    other. Three in ten of those without a number end there, the others do something further."""
    example = inputs(random.Random(0))
    for arguments, *topic in TOPICS:
        numbered = list(with_numbers(*topic))
        phrase, expression = numbered[0]
        kind = type(eval(expression, dict(example))).__name__
        further = [more for of, *more in FURTHER if of == kind and len(numbered) == 1]
        ends = 0.3 if further else 1.0
        for each in numbered:
            yield Function(arguments, *each, "r", ends / len(numbered))
        for more in further:
            continued = list(with_numbers(*(part.replace("{n}", "n") for part in more)))
            for words, then in continued:
                yield Function(arguments, f"{phrase}, {words}", expression, then,
                               (1 - ends) / len(further) / len(continued))


@functools.cache
def by_split():
    """Split -> (pairs (function, key), their cumulative chances); None -> those of all splits.

    The key is what a function returns for 20 inputs, as text: those of a seed, the same for all."""
    rng = random.Random(0)
    values = [inputs(rng) for _ in range(100)]
    pairs = [(function, repr(function.results(values, 20))) for function in all_functions()]
    groups = {None: pairs}
    for pair in pairs:
        groups.setdefault(split_of(pair[1]), []).append(pair)
    return {split: (of_split, list(itertools.accumulate(f.chance for f, _ in of_split)))
            for split, of_split in groups.items()}
