"""The tools that a model may call: look-ups (price, stock, weather, age), search and open for
pages, and python, a code interpreter that runs in the sandbox. tool_tasks.py has the family Tools.

A call is a line of text: "call: price(item='keys')".
"""
import ast
import random
import re
import zlib

from afm_min.world.sandbox import MAX_LENGTH, run_code
from afm_min.world.tasks import PARAMETERS
from afm_min.world.words import CITIES

CALL = "call: "
MAX_CALLS = 4  # calls that are run for one response; the reply after the last result ends it
# The name of a page is a prefix and a city, "Old Oslo". It has the numbers of three features.
PREFIXES = "Old New Upper Lower East West Little Great".split()
FEATURES = "parks bridges towers schools shops lakes farms mills".split()


def encyclopedia():
    """Return the pages of the toy world, as pairs (name, content):
    [..., ("Old Oslo", {"shops": 9, "schools": 7, "farms": 7}), ...]"""
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
    """Return the text of a page: "24" -> "Old Oslo has 9 shops, 7 schools and 7 farms." """
    if not number.isdecimal() or int(number) >= len(PAGES):
        number = number.encode("utf-8", "replace").decode()  # it may have half a surrogate pair
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
        text, values = argument, "rain sun snow fog wind hail".split()
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
