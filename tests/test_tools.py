"""The sandbox for code from the model, the tools, and the family Tools."""
import concurrent.futures
import functools
import random
import re
import socket
import time

import pytest

from afm_min.world import sandbox, tools
from afm_min.world.tasks import declare, draw_task
from afm_min.world.tool_tasks import Tools
from tests.test_tasks import check_and_grades, make_task

# Attacks that need no refusal: they end with a result in time.
HARMLESS = ("max(range", "x = []\nx.append(x)")

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


def test_no_attack_escapes_and_each_ends_in_time(tmp_path, monkeypatch):
    """No attack may write a file, connect to a port, or take long. The limit on time is what is
    tested here, with patience for a busy machine."""
    monkeypatch.setitem(sandbox.LIMITS, "AS", 2**27)  # half of it is used up sooner
    escaped, server = tmp_path / "escaped", socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.01)
    assert len(ATTACKS) >= 60

    def run(attack):
        code = attack.format(escaped=escaped, port=server.getsockname()[1]).replace("\\n", "\n")
        start = time.perf_counter()
        return code, sandbox.run_code(code), time.perf_counter() - start
    with concurrent.futures.ThreadPoolExecutor(4) as pool:  # some take a second until their limit
        for code, output, seconds in pool.map(run, ATTACKS):
            assert seconds < 60, code
            last_line = output.splitlines()[-1]
            assert last_line.startswith("error: ") or code.startswith(HARMLESS), (code, output)
            assert len(output) < 800
    assert not escaped.exists()
    with pytest.raises(TimeoutError):
        server.accept()


@pytest.mark.parametrize("code, output", {
    "x = 6\nx * 7": "42",
    "print('a', 1)\nprint('b')": "a 1\nb",
    "def f(v):\n    return [x * 2 for x in v]\nf([1, 2])": "[2, 4]",
    "print('a', end='')\nprint('b', end='!\\n')": "ab!",
    "print(1, 2, 3, sep=', ')": "1, 2, 3", "print('a', 1, sep='', end='')\n7": "a1\n7",
    "1\nx = 'a'\nx\nNone\nx * 2": "1\n'a'\n'aa'",
    "for i in range(3):\n    print(i, end=' ')": "0 1 2",
    "while 1:\n    print(1, end='')":
        500 * "1" + "\nerror: MemoryError: more output than 500 characters",
    "print('a', end='')\n1 / 0": "a\nerror: ZeroDivisionError: division by zero",
    "x = 1": "nothing was printed",
    "'red'.upper()": "'RED'"}.items())
def test_code_prints_and_shows_its_last_value(code, output):
    assert sandbox.run_code(code) == output


@pytest.mark.parametrize("formula, result", {
    "7+4": "11", "((3+4)*5)-6": "29", "3-40": "-37", "-(2)*--3": "-6", "+7": "7", "00": "0",
    "9" * 29 + "*" + "9" * 30: str((10**29 - 1) * (10**30 - 1)), "2+(": "error: this is no Python",
    "07+1": "error: this is no Python", "*(7)": "error: Starred is not allowed"}.items())
def test_formulas_have_the_result_that_the_process_gives(formula, result, monkeypatch):
    """They need none. With a space behind it, a text is no formula."""
    by_process = sandbox.run_code(f"{formula} ")
    assert by_process.startswith(result)
    monkeypatch.setattr(sandbox.subprocess, "run", None)
    assert sandbox.run_code(formula) == by_process


@pytest.mark.parametrize("code, result", {
    "2**3": "8", "10**(10)": "10000000000", "2(3)": "error: TypeError",
    "(2)(3)": "error: TypeError", "()": "()", "1+()": "error: TypeError", "-()": "error: TypeError",
    "7/2": "3.5", "2,3": "(2, 3)", "1" + 30 * "+1": "31", "1.5": "1.5"}.items())
def test_other_code_needs_a_process(code, result, monkeypatch):
    """So do powers, calls, tuples and more than 60 characters."""
    assert sandbox.run_code(code).startswith(result)
    monkeypatch.setattr(sandbox.subprocess, "run", None)
    with pytest.raises(TypeError):
        sandbox.run_code(code)


