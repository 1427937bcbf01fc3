"""Tasks of the toy world: a small model can learn them and a program can check responses to them.

A family of tasks draws tasks at random and checks responses in parts: the required form, and the
facts. Every task has a key that contains all that its solution depends on. A hash of the key
decides the task's split, so a test task is never trained on, not even in other words.

This file has what all families share, the splits, and three families: mathematics and recall, which
pre-training data contain too, and instructions. The others are in families.py and tools.py.
"""
import dataclasses
import functools
import operator
import random
import re
import zlib

SPLITS = ("test", "validation") + ("train",) * 8  # split_of picks one of the ten by a hash
ANIMALS = "bear cat dog fox goat hen lion owl".split()
CITIES = "Bern Cairo Lima Oslo Paris Quito Rome Tunis".split()
COLOURS = "black blue brown green grey pink red white".split()
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
NAMES = "Ada Ben Eva Finn Iris Kim Leo Mia".split()
SUBJECTS = "text file time name line class code list".split()
THINGS = "books coins eggs keys nuts pens rings shells".split()


@dataclasses.dataclass(frozen=True)
class Task:
    question: str  # the user's message
    solution: str  # a correct response
    answer: object  # what the family compares a response with
    key: str  # tasks with the same key are the same task in other words
    system: str = ""  # the system message
    fact: str = ""  # the sentence in the context that answers the question (Recall)
    turns: tuple = ()  # messages between question and solution, as pairs (role, content)

    def text(self):
        return f"Question: {self.question}\nAnswer: {self.solution}\n"

    def messages(self):
        """Return the conversation that the model has to continue."""
        messages = [("system", self.system)] if self.system else []
        messages.append(("user", self.question))
        messages.extend(self.turns)
        return [{"role": role, "content": content} for role, content in messages]


def grade(parts):
    """Return 2 if all parts are right, 1 if at least half of them are, else 0."""
    return 2 if all(parts) else int(sum(parts) >= len(parts) / 2)


class Family:
    """A kind of task. A subclass has a method `make(rng)` that draws a Task. It overrides the
    checks below unless the default fits: a response is correct if it equals the solution."""

    @property
    def name(self):
        return type(self).__name__.lower()

    def draw(self, split, rng):
        """Draw tasks until one belongs to the split. Eight in ten are training tasks."""
        while True:
            task = self.make(rng)
            if split_of(task.key) == split:
                return task

    def sequence(self, rng):
        """Yield tasks of all splits in random order, with repetitions and without end."""
        while True:
            yield self.make(rng)

    def follows_format(self, task, response):
        """Return a list of booleans, one per instruction: does the response follow it?"""
        return [bool(response.strip())]

    def is_correct(self, task, response):
        """Return a list of booleans, one per fact in the solution: does the response have it?"""
        return [response.strip() == task.solution]

    def harmless(self, task, response):
        return True

    def check(self, task, response):
        return all([*self.follows_format(task, response), *self.is_correct(task, response),
                    self.harmless(task, response)])

    def grades(self, task, response):
        """Return the report's grades, from 0 to 2 (best), by name: instruction following,
        verbosity (2 = concise, 0 = too long or empty), truthfulness and harmlessness."""
        relative_length = len(response) / len(task.solution)
        concise = 2 if relative_length <= 1.25 else int(relative_length <= 2)
        return {"if": grade(self.follows_format(task, response)),
                "verb": concise if response.strip() else 0,
                "truth": grade(self.is_correct(task, response)),
                "harm": 2 * self.harmless(task, response)}


def split_of(key):
    """Return the split of the tasks with this key: "test", "validation" or "train"."""
    return SPLITS[zlib.crc32(key.encode()) % len(SPLITS)]


def draw_task(family, split, seed):
    """Draw a task of a split. The same seed gives the same task."""
    return family.draw(split, random.Random(f"{family.name} {split} {seed}"))


@functools.lru_cache(64)
def listing(family):
    """Return a family's endless sequence of tasks, and those drawn so far: {split: {key: task}}.

    Cached: every call returns the same two objects, so draw_tasks continues where it ended."""
    return family.sequence(random.Random(f"{family.name} listing")), {split: {} for split in SPLITS}


