"""Running what the model asks for: a function, the code interpreter, or a search, in turn.

A call is the text "call: price(item='keys')", with plain values by name. Nothing that a model
writes runs unchecked: code is parsed, and every node of its syntax tree must be one of those
listed here. So there is no import, no attribute but some methods of str, list and dict, no name
that is not listed or the code's own. What passes runs in a process of its own that has limits on
time, memory and output, which end loops without end, and 10**10**10. The model is told why
something was refused.
"""
import ast
import json
import subprocess
import sys
import warnings
import zlib

# What a model writes may be odd Python: no news to whoever watches it train.
warnings.filterwarnings("ignore", category=SyntaxWarning, module="<unknown>")

CALL = "call: "
LONGEST = 2000  # characters of code, or of a call
LIMITS = {"seconds": 1, "bytes": 2**28, "characters": 500}
BUILTINS = set("abs all any bool dict divmod enumerate float int len list max min print range "
               "reversed round set sorted str sum tuple zip".split())
METHODS = set("append count endswith extend find get index insert isalpha isdigit isupper items "
              "join keys lower pop remove replace reverse rstrip sort split startswith strip "
              "swapcase title upper values".split())
SYNTAX = tuple(getattr(ast, name) for name in (
    "Module Expr Assign AugAssign FunctionDef arguments arg Return If For While Break Continue "
    "Pass BinOp UnaryOp BoolOp Compare IfExp Call keyword Name Attribute Constant List Tuple Dict "
    "Set Subscript Slice ListComp SetComp DictComp GeneratorExp comprehension "
    "operator unaryop boolop cmpop expr_context").split())

# What the process runs: it gives up what it may do before it reads the code.
RUNNER = """
import ast, builtins, json, resource, sys
limits, names, code = json.load(sys.stdin)
for what, most in (("CPU", limits["seconds"]), ("AS", limits["bytes"]), ("FSIZE", 0), ("NPROC", 0),
                   ("CORE", 0), ("NOFILE", 3)):
    if what != "AS" or sys.platform != "darwin":  # macOS limits no address space
        resource.setrlimit(getattr(resource, "RLIMIT_" + what), (most, most))
room = limits["characters"]
def show(*values):
    global room
    text = " ".join(map(str, values))
    room -= len(text) + 1
    if room < 0:
        raise MemoryError("more output than %d characters" % limits["characters"])
    sys.stdout.write(text + "\\n")
scope = {"__builtins__": {name: getattr(builtins, name) for name in names} | {"print": show}}
try:
    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "code", "exec"), scope)
    if last:
        value = eval(compile(ast.Expression(last.value), "code", "eval"), scope)
        if value is not None:
            show(repr(value))
except BaseException as error:
    # In one line: a second one would pass for a result.
    sys.stdout.write("error: %s: %s" % (type(error).__name__, " ".join(str(error).split())[:200]))
"""


