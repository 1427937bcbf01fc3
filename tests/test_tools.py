"""What a model writes is run, and nothing of it gets out or outlives its limit."""
import concurrent.futures
import socket
import time

import pytest

from afm_min.world import tools

ATTACKS = r"""
import os
from os import system
import subprocess as s
__import__('os').system('touch {escaped}')
open('{escaped}', 'w')
open('/etc/passwd').read()
print(open.__self__)
exec("open('{escaped}', 'w')")
eval("1 + 1")
compile("1", "x", "eval")
globals()
locals()
vars()
dir()
getattr((), '__class__')
setattr(print, 'x', 1)
input()
breakpoint()
help()
type(1)
object()
().__class__
().__class__.__bases__[0].__subclasses__()
''.__class__.__mro__[1].__subclasses__()
[].append.__self__
print.__globals__
(lambda: 0).__code__
def f(): pass\nf.__globals__
def f(): yield 1\nf().gi_frame.f_back.f_globals
(x for x in [1]).gi_frame
[x for x in (1,)].__iter__
'{{0.__class__}}'.format(1)
'%s' % ().__class__
f'{{().__class__}}'
'{{x}}'.format_map({{}})
_ = 1
__builtins__
__name__
x = __builtins__['open']
str.mro()
int.from_bytes
str.format('{{0.__class__}}', 1)
class A: pass
class A:\n    def __del__(self): print(1)
try:\n    1 / 0\nexcept Exception as e:\n    e.__traceback__
try:\n    while True: pass\nfinally:\n    while True: pass
with open('x') as f: pass
async def f(): pass
lambda: 0
global x
del print
assert 1
raise SystemExit
raise KeyboardInterrupt
exit()
quit()
match 1:\n    case 1: pass
(y := 1)
@print\ndef f(): pass\nf.__wrapped__
10**10**10
pow(10, 10**10)
1 << 10**12
'x' * 10**12
[0] * 10**12
'%1000000000000d' % 1
['x' * 10**8] * 100 + ['y' * 10**8 for i in range(100)]
[x for x in range(10**12)]
sum(x for x in range(10**12))
[[y for y in range(10**6)] for x in range(10**6)]
max(range(10**13))
sorted(range(10**10))
list(zip(range(10**11), range(10**11)))
{{x: x for x in range(10**10)}}
def f(x): return f(x)\nf(1)
def f(x): return f(x) + f(x)\nf(1)
def f(n): return f(n - 1) + f(n - 1) if n else 0\nf(60)
while True: pass
while True: print('x' * 400)
for i in range(10**12): print(i)
x = [1]\nfor i in x: x.append(i)
x = 'ab'\nwhile True: x = x + x
x = []\nx.append(x)\nx == [x]
x = {{}}\nwhile True: x[len(x)] = [0] * 1000
print('x' * 10**9)
print('\ud800')
signal.signal(9, print)
import signal; signal.alarm(0)
socket.socket()
import socket\nsocket.create_connection(('127.0.0.1', {port}))
os.fork()
import os\nwhile True: os.fork()
import resource; resource.setrlimit(0, (9, 9))
sys.stdout.write('x')
print('x', file=1)
print(1, file=open('{escaped}', 'w'))
int('9' * 10**7)
str(10**5000000)
(((((((((((((((((((((((((((((((((((((((((((((((((1
""".strip().splitlines()


def test_no_attack_escapes_and_each_is_answered_in_time(tmp_path, monkeypatch):
    """Three witnesses: a file that must not be written, a port that nobody may knock at, a clock.
    A time is asserted here as the limit is the thing tested, with patience for a loaded machine."""
    monkeypatch.setitem(tools.LIMITS, "AS", 2**27)  # half of it is used up sooner
    escaped, listening = tmp_path / "escaped", socket.create_server(("127.0.0.1", 0))
    listening.settimeout(0.01)
    assert len(ATTACKS) >= 60

    def answered(attack):
        code = attack.format(escaped=escaped, port=listening.getsockname()[1]).replace("\\n", "\n")
        begun = time.perf_counter()
        return code, tools.run_code(code), time.perf_counter() - begun
    with concurrent.futures.ThreadPoolExecutor(4) as pool:  # some take a second until they are ended
        for code, answer, seconds in pool.map(answered, ATTACKS):
            assert seconds < 60, code
            assert (answer.splitlines()[-1].startswith("error: ")
                    or code.startswith(HARMLESS)), (code, answer)
            assert len(answer) < 800
    assert not escaped.exists()
    with pytest.raises(TimeoutError):
        listening.accept()


