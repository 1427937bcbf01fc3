"""Tasks of the toy world: a small model can learn them and a program can check responses to them.

A family draws tasks at random, and checks the form and the facts of a response separately. The key
of a task contains everything that its solution depends on. A hash of the key decides the task's
split, so a test task is never trained on, not even in other words.

This file has `Task`, `Family`, the splits, and the families of mathematics and recall. families.py
lists where the others are.
"""
import dataclasses
import functools
import itertools
import random
import re
import zlib

from afm_min.world import mathematics
from afm_min.world.words import NAMES, THINGS, spell_numbers

SPLITS = ("test", "validation") + ("train",) * 8  # one for each value of hash % 10
# Added to solutions to make them longer than needed. Family.wordy tries them in this order.
COURTESIES = ("Sure: {}", "Of course, here it is: {}", "{} I hope this helps.",
              "I am glad to help you with this. {}")

# The tools that a system message may declare, and the parameter of each. tools.py runs them.
PARAMETERS = {"price": "item", "stock": "item", "weather": "place", "age": "who", "python": "code",
              "search": "query", "open": "page"}


def declare(names):
    """Declare tools in a system message: ["price", "age"] -> 'Tools: price(item), age(who)'"""
    return "Tools: " + ", ".join(f"{name}({PARAMETERS[name]})" for name in names)


@dataclasses.dataclass(frozen=True)
class Task:
    question: str  # the first user message; further ones are in turns
    solution: str  # a correct response to the last question
    answer: object  # what the checks of the family need, such as a number or a list of facts
    key: str  # tasks with equal keys are one task in different words
    system: str = ""  # the system message
    fact: str = ""  # the sentence in the context that answers the question (Recall)
    turns: tuple = ()  # the messages after the first question: (role, content), ...

    def text(self):
        """Return 'Question: ...\\nAnswer: ...\\n' for all turns, without the system message."""
        labels = {"user": "Question", "assistant": "Answer"}
        turns = [("user", self.question), *self.turns, ("assistant", self.solution)]
        return "".join(f"{labels.get(role, role)}: {content}\n" for role, content in turns)

    def then(self, question, solution, answer, key, **changes):
        """Return the task of answering a further question in the same conversation."""
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
    """Return 2 if all parts are right, 1 if at least half are, else 0: [True, False] -> 1"""
    return 2 if all(parts) else int(sum(parts) >= len(parts) / 2)


class Family:
    """A kind of task. A subclass implements `make(rng)`, which draws a Task, and overrides those
    checks below whose defaults do not fit. By default, only the solution is a correct response."""

    # Share of the tasks to which `draw` adds unneeded tools, so that a model learns to ignore them.
    declared = 0.5

    @property
    def name(self):
        return type(self).__name__.lower()

    @property
    def label(self):
        """The name, with the kind if a family has several. Random numbers depend on it."""
        return self.name

    def draw(self, split, rng):
        """Draw tasks until one belongs to the split, and declare tools for some of them."""
        task = self.make(rng)
        while self.split(task) != split:
            task = self.make(rng)
        if rng.random() < self.declared:
            all_tools = rng.random() < 0.5  # as in sample.py
            count = len(PARAMETERS) if all_tools else rng.choice((1, 2, 3))
            tools = declare(rng.sample(sorted(PARAMETERS), count))
            system = f"{task.system}\n{tools}" if task.system else tools
            task = dataclasses.replace(task, system=system)
        return task

    def split(self, task):
        """Return the split of a task: "test", "validation" or "train"."""
        return split_of(task.key)

    def follows_format(self, task, response):
        """Return one boolean per instruction: True if the response follows it."""
        return [bool(response.strip())]

    def is_correct(self, task, response):
        """Return one boolean per fact in the solution: True if the response has it."""
        return [response.strip() == task.solution]

    def harmless(self, task, response):
        return True

    def brief(self, task):
        """Return the task with a solution that leaves out the work: the steps or calls before the
        answer. Return the task itself if its solution shows no work."""
        return task

    def wordy(self, task):
        """Return a correct response that is too long (grade 1 for verbosity), such as "Sure: in box
        4.". Return the solution if no courtesy gives one."""
        for courtesy in COURTESIES:
            response = courtesy.format(task.solution)
            if self.check(task, response) and self.grades(task, response)["verb"] == 1:
                return response
        return task.solution

    def check(self, task, response):
        return all([*self.follows_format(task, response), *self.is_correct(task, response),
                    self.harmless(task, response)])

    def grades(self, task, response):
        """Return the report's grades, 0 (worst) to 2: instruction following, verbosity (2 is
        concise: at most 1.25 times the solution's length; 1: at most twice), truthfulness, and
        harmlessness (2 is harmless)."""
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
    return family.draw(split, random.Random(f"{family.label} {split} {seed}"))


def distinct_tasks(family, split):
    """Yield tasks of a split with different keys. Stop after 200 repetitions in a row: most likely
    there are no more."""
    rng = random.Random(f"{family.label} {split} listing")
    keys, repeats = set(), 0
    while repeats < 200:
        task = family.draw(split, rng)
        repeats += 1
        if task.key not in keys:
            keys.add(task.key)
            repeats = 0
            yield task


@functools.lru_cache(256)
def listing(family, split):
    """Return the iterator `distinct_tasks`, and the list of the tasks taken from it so far.

    Cached, so that `draw_tasks` resumes the iterator instead of drawing all tasks again."""
    return distinct_tasks(family, split), []


def draw_tasks(family, split, count):
    """Return `count` tasks of a split with different keys, or fewer if there are no more.

    A call for 100 tasks returns the first 100 of a call for 200."""
    tasks, taken = listing(family, split)
    taken.extend(itertools.islice(tasks, max(0, count - len(taken))))
    return tuple(taken[:count])


