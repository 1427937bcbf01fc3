"""All functions that the toy world asks a model to write, and which split each belongs to.

There are about a thousand, so they are listed once: a task is then drawn from its split's list,
and nobody has to guess until one of the right split comes up.
"""
import contextlib
import dataclasses
import functools
import itertools
import random
import re

from afm_min.world.tasks import COLOURS, THINGS, split_of

TOPICS = [  # arguments, phrase, expression
    ("x", "x plus n", "x + n"),
    ("x", "x minus n", "x - n"),
    ("x", "x times n", "x * n"),
    ("x", "twice x", "2 * x"),
    ("x", "the square of x", "x * x"),
    ("x", "the cube of x", "x * x * x"),
    ("x", "half of x", "x // 2"),
    ("x", "the last digit of x", "x % 10"),
    ("x", "the rest of x by n", "x % n"),
    ("x", "how often n fits in x", "x // n"),
    ("x", "x with the sign changed", "-x"),
    ("x", "how many digits x has", "len(str(x))"),
    ("x", "the sum of the digits of x", "sum(int(d) for d in str(x))"),
    ("x", "whether x is even", "x % 2 == 0"),
    ("x", "whether x is odd", "x % 2 == 1"),
    ("x", "whether x is more than n", "x > n"),
    ("x", "whether x is less than n", "x < n"),
    ("x", "the numbers up to x", "list(range(1, x + 1))"),
    ("x", "the sum of the numbers up to x", "sum(range(1, x + 1))"),
    ("x", "x as text", "str(x)"),
    ("x, y", "the sum of x and y", "x + y"),
    ("x, y", "the difference of x and y", "x - y"),
    ("x, y", "the product of x and y", "x * y"),
    ("x, y", "the larger of x and y", "max(x, y)"),
    ("x, y", "the smaller of x and y", "min(x, y)"),
    ("x, y", "how far x is from y", "abs(x - y)"),
    ("x, y", "the average of x and y", "(x + y) / 2"),
    ("x, y", "whether x is y", "x == y"),
    ("x, y", "whether x is more than y", "x > y"),
    ("x, y", "x and y in a list", "[x, y]"),
    ("x, y", "the rest of x by y", "x % y"),
    ("x, y", "how often y fits in x", "x // y"),
    ("s", "s in capital letters", "s.upper()"),
    ("s", "s in small letters", "s.lower()"),
    ("s", "s with a capital letter", "s.title()"),
    ("s", "s backwards", "s[::-1]"),
    ("s", "s twice", "s + s"),
    ("s", "s n times", "s * n"),
    ("s", "the first letter of s", "s[0]"),
    ("s", "the last letter of s", "s[-1]"),
    ("s", "the first n letters of s", "s[:n]"),
    ("s", "s without its first letter", "s[1:]"),
    ("s", "s without its last letter", "s[:-1]"),
    ("s", "the length of s", "len(s)"),
    ("s", "how many words s has", "len(s.split())"),
    ("s", "the words of s", "s.split()"),
    ("s", "the first word of s", "s.split()[0]"),
    ("s", "the last word of s", "s.split()[-1]"),
    ("s", "the letters of s in order", "sorted(s)"),
    ("s", "how many e s has", "s.count('e')"),
    ("s", "whether s has an a", "'a' in s"),
    ("s", "s without spaces", "s.replace(' ', '')"),
    ("s", "whether s begins with b", "s.startswith('b')"),
    ("s", "whether s ends in s", "s.endswith('s')"),
    ("v", "the sum of v", "sum(v)"),
    ("v", "the length of v", "len(v)"),
    ("v", "the largest of v", "max(v)"),
    ("v", "the smallest of v", "min(v)"),
    ("v", "the first of v", "v[0]"),
    ("v", "the last of v", "v[-1]"),
    ("v", "v backwards", "v[::-1]"),
    ("v", "v in order", "sorted(v)"),
    ("v", "v without its first", "v[1:]"),
    ("v", "v without its last", "v[:-1]"),
    ("v", "the first n of v", "v[:n]"),
    ("v", "each of v plus n", "[x + n for x in v]"),
    ("v", "each of v times n", "[x * n for x in v]"),
    ("v", "the even ones of v", "[x for x in v if x % 2 == 0]"),
    ("v", "those of v above n", "[x for x in v if x > n]"),
    ("v", "how many of v are above n", "sum(x > n for x in v)"),
    ("v", "v without repeats", "sorted(set(v))")]
FURTHER = [  # type of a result r, phrase, expression
    ("int", "plus {n}", "r + {n}"),
    ("int", "minus {n}", "r - {n}"),
    ("int", "times {n}", "r * {n}"),
    ("str", "backwards", "r[::-1]"),
    ("str", "in capital letters", "r.upper()"),
    ("str", "twice", "r + r"),
    ("list", "and how many", "len(r)"),
    ("list", "and the first", "r[0]"),
    ("list", "and the last", "r[-1]")]


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