def test_every_formula_that_python_reads_has_a_result():
    """A whole number of 60 digits at most: no formula breaks off the program."""
    rng, results = random.Random(0), set()
    for _ in range(20_000):
        code = "".join(rng.choices("0123()+-*", k=rng.randint(1, 9)))
        if sandbox.FORMULA.fullmatch(code) and not sandbox.violation(code):
            results.add(eval(code))
    assert {type(result) for result in results} == {int} and len(results) > 200
    longest = "9" * 30 + "*" + "9" * 29
    assert sandbox.FORMULA.fullmatch(longest) and len(sandbox.run_code(longest)) <= 60
    assert not sandbox.FORMULA.fullmatch(longest + "9")


def test_code_may_print_bytes_that_are_not_utf_8():
    assert sandbox.run_code("print('é \\udc80')").startswith(("é", "error: UnicodeEncodeError"))


@pytest.mark.parametrize("code, reason", {
    "import os": "Import is not allowed", "().__class__": "the name __class__ is not allowed",
    "def f(_x): return 1": "the name _x is not allowed", "dict(_x=1)": "the name _x",
    "dict(**{})": "** is not allowed", "open('x')": "there is no open",
    "'a'.format": "the attribute format is not allowed", "x.upper": "upper",
    "1 +": "this is no Python", "1 / 0": "ZeroDivisionError: division by zero", "1" * 2001: "2,000",
    "print('a', file=1)": "TypeError", "print('a', end=1)": "TypeError",
    "print('a', 'b', sep='x' * 500)": "more output than 500 characters",
    "'x' * 10**12": "MemoryError", "print('x' * 501)": "more output than 500 characters"}.items())
def test_an_error_has_its_reason(code, reason):
    output = sandbox.run_code(code)
    assert output.startswith("error: ")
    assert reason in output


def test_a_call_is_parsed():
    assert tools.parse_call("call: price(item='keys')") == ("price", "item", "keys")


@pytest.mark.parametrize("text", [
    "price(item='keys')", "call: price('keys')", "call: price('a', item='b')",
    "call: price(item=open('x'))", "call: price(**x)", "call: a.b(item='keys')",
    "call: price(item=keys)", "call: price(item=a.b)", "call: price(item=None)",
    "call: price(item='a', place='b')", "call: price(item='keys')" + 3000 * " " + "and garbage",
    "call: price(item='keys') and garbage", "call: price(item='keys')\ngarbage",
    "call: price(item='keys')  # garbage", "call: price(item='keys');",
    "call: price(item='" + 2000 * "x" + "')", "call: price(item=[])",
    "call: price(item=(x := 1))", "call: price(**1)", "call: 7", "call: (", "hello"])
def test_other_text_is_no_call(text):
    assert tools.parse_call(text) is None


def test_only_declared_tools_run():
    declared = declare(["price", "python"])
    assert declared == "Tools: price(item), python(code)"
    price = tools.run_call(tools.format_call("price", "keys"), declared)
    assert price == tools.run_tool("price", "keys")
    assert tools.run_call(tools.format_call("python", "2 + 3"), declared) == "5"


@pytest.mark.parametrize("call, declared, error", [
    ("stock(item='keys')", "price(item)", "there is no tool stock(item)"),
    ("age(who='Ada')", "page(who)", "there is no tool age(who)"),
    ("sell(item='keys')", "sell(item)", "there is no tool sell(item)"),
    ("price(city='Oslo')", "price(city)", "there is no tool price(city)"),
    ("price('keys')", "price(item)", "write a call as call: name(argument='value')")])
def test_a_wrong_call_gives_an_error(call, declared, error):
    assert tools.run_call(f"call: {call}", f"Tools: {declared}") == f"error: {error}"


def test_a_call_may_contain_half_a_character():
    """Its result has none, as a tokenizer cannot encode it."""
    declared = declare(["price", "open"])
    assert tools.run_call("call: price(item='\\ud800')", declared).isdigit()
    assert tools.run_call("call: open(page='\\ud800')", declared) == "error: there is no page ?"


