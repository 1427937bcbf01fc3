"""Running what the model asks for: a function, the code interpreter, or a search, in turn.

A call is the text "call: price(item='keys')", with plain values by name. Nothing that a model
writes runs unchecked: code is parsed, and every node of its syntax tree must be one of SYNTAX. So
there is no import, no attribute but some methods of str, list and dict, and no name that is neither
listed nor the code's own. What passes runs in a process of its own, whose limits on time, memory
and output end loops without end, and 10**10**10. The model is told why something was refused.
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
LIMITS = {"CPU": 1, "AS": 2**28, "FSIZE": 0, "NPROC": 0, "CORE": 0, "NOFILE": 3}  # see setrlimit(2)
# What code that the model writes may call, beside its own functions.
BUILTINS = set("""
    abs all any bool dict divmod enumerate float int len list max min print range reversed round
    set sorted str sum tuple zip""".split())
# Methods of str, list and dict that such code may call.
METHODS = set("""
    append count endswith extend find get index insert isalpha isdigit isupper items join keys
    lower pop remove replace reverse rstrip sort split startswith strip swapcase title upper
    values""".split())
# The nodes of Python's syntax tree that such code may have.
SYNTAX = (ast.Module, ast.Expr, ast.Assign, ast.AugAssign, ast.FunctionDef, ast.arguments, ast.arg,
          ast.Return, ast.If, ast.For, ast.While, ast.Break, ast.Continue, ast.Pass, ast.BinOp,
          ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Call, ast.keyword, ast.Name,
          ast.Attribute, ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.Set, ast.Subscript,
          ast.Slice, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.comprehension,
          ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.expr_context)
NAMED = {ast.Name: "id", ast.Attribute: "attr", ast.FunctionDef: "name", ast.arg: "arg",
         ast.keyword: "arg"}  # the field that holds a node's name

# What the process runs: it gives up what it may do before it reads the code.
RUNNER = """
import ast, builtins, json, resource, sys
limits, characters, names, code = json.load(sys.stdin)
for what, most in limits.items():
    if what != "AS" or sys.platform != "darwin":  # macOS limits no address space
        resource.setrlimit(getattr(resource, "RLIMIT_" + what), (most, most))
room = characters
def show(*values):
    global room
    text = " ".join(map(str, values))
    room -= len(text) + 1
    if room < 0:
        raise MemoryError("more output than %d characters" % characters)
    sys.stdout.write(text + "\\n")
sys.displayhook = lambda value: value is None or show(repr(value))
scope = {"__builtins__": {name: getattr(builtins, name) for name in names} | {"print": show}}
try:
    tree = ast.parse(code)
    last = [tree.body.pop()] if tree.body and isinstance(tree.body[-1], ast.Expr) else []
    exec(compile(tree, "code", "exec"), scope)
    exec(compile(ast.Interactive(last), "code", "single"), scope)  # shows what it gives
except BaseException as error:
    # In one line: a second one would pass for a result.
    sys.stdout.write("error: %s: %s" % (type(error).__name__, " ".join(str(error).split())[:200]))
"""


def violation(code):
    """Why code may not run, or "" if it may: 'import os' -> 'Import is not allowed'"""
    if len(code) > LONGEST:
        return f"the code is longer than {LONGEST:,} characters"
    try:
        nodes = [(node, getattr(node, NAMED.get(type(node), ""), None) or "")
                 for node in ast.walk(ast.parse(code))]
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        return f"this is no Python: {getattr(error, 'msg', type(error).__name__)}"
    called = {id(node.func) for node, _ in nodes if isinstance(node, ast.Call)}
    own = {name for node, name in nodes if isinstance(node, (ast.FunctionDef, ast.arg))
           or isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    for node, name in nodes:
        if not isinstance(node, SYNTAX):
            return f"{type(node).__name__} is not allowed"
        if isinstance(node, ast.keyword) and not name:
            return "** is not allowed"
        if name.startswith("_"):
            return f"the name {name} is not allowed"
        if isinstance(node, ast.Attribute) and (name not in METHODS or id(node) not in called):
            return f"the attribute {name} is not allowed"
        if isinstance(node, ast.Name) and name not in BUILTINS | own:
            return f"there is no {name}"
    return ""


def run_code(code, characters=500):
    """What code prints, and the value of the expression it ends in: 'x = 6\\nx * 7' -> '42'

    An error is told after that, as "error: ...", and so are a refusal and a limit. The clock may
    run five times as long as the processor, so that a busy machine changes nothing.
    characters: of output, at most."""
    if reason := violation(code):
        return f"error: {reason}"
    given = json.dumps([LIMITS, characters, sorted(BUILTINS), code])
    try:
        done = subprocess.run([sys.executable, "-I", "-S", "-c", RUNNER], capture_output=True,
                              input=given, env={}, cwd="/", encoding="utf-8", errors="replace",
                              timeout=5 * LIMITS["CPU"])
    except subprocess.TimeoutExpired:
        return f"error: more than {LIMITS['CPU']} s"
    if done.returncode < 0:  # killed
        return f"error: more than {LIMITS['CPU']} s, or {LIMITS['AS'] >> 20} MB"
    if done.returncode:
        return f"error: {(done.stderr.strip() or 'it broke off').splitlines()[-1]}"
    return done.stdout.strip() or "nothing was printed"


def search(query, pages):
    """Number, name and first characters of that page, of {name: text}, whose first 2,000 hold most
    of the query's words; one that is the page's name counts for nine more.
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


