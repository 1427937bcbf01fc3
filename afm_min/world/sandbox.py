"""The sandbox: check code from the model, and run it.

Code never runs unchecked: every node of its syntax tree has to be in SYNTAX. That excludes imports,
attributes other than some methods of str, list and dict, and names other than the code's own and
those in BUILTINS. Code that passes runs in a process with limits on time, memory and output, which
end infinite loops and 10**10**10. The model receives the reason for a refusal as the result.
"""
import ast
import json
import re
import subprocess
import sys
import warnings

# Code from the model may be unusual; warnings about it would only clutter the training log. They
# come from "<unknown>", the name that ast.parse gives to code without a file.
warnings.filterwarnings("ignore", category=SyntaxWarning, module="<unknown>")

MAX_LENGTH = 2000  # characters of code, or of a call
# As for setrlimit(2): a second, 256 MB, no writing to files, no processes, no core dump, no files
# other than stdin, stdout and stderr.
LIMITS = {"CPU": 1, "AS": 2**28, "FSIZE": 0, "NPROC": 0, "CORE": 0, "NOFILE": 3}
# The functions that code may call. It may also call its own.
BUILTINS = set("""abs all any bool dict divmod enumerate float int len list max min print range
    reversed round set sorted str sum tuple zip""".split())
# The methods of str, list and dict that code may call.
METHODS = set("""append count endswith extend find get index insert isalpha isdigit isupper items
    join keys lower pop remove replace reverse rstrip sort split startswith strip swapcase title
    upper values""".split())
# The classes in the module ast that nodes of the syntax tree may have.
SYNTAX = tuple(getattr(ast, name) for name in """Module Expr Assign AugAssign FunctionDef
    arguments arg Return If For While Break Continue Pass BinOp UnaryOp BoolOp Compare IfExp Call
    keyword Name Attribute Constant List Tuple Dict Set Subscript Slice ListComp SetComp DictComp
    GeneratorExp comprehension operator unaryop boolop cmpop expr_context""".split())
# Class of a node in the syntax tree -> its field that holds a name.
NAME_FIELDS = {ast.Name: "id", ast.Attribute: "attr", ast.FunctionDef: "name", ast.arg: "arg",
               ast.keyword: "arg"}
# Sums and products of whole numbers are worked out without a process, which takes 1,000 times as
# long. A formula has no power, no call and no tuple: neither 2**3 nor 2(3) nor (). So evaluating it
# raises no error, and its result has 60 digits at most.
FORMULA = re.compile(r"(?!.*(?:\*\*|[\d)]\(|\(\)))[\d()+*-]{1,60}")
# The program of the process that runs the code. It limits itself first. The values of expressions
# are shown, as in an interactive session. Each value and an error are one line of their own, so
# nothing that is printed can look like a result.
RUNNER = """
import ast, builtins, json, resource, sys
limits, characters, names, code = json.load(sys.stdin)
for name, limit in limits.items():
    if name != "AS" or sys.platform != "darwin":  # macOS cannot limit the address space
        resource.setrlimit(getattr(resource, "RLIMIT_" + name), (limit, limit))
output = ""
def show(*values, sep=" ", end="\\n"):
    global output
    text = sep.join(map(str, values)) + end
    if len(output) + len(text) > characters:
        raise MemoryError("more output than %d characters" % characters)
    output += text
def start_line():
    return "\\n" if output and output[-1] != "\\n" else ""
sys.displayhook = lambda value: value is None or show(start_line() + repr(value))
scope = {"__builtins__": {name: getattr(builtins, name) for name in names} | {"print": show}}
try:
    exec(compile(ast.Interactive(ast.parse(code).body), "code", "single"), scope)
except BaseException as error:
    reason = " ".join(str(error).split())[:200]
    output += "%serror: %s: %s" % (start_line(), type(error).__name__, reason)
sys.stdout.write(output)
"""


def violation(code):
    """Return why code may not run, or "" if it may: 'import os' -> 'Import is not allowed'"""
    if len(code) > MAX_LENGTH:
        return f"the code is longer than {MAX_LENGTH:,} characters"
    try:
        nodes = list(ast.walk(ast.parse(code)))
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        return f"this is no Python: {getattr(error, 'msg', type(error).__name__)}"
    called = {node.func for node in nodes if isinstance(node, ast.Call)}  # functions and methods
    stored = [node for node in nodes if isinstance(node, (ast.FunctionDef, ast.arg))
              or isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    known = BUILTINS | {getattr(node, NAME_FIELDS[type(node)]) for node in stored}
    for node in nodes:
        # "" if nodes of this class have no name, or for the ** of f(**x), a keyword named None
        name = getattr(node, NAME_FIELDS.get(type(node), ""), None) or ""
        if not isinstance(node, SYNTAX):
            return f"{type(node).__name__} is not allowed"
        if isinstance(node, ast.keyword) and not name:
            return "** is not allowed"
        if name.startswith("_"):
            return f"the name {name} is not allowed"
        if isinstance(node, ast.Attribute) and (name not in METHODS or node not in called):
            return f"the attribute {name} is not allowed"
        if isinstance(node, ast.Name) and name not in known:
            return f"there is no {name}"
    return ""


def run_code(code, characters=500):
    """Return what code prints, and the values of its expressions: 'x = 6\\nx * 7' -> '42'

    An exception, a refusal or an exceeded limit gives "error: ...", and so does more output than
    `characters`. The limit on real time is five times that on processor time, so that a busy
    machine does not change the result."""
    if reason := violation(code):
        return f"error: {reason}"
    if FORMULA.fullmatch(code):
        return repr(eval(code))
    try:
        process = subprocess.run(
            [sys.executable, "-I", "-S", "-c", RUNNER], capture_output=True, env={}, cwd="/",
            input=json.dumps([LIMITS, characters, sorted(BUILTINS), code]), encoding="utf-8",
            errors="replace", timeout=5 * LIMITS["CPU"])
    except subprocess.TimeoutExpired:
        return f"error: more than {LIMITS['CPU']} s"
    if process.returncode < 0:  # killed by a signal
        return f"error: more than {LIMITS['CPU']} s, or {LIMITS['AS'] >> 20} MB"
    if process.returncode:
        return f"error: {(process.stderr.strip() or 'it broke off').splitlines()[-1]}"
    return process.stdout.strip() or "nothing was printed"