HARMLESS = ("max(range", "x = []\nx.append(x)")


def test_code_says_what_it_prints_and_its_last_value():
    assert tools.run_code("x = 6\nx * 7") == "42"
    assert tools.run_code("print('a', 1)\nprint('b')") == "a 1\nb"
    assert tools.run_code("def f(v):\n    return [x * 2 for x in v]\nf([1, 2])") == "[2, 4]"
    assert tools.run_code("x = 1") == "nothing was printed"
    assert tools.run_code("'red'.upper()") == "'RED'"
    assert tools.run_code("print('é \\udc80')").startswith(
        ("é", "error: UnicodeEncodeError"))  # bytes that are no UTF-8


@pytest.mark.parametrize("code, says", {
    "import os": "Import is not allowed", "().__class__": "the name __class__ is not allowed",
    "def f(_x): return 1": "the name _x is not allowed", "dict(_x=1)": "the name _x",
    "dict(**{})": "** is not allowed", "open('x')": "there is no open",
    "'a'.format": "the attribute format is not allowed", "x.upper": "upper",
    "1 +": "this is no Python", "1 / 0": "ZeroDivisionError: division by zero", "1" * 2001: "2,000",
    "'x' * 10**12": "MemoryError", "print('x' * 501)": "more output than 500 characters"}.items())
def test_what_is_refused_says_why(code, says):
    assert tools.run_code(code).startswith("error: ") and says in tools.run_code(code)


def test_calls_are_parsed_and_checked_against_what_is_declared():
    assert tools.parse_call("call: price(item='keys')") == ("price", {"item": "keys"})
    for text in ("price(item='keys')", "call: price('keys')", "call: price(item=open('x'))",
                 "call: price(**x)", "call: a.b(item='keys')", "call: price(item=keys)",
                 "call: price(item=a.b)", "call: price(item=None)",
                 "call: price(item='a', item='b')", "call: price(item=[])",
                 "call: price(item=(x := 1))", "call: 7", "call: (", "hello"):
        assert tools.parse_call(text) is None, text
    declared = tools.declare(["price", "python"])
    assert declared == "Tools: price(item), python(code)"
    assert tools.run_call(tools.format_call("price", "keys"), declared, {}) == tools.run_tool(
        "price", "keys", {})
    assert tools.run_call(tools.format_call("python", "2 + 3"), declared, {}) == "5"
    assert tools.run_call(tools.format_call("stock", "keys"), declared, {}) == (
        "error: there is no tool stock")
    assert tools.run_call(tools.format_call("age", "Ada"), "Tools: price(item), page(who)", {}) == (
        "error: there is no tool age")
    assert tools.run_call("call: price(city='Oslo')", declared, {}) == "error: price takes item"
    assert tools.run_call("call: price('keys')", declared, {}).startswith("error: write a call as")
    assert tools.run_call("call: price(item='\\ud800')", declared, {}).isdigit()  # half a character


def test_search_finds_the_page_by_its_name_or_its_words():
    pages = {"heapq": "Heap queues.\nwrap", "textwrap": "Text wrapping.", "wrap": "Nothing."}
    assert tools.search("textwrap", pages) == "page 2, textwrap: Text wrapping."
    assert tools.search("queues", pages) == "page 1, heapq: Heap queues. wrap"
    assert tools.search("x", {}) == "error: no pages"


def test_a_conversation_goes_on_while_tools_are_called():
    said = iter([["call: price(item='keys')", "Hello!"], ["They cost 52."]])
    conversations = [[{"role": "system", "content": "Tools: price(item)"},
                      {"role": "user", "content": "Keys?"}],
                     [{"role": "user", "content": "Hi"}]]
    tools.converse(lambda open: next(said), conversations, {})
    assert [m["content"] for m in conversations[0][2:]] == [
        "call: price(item='keys')", tools.run_tool("price", "keys", {}), "They cost 52."]
    assert [m["content"] for m in conversations[1]] == ["Hi", "Hello!"]
    endless = [[{"role": "system", "content": "Tools: price(item)"},
                {"role": "user", "content": "Keys?"}]]
    tools.converse(lambda open: ["call: price(item='keys')"], endless, {}, most=2)
    assert [m["role"] for m in endless[0]] == [
        "system", "user", *["assistant", "tool"] * 2, "assistant"]
