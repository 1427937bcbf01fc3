"""The family Tools, and the tools that the model may call: a code interpreter, look-ups, and pages
to search and open.

A call is a line of text, "call: price(item='keys')". Code runs in the sandbox.
"""
import ast
import random
import re
import zlib

from afm_min.world.sandbox import MAX_LENGTH, run_code
from afm_min.world.tasks import ANIMALS, CITIES, COLOURS, NAMES, THINGS, Family, Task

CALL = "call: "
# The names of the pages, "Old Oslo", and what they are about.
PREFIXES = "Old New Upper Lower East West Little Great".split()
FEATURES = "parks bridges towers schools shops lakes farms mills".split()


def encyclopedia():
    """Return the pages of the toy world, {name: text}:
    {"Old Oslo": "Old Oslo has 4 parks, 7 mills and 2 towers.", ...}"""
    pages = {}
    for name in [f"{prefix} {city}" for city in CITIES for prefix in PREFIXES]:
        rng = random.Random(name)
        counts = [f"{rng.randint(2, 9)} {feature}" for feature in rng.sample(FEATURES, 3)]
        pages[name] = "{} has {}, {} and {}.".format(name, *counts)
    return pages


PAGES = encyclopedia()


def search(query):
    """Return the number and name of the page whose name shares the most words with the query:
    "mills of Old Oslo" -> "page 24, Old Oslo" """
    wanted = set(re.findall(r"\w+", query.lower()))
    scores = {name: len(wanted.intersection(name.lower().split())) for name in PAGES}
    name = max(scores, key=scores.get)
    return f"page {[*PAGES].index(name)}, {name}" if scores[name] else "there is no such page"


def open_page(number):
    """Return the text of a page: "24" -> "Old Oslo has 4 parks, 7 mills and 2 towers." """
    texts = [*PAGES.values()]
    if not number.isdecimal() or int(number) >= len(texts):
        return f"error: there is no page {number}"
    return texts[int(number)]


PARAMETERS = {"price": "item", "stock": "item", "weather": "place", "age": "who", "python": "code",
              "search": "query", "open": "page"}  # tool -> its parameter


def declare(names):
    """Declare tools in a system message: ["price", "age"] -> 'Tools: price(item), age(who)'"""
    return "Tools: " + ", ".join(f"{name}({PARAMETERS[name]})" for name in names)


def format_call(name, argument):
    """Write a call: "price", "keys" -> "call: price(item='keys')" """
    return f"{CALL}{name}({PARAMETERS[name]}={argument!r})"


def parse_call(text):
    """Read a call: "call: price(item='keys')" -> ("price", {"item": "keys"})

    Return None unless the text is one call and nothing else, with distinct named arguments that
    are strings or numbers."""
    source = text[len(CALL):].strip()
    if not text.startswith(CALL) or len(source) > MAX_LENGTH:
        return None
    try:
        call = ast.parse(source, mode="eval").body
        if ast.get_source_segment(source, call) != source:  # such as a comment behind it
            return None
        arguments = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
        plain = all(type(value) in (str, int, float) for value in arguments.values())
        distinct = None not in arguments and len(arguments) == len(call.keywords)
        return (call.func.id, arguments) if plain and distinct and not call.args else None
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError, AttributeError):
        return None


def run_call(text, declared):
    """Run a call and return its result, or an error. declared: the tools, as from `declare`."""
    name, arguments = parse_call(text) or (None, {})
    if name is None:
        return "error: write a call as call: name(argument='value')"
    # The blank before the name keeps a declared "page(who)" from declaring "age(who)".
    if name not in PARAMETERS or f" {name}({PARAMETERS[name]})" not in declared:
        return f"error: there is no tool {name}"
    if list(arguments) != [PARAMETERS[name]]:
        return f"error: {name} takes {PARAMETERS[name]}"
    return run_tool(name, str(arguments[PARAMETERS[name]]))


def run_tool(name, argument):
    """Run a tool and return its result: "price", "keys" -> '2'

    Everything in the toy world has a price, a stock and an age from 2 to 9, given by a hash."""
    if name in ("python", "search", "open"):
        return {"python": run_code, "search": search, "open": open_page}[name](argument)
    text = argument if name == "weather" else f"{name} {argument}"
    values = "rain sun snow fog wind clouds".split() if name == "weather" else "23456789"
    return values[zlib.crc32(text.encode("utf-8", "replace")) % len(values)]