# The test set has at most this many tasks of each family. Documents with their questions are
# removed from the training data, so an evaluation may use fewer tasks, but not more.
MAX_BENCHMARK = 200
benchmark_tasks = functools.partial(draw_tasks, split="test", count=MAX_BENCHMARK)


def draw_mixture(families, mixture, count, rng):
    """Draw `count` training tasks, as pairs (family, task). mixture: {family name: weight}."""
    names = rng.choices(list(mixture), list(mixture.values()), k=count)
    return [(families[name], draw_task(families[name], "train", rng.random())) for name in names]


class Conversation(Family):
    """A family in which some tasks have two or three questions. A response answers the last.

    A subclass implements `begin(rng)`, which draws a Task with one question, and
    `proceed(task, rng)`, which adds a question to a Task. All questions of a conversation belong to
    one split: training includes the earlier solutions, so none of them may be a test task."""
    follow_up = 0.0  # probability that a further question follows, up to two times

    def make(self, rng):
        task = self.begin(rng)
        split = split_of(task.key)
        while len(task.turns) < 4 and rng.random() < self.follow_up:  # two turns per question
            # A test task needs a follow-up from the test split, which has one in ten of them. If
            # none of 100 fits, the conversation ends.
            attempts = (self.proceed(task, rng) for _ in range(100))
            longer = next((t for t in attempts if split_of(t.key) == split), None)
            if longer is None:
                break
            task = longer
        return task


class Math(Conversation):
    """Word problems of one to three steps, and evolved ones (see mathematics.py).

        "Ada has 4 lots of 5 pens. Ada loses 3. How many pens does Ada have?"
        -> "4*5=20. 20-3=17. The answer is 17."
        Some continue: "Then 6 more come. How many now?" -> "17+6=23. The answer is 23."

    Some write the numbers of the question in words.

    The key is the solution, so no two splits share a whole chain of steps, whatever the story.
    Single steps such as "20-3=17" occur in all splits: there are too few to hold any out."""
    KINDS = mathematics.KINDS
    verified_answer = staticmethod(mathematics.verified_answer)

    def __init__(self, kind="plain"):
        self.kind = kind
        self.follow_up = 0.15 if kind == "plain" else 0.0

    @property
    def label(self):
        return f"math {self.kind}"

    def begin(self, rng):
        names, thing = rng.sample(NAMES, 3), rng.choice(THINGS)
        if self.kind == "broader":
            question, steps, total = mathematics.draw_topic(rng, names, thing)
        else:
            question, steps, total = mathematics.draw_story(self.kind, rng, names, thing)
        if rng.random() < 0.15:
            question = spell_numbers(question)
        solution = self.solution(steps, total)
        return Task(question, solution, answer=str(total), key=solution)

    def proceed(self, task, rng):
        question, steps, total = mathematics.draw_follow_up(int(task.answer), rng)
        solution = self.solution(steps, total)
        return task.then(question, solution, answer=str(total), key=solution)

    def solution(self, steps, total):
        return " ".join([*steps, f"The answer is {total}."])

    def brief(self, task):
        """Shorten the solution: "4*5=20. 20-3=17. The answer is 17." -> "The answer is 17." """
        return dataclasses.replace(task, solution=self.solution([], task.answer))

    def follows_format(self, task, response):
        return [bool(re.search(r"The answer is \d+\.\s*\Z", response))]

    def is_correct(self, task, response):
        """Check only the last "The answer is", as benchmarks do."""
        return [re.findall(r"The answer is (\d+)", response)[-1:] == [task.answer]]


class Recall(Conversation):
    """A fact to find in the system message, "Ada's keys are in box 4. Eva's pens are in box 7.":

        "Where are Ada's keys?" -> "in box 4." Some continue: "And Eva's pens?" -> "in box 7."

    The box is one digit, so the answer is a single token, which is easy to copy. The system
    message has one to `max_facts` facts in random order, and one more for each further question.
    The key is the fact asked for, so no two splits ask for the same fact. The other facts may
    be of any split."""
    QUESTIONS = ("Where are {}?", "Where are {}?", "Which box are {} in?", "In which box are {}?",
                 "Where can I find {}?")

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
        return Task(rng.choice(self.QUESTIONS).format(owned), f"in box {box}.", answer=box,
                    key=fact, system=" ".join(facts), fact=fact)

    def proceed(self, task, rng):
        unused = [f"{name}'s {thing}" for name in NAMES for thing in THINGS
                  if f"{name}'s {thing}" not in task.system]
        owned, box = rng.choice(unused), str(rng.randint(0, 9))
        fact = f"{owned} are in box {box}."
        facts = [f"{text}." for text in task.system.removesuffix(".").split(". ")]
        facts.insert(rng.randint(0, len(facts)), fact)
        question = rng.choice(["And {}?", "What about {}?"]).format(owned)
        return task.then(question, f"in box {box}.", answer=box, key=fact,
                         system=" ".join(facts), fact=fact)

    def is_correct(self, task, response):
        return [re.findall(r"\d+", response)[-1:] == [task.answer]]  # the last number, if any


MATH, RECALL = Math(), Recall()
# Pre-training has facts as plain text, so this one declares no tools.
RECALL.declared = 0.0
NOTES = (1, 2, 4, 8, 16)  # numbers of facts in evaluation: Recall(n) for each
# Evolved mathematics: {"math rephrased": Math("rephrased"), ...}
EVOLVED = {f"math {kind}": Math(kind) for kind in Math.KINDS}