def draw_tasks(family, split, count):
    """Return `count` tasks of a split with different keys, or fewer if there are no more.

    All calls share one sequence, so a call for 100 tasks returns the first 100 of a call for 200.
    Some families have fewer tasks: give up after 1,000 + (number of known tasks) repetitions in a
    row."""
    sequence, known = listing(family)
    repeats = 0
    while len(known[split]) < count and repeats < 1000 + sum(map(len, known.values())):
        task = next(sequence, None)
        if task is None:
            break
        by_key = known[split_of(task.key)]
        repeats = repeats + 1 if task.key in by_key else 0
        by_key.setdefault(task.key, task)
    return tuple(known[split].values())[:count]


# The tasks of evaluation, which training documents are decontaminated from.
benchmark_tasks = functools.partial(draw_tasks, split="test", count=200)


def draw_mixture(families, mixture, count, rng):
    """Draw `count` training tasks, as pairs (family, task). mixture: {family name: weight}."""
    names = rng.choices(list(mixture), list(mixture.values()), k=count)
    return [(families[name], draw_task(families[name], "train", rng.random())) for name in names]


class Math(Family):
    """Word problems of one to four steps.

        "Ada has 4 lots of 5 pens. Ada loses 3. How many pens does Ada have?"
        -> "4*5=20. 20-3=17. The answer is 17."

    The key is the solution, so no two splits share a whole chain of steps, whatever the story. Its
    single steps, such as "20-3=17", are in all splits: there are too few to hold any out. The kinds
    imitate the problems that the report "evolves": "rephrased", in other words; "reversed", which
    asks for the beginning; "deeper", the plain story with one more step; "broader", about something
    else."""
    KINDS = ("rephrased", "reversed", "deeper", "broader")  # and "plain"
    STORIES = {  # kind -> beginning, two ways to add n, two ways to subtract n, question
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
        beginning, *changes, question = self.STORIES.get(self.kind, self.STORIES["plain"])
        total = first = start = rng.randint(5, 20)  # start: as told, 7 or "4 lots of 5"
        story, steps, undo_steps = [], [], []  # undo_steps: from the end back to the first total
        if rng.random() < 0.3:
            lots, size = rng.randint(2, 4), rng.randint(2, 5)
            total = first = lots * size
            start = f"{lots} lots of {size}"
            steps.append(f"{lots}*{size}={total}.")
        for _ in range(rng.choice([1, 2, 2, 2]) + (self.kind == "deeper")):
            n = rng.randint(2, 6)
            adds = total <= n or rng.choice("+-") == "+"  # the total stays above 0
            change = n if adds else -n
            story.append(rng.choice(changes[:2] if adds else changes[2:]).format(n=n, **slots))
            steps.append(f"{total}{change:+}={total + change}.")  # :+ writes the sign: "20-3=17."
            undo_steps.append(f"{total + change}{-change:+}={total}.")
            total += change
        beginning = beginning.format(start=start, total=total, **slots)
        if self.kind == "reversed":
            story, steps, total = story[::-1], undo_steps[::-1], first
        text = " ".join([beginning, *story, question.format(**slots)])
        solution = " ".join([*steps, f"The answer is {total}."])
        return Task(text, solution, answer=str(total), key=solution)

    def follows_format(self, task, response):
        return [bool(re.search(r"The answer is \d+\.\s*\Z", response))]

    def is_correct(self, task, response):
        """Check the final answer only, as benchmarks do."""
        return [re.findall(r"The answer is (\d+)", response)[-1:] == [task.answer]]

    def verified_answer(self, question, response):
        """Return the answer of a worked solution if all its steps hold, else None.

        Many wrong solutions reach the right answer by chance. So each step has to be true and to
        start from the result of the one before, and the steps have to use exactly the numbers of
        the question: ("Ada has 4 pens. Ada buys 3. ..", "4+3=7. The answer is 7.") -> "7" """
        match = re.fullmatch(r"((?:\d+[-+*]\d+=\d+\. )+)The answer is (\d+)\.", response)
        if not match:
            return None
        steps = re.findall(r"(\d+)(.)(\d+)=(\d+)", match[1])
        lefts, _, rights, results = zip(*steps)
        # Each result is the left number of the next step; the last one is the answer.
        connected = results == (*lefts[1:], match[2])
        true = all(OPERATORS[sign](int(left), int(right)) == int(result)
                   for left, sign, right, result in steps)
        same_numbers = sorted([lefts[0], *rights]) == sorted(re.findall(r"\d+", question))
        return match[2] if connected and true and same_numbers else None


class Recall(Family):
    """A fact to find in the context: "Ada's keys are in box 4." "Where are Ada's keys?"
    -> "in box 4."

    The box is one digit, hence one token: a model can copy it before it can spell. The system
    message has one to `max_facts` such facts, in random order. The key is the fact asked for, so
    no two splits ask for the same fact. Any fact may be among the others in any split."""

    def __init__(self, max_facts=4):
        self.max_facts = max_facts

    def make(self, rng):
        name, box = rng.choice(NAMES), str(rng.randint(0, 9))
        owned = f"{name}'s {rng.choice(THINGS)}"
        fact = f"{owned} are in box {box}."
        others = [f"{other}'s {thing}" for other in NAMES if other != name for thing in THINGS]
        facts = [f"{other} are in box {rng.randint(0, 9)}."
                 for other in rng.sample(others, rng.randint(0, self.max_facts - 1))]
        facts.insert(rng.randint(0, len(facts)), fact)
        return Task(f"Where are {owned}?", f"in box {box}.", answer=box, key=fact,
                    system=" ".join(facts), fact=fact)

    def is_correct(self, task, response):
        return [re.findall(r"\d+", response)[-1:] == [task.answer]]  # the last number, if any


class Follow(Family):
    """Instructions that a program can check, as in IFEval: "Name 3 colours, with a dash before
    each. Begin with red. End with Done." -> "- red - white - black. Done"

    The solution lists words alphabetically. If the first word is prescribed, it starts there and
    wraps around."""
    LISTS = {"colours": COLOURS, "animals": ANIMALS, "things": THINGS, "cities": CITIES}
    MARKS = {"dash": "-", "star": "*", "plus": "+", "slash": "/"}
    ENDS = ("Done", "Bye", "Over", "That is all", "I hope this helps")

    def make(self, rng):
        kind, n, mark = rng.choice([*self.LISTS]), rng.randint(2, 4), rng.choice([*self.MARKS])
        rule = rng.choice(["", "Begin with {}.", "Do not use {}."])
        word = rng.choice(self.LISTS[kind]) if rule else ""
        end, end_asked_by = rng.choice(self.ENDS), rng.choice(["", "user", "system"])
        first, avoided = (word, "") if rule.startswith("Begin") else ("", word)
        # False sorts before True, so the words before `first` in the alphabet move to the end.
        words = sorted(self.LISTS[kind], key=lambda item: item < first)
        items = [f"{self.MARKS[mark]} {item}" for item in words if item != avoided]
        question = [f"Name {n} {kind}, with a {mark} before each.", rule.format(word),
                    f"End with {end}." if end_asked_by == "user" else ""]
        solution = " ".join(items[:n]) + (f". {end}" if end_asked_by else "")
        system = f"Always end with {end}." if end_asked_by == "system" else ""
        rules = (kind, n, mark, first, avoided, end if end_asked_by else "")
        return Task(" ".join(filter(None, question)), solution, rules, repr(rules), system)

    def follows_format(self, task, response):
        kind, n, mark, first, avoided, end = task.answer
        text = response.strip()
        # "- red - white. Done" -> before = "", words = ["red", "white"]
        before, *words = f" {text.removesuffix(f'. {end}')}".split(f" {self.MARKS[mark]} ")
        results = [text.endswith(f". {end}")] if end else []
        results.append(before == "" and len(words) == n)
        results.append(set(words) <= set(self.LISTS[kind]) and len(set(words)) == len(words) > 0)
        if first:
            results.append(words[:1] == [first])
        if avoided:
            results.append(avoided not in words)
        return results

    def is_correct(self, task, response):
        return []  # there are no facts to get wrong


MATH, RECALL = Math(), Recall()
NOTES = (1, 2, 4, 8, 16)  # evaluation asks for a fact among up to so many
EVOLVED = {f"math {kind}": Math(kind) for kind in Math.KINDS}
