"""The toy world: problems that a small model can learn and a program can judge.

A family is a function from a random generator to a problem and its content. The content decides
by hash which split a problem is in: so one of the test split is never drawn for training, whatever
the seed.
"""
import dataclasses
import functools
import random
import zlib

SPLITS = ("test", "validation") + ("train",) * 8
NAMES = ("Ada Ben Cleo Dan Eva Finn Gwen Hugo Iris Jon Kim Leo Mia Ned Ola Pia Rex Sue Tom Uma Vic "
         "Wes Yan Zoe").split()
THINGS = "apples books coins eggs keys nuts pens rings shells stamps tickets toys".split()
COLOURS = "red blue green black white yellow brown pink grey orange purple silver".split()


@dataclasses.dataclass(frozen=True)
class Problem:
    question: str
    worked: str  # the way to the answer, and the answer
    answer: str
    fact: str = ""  # what the context must hold for the question to have an answer

    def text(self):
        return f"Question: {self.question}\nAnswer: {self.worked}\n"


def draw(family, split, seed):
    """A problem of a split: the first such of those that the family makes of a seeded generator."""
    rng = random.Random(f"{family.__name__} {split} {seed}")
    while True:
        problem, content = family(rng)
        if SPLITS[zlib.crc32(content.encode()) % len(SPLITS)] == split:
            return problem


@functools.cache
def benchmark(family, size=200):
    """The test problems that models are measured by: no stage may train on one."""
    return [draw(family, "test", i) for i in range(size)]


def math(rng):
    """A word problem of one to three steps.

    "Ada has 4 bags of 7 apples. Ada loses 5. How many apples does Ada have?"
    -> "4 * 7 = 28. 28 - 5 = 23. The answer is 23."; its content is "4*7-5"."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    total = rng.randint(10, 60)
    story, steps, content = [f"{total} {thing}"], [], str(total)
    if rng.random() < 0.3:
        bags, size = rng.randint(2, 9), rng.randint(2, 9)
        story, content, total = [f"{bags} bags of {size} {thing}"], f"{bags}*{size}", bags * size
        steps = [f"{bags} * {size} = {total}."]
    for _ in range(rng.randint(1, 2)):
        n = rng.randint(2, 9)
        sign = rng.choice("+-") if total > n else "+"
        change = {"+": rng.choice(("buys", "finds")), "-": rng.choice(("loses", "sells"))}[sign]
        result = total + n if sign == "+" else total - n
        story.append(f"{name} {change} {n}")
        steps.append(f"{total} {sign} {n} = {result}.")
        content, total = content + f"{sign}{n}", result
    question = f"{name} has {'. '.join(story)}. How many {thing} does {name} have?"
    return Problem(question, " ".join([*steps, f"The answer is {total}."]), str(total)), content


def recall(rng):
    """A fact to keep in mind: "Ada's keys are in box 4." "Where are Ada's keys?" -> "in box 4."

    The box is one digit, so one token: a model can copy it before it can spell."""
    owner, box = f"{rng.choice(NAMES)}'s {rng.choice(THINGS)}", str(rng.randint(0, 9))
    fact = f"{owner} are in box {box}."
    return Problem(f"Where are {owner}?", f"in box {box}.", box, fact), fact
