"""The family Tools: questions to answer by calling tools, which tools.py runs."""
import dataclasses
import functools
import itertools
import re
import typing

from afm_min.world import tools
from afm_min.world.tasks import PARAMETERS, Family, Task, declare
from afm_min.world.words import ANIMALS, CITIES, COLOURS, NAMES, THINGS, spell_numbers


class Item(typing.NamedTuple):
    """What a question is about, such as Item("the red keys of Ada", "Ada's red keys", ...)."""
    name: str  # the argument of the tool
    asked: str = ""  # how the question calls it, if not by its name
    thing: str = ""  # "red keys"
    owner: str = ""

    def __format__(self, _):
        return self.asked or self.name


class Tools(Family):
    """Questions that need one tool, several in turn, or none. Unneeded tools are declared, too.

        "What do the red keys of Ada cost?"
        -> "call: price(item='the red keys of Ada')", "3" -> "They cost 3."

    turns     the calls already made, and their results
    response  one reply a line: the remaining calls, whose results the model receives, and the final
              message. A call is compared by its tool, parameter and value.
    answer    a pair (all calls, final message)

    whole: if True, all calls are in `turns`, so that a task is a whole conversation to train on. If
    False, a random number of them."""
    LOOKUPS = {  # tool -> phrasings of a question, answer with argument {0} and result {1}
        "price": (("What do {} cost?", "How much are {}?", "How much do {} cost?",
                   "What is the price of {}?", "What's the price of {}?"), "They cost {1}."),
        "stock": (("How many of {} are there?", "How many of {} are in stock?",
                   "How many {thing} of {owner} are there?",
                   "How many {thing} does {owner} have in stock?"), "There are {1}."),
        "weather": (("How is the weather in {}?", "What is the weather in {}?",
                     "What is the weather like in {}?", "What's the weather in {}?"),
                    "There is {1} in {0}."),
        "age": (("How old is {}?", "What is the age of {}?"), "The age is {1}.")}
    TOTALS = ("What do {} and {} cost together?", "How much are {} and {} together?",
              "What is the price of {} and {} together?", "What do I pay for {} and {}?")
    COMPARISONS = {  # tool -> (phrasings, answer, sign), where 1 asks for more and -1 for less
        "price": (
            (("Which cost more, {} or {}?", "Which are more expensive, {} or {}?"),
             "Of the two, {} cost more.", 1),
            (("Which cost less, {} or {}?", "Which are cheaper, {} or {}?"),
             "Of the two, {} cost less.", -1)),
        "age": ((("Who is older, {} or {}?", "Which is older, {} or {}?"),
                 "Of the two, {} is older.", 1),
                (("Who is younger, {} or {}?",), "Of the two, {} is younger.", -1))}
    PRODUCTS = ("What do I pay for {} of {}?", "What do {} of {} cost?", "How much are {} of {}?")
    PLACES = ("Is the weather the same in {} and in {}?", "Is the weather the same in {} and {}?",
              "Do {} and {} have the same weather?")
    COUNTS = ("How many {0} are there in {1}?", "How many {0} does {1} have?",
              "What is the number of {0} in {1}?", "Tell me how many {0} {1} has.")
    SUMS = ("How many {} and {} are there in {} together?",
            "How many {} and {} does {} have together?")
    OPERATORS = [("plus", "+"), ("minus", "-"), ("times", "*")]
    FORMULAS = ("What is {}?", "What is {}?", "What's {}?", "How much is {}?", "Calculate {}.")
    GREETINGS = ("Say hello to {}.", "Say hi to {}.", "Greet {}.")

    declared = 0.0  # `make` declares tools itself

    def __init__(self, whole=False):
        self.whole = whole

    def make(self, rng):
        # Those listed repeatedly are drawn more often.
        kind = rng.choice((self.look_up, self.look_up, self.look_up, self.total, self.multiply,
                           self.two_places, self.add_up, self.greet, self.compare, self.compute,
                           self.compute, self.browse, self.browse))
        turns = []  # all calls and their results, which `use_tool` appends
        question, answer, key = kind(rng, functools.partial(tools.use_tool, turns))
        calls = [content for role, content in turns if role == "assistant"]
        # The tools of the calls, without repetitions, in the order of their first use.
        needed = list(dict.fromkeys(tools.parse_call(call)[0] for call in calls))
        others = sorted(set(PARAMETERS) - set(needed))
        if rng.random() < 0.5:  # otherwise all tools are declared, as in sample.py
            others = rng.sample(others, rng.randint(1, 3))
        if calls and rng.random() < 0.15:  # the tool of the first call is not declared
            answer = "I have no tool for that."
            calls, needed = [], needed[1:]
        declared = rng.sample([*needed, *others], len(needed) + len(others))
        num_made = len(calls) if self.whole else rng.randint(0, len(calls))
        return Task(question, solution="\n".join([*calls[num_made:], answer]),
                    answer=(tuple(calls), answer), key=key, system=declare(declared),
                    turns=tuple(turns[:2 * num_made]))

    # The kinds of questions. Each method calls tools by `use(tool, argument)`, and returns the
    # question, the answer and the key. Where order does not matter, the key is sorted: "keys and
    # pens" and "pens and keys" are one task.

    def look_up(self, rng, use):
        tool = rng.choice(("price", "stock", "weather", "age", "age"))
        if tool == "weather":
            item = Item(f"{rng.choice(CITIES)} at {rng.randint(2, 9)}")
        elif tool == "age" and rng.random() < 0.5:
            item = Item(rng.choice(NAMES))
        else:
            item, = self.items(rng, 1, ANIMALS if tool == "age" else THINGS)
        phrasings, answer = self.LOOKUPS[tool]
        question = rng.choice(phrasings).format(item, thing=item.thing, owner=item.owner)
        return question, answer.format(item.name, use(tool, item.name)), repr((tool, item.name))

    def items(self, rng, count, things=THINGS):
        """Draw items of different people. About half of them are called "Ada's red keys"."""
        items = []
        for owner in rng.sample(NAMES, count):
            thing = f"{rng.choice(COLOURS)} {rng.choice(things)}"
            name = f"the {thing} of {owner}"
            items.append(Item(name, rng.choice((name, f"{owner}'s {thing}")), thing, owner))
        return items

    def total(self, rng, use):
        items = self.items(rng, 2)
        names = [item.name for item in items]
        cost = use("python", "+".join(use("price", name) for name in names))
        question = rng.choice(self.TOTALS).format(*items)
        return question, f"Together they cost {cost}.", repr(("total", sorted(names)))

    def compare(self, rng, use):
        tool = rng.choice(("price", "age"))
        items = self.items(rng, 2, THINGS if tool == "price" else ANIMALS)
        names = [item.name for item in items]
        phrasings, answer, sign = rng.choice(self.COMPARISONS[tool])
        first, second = (sign * int(use(tool, name)) for name in names)
        if first == second:
            answer = "They cost the same." if tool == "price" else "They are the same age."
        question = rng.choice(phrasings).format(*items)
        key = repr((tool, sign, sorted(names)))
        return question, answer.format(names[0] if first > second else names[1]), key

    def multiply(self, rng, use):
        item, = self.items(rng, 1)
        count = rng.randint(2, 99)
        cost = use("python", f"{count}*{use('price', item.name)}")
        question = rng.choice(self.PRODUCTS).format(count, item)
        if rng.random() < 0.15:
            question = spell_numbers(question)
        return question, f"You pay {cost}.", repr((count, item.name))

    def two_places(self, rng, use):
        places = [f"{city} at {rng.randint(2, 9)}" for city in rng.sample(CITIES, 2)]
        first, second = (use("weather", place) for place in places)
        answer = f"Yes, {first}." if first == second else f"No, {first} and {second}."
        question = rng.choice(self.PLACES).format(*places)
        return question, answer, repr(("weather", sorted(places)))

    def compute(self, rng, use):
        """Ask "What is 3 plus 4, times 5, minus 6?", which is python(code='((3+4)*5)-6'), or the
        formula itself, "What is 3+4*5?"."""
        steps = rng.choice((1, 1, 2, 3))
        formula = words = str(rng.randint(2, 99))
        with_signs = rng.random() < 0.3
        for i in range(steps):
            word, sign = rng.choice(self.OPERATORS)
            number = rng.randint(2, 99 if steps == 1 else 9)
            words += f"{', ' if i > 0 else ' '}{word} {number}"
            formula = f"{formula}{sign}{number}" if with_signs else f"({formula}{sign}{number})"
        formula = formula if with_signs else formula[1:-1]  # without the outermost brackets
        asked = formula if with_signs else words
        if with_signs and rng.random() < 0.5:
            asked = re.sub(r"([-+*])", r" \1 ", formula)
        result = use("python", formula)
        return rng.choice(self.FORMULAS).format(asked), f"It is {result}.", formula

    def read(self, rng, use):
        """Draw a page, search for it and open it. Return its name and its content."""
        name, content = rng.choice(tools.PAGES)
        page = use("search", name)  # "page 24, Old Oslo"
        use("open", int(re.search(r"\d+", page)[0]))
        return name, content

    def browse(self, rng, use):
        name, content = self.read(rng, use)
        feature = rng.choice([*content, *content, *tools.FEATURES])  # mostly one that the page has
        count = content.get(feature)
        question = rng.choice(self.COUNTS).format(feature, name)
        answer = f"There are {count}." if count else "It does not say."
        return question, answer, repr((name, feature))

    def add_up(self, rng, use):
        name, content = self.read(rng, use)
        first, second = rng.sample([*content], 2)
        total = use("python", f"{content[first]}+{content[second]}")
        question = rng.choice(self.SUMS).format(first, second, name)
        return question, f"There are {total}.", repr((name, sorted([first, second])))

    def greet(self, rng, use):
        *others, last = rng.sample(NAMES, rng.choice((3, 3, 2, 1)))
        names = f"{', '.join(others)} and {last}" if others else last
        return rng.choice(self.GREETINGS).format(names), f"Hello, {names}!", names

    def brief(self, task):
        """Return the task without calls, as if the writer had looked up the answer elsewhere."""
        return dataclasses.replace(task, solution=task.answer[1], turns=())

    def follows_format(self, task, response):
        """Check the number of replies, and that each is a call where the solution has one."""
        replies, wanted = self.replies(response), self.replies(task.solution)
        return [len(replies) == len(wanted),
                *(isinstance(a, tuple) == isinstance(b, tuple) for a, b in zip(replies, wanted))]

    def is_correct(self, task, response):
        """Compare each reply with that of the solution."""
        pairs = itertools.zip_longest(self.replies(response), self.replies(task.solution))
        return [reply == wanted for reply, wanted in pairs]

    def replies(self, text):
        """Return the replies of a response: a call as (tool, parameter, value), if it is valid, and
        other text without outer blanks."""
        return [tools.parse_call(line) or line.strip() for line in text.rstrip().split("\n")]
