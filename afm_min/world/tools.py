"""The family Tools, and the tools that a model may call: look-ups (price, stock, weather, age),
search and open for pages, and python, a code interpreter that runs in the sandbox.

A call is a line of text: "call: price(item='keys')".
"""
import ast
import dataclasses
import functools
import itertools
import random
import re
import zlib

from afm_min.world.sandbox import MAX_LENGTH, run_code
from afm_min.world.tasks import (ANIMALS, CITIES, COLOURS, NAMES, PARAMETERS, THINGS, Family, Task,
                                 declare)

CALL = "call: "
MAX_CALLS = 4  # calls that are run for one response; the reply after them is the last
# The name of a page is a prefix and a city, "Old Oslo". It has the numbers of three features.
PREFIXES = "Old New Upper Lower East West Little Great".split()
FEATURES = "parks bridges towers schools shops lakes farms mills".split()


def encyclopedia():
    """Return the pages of the toy world, as pairs (name, content):
    [("Old Oslo", {"parks": 4, "mills": 7, "towers": 2}), ...]"""
    pages = []
    for name in [f"{prefix} {city}" for city in CITIES for prefix in PREFIXES]:
        rng = random.Random(name)
        pages.append((name, {feature: rng.randint(2, 9) for feature in rng.sample(FEATURES, 3)}))
    return pages


PAGES = encyclopedia()


def search(query):
    """Find the page whose name shares the most words with the query:
    "mills of Old Oslo" -> "page 24, Old Oslo" """
    wanted = set(re.findall(r"\w+", query.lower()))
    scores = [len(wanted.intersection(name.lower().split())) for name, _ in PAGES]
    number = scores.index(max(scores))
    return f"page {number}, {PAGES[number][0]}" if scores[number] else "there is no such page"


def open_page(number):
    """Return the text of a page: "24" -> "Old Oslo has 4 parks, 7 mills and 2 towers." """
    if not number.isdecimal() or int(number) >= len(PAGES):
        number = number.encode("utf-8", "replace").decode()  # it may have half a character
        return f"error: there is no page {number}"
    name, content = PAGES[int(number)]
    counts = [f"{count} {feature}" for feature, count in content.items()]
    return "{} has {}, {} and {}.".format(name, *counts)


def format_call(name, argument):
    """Write a call: "price", "keys" -> "call: price(item='keys')" """
    return f"{CALL}{name}({PARAMETERS[name]}={argument!r})"


def parse_call(text):
    """Read a call: "call: price(item='keys')" -> ("price", "item", "keys")

    Return None for all other text. The argument has to be named, and a string or a number."""
    source = text[len(CALL):].strip()
    if not text.startswith(CALL) or len(source) > MAX_LENGTH:
        return None
    try:
        call = ast.parse(source, mode="eval").body
        argument, = call.keywords  # ValueError unless there is exactly one
        value = ast.literal_eval(argument.value)
        # Nothing may follow the call, such as a comment.
        valid = (argument.arg and not call.args and type(value) in (str, int, float)
                 and ast.get_source_segment(source, call) == source)
        return (call.func.id, argument.arg, value) if valid else None
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError, AttributeError):
        return None


def run_call(text, system):
    """Run a call, if the system message declares its tool. Return the result or an error."""
    call = parse_call(text)
    if call is None:
        return "error: write a call as call: name(argument='value')"
    name, parameter, value = call
    # The space keeps a declaration of "page(who)" from counting as one of "age(who)".
    if PARAMETERS.get(name) != parameter or f" {name}({parameter})" not in system:
        return f"error: there is no tool {name}({parameter})"
    return run_tool(name, str(value))


def run_tool(name, argument):
    """Run a tool and return its result: "price", "keys" -> "2"

    The result of a look-up is a hash of the argument: any text has a price, a stock and an age
    from 2 to 9, and a weather."""
    functions = {"python": run_code, "search": search, "open": open_page}
    if name in functions:
        return functions[name](argument)
    text, values = f"{name} {argument}", "23456789"
    if name == "weather":
        text, values = argument, "rain sun snow fog wind clouds".split()
    return values[zlib.crc32(text.encode("utf-8", "replace")) % len(values)]


def answer_call(text, messages):
    """Run a call that a model made in a conversation, and return the message with its result."""
    system = "\n".join(m["content"] for m in messages if m["role"] == "system")
    return {"role": "tool", "content": run_call(text, system)}


def use_tool(turns, name, argument):
    """Run a tool for a solution and return its result. Append call and result to `turns`."""
    result = run_tool(name, str(argument))
    turns += [("assistant", format_call(name, argument)), ("tool", result)]
    return result