def refusal(code):
    """Why code may not run, or "" if it may: 'import os' -> 'Import is not allowed'"""
    if len(code) > LONGEST:
        return f"the code is longer than {LONGEST:,} characters"
    try:
        nodes = list(ast.walk(ast.parse(code)))
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        return f"this is no Python: {getattr(error, 'msg', type(error).__name__)}"
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    own = ({node.id for node in nodes if isinstance(node, ast.Name)
            and isinstance(node.ctx, ast.Store)}
           | {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
           | {node.arg for node in nodes if isinstance(node, ast.arg)})
    for node in nodes:
        name = next((getattr(node, field) for field in ("attr", "id", "name", "arg")
                     if isinstance(getattr(node, field, None), str)), "")
        if not isinstance(node, SYNTAX):
            return f"{type(node).__name__} is not allowed"
        if isinstance(node, ast.keyword) and node.arg is None:
            return "** is not allowed"
        if name.startswith("_"):
            return f"the name {name} is not allowed"
        if isinstance(node, ast.Attribute) and (name not in METHODS or id(node) not in called):
            return f"the attribute {name} is not allowed"
        if isinstance(node, ast.Name) and name not in BUILTINS | own:
            return f"there is no {name}"
    return ""


def run_code(code, **limits):
    """What code prints, and the value of the expression it ends in: 'x = 6\\nx * 7' -> '42'

    After what was printed, an error is told as "error: ...", as are a refusal and a limit.
    limits: see LIMITS. Seconds are of the processor; the clock may run for five times as many, so
    that a busy machine changes nothing."""
    limits, reason = LIMITS | limits, refusal(code)
    if reason:
        return f"error: {reason}"
    try:
        done = subprocess.run([sys.executable, "-I", "-S", "-c", RUNNER], capture_output=True,
                              input=json.dumps([limits, sorted(BUILTINS), code]), env={}, cwd="/",
                              encoding="utf-8", errors="replace", timeout=5 * limits["seconds"])
    except subprocess.TimeoutExpired:
        return f"error: more than {limits['seconds']} s"
    if done.returncode < 0:  # killed
        return f"error: more than {limits['seconds']} s, or {limits['bytes'] >> 20} MB"
    if done.returncode:
        return f"error: {(done.stderr.strip() or 'it broke off').splitlines()[-1]}"
    return done.stdout.strip() or "nothing was printed"


def hashed(text, most):
    """A number below `most` that looks like chance, and is always the same for a text."""
    return zlib.crc32(text.encode("utf-8", "replace")) % most


def price(item):
    """What a thing costs. In the toy world everything has a value: 2 to 9."""
    return 2 + hashed(f"price {item}", 8)


def stock(item):
    return 2 + hashed(f"stock {item}", 8)


def weather(place):
    return ("rain", "sun", "snow", "fog", "wind", "clouds")[hashed(place, 6)]


def age(who):
    return 2 + hashed(f"age {who}", 8)


def search(query, pages):
    """The page of {name: text} that has most of the query's words, its name counting most: its
    number, its name and how it begins.
        search("wrap", {"re": "", "textwrap": "Text wraps."}) -> 'page 2, textwrap: Text wraps.'
    """
    if not pages:
        return "error: no pages"
    words, starts = query.lower().split(), [text[:2000].lower() for text in pages.values()]
    scores = [sum(9 * (word == name.lower()) + (word in start) for word in words)
              for name, start in zip(pages, starts)]
    best = scores.index(max(scores))
    name, text = list(pages.items())[best]
    return f"page {best + 1}, {name}: {' '.join(text[:40].split())}"


FUNCTIONS = {"price": price, "stock": stock, "weather": weather, "age": age}
PARAMETERS = {"price": "item", "stock": "item", "weather": "place", "age": "who", "python": "code",
              "search": "query"}


def declare(names):
    """["price", "python"] -> 'Tools: price(item), python(code)', for the system's message"""
    return "Tools: " + ", ".join(f"{name}({PARAMETERS[name]})" for name in names)


def call(name, argument):
    """("price", "keys") -> "call: price(item='keys')" """
    return f"{CALL}{name}({PARAMETERS[name]}={argument!r})"


def parse_call(text):
    """"call: price(item='keys')" -> ("price", {"item": "keys"}); None if it is no call.

    Arguments are given by name, each once, and are strings or numbers as they stand."""
    try:
        node = ast.parse(text[len(CALL):][:LONGEST].strip(), mode="eval").body
        names = [argument.arg for argument in node.keywords]
        values = [ast.literal_eval(argument.value) for argument in node.keywords]
        if (text.startswith(CALL) and not node.args and len(set(names) - {None}) == len(names)
                and all(type(value) in (str, int, float) for value in values)):
            return node.func.id, dict(zip(names, values))
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError, AttributeError):
        pass
    return None


def run_call(text, declared, pages):
    """Do a call of a tool that is declared: what it says, as a text. declared: see `declare`."""
    parsed = parse_call(text)
    if parsed is None:
        return "error: write a call as call: name(argument='value')"
    name, arguments = parsed
    if name not in PARAMETERS or f" {name}({PARAMETERS[name]})" not in declared:
        return f"error: there is no tool {name}"
    if list(arguments) != [PARAMETERS[name]]:
        return f"error: {name} takes {PARAMETERS[name]}"
    return run_known(name, str(arguments[PARAMETERS[name]]), pages)


def run_known(name, argument, pages):
    """What a tool says, as a text: ("price", "keys") -> '2'"""
    if name == "python":
        return run_code(argument)
    return str(search(argument, pages) if name == "search" else FUNCTIONS[name](argument))


def converse(reply, conversations, pages, most=4):
    """Play conversations on, side by side: the model's turn, and as long as that is a call, what
    the tool says and its turn again. A call beyond `most` is left unanswered.

    reply: a list of conversations -> the model's text for each. Lists of messages grow in place."""
    for done in range(most + 1):
        waiting = [c for c in conversations if c[-1]["role"] != "assistant"]
        for messages, text in zip(waiting, reply(waiting) if waiting else []):
            messages.append({"role": "assistant", "content": text})
            if text.startswith(CALL) and done < most:
                declared = " ".join(line for message in messages if message["role"] == "system"
                                    for line in message["content"].splitlines()
                                    if line.startswith("Tools: "))
                messages.append({"role": "tool", "content": run_call(text, declared, pages)})