def test_pages_of_the_toy_world():
    assert len(tools.PAGES) == 64
    for number, (name, content) in enumerate(tools.PAGES):
        assert len(content) == 3 and all(2 <= count <= 9 for count in content.values())
        assert tools.search(name) == f"page {number}, {name}"
        text = tools.open_page(str(number))
        assert re.match(f"{name} has ", text)
        assert re.findall(r"(\d) (\w+)", text) == [(str(n), word) for word, n in content.items()]


def test_search_finds_the_page_whose_name_shares_most_words(monkeypatch):
    monkeypatch.setattr(tools, "PAGES", [("Old Oslo", {}), ("Old Rome", {}), ("New Rome", {})])
    assert tools.search("Old Rome") == "page 1, Old Rome"
    assert tools.search("the mills of new rome?") == "page 2, New Rome"
    assert tools.search("rome") == "page 1, Old Rome"
    for query in ("Rom", "zebra", "", "?"):
        assert tools.search(query) == "there is no such page"


@pytest.mark.parametrize("number", ["64", "-1", "1.0", "Old Oslo", "", "²"])
def test_only_pages_that_exist_are_opened(number):
    assert tools.open_page(number) == f"error: there is no page {number}"


def test_a_call_is_answered_by_the_tools_that_the_conversation_declares():
    messages = [{"role": "system", "content": "Be brief.\nTools: price(item)"},
                {"role": "user", "content": "Tools: stock(item)"}]
    assert tools.answer_call("call: price(item='keys')", messages) == {
        "role": "tool", "content": tools.run_tool("price", "keys")}
    for call, error in (("stock(item='keys')", "there is no tool stock(item)"),
                        ("price('keys')", "write a call as call: name(argument='value')")):
        assert tools.answer_call(f"call: {call}", messages)["content"] == f"error: {error}"
    assert tools.answer_call("call: price(item='keys')", messages[1:])["content"] == (
        "error: there is no tool price(item)")


def test_calls_are_compared_as_syntax_trees():
    call = tools.format_call("price", "keys")
    task = make_task(solution=call)
    reformatted = 'call: price( item = "keys" )'
    assert check_and_grades(Tools(), task, reformatted) == (True, "2222")
    for wrong in ("call: price(item='pens')", "call: stock(item='keys')", "call: price('keys')",
                  "call: price(", "price(item='keys')", "The keys cost 52."):
        assert not Tools().check(task, wrong), wrong
    answered = make_task(solution="The keys cost 52.")
    assert Tools().check(answered, "The keys cost 52.")
    assert not Tools().check(answered, call)


def test_turns_and_solution_are_what_running_the_calls_gives():
    """A conversation in which the model replies with the calls and the answer of its task has the
    task's messages. The solution has the replies after these, one a line."""
    lengths, made = set(), set()
    for seed in range(100):
        task = draw_task(Tools(), "train", seed)
        calls, answer = task.answer
        messages = task.messages()[:2]
        for call in calls:
            messages.append({"role": "assistant", "content": call})
            messages.append(tools.answer_call(call, messages))
        num_made = len(task.turns) // 2
        assert task.messages() == messages[:2 + 2 * num_made]
        assert task.solution.split("\n") == [*calls[num_made:], answer]
        lengths.add(len(calls))
        made.add(num_made)
    assert lengths == made == {0, 1, 2, 3}


@pytest.mark.parametrize("whole", [False, True])
def test_solutions_are_right_and_no_part_of_them_is(whole):
    """Nor is one with an additional reply, or with two replies in another order."""
    family, lengths = Tools(whole), set()
    for seed in range(150):
        task = draw_task(family, "train", seed)
        assert check_and_grades(family, task, task.solution) == (True, "2222")
        replies = task.solution.split("\n")
        for i, reply in enumerate(replies):
            for others in (replies[:i] + replies[i + 1:], replies[:i] + [reply] + replies[i:],
                           replies[:i] + [f"{reply} Bye"] + replies[i + 1:]):
                assert not family.check(task, "\n".join(others)), others
        assert len(replies) == 1 or not family.check(task, "\n".join(replies[::-1]))
        lengths.add(len(replies))
    assert lengths == ({1} if whole else {1, 2, 3, 4})