def converse(reply, conversations, most=4):
    """Continue conversations (lists of messages) in place, all at once. The model replies; while
    its reply is a call, the call is run, the result is appended, and the model replies again.

    reply: a function from a list of conversations to the model's next text for each.
    most: the number of calls to run in a conversation. After them the model replies once more, and
    if that is a call, it is not run."""
    for calls in range(most + 1):
        # A conversation that ends with the assistant's message is finished.
        waiting = [messages for messages in conversations if messages[-1]["role"] != "assistant"]
        texts = reply(waiting) if waiting else []
        for messages, text in zip(waiting, texts):
            messages.append({"role": "assistant", "content": text})
            if text.startswith(CALL) and calls < most:
                system = "\n".join(m["content"] for m in messages if m["role"] == "system")
                declared = [line for line in system.splitlines() if line.startswith("Tools: ")]
                result = run_call(text, " ".join(declared))
                messages.append({"role": "tool", "content": result})


class Tools(Family):
    """Questions that need one tool, several in turn, or none. Unneeded tools are declared, too.

        "What do the red keys of Ada cost?"
        -> "call: price(item='the red keys of Ada')", "4" -> "They cost 4."

    A task's turns are the calls made so far. Its solution is the next call, or the final message if
    all have been made. Its answer is a pair (all calls, final message). Calls are compared as
    syntax trees, as in the Berkeley Function Calling Leaderboard.

    whole: a task's turns are all its calls, so its messages are a whole conversation to train on.
    Otherwise they are a random number of its first calls."""
    LOOKUPS = [  # tool, question, answer ({0}: argument, {1}: result), argument
        ("price", "What do {} cost?", "They cost {1}.", "the {colour} {thing} of {name}"),
        ("stock", "How many of {} are there?", "There are {1}.", "the {colour} {thing} of {name}"),
        ("weather", "How is the weather in {}?", "There is {1} in {0}.", "{city} at {hour}"),
        ("age", "How old is {}?", "It is {1}.", "the {colour} {animal} of {name}")]
    OPERATORS = {"plus": "+", "minus": "-", "times": "*"}

    def __init__(self, whole=False):
        self.whole = whole

    def make(self, rng):
        # The last three are listed two times, so they are drawn with twice the probability.
        kind = rng.choice((self.look_up, self.total, self.multiply, self.two_places, self.add_up,
                           self.greet, *2 * (self.compare, self.compute, self.browse)))
        question, answer, turns, key = kind(rng)
        needed = list(dict.fromkeys(parse_call(call)[0] for call, _ in turns))  # in this order
        others = rng.sample(sorted(set(PARAMETERS) - set(needed)), rng.randint(1, 3))
        if turns and rng.random() < 0.15:  # the first tool that is needed is missing
            answer, turns, needed = "I have no tool for that.", [], needed[1:]
        declared = rng.sample([*needed, *others], len(needed) + len(others))
        calls = tuple(call for call, _ in turns)
        num_made = len(calls) if self.whole else rng.randint(0, len(calls))
        made = []
        for call, result in turns[:num_made]:
            made += [("assistant", call), ("tool", result)]
        return Task(question, solution=[*calls, answer][num_made], answer=(calls, answer), key=key,
                    system=declare(declared), turns=tuple(made))

    def turn(self, tool, argument):
        """Return a call and its result. The formulas here are safe to evaluate."""
        result = eval(argument) if tool == "python" else run_tool(tool, str(argument))
        return format_call(tool, argument), str(result)

    # The kinds of questions. Each method returns the question, the answer, the turns between them,
    # and the key. It is sorted where order does not matter: "keys and pens", "pens and keys".

    def look_up(self, rng):
        tool, question, answer, about = rng.choice(self.LOOKUPS)
        about = about.format(colour=rng.choice(COLOURS), thing=rng.choice(THINGS),
                             city=rng.choice(CITIES), animal=rng.choice(ANIMALS),
                             name=rng.choice(NAMES), hour=rng.choice("23456789"))
        turn, question = self.turn(tool, about), question.format(about)
        return question, answer.format(about, turn[1]), [turn], question

    def prices(self, rng, count):
        """Draw items of different people. Return them and the turns that find their prices."""
        items = [f"the {rng.choice(COLOURS)} {rng.choice(THINGS)} of {name}"
                 for name in rng.sample(NAMES, count)]
        return items, [self.turn("price", item) for item in items]

    def total(self, rng):
        items, turns = self.prices(rng, 2)
        turns.append(self.turn("python", "+".join(price for _, price in turns)))
        question = "What do {} and {} cost together?".format(*items)
        answer = f"Together they cost {turns[-1][1]}."
        return question, answer, turns, repr(("total", sorted(items)))

    def compare(self, rng):
        items, turns = self.prices(rng, 2)
        (_, first), (_, second) = turns
        more = items[0] if int(first) > int(second) else items[1]
        answer = f"Of the two, {more} cost more." if first != second else "They cost the same."
        question = "Which cost more, {} or {}?".format(*items)
        return question, answer, turns, repr(("compare", sorted(items)))

    def multiply(self, rng):
        (item,), turns = self.prices(rng, 1)
        count = rng.randint(2, 99)
        turns.append(self.turn("python", f"{count}*{turns[0][1]}"))
        question = f"What do I pay for {count} of {item}?"
        return question, f"You pay {turns[-1][1]}.", turns, question

    def two_places(self, rng):
        places = [f"{city} at {rng.randint(2, 9)}" for city in rng.sample(CITIES, 2)]
        turns = [self.turn("weather", place) for place in places]
        (_, first), (_, second) = turns
        same = f"Yes, {first}." if first == second else f"No, {first} and {second}."
        question = "Is the weather the same in {} and in {}?".format(*places)
        return question, same, turns, repr(("weather", sorted(places)))

    def compute(self, rng):
        """"What is 3 plus 4, times 5, minus 6?" -> "((3+4)*5)-6" """
        formula = text = str(rng.randint(2, 99))
        for i in range(rng.randint(2, 3)):
            word, number = rng.choice([*self.OPERATORS]), rng.randint(2, 9)
            text += f"{',' if i else ''} {word} {number}"
            formula = f"{f'({formula})' if i else formula}{self.OPERATORS[word]}{number}"
        turn, question = self.turn("python", formula), f"What is {text}?"
        return question, f"It is {turn[1]}.", [turn], question

    def read(self, rng):
        """Draw a page. Return its name, the turns that search and open it, and its features, as
        {feature: number}."""
        name = rng.choice([*PAGES])
        turns = [self.turn("search", name)]
        number = turns[0][1].split(",")[0].removeprefix("page ")
        turns.append(self.turn("open", int(number)))
        return name, turns, {feature: count for count, feature
                             in re.findall(r"(\d) (\w+)", turns[-1][1])}

    def browse(self, rng):
        name, turns, features = self.read(rng)
        feature = rng.choice([*features] * 2 + FEATURES)
        count = features.get(feature)
        question = f"How many {feature} are there in {name}?"
        return question, f"There are {count}." if count else "It does not say.", turns, question

    def add_up(self, rng):
        name, turns, features = self.read(rng)
        asked = rng.sample([*features], 2)
        turns.append(self.turn("python", "+".join(features[feature] for feature in asked)))
        question = "How many {} and {} are there in {} together?".format(*asked, name)
        return question, f"There are {turns[-1][1]}.", turns, repr((name, sorted(asked)))

    def greet(self, rng):
        names = "{}, {} and {}".format(*rng.sample(NAMES, 3))
        return f"Say hello to {names}.", f"Hello, {names}!", [], f"Say hello to {names}."

    def follows_format(self, task, response):
        return [response.startswith(CALL) == task.solution.startswith(CALL)]

    def is_correct(self, task, response):
        return [self.parse(response) == self.parse(task.solution)]

    def parse(self, text):
        """Return a call's tool and arguments, or other text stripped."""
        return parse_call(text) or text.strip()

    def solved(self, task, messages):
        """Check that a conversation has the right calls and the right answer."""
        calls, answer = task.answer
        replies = [self.parse(m["content"]) for m in messages if m["role"] == "assistant"]
        return replies == [*map(self.parse, calls), answer]
