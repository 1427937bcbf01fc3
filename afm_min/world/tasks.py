"""The toy world: tasks that a small model can learn and a program can judge.

A family makes tasks from a random generator, and judges responses to them in parts: what the
form must be, and what must be true. The key of a task holds all that its answer depends on, and
decides by hash which split it is in: so what a test asks is never trained on, in whatever words and
whatever the seed. Mathematics and recall, which pre-training has sources of its own for, are here,
the other families in families.py.
"""
import dataclasses
import functools
import operator
import random
import re
import zlib


SPLITS = ("test", "validation") + ("train",) * 8  # by the hash of the key
NAMES = "Ada Ben Eva Finn Iris Kim Leo Mia".split()
THINGS = "books coins eggs keys nuts pens rings shells".split()
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
COLOURS = "black blue brown green grey pink red white".split()


@dataclasses.dataclass(frozen=True)
class Task:
    question: str  # the task-level instruction: what the user asks
    solution: str  # a right response: the way to the answer, and the answer
    answer: object  # what the family's judge compares with
    key: str  # what makes it this task and no other
    system: str = ""  # the system-level instruction
    fact: str = ""  # what the context must hold for the question to have an answer
    turns: tuple = ()  # calls made so far, each with its result

    def text(self):
        return f"Question: {self.question}\nAnswer: {self.solution}\n"

    def messages(self):
        """What the model is given."""
        said = [("system", self.system)] * bool(self.system) + [("user", self.question)]
        for called, result in self.turns:
            said += [("assistant", called), ("tool", result)]
        return [{"role": role, "content": content} for role, content in said]


def level(parts):
    """A grade in three levels: 2 if all parts are right, 1 if at least half of them are, else 0."""
    return 2 if all(parts) else int(2 * sum(parts) >= len(parts))


class Family:
    """A new one is a class with `make`, which draws a task from a random generator, and, where
    equality to the worked answer is too strict, `formed` and `true`."""

    @property
    def name(self):
        return type(self).__name__.lower()

    def draw(self, split, rng):
        """Draw a task of a split: the first such that `make` gives. For training tasks, eight
        in ten, that is one and a quarter on average."""
        while split_of((task := self.make(rng)).key) != split:
            pass
        return task

    def sequence(self, rng):
        """Yield tasks of all splits in a random order, without an end if there is no list."""
        while True:
            yield self.make(rng)

    def follows_format(self, task, response):
        """Of each thing that was asked for, whether the response does it."""
        return [bool(response.strip())]

    def is_correct(self, task, response):
        """Of each thing that the response should tell, whether it does, and rightly."""
        return [response.strip() == task.solution]

    def harmless(self, task, response):
        return True

    def check(self, task, response):
        return all(self.follows_format(task, response) + self.is_correct(task, response)
                   + [self.harmless(task, response)])

    def grades(self, task, response):
        """The report's single-sided grades, by its names, each 0, 1, or 2, the best: instruction
        following, conciseness (verbosity), truthfulness and harmlessness."""
        length = len(response) / len(task.solution)
        return {"if": level(self.follows_format(task, response)),
                "verb": 2 if length <= 1.25 else int(length <= 2),
                "truth": level(self.is_correct(task, response)),
                "harm": 2 * self.harmless(task, response)}


def split_of(key):
    """The split of every task with this key: "test", "validation", or, eight times in ten,
    "train"."""
    return SPLITS[zlib.crc32(key.encode()) % len(SPLITS)]


def draw_task(family, split, seed):
    """Draw a task of a split from a seed: the same seed gives the same task."""
    return family.draw(split, random.Random(f"{family.name} {split} {seed}"))


@functools.lru_cache(64)
def listing(family):
    """A family's tasks in a random order, and those made so far: {split: {key: task}}.

    Each task that is made goes to its own split, so none is made in vain."""
    return family.sequence(random.Random(f"{family.name} listing")), {split: {} for split in SPLITS}


def draw_tasks(family, split, count):
    """Return `count` different tasks of a split, or all that there are, in a random order.

    No key appears twice: else a few short tasks would decide the figure. The first 100 of 200
    are the 100. The search ends when the last tasks, 1,000 and as many as are known, were all
    known before."""
    made, found = listing(family)
    repeats = 0
    while len(found[split]) < count and repeats < 1000 + sum(map(len, found.values())):
        task = next(made, None)
        if task is None:
            break
        of_split = found[split_of(task.key)]
        repeats = repeats + 1 if task.key in of_split else 0
        of_split.setdefault(task.key, task)
    return tuple(found[split].values())[:count]


# The tasks that documents are decontaminated from.
benchmark_tasks = functools.partial(draw_tasks, split="test", count=200)


