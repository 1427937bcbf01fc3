"""The family Code, and the execution of unit tests."""
import random
import re

import pytest

from afm_min.world import code
from afm_min.world.code import Code
from tests.test_tasks import check_and_grades, make_task


LARGE = [{"x": x, "y": y, "v": [(7 * x + y * i) % 25 for i in range(2 + x % 11)],
          "s": " ".join(random.Random(f"{x} {y}").sample(code.THINGS + code.COLOURS, 1 + x % 9))}
         for x in range(-3, 120) for y in (x, x + 1, x - 1, (5 * x) % 23)]


def behaviour(solution):
    """Return what a solution does with many other inputs than those of the key."""
    arguments, expression = re.search(r"\((.*?)\):\n    return (.*)", solution).groups()
    function = eval(f"lambda {arguments}: {expression}")
    names = arguments.split(", ")
    return arguments + repr([function(*(values[name] for name in names)) for values in LARGE])


def test_functions_that_do_the_same_have_the_same_key():
    """So no function is in two splits, whatever its words."""
    keys = {}
    for seed in range(1500):
        task = Code().make(random.Random(seed))
        assert keys.setdefault(behaviour(task.solution), task.key) == task.key, task


def test_unit_tests_tell_a_function_from_its_neighbours():
    """Each number and each word of a solution is changed in turn. Of the functions that differ on
    many inputs, fewer than 1 in 100 pass all unit tests."""
    changes = {str(n): str(n + 1) for n in range(1, 10)} | {
        ">": ">=", "<": "<=", "upper": "lower", "max": "min", "x": "y", "y": "x",
        "startswith": "endswith"}
    differ = alike = 0
    for seed in range(400):
        task = Code().make(random.Random(seed))
        arguments, right = re.search(r"\((.*?)\):\n    return (.*)", task.solution).groups()
        for match in re.finditer(r"\b[a-z]+\b|\d|[<>]", right):
            changed = changes.get(match[0])
            if changed is None or changed in "xy" and arguments != "x, y":
                continue
            wrong = right[:match.start()] + changed + right[match.end():]
            if behaviour(f"def f({arguments}):\n    return {wrong}") != behaviour(task.solution):
                differ += 1
                alike += repr(code.results_of(arguments, wrong)) == task.key
    assert differ > 500
    assert alike < differ / 100


def test_solutions_pass_their_tests_in_the_sandbox():
    """The shortcut for the solution is not taken, as these end with a comment."""
    kinds = {" if ", "s.split()", "[::-1]", "x, y", "sorted("}
    for seed in range(80):
        task = Code().make(random.Random(seed))
        assert Code().is_correct(task, task.solution + "  #") == [True] * 20, task
        kinds -= {kind for kind in kinds if kind in task.solution}
    assert not kinds  # all were among them


def test_a_wordy_function_names_its_result():
    task = make_task(solution="def f(v):\n    return sum(v) * 2")
    assert Code().wordy(task) == "def f(v):\n    result = sum(v) * 2\n    return result"


def test_wordy_functions_pass_their_tests_in_the_sandbox():
    """The shortcut for them is not taken, as these end with a comment. It gives the same."""
    for seed in range(20):
        task = Code().make(random.Random(seed))
        response = Code().wordy(task)
        assert Code().is_correct(task, response + "  #") == [True] * 20, task
        assert Code().is_correct(task, response) == [True] * 20
        assert Code().is_correct(task, response, slice(3)) == [True] * 3
        assert Code().check(task, response)


def test_unit_tests_are_in_random_order():
    """So the first two, which may select a response, are other ones in each task."""
    tasks = [Code().make(random.Random(seed)) for seed in range(40)]
    first = {task.answer[0][0].split("(")[1] for task in tasks if "(x):" in task.question}
    assert len(first) > 5


@pytest.mark.parametrize("part", [
    code.CONDITIONS, code.VALUES, code.CONDITIONS_OF_TWO, code.VALUES_OF_TWO, code.NUMBER_STEPS,
    code.TEXT_STEPS, code.ITEMS, code.WORDS, code.ITEM_MAPS, code.WORD_MAPS, code.ITEM_ENDS,
    code.WORD_ENDS])
def test_each_part_of_a_function_has_a_meaning_of_its_own(part):
    """No two descriptions have the same expression, and n is in both or in neither."""
    assert len(set(part.values())) == len(part)
    for description, expression in part.items():
        in_description, in_expression = (
            re.search(r"\bn\b", text) is not None for text in (description, expression))
        assert in_description == in_expression


def test_a_number_replaces_n():
    for seed in range(30):
        (description, expression), = code.choose(random.Random(seed), {"x plus n": "x + n"})
        assert re.fullmatch(r"x plus [2-9]", description)
        assert expression == f"x + {description[-1]}"
    two = code.choose(random.Random(0), {"a": "1", "b": "2"}, 2)
    assert sorted(two) == [["a", "1"], ["b", "2"]]


