"""Tools that the model may call: a code interpreter, a search and look-ups; and the family Tools.

A call is a line of text, "call: price(item='keys')". Code runs in the sandbox.
"""
import ast
import functools
import re
import zlib

from afm_min.world.sandbox import MAX_LENGTH, run_code
from afm_min.world.tasks import ANIMALS, CITIES, COLOURS, NAMES, SUBJECTS, THINGS, Family, Task

CALL = "call: "


@functools.lru_cache(2**12)  # all tasks search the same pages
def words(text):
    """'Text wraps.' -> {'text', 'wraps'}"""
    return frozenset(re.findall(r"\w+", text.lower()))


def search(query, pages):
    """Return the number, name and beginning of the page with the highest score. A word of the query
    scores one point if it is in the page's first 2,000 characters, and nine if it is its name.
        search("text", {"re": "", "textwrap": "Text wraps."}) -> 'page 2, textwrap: Text wraps.' """
    if not pages:
        return "error: no pages"
    wanted = {*query.lower().split(), *words(query)}  # names like "os.path", and words
    scores = {name: 9 * (name.lower() in wanted) + len(wanted & words(text[:2000]))
              for name, text in pages.items()}
    name = max(scores, key=scores.get)
    if not scores[name]:
        return "no page has any of these words"
    text = pages[name]
    return f"page {list(pages).index(name) + 1}, {name}: {' '.join(text[:40].split())}"


PARAMETERS = {"price": "item", "stock": "item", "weather": "place", "age": "who", "python": "code",
              "search": "query"}  # tool -> its parameter


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


def run_call(text, declared, pages):
    """Run a call and return its result, or an error. declared: the tools, as from `declare`."""
    name, arguments = parse_call(text) or (None, {})
    if name is None:
        return "error: write a call as call: name(argument='value')"
    # The blank before the name keeps a declared "page(who)" from declaring "age(who)".
    if name not in PARAMETERS or f" {name}({PARAMETERS[name]})" not in declared:
        return f"error: there is no tool {name}"
    if list(arguments) != [PARAMETERS[name]]:
        return f"error: {name} takes {PARAMETERS[name]}"
    return run_tool(name, str(arguments[PARAMETERS[name]]), pages)


def run_tool(name, argument, pages):
    """Run a tool and return its result: "price", "keys" -> '2'

    Everything in the toy world has a price, a stock and an age from 2 to 9, given by a hash."""
    if name == "python":
        return run_code(argument)
    if name == "search":
        return search(argument, pages)
    text = argument if name == "weather" else f"{name} {argument}"
    values = "rain sun snow fog wind clouds".split() if name == "weather" else "23456789"
    return values[zlib.crc32(text.encode("utf-8", "replace")) % len(values)]


def converse(reply, conversations, pages, most=4):
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
                result = run_call(text, " ".join(declared), pages)
                messages.append({"role": "tool", "content": result})


class Tools(Family):
    """Questions that need one tool, several in turn, or none. Unneeded tools are declared, too.

        "What do the red keys of Ada cost?"
        -> "call: price(item='the red keys of Ada')", "4" -> "They cost 4."

    A task's turns are the calls made so far. Its solution is the next call, or the final message if
    all have been made. Its answer is a pair (all calls, final message). Calls are compared as
    syntax trees, as in the Berkeley Function Calling Leaderboard.

    pages: {name: text}, for the search. whole: a task's turns are all its calls, so its messages
    are a whole conversation to train on. Otherwise they are a random number of its first calls."""
    LOOKUPS = [  # tool, question, answer ({0}: argument, {1}: result), argument
        ("price", "What do {} cost?", "They cost {1}.", "the {colour} {thing} of {name}"),
        ("stock", "How many of {} are there?", "There are {1}.", "the {colour} {thing} of {name}"),
        ("weather", "How is the weather in {}?", "There is {1} in {0}.", "{city} at {hour}"),
        ("age", "How old is {}?", "It is {1}.", "the {colour} {animal} of {name}")]

    def __init__(self, pages, whole=False):
        self.pages, self.whole = pages, whole

    def make(self, rng):
        # "one" and "missing" stand twice, so each is drawn twice as often as another kind.
        kinds = ["one", "one", "several", "compute", "none", "missing", "missing"]
        kind = rng.choice(kinds + ["search"] if self.pages else kinds)
        question, answer, turns, key = self.one(rng)  # drawn for every kind, but mostly replaced
        if kind not in ("one", "missing"):
            question, answer, turns, key = getattr(self, kind)(rng)
        needed = {parse_call(call)[0] for call, _ in turns}
        others = rng.sample(sorted(set(PARAMETERS) - needed), rng.randint(1, 3))
        if kind == "missing":  # the needed tool is not declared
            answer, turns, needed = "I have no tool for that.", [], set()
        declared = rng.sample(sorted([*needed, *others]), len(needed) + len(others))
        calls = tuple(call for call, _ in turns)
        num_made = len(calls) if self.whole else rng.randint(0, len(calls))
        made = []
        for call, result in turns[:num_made]:
            made += [("assistant", call), ("tool", result)]
        return Task(question, solution=[*calls, answer][num_made], answer=(calls, answer), key=key,
                    system=declare(declared), turns=tuple(made))

    def turn(self, tool, argument):
        """Return a call and its result. The formulas here are safe to evaluate."""
        result = eval(argument) if tool == "python" else run_tool(tool, argument, self.pages)
        return format_call(tool, argument), str(result)

    # The kinds of questions. Each method returns the question, the answer, the turns between them,
    # and the key. It is sorted where order does not matter: "keys and pens", "pens and keys".

    def one(self, rng):
        tool, question, answer, about = rng.choice(self.LOOKUPS)
        about = about.format(colour=rng.choice(COLOURS), thing=rng.choice(THINGS),
                             city=rng.choice(CITIES), animal=rng.choice(ANIMALS),
                             name=rng.choice(NAMES), hour=rng.choice("23456789"))
        turn, question = self.turn(tool, about), question.format(about)
        return question, answer.format(about, turn[1]), [turn], question

    def several(self, rng):
        items = [f"the {rng.choice(COLOURS)} {rng.choice(THINGS)}" for _ in range(2)]
        turns = [self.turn("price", item) for item in items]
        turns.append(self.turn("python", "+".join(price for _, price in turns)))
        question = "What do {} and {} cost together?".format(*items)
        return question, f"Together they cost {turns[-1][1]}.", turns, " ".join(sorted(set(items)))

    def compute(self, rng):
        formula = "".join(map(rng.choice, ["23456789", "+*", "23456789", "+*", "23456789"]))
        turn, question = self.turn("python", formula), f"What is {formula}?"
        return question, f"It is {turn[1]}.", [turn], question

    def search(self, rng):
        subjects = rng.sample(SUBJECTS, 2)
        query = " ".join(subjects)
        turn = self.turn("search", query)
        page = turn[1].split(",")[0]  # "page 2, textwrap: Text wraps." -> "page 2"
        answer = f"See {page}." if page.startswith("page ") else "There is no such page."
        return f"Find a page about {query}.", answer, [turn], " ".join(sorted(subjects))

    def none(self, rng):
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
