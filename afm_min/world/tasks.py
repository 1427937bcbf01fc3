"""Tasks of the toy world: a small model can learn them and a program can check responses to them.

A family of tasks draws tasks at random and checks responses in parts: the required form, and the
facts. Every task has a key that contains all that its solution depends on. A hash of the key
decides the task's split, so a test task is never trained on, not even in other words.

This file has what all families share, the splits, and two families that pre-training data contain,
too: mathematics and recall. families.py lists where the others are.
"""
import dataclasses
import functools
import itertools
import random
import re
import zlib

from afm_min.world import mathematics

SPLITS = ("test", "validation") + ("train",) * 8  # split_of picks one of the ten by a hash
ANIMALS = "bear cat dog fox goat hen lion owl".split()
CITIES = "Bern Cairo Lima Oslo Paris Quito Rome Tunis".split()
COLOURS = "black blue brown green grey pink red white".split()
NAMES = "Ada Ben Eva Finn Iris Kim Leo Mia".split()
THINGS = "books coins eggs keys nuts pens rings shells".split()


# The tools that a system message may declare, and the parameter of each. tools.py runs them.
PARAMETERS = {"price": "item", "stock": "item", "weather": "place", "age": "who", "python": "code",
              "search": "query", "open": "page"}


def declare(names):
    """Declare tools in a system message: ["price", "age"] -> 'Tools: price(item), age(who)'"""
    return "Tools: " + ", ".join(f"{name}({PARAMETERS[name]})" for name in names)