class Tools(Family):
    """Questions that need one tool, several in turn, or none. Unneeded tools are declared, too.

        "What do the red keys of Ada cost?"
        -> "call: price(item='the red keys of Ada')", "4" -> "They cost 4."

    The turns of a task are the calls already made, and their results. A response has one reply a
    line: the remaining calls, whose results the model receives, and the final message. The answer
    is a pair (all calls, final message). Calls are compared in order, as syntax trees, as in the
    Berkeley Function Calling Leaderboard.

    whole: if true, all calls are made, so that a task is a whole conversation to train on. If not,
    the first n calls, n random."""
    LOOKUPS = [  # tool, question about {}, answer with argument {0} and result {1}, argument
        ("price", "What do {} cost?", "They cost {1}.", "the {colour} {thing} of {name}"),
        ("stock", "How many of {} are there?", "There are {1}.", "the {colour} {thing} of {name}"),
        ("weather", "How is the weather in {}?", "There is {1} in {0}.", "{city} at {hour}"),
        ("age", "How old is {}?", "The age is {1}.", "the {colour} {animal} of {name}"),
        ("age", "How old is {}?", "The age is {1}.", "{name}")]
    OPERATORS = [("plus", "+"), ("minus", "-"), ("times", "*")]

    declared = 0.0  # `make` declares tools itself

    def __init__(self, whole=False):
        self.whole = whole

    def make(self, rng):
        # Those listed repeatedly are drawn more often.
        kind = rng.choice((self.look_up, self.look_up, self.look_up, self.total, self.multiply,
                           self.two_places, self.add_up, self.greet, self.compare, self.compute,
                           self.compute, self.browse, self.browse))
        turns = []  # all calls and their results, which `kind` appends
        question, answer, key = kind(rng, functools.partial(use_tool, turns))
        calls = [content for role, content in turns if role == "assistant"]
        # The tools of the calls, without repetitions, in the order of their first use.
        needed = list(dict.fromkeys(parse_call(call)[0] for call in calls))
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
        tool, question, answer, about = rng.choice(self.LOOKUPS)
        about = about.format(colour=rng.choice(COLOURS), thing=rng.choice(THINGS),
                             city=rng.choice(CITIES), animal=rng.choice(ANIMALS),
                             name=rng.choice(NAMES), hour=rng.choice("23456789"))
        question = question.format(about)
        return question, answer.format(about, use(tool, about)), question

    def items(self, rng, count):
        """Draw items of different people, such as "the red keys of Ada"."""
        return [f"the {rng.choice(COLOURS)} {rng.choice(THINGS)} of {name}"
                for name in rng.sample(NAMES, count)]

    def total(self, rng, use):
        first, second = self.items(rng, 2)
        cost = use("python", f"{use('price', first)}+{use('price', second)}")
        question = f"What do {first} and {second} cost together?"
        return question, f"Together they cost {cost}.", repr(("total", sorted([first, second])))

    def compare(self, rng, use):
        first, second = self.items(rng, 2)
        price, other_price = int(use("price", first)), int(use("price", second))
        more = first if price > other_price else second
        answer = "They cost the same." if price == other_price else f"Of the two, {more} cost more."
        question = f"Which cost more, {first} or {second}?"
        return question, answer, repr(("compare", sorted([first, second])))

    def multiply(self, rng, use):
        item = self.items(rng, 1)[0]
        count = rng.randint(2, 99)
        cost = use("python", f"{count}*{use('price', item)}")
        question = f"What do I pay for {count} of {item}?"
        return question, f"You pay {cost}.", question

    def two_places(self, rng, use):
        places = [f"{city} at {rng.randint(2, 9)}" for city in rng.sample(CITIES, 2)]
        first, second = (use("weather", place) for place in places)
        answer = f"Yes, {first}." if first == second else f"No, {first} and {second}."
        question = "Is the weather the same in {} and in {}?".format(*places)
        return question, answer, repr(("weather", sorted(places)))

    def compute(self, rng, use):
        """Ask "What is 3 plus 4, times 5, minus 6?", which is python(code='((3+4)*5)-6')."""
        first = formula = str(rng.randint(2, 99))
        words = []
        for _ in range(rng.randint(2, 3)):
            (word, sign), number = rng.choice(self.OPERATORS), rng.randint(2, 9)
            words.append(f"{word} {number}")
            formula = f"({formula}{sign}{number})"
        question = f"What is {first} {', '.join(words)}?"
        result = use("python", formula[1:-1])  # without the outermost brackets
        return question, f"It is {result}.", question

    def read(self, rng, use):
        """Draw a page, search for it and open it. Return its name and its content."""
        name, content = rng.choice(PAGES)
        page = use("search", name)  # "page 24, Old Oslo"
        use("open", int(re.search(r"\d+", page)[0]))
        return name, content

    def browse(self, rng, use):
        name, content = self.read(rng, use)
        feature = rng.choice([*content, *content, *FEATURES])  # mostly one that the page has
        count = content.get(feature)
        question = f"How many {feature} are there in {name}?"
        return question, f"There are {count}." if count else "It does not say.", question

    def add_up(self, rng, use):
        name, content = self.read(rng, use)
        first, second = rng.sample([*content], 2)
        total = use("python", f"{content[first]}+{content[second]}")
        question = f"How many {first} and {second} are there in {name} together?"
        return question, f"There are {total}.", repr((name, sorted([first, second])))

    def greet(self, rng, use):
        names = "{}, {} and {}".format(*rng.sample(NAMES, 3))
        question = f"Say hello to {names}."
        return question, f"Hello, {names}!", question

    def brief(self, task):
        """Return the task without calls, as if the writer had looked up the answer elsewhere."""
        return dataclasses.replace(task, solution=task.answer[1], turns=())

    def follows_format(self, task, response):
        """Check the number of replies, and that those are calls that are calls in the solution."""
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
        return [parse_call(line) or line.strip() for line in text.rstrip().split("\n")]