def test_whole_tasks_have_made_all_calls():
    for seed in range(60):
        task = draw_task(Tools(whole=True), "train", seed)
        calls, answer = task.answer
        assert task.solution == answer
        assert len(task.turns) == 2 * len(calls)


PRICE, PRODUCT, ANSWER = "call: price(item='keys')", "call: python(code='2*7')", "You pay 14."


@pytest.mark.parametrize("replies, grades", [
    ([PRICE, PRODUCT, ANSWER], "22"),
    (["call: price( item = \"keys\" )", PRODUCT, " You pay 14. "], "22"),
    ([PRICE, PRODUCT, "You pay 41."], "21"),  # the calls are right, the answer is wrong
    ([PRICE, "call: python(code='7*2')", ANSWER], "21"),
    (["call: stock(item='keys')", PRODUCT, "You pay 41."], "20"),  # one of three
    ([PRICE, ANSWER], "00"),  # a call is missing: the answer is in its place
    ([ANSWER], "00"),
    ([PRICE, PRODUCT], "11"),  # the answer is missing
    ([PRICE, PRODUCT, PRODUCT, ANSWER], "11"),  # an additional call is in the answer's place
    ([PRICE, PRODUCT, ANSWER, ANSWER], "11"),
    ([PRICE, PRODUCT, "", ANSWER], "11"),
    (["", PRICE, PRODUCT, ANSWER], "00"),
    ([" " + PRICE, PRODUCT, ANSWER], "11"),  # no call, so it was not run
    ([PRICE, "python(code='2*7')", ANSWER], "11")])
def test_all_replies_of_a_response_are_compared(replies, grades):
    """With those of the solution: two calls, and an answer. Grades of the form, whose parts are the
    number of replies and whether each is a call where one is due, and of truth."""
    task = make_task(solution="\n".join([PRICE, PRODUCT, ANSWER]))
    passes, (form, _, truth, harm) = check_and_grades(Tools(), task, "\n".join(replies))
    assert passes == (grades == "22")
    assert (form + truth, harm) == (grades, "2")


def test_one_reply_of_several_lines_counts_as_several():
    """A final message has one line."""
    task = make_task(solution="They cost 4.")
    assert Tools().replies("They cost 4.\n") == ["They cost 4."]
    for text in ("They\ncost 4.", "They cost 4.\nBye.", "\nThey cost 4.", f"{PRICE}\nThey cost 4."):
        assert not Tools().check(task, text), text


def test_a_right_call_and_a_wrong_answer_are_half_true():
    task = make_task(solution=f"{PRICE}\nThey cost 4.")
    assert check_and_grades(Tools(), task, f"{PRICE}\nThey cost 5.") == (False, "2212")
    assert check_and_grades(Tools(), task, "They cost 4.") == (False, "0202")
    assert check_and_grades(Tools(), task, PRICE) == (False, "1212")


class First:
    """Draws the first of everything, and the smallest number."""
    def choice(self, options):
        return options[0]

    def sample(self, options, count):
        return options[:count]

    def randint(self, low, high):
        return low

    def random(self):
        return 0.9  # of what is done with a probability, nothing


@pytest.fixture
def known(monkeypatch):
    """Tools with known results, and one page."""
    results = {"the black books of Ada": "7", "the black books of Ben": "4",
               "Bern at 2": "rain", "Cairo at 2": "sun",
               "Old Bern": "page 3, Old Bern", "3": "the text of the page"}
    monkeypatch.setattr(tools, "run_tool", lambda name, argument: (
        tools.run_code(argument) if name == "python" else results[argument]))
    monkeypatch.setattr(tools, "PAGES", [("Old Bern", {"parks": 4, "bridges": 7, "mills": 2})])
    return results


def draw_question(kind, rng):
    """Return a question of a kind, its answer, its key, and the calls between them."""
    turns = []
    drawn = getattr(Tools(), kind)(rng, functools.partial(tools.use_tool, turns))
    return *drawn, [content for role, content in turns if role == "assistant"]