class Math(Family):
    """A word task of one to three steps.

    "Ada has 4 lots of 5 pens. Ada loses 3. How many pens does Ada have?"
    -> "4*5=20. 20-3=17. The answer is 17."; the key is all of that, so that no kind of story is
    trained on with a sum that another is tested with.

    kind: how the story is told (report, "Mathematics"): plain; rephrased; reversed, from the end to
    the beginning; deeper, with one more step; broader, about something else."""
    KINDS = ("rephrased", "reversed", "deeper", "broader")  # beside plain
    # kind of story -> beginning, two ways to get more, two to get less, question
    STORIES = {
        "plain": ("{name} has {start} {thing}.", "{name} buys {n}.", "{name} finds {n}.",
                  "{name} loses {n}.", "{name} sells {n}.", "How many {thing} does {name} have?"),
        "rephrased": ("{start} {thing} were in the box of {name}.", "Then {n} came in.",
                      "Later {n} were added.", "Then {n} went out.", "Later {n} were taken.",
                      "What number of {thing} is in it now?"),
        "broader": ("A tank holds {start} litres.", "Then {n} flow in.", "It rains {n}.",
                    "Then {n} leak out.", "{name} drinks {n}.",
                    "How many litres does the tank hold?"),
        "reversed": ("{name} has {total} {thing} now.", "Before, {name} bought {n}.",
                     "Before, {name} found {n}.", "Before, {name} lost {n}.",
                     "Before, {name} sold {n}.", "How many {thing} did {name} have first?")}

    def __init__(self, kind="plain"):
        self.kind = kind

    def make(self, rng):
        slots = {"name": rng.choice(NAMES), "thing": rng.choice(THINGS)}
        begin, *changes, ask = self.STORIES.get(self.kind, self.STORIES["plain"])
        total = begun = rng.randint(5, 20)
        start, story, steps, undone = str(total), [], [], []
        if rng.random() < 0.3:
            lots, size = rng.randint(2, 4), rng.randint(2, 5)
            total = begun = lots * size
            start, steps = f"{lots} lots of {size}", [f"{lots}*{size}={total}."]
        for _ in range(rng.choice([1, 2, 2, 2]) + (self.kind == "deeper")):
            n = rng.randint(2, 6)
            sign = rng.choice("+-") if total > n else "+"
            ways, result = (changes[:2], total + n) if sign == "+" else (changes[2:], total - n)
            story.append(rng.choice(ways).format(n=n, **slots))
            steps.append(f"{total}{sign}{n}={result}.")
            undone.insert(0, f"{result}{'-' if sign == '+' else '+'}{n}={total}.")
            total = result
        slots |= {"start": start, "total": total}
        if self.kind == "reversed":
            story, steps, total = story[::-1], undone, begun
        question = " ".join([begin.format(**slots), *story, ask.format(**slots)])
        worked = " ".join([*steps, f"The answer is {total}."])
        return Task(question, worked, str(total), worked)

    def follows_format(self, task, response):
        return [bool(re.search(r"The answer is \d+\.\s*\Z", response))]

    def is_correct(self, task, response):
        """As benchmarks do, only the answer is looked at."""
        return [re.findall(r"The answer is (\d+)", response)[-1:] == [task.answer]]


    def verified_answer(self, question, response):
        """Return the answer of a worked solution, or None unless each step is true, starts from the
        result of the one before, and together they use exactly the numbers of the question. (Many
        wrong solutions reach the right answer by chance.)

        ("Ada has 4 pens. Ada buys 3. ..", "4+3=7. The answer is 7.") -> "7" """
        match = re.fullmatch(r"((?:\d+[-+*]\d+=\d+\. )+)The answer is (\d+)\.", response)
        if not match:
            return None
        steps = re.findall(r"(\d+)(.)(\d+)=(\d+)", match[1])
        lefts, _, rights, results = zip(*steps)
        connected = (*lefts[1:], match[2]) == results
        true = all(OPERATORS[sign](int(left), int(right)) == int(result)
                   for left, sign, right, result in steps)
        same_numbers = sorted([lefts[0], *rights]) == sorted(re.findall(r"\d+", question))
        return match[2] if connected and true and same_numbers else None


class Recall(Family):
    """A fact to keep in mind: "Ada's keys are in box 4." "Where are Ada's keys?" -> "in box 4."

    The box is one digit, so one token: a model can copy it before it can spell. most: how many
    such facts the system's notes may have, the one that is asked for anywhere among them."""

    def __init__(self, most=4):
        self.most = most

    def make(self, rng):
        name, box = rng.choice(NAMES), str(rng.randint(0, 9))
        owner = f"{name}'s {rng.choice(THINGS)}"
        fact = f"{owner} are in box {box}."
        others = [f"{other}'s {thing}" for other in NAMES if other != name for thing in THINGS]
        told = [f"{other} are in box {rng.randint(0, 9)}."
                for other in rng.sample(others, rng.randint(0, self.most - 1))]
        told.insert(rng.randint(0, len(told)), fact)
        return Task(f"Where are {owner}?", f"in box {box}.", box,
                       f"{owner}: {told}", " ".join(told), fact)

    def is_correct(self, task, response):
        return [re.findall(r"\d+", response)[-1:] == [task.answer]]


MATH, RECALL = Math(), Recall()
EVOLVED = {f"math {kind}": Math(kind) for kind in Math.KINDS}


def draw_mixture(families, mixture, count, rng):
    """`count` pairs (family, task to train on). mixture: name of a family -> its share."""
    names = rng.choices(list(mixture), list(mixture.values()), k=count)
    return [(families[name], draw_task(families[name], "train", rng.random())) for name in names]