PARAMETERS = {"price": "item", "stock": "item", "weather": "place", "age": "who", "python": "code",
              "search": "query"}  # tool -> the one thing that it wants to know


def declare(names):
    """["price", "python"] -> 'Tools: price(item), python(code)', for the system's message"""
    return "Tools: " + ", ".join(f"{name}({PARAMETERS[name]})" for name in names)


def format_call(name, argument):
    """("price", "keys") -> "call: price(item='keys')" """
    return f"{CALL}{name}({PARAMETERS[name]}={argument!r})"


def parse_call(text):
    """"call: price(item='keys')" -> ("price", {"item": "keys"}); None if it is no call.

    Arguments are given by name, each once, and are strings or numbers as they stand."""
    try:
        node = ast.parse(text[len(CALL):][:LONGEST].strip(), mode="eval").body
        arguments = {each.arg: ast.literal_eval(each.value) for each in node.keywords}
        good = (text.startswith(CALL) and not node.args and None not in arguments
                and len(arguments) == len(node.keywords)
                and all(type(value) in (str, int, float) for value in arguments.values()))
        return (node.func.id, arguments) if good else None
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError, AttributeError):
        return None


def run_call(text, declared, pages):
    """Do a call of a tool that is declared: what it says, as a text. declared: see `declare`."""
    name, arguments = parse_call(text) or (None, {})
    if name is None:
        return "error: write a call as call: name(argument='value')"
    if name not in PARAMETERS or f" {name}({PARAMETERS[name]})" not in declared:
        return f"error: there is no tool {name}"
    if list(arguments) != [PARAMETERS[name]]:
        return f"error: {name} takes {PARAMETERS[name]}"
    return run_tool(name, str(arguments[PARAMETERS[name]]), pages)


def run_tool(name, argument, pages):
    """What a tool says, as a text: ("price", "keys", {}) -> '2'. In the toy world everything has a
    price, a stock and an age, 2 to 9: they look like chance, and are always the same."""
    if name == "python":
        return run_code(argument)
    if name == "search":
        return search(argument, pages)
    text = argument if name == "weather" else f"{name} {argument}"
    values = "rain sun snow fog wind clouds".split() if name == "weather" else "23456789"
    return values[zlib.crc32(text.encode("utf-8", "replace")) % len(values)]


def converse(reply, conversations, pages, most=4):
    """Play conversations on, side by side: the model's turn and, as long as that is a call, what
    the tool says and the model's turn again. A call beyond `most` is left unanswered.

    reply: a list of conversations -> the model's text for each. Conversations, which are lists of
    messages, grow in place."""
    for done in range(most + 1):
        waiting = [c for c in conversations if c[-1]["role"] != "assistant"]
        for messages, text in zip(waiting, reply(waiting) if waiting else []):
            messages.append({"role": "assistant", "content": text})
            if text.startswith(CALL) and done < most:
                declared = " ".join(line for message in messages if message["role"] == "system"
                                    for line in message["content"].splitlines()
                                    if line.startswith("Tools: "))
                messages.append({"role": "tool", "content": run_call(text, declared, pages)})