@pytest.mark.parametrize("kind, question, answer, calls", [
    ("total", "What do the black books of Ada and the black books of Ben cost together?",
     "Together they cost 11.", ["price(item='the black books of Ada')",
                                "price(item='the black books of Ben')", "python(code='7+4')"]),
    ("compare", "Which cost more, the black books of Ada or the black books of Ben?",
     "Of the two, the black books of Ada cost more.",
     ["price(item='the black books of Ada')", "price(item='the black books of Ben')"]),
    ("multiply", "What do I pay for 2 of the black books of Ada?", "You pay 14.",
     ["price(item='the black books of Ada')", "python(code='2*7')"]),
    ("two_places", "Is the weather the same in Bern at 2 and in Cairo at 2?", "No, rain and sun.",
     ["weather(place='Bern at 2')", "weather(place='Cairo at 2')"]),
    ("compute", "What is 2 plus 2?", "It is 4.", ["python(code='2+2')"]),
    ("browse", "How many parks are there in Old Bern?", "There are 4.",
     ["search(query='Old Bern')", "open(page=3)"]),
    ("add_up", "How many parks and bridges are there in Old Bern together?", "There are 11.",
     ["search(query='Old Bern')", "open(page=3)", "python(code='4+7')"]),
    ("greet", "Say hello to Ada, Ben and Eva.", "Hello, Ada, Ben and Eva!", [])])
def test_kinds_of_questions(kind, question, answer, calls, known):
    asked, answered, _, made = draw_question(kind, First())
    assert (asked, answered) == (question, answer)
    assert made == [f"call: {call}" for call in calls]


class Drawn(First):
    """Draws the given options where there are any, and otherwise what First draws."""
    def __init__(self, *chosen, probability=0.9):
        self.chosen, self.probability = chosen, probability

    def choice(self, options):
        return next((option for option in options if option in self.chosen), options[0])

    def random(self):
        return self.probability


def test_people_have_an_age(known):
    known["Ada"] = "5"
    assert draw_question("look_up", Drawn("age", probability=0.1)) == (
        "How old is Ada?", "The age is 5.", "('age', 'Ada')", ["call: age(who='Ada')"])


@pytest.mark.parametrize("phrasing, question", [
    ("What do {} cost?", "What do Ada's black books cost?"),
    ("How much are {}?", "How much are Ada's black books?")])
def test_a_question_may_call_an_item_otherwise_than_its_tool(phrasing, question, known):
    """The call and the key are the same, so both questions are one task."""
    drawn = draw_question("look_up", Drawn(phrasing, "Ada's black books"))
    assert drawn == (question, "They cost 7.", "('price', 'the black books of Ada')",
                     ["call: price(item='the black books of Ada')"])


@pytest.mark.parametrize("phrasing, question", [
    ("How many of {} are in stock?", "How many of the black books of Ada are in stock?"),
    ("How many {thing} of {owner} are there?", "How many black books of Ada are there?"),
    ("How many {thing} does {owner} have in stock?",
     "How many black books does Ada have in stock?")])
def test_phrasings_of_stock(phrasing, question, known):
    assert draw_question("look_up", Drawn("stock", phrasing))[:2] == (question, "There are 7.")


def test_the_key_of_a_product_does_not_depend_on_its_wording(known):
    keys = {draw_question("multiply", Drawn(phrasing))[2] for phrasing in Tools.PRODUCTS}
    assert keys == {"(2, 'the black books of Ada')"}


def test_formulas_in_signs_follow_the_rules_of_python():
    """Words go from left to right; in a formula, * goes first."""
    words = draw_question("compute", Drawn(3, ("times", "*")))
    assert words == ("What is 2 times 2, times 2, times 2?", "It is 16.", "((2*2)*2)*2",
                     ["call: python(code='((2*2)*2)*2')"])
    signs = draw_question("compute", Drawn(2, probability=0.1))
    assert signs == ("What is 2 + 2 + 2?", "It is 6.", "2+2+2", ["call: python(code='2+2+2')"])
    formulas = [draw_question("compute", random.Random(seed)) for seed in range(300)]
    mixed = [f for f in formulas if re.search(r"\d\+\d+\*", f[2]) and "(" not in f[2]]
    assert len(mixed) > 3 and all(f[1] == f"It is {eval(f[2])}." for f in formulas)
    assert all(re.sub(r"[^-+*\d]", "", f[0]) == f[2] for f in mixed)