@dataclasses.dataclass(frozen=True)
class Task:
    question: str  # the user's first message
    solution: str  # a correct response
    answer: object  # what the family compares a response with
    key: str  # tasks with the same key are the same task in other words
    system: str = ""  # the system message
    fact: str = ""  # the sentence in the context that answers the question (Recall)
    turns: tuple = ()  # messages between question and solution, as pairs (role, content)

    def text(self):
        """Return questions and answers as plain text, without the system message."""
        labels = {"user": "Question", "assistant": "Answer"}
        turns = [("user", self.question), *self.turns, ("assistant", self.solution)]
        return "".join(f"{labels.get(role, role)}: {content}\n" for role, content in turns)

    def then(self, question, solution, answer, key, **changes):
        """Return the task to answer one more question after this task's solution."""
        turns = (*self.turns, ("assistant", self.solution), ("user", question))
        return dataclasses.replace(self, turns=turns, solution=solution, answer=answer, key=key,
                                   **changes)

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
    checks below unless the default fits: a response is correct if it equals the solution.

    declared: share of the tasks that come with declared tools, though they need none, so that a
    model learns not to call them."""
    declared = 0.3

    @property
    def name(self):
        return type(self).__name__.lower()

    def draw(self, split, rng):
        """Draw tasks until one belongs to the split. Eight in ten are training tasks."""
        task = self.make(rng)
        while split_of(task.key) != split:
            task = self.make(rng)
        if rng.random() < self.declared:
            count = rng.choice((1, 2, 3, len(PARAMETERS)))
            tools = declare(rng.sample(sorted(PARAMETERS), count))
            system = f"{task.system}\n{tools}" if task.system else tools
            task = dataclasses.replace(task, system=system)
        return task

    def follows_format(self, task, response):
        """Return a list of booleans, one per instruction: does the response follow it?"""
        return [bool(response.strip())]

    def is_correct(self, task, response):
        """Return a list of booleans, one per fact in the solution: does the response have it?"""
        return [response.strip() == task.solution]

    def harmless(self, task, response):
        return True

    def brief(self, task):
        """Return the solution as a hasty writer puts it, without the work that leads to it."""
        return task.solution

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


def distinct_tasks(family, split):
    """Yield tasks of a split with different keys, until most likely there are no more: after 200
    repetitions in a row."""
    rng, keys, repeats = random.Random(f"{family.name} {split} listing"), set(), 0
    while repeats < 200:
        task = family.draw(split, rng)
        repeats = repeats + 1 if task.key in keys else 0
        if task.key not in keys:
            keys.add(task.key)
            yield task


@functools.lru_cache(256)
def listing(family, split):
    """Return `distinct_tasks`, and a list of those drawn so far.

    Cached: every call returns the same two objects, so draw_tasks continues where it ended."""
    return distinct_tasks(family, split), []


def draw_tasks(family, split, count):
    """Return `count` tasks of a split with different keys, or fewer if there are no more.

    A call for 100 tasks returns the first 100 of a call for 200."""
    more, known = listing(family, split)
    known.extend(itertools.islice(more, max(0, count - len(known))))
    return tuple(known[:count])


# The tasks of evaluation, which training documents are decontaminated from. Evaluation may ask for
# fewer of each family, but not for more.
MAX_BENCHMARK = 200
benchmark_tasks = functools.partial(draw_tasks, split="test", count=MAX_BENCHMARK)


def draw_mixture(families, mixture, count, rng):
    """Draw `count` training tasks, as pairs (family, task). mixture: {family name: weight}."""
    names = rng.choices(list(mixture), list(mixture.values()), k=count)
    return [(families[name], draw_task(families[name], "train", rng.random())) for name in names]


class Conversation(Family):
    """A family in which some tasks have two or three questions. A response answers the last.

    A subclass has the methods `begin(rng)`, which draws a Task with one question, and
    `proceed(task, rng)`, which draws one with a further question. All questions of a conversation
    would be tasks of the same split, since earlier solutions are trained on, too."""
    follow_up = 0.0  # probability of a second question, and then of a third one

    def make(self, rng):
        task = self.begin(rng)
        while len(task.turns) < 4 and rng.random() < self.follow_up:
            # A test task needs about ten attempts. If none succeeds, the conversation ends.
            longer = (self.proceed(task, rng) for _ in range(100))
            found = next((t for t in longer if split_of(t.key) == split_of(task.key)), None)
            if found is None:
                break
            task = found
        return task


class Math(Conversation):
    """Word problems of one to four steps, and evolved ones (see mathematics.py).

        "Ada has 4 lots of 5 pens. Ada loses 3. How many pens does Ada have?"
        -> "4*5=20. 20-3=17. The answer is 17."
        some continue: "Then 6 more come. How many now?" -> "17+6=23. The answer is 23."

    The key is the solution, so no two splits share a whole chain of steps, whatever the story. Its
    single steps, such as "20-3=17", are in all splits: there are too few to hold any out."""
    KINDS = mathematics.KINDS
    verified_answer = staticmethod(mathematics.verified_answer)

    def __init__(self, kind="plain"):
        self.kind = kind
        self.follow_up = 0.15 if kind == "plain" else 0.0

    def begin(self, rng):
        names, thing = rng.sample(NAMES, 3), rng.choice(THINGS)
        if self.kind == "broader":
            question, steps, total = mathematics.draw_topic(rng, names, thing)
        else:
            question, steps, total = mathematics.draw_story(self.kind, rng, names[0], thing)
        solution = self.solution(steps, total)
        return Task(question, solution, answer=str(total), key=solution)

    def proceed(self, task, rng):
        question, steps, total = mathematics.draw_follow_up(int(task.answer), rng)
        solution = self.solution(steps, total)
        return task.then(question, solution, answer=str(total), key=solution)

    def solution(self, steps, total):
        return " ".join([*steps, f"The answer is {total}."])

    def brief(self, task):
        """"4*5=20. 20-3=17. The answer is 17." -> "The answer is 17." """
        return self.solution([], task.answer)

    def follows_format(self, task, response):
        return [bool(re.search(r"The answer is \d+\.\s*\Z", response))]

    def is_correct(self, task, response):
        """Check the final answer only, as benchmarks do."""
        return [re.findall(r"The answer is (\d+)", response)[-1:] == [task.answer]]


class Recall(Conversation):
    """A fact to find in the context: "Ada's keys are in box 4." "Where are Ada's keys?"
    -> "in box 4." With a follow-up: "And Eva's pens?" -> "in box 7."

    The box is one digit, hence one token: a model can copy it before it can spell. The system
    message has one to `max_facts` such facts in random order, and one more for each further
    question. The key is the fact asked for, so no two splits ask for the same fact. Any fact may
    be among the others in any split."""

    def __init__(self, max_facts=4, follow_up=0.0):
        self.max_facts, self.follow_up = max_facts, follow_up

    def begin(self, rng):
        name, box = rng.choice(NAMES), str(rng.randint(0, 9))
        owned = f"{name}'s {rng.choice(THINGS)}"
        fact = f"{owned} are in box {box}."
        others = [f"{other}'s {thing}" for other in NAMES if other != name for thing in THINGS]
        facts = [f"{other} are in box {rng.randint(0, 9)}."
                 for other in rng.sample(others, rng.randint(0, self.max_facts - 1))]
        facts.insert(rng.randint(0, len(facts)), fact)
        return Task(f"Where are {owned}?", f"in box {box}.", answer=box, key=fact,
                    system=" ".join(facts), fact=fact)

    def proceed(self, task, rng):
        unused = [f"{name}'s {thing}" for name in NAMES for thing in THINGS
                  if f"{name}'s {thing}" not in task.system]
        owned, box = rng.choice(unused), str(rng.randint(0, 9))
        fact = f"{owned} are in box {box}."
        facts = task.system.split(". ")  # the last one ends with the full stop
        facts.insert(rng.randint(0, len(facts) - 1), fact.removesuffix("."))
        question = rng.choice(["And {}?", "What about {}?"]).format(owned)
        return task.then(question, f"in box {box}.", answer=box, key=fact,
                         system=". ".join(facts), fact=fact)

    def is_correct(self, task, response):
        return [re.findall(r"\d+", response)[-1:] == [task.answer]]  # the last number, if any


MATH, RECALL = Math(), Recall()  # RECALL has one question, as pre-training needs it
RECALL.declared = 0.0
NOTES = (1, 2, 4, 8, 16)  # evaluation asks for a fact among up to so many
EVOLVED = {f"math {kind}": Math(kind) for kind in Math.KINDS}