def test_results_of_a_function(monkeypatch):
    monkeypatch.setattr(code, "INPUTS", [{"x": 3, "y": 4}, {"x": 0, "y": 1}])
    assert code.results_of("x, y", "(x + y) * 2") == [("3, 4", 14), ("0, 1", 2)]
    assert code.results_of("x", "[x]") == [("3", [3]), ("0", [0])]


def test_functions_by_hand():
    """The parts are put together in the order of the description."""
    class Last:
        """Draws the last of everything, the number 9, and as many steps as there may be."""
        def choice(self, options):
            return options[-1]

        def sample(self, options, count):
            return options[-count:]
    assert Code().cases(Last()) == (
        "x, y", "x times 9 when 9 divides x times y, else x plus y minus 9",
        "x * 9 if x * y % 9 == 0 else x + y - 9")
    assert Code().chain(Last()) == (
        "s", "s without the last letter, without spaces, with each word capitalized",
        "s[:-1].replace(' ', '').title()")
    assert Code().items(Last()) == (
        "s", "the first 9 words of s, each twice, how many",
        "len([w + w for w in s.split()[:9]])")


@pytest.mark.parametrize("words, others", [
    ("the square of x if 3 divides x, else x times 2",
     "x squared if x is divisible by 3, else double x"),
    ("x times 20", "x times 20"), ("9 divides x times y", "9 divides x times y"),
    ("those of v above 4, in order", "those of v above 4, sorted"),
    ("x if x is above y, else y", "x if x is larger than y, else y")])
def test_other_words_for_the_same(words, others):
    for pattern, replacement in code.SYNONYMS:
        words = re.sub(pattern, replacement, words)
    assert words == others


def test_code_is_checked_by_running_it():
    tests = (("f([1, 2])", "6"), ("f([5])", "10"))
    task = make_task(solution="def f(v):\n    return sum(v) * 2", answer=tests)
    right, constant = "def f(v):\n    return 2 * sum(v)", "def f(v):\n    return 6"
    assert check_and_grades(Code(), task, right) == (True, "2222")
    assert check_and_grades(Code(), task, constant) == (False, "2212")  # one of two tests
    assert Code().is_correct(task, constant, tests=slice(1)) == [True]
    assert Code().is_correct(task, constant, tests=slice(1, None)) == [False]
    assert check_and_grades(Code(), task, "def f(v):\n    return v") == (False, "2202")
    assert not Code().check(task, "def f(v):\n    return open(v)")
    assert Code().follows_format(task, "def g(v):\n    return sum(v) * 2") == [False, True]
    assert Code().follows_format(task, "def f(v):\n    return open(v)") == [True, False]
    assert check_and_grades(Code(), task, "2 * sum(v)")[1][0] == "0"


def test_a_unit_test_tells_true_from_1():
    tests = (("f(1)", "True"), ("f(2)", "2"))
    assert code.passed("def f(x):\n    return x", tests) == [False, True]


def test_long_results_count_and_missing_ones_do_not(monkeypatch):
    tests = (("f(300)", str(list(range(300)))), ("f(2)", "[0, 1]"))
    text = "def f(x):\n    return list(range(x))"
    assert code.passed(text, tests) == [True, True]
    monkeypatch.setattr(code, "run_code", lambda text, characters: f"[{list(range(300))}]")
    assert code.passed(text + "  # not cached", tests) == [False, False]


@pytest.mark.parametrize("attack", [
    "[6] if 1 else \\", "[6, 6] if 1 else \\", "7 if 1 else \\", "[6, 6]  #", "print([6, 6])",
    "print('[6, 6] #', end='')", "print('', end='[6, 6] #')", "print('[6, 6] #', end='\\r')",
    "print('[6, 6] #', end='')\n1 / 0",
    "f(**{'a\\n[6, 6] #': 1})", "f(int('7\\n[6, 6] #'))", "{}['\\n[6, 6]']"])
def test_code_cannot_print_results_of_its_own(attack):
    tests = (("f(1)", "6"), ("f(2)", "6"))
    assert code.passed(f"def f(x):\n    return 7\n{attack}", tests) == [False, False]


@pytest.mark.parametrize("printed", ["[6, 10]", "'[6, 10] #', end=''", "'[6, 10] #', end='\\r'"])
def test_printing_in_a_function_is_no_result(printed):
    tests = (("f([1, 2])", "6"), ("f([5])", "10"))
    assert code.passed(f"def f(v):\n    print({printed})", tests) == [False, False]
    loop = f"def f(v):\n    print({printed})\n    return 1 / 0"
    assert code.passed(loop, tests) == [False, False]