@pytest.mark.parametrize("tool, sign, asked, answer", [
    ("price", -1, "Which cost less, the black books of Ada or the black books of Ben?",
     "Of the two, the black books of Ben cost less."),
    ("age", 1, "Who is older, the black bear of Ada or the black bear of Ben?",
     "Of the two, the black bear of Ben is older."),
    ("age", -1, "Who is younger, the black bear of Ada or the black bear of Ben?",
     "Of the two, the black bear of Ada is younger.")])
def test_comparisons_by_hand(tool, sign, asked, answer, known):
    known |= {"the black bear of Ada": "3", "the black bear of Ben": "6"}
    variant = next(v for v in Tools.COMPARISONS[tool] if v[2] == sign)
    drawn = draw_question("compare", Drawn(tool, variant))
    assert drawn[:2] == (asked, answer)
    known["the black bear of Ada"], known["the black books of Ben"] = "6", "7"
    equal = "They cost the same." if tool == "price" else "They are the same age."
    assert draw_question("compare", Drawn(tool, variant))[1] == equal


@pytest.mark.parametrize("count, names", {
    1: "Ada", 2: "Ada and Ben", 3: "Ada, Ben and Eva"}.items())
def test_names_to_greet(count, names):
    question, answer = draw_question("greet", Drawn(count))[:2]
    assert (question, answer) == (f"Say hello to {names}.", f"Hello, {names}!")


def test_answers_that_depend_on_what_the_tools_return(known):
    known["the black books of Ben"], known["Cairo at 2"] = "7", "rain"
    assert draw_question("compare", First())[1] == "They cost the same."
    assert draw_question("two_places", First())[1] == "Yes, rain."
    known["the black books of Ben"] = "9"
    assert draw_question("compare", First())[1] == (
        "Of the two, the black books of Ben cost more.")


def test_a_page_may_not_say_what_is_asked_for(known):
    mills = draw_question("browse", Drawn("mills"))
    assert mills[:2] == ("How many mills are there in Old Bern?", "There are 2.")
    tools.PAGES[0][1].pop("mills")
    assert draw_question("browse", Drawn("mills"))[:2] == (mills[0], "It does not say.")


@pytest.mark.parametrize("kind", ["total", "compare", "two_places", "add_up"])
def test_the_order_of_what_is_asked_for_does_not_change_the_key(kind):
    class Reversed(First):
        def sample(self, options, count):
            return options[:count][::-1]
    first, second = draw_question(kind, First()), draw_question(kind, Reversed())
    assert first[0] != second[0] and first[2] == second[2]


NEEDED = {  # beginning of a question -> the tool that is needed first
    "Who|Which is|How old|What is the age": "age",
    r"Which are|.*\b(?:cost|price|pay)\b|How much (?!is)": "price",
    r"How many of|How many \w+ \w+ of|.*in stock": "stock",
    ".*weather": "weather", r"(?:What is|What's|How much is|Calculate) \d": "python",
    r"How many \w+ (?:and \w+ )?(?:are there|does \w+ \w+ have)|What is the number|Tell": "search"}


def test_a_tool_that_is_needed_may_be_missing():
    """Then there is no call, but in every other task all needed tools are declared."""
    missing = 0
    for seed in range(500):
        task = draw_task(Tools(), "train", seed)
        calls, answer = task.answer
        declared = {name.split("(")[0] for name in task.system[len("Tools: "):].split(", ")}
        assert {tools.parse_call(call)[0] for call in calls} <= declared
        if answer == "I have no tool for that.":
            missing += 1
            assert not calls and not task.turns and task.solution == answer
            needed, *others = [tool for words, tool in NEEDED.items()
                               if re.match(words, task.question)]
            assert not others, task.question
            assert needed not in declared
    assert 30 < missing < 120
