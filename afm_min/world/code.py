"""The family Code: functions to write, checked by running their unit tests."""
import ast
import functools
import random
import re

from afm_min.world.sandbox import run_code, violation
from afm_min.world.tasks import Family, Task
from afm_min.world.words import COLOURS, THINGS

# Parts of functions: {description: expression}. Each n is replaced by a number from 2 to 9.
CONDITIONS = {"x is even": "x % 2 == 0", "x is odd": "x % 2 == 1", "x is above n": "x > n",
              "x is below n": "x < n", "x ends in n": "x % 10 == n", "n divides x": "x % n == 0"}
VALUES = {"x": "x", "n": "n", "x plus n": "x + n", "x minus n": "x - n", "x times n": "x * n",
          "n minus x": "n - x", "the square of x": "x * x", "half of x": "x // 2",
          "the rest of x by n": "x % n", "x with the sign changed": "-x"}
CONDITIONS_OF_TWO = {"x is above y": "x > y", "x is y": "x == y", "y is even": "y % 2 == 0",
                     "n divides y": "y % n == 0", "x plus y is odd": "(x + y) % 2 == 1",
                     "n divides x times y": "x * y % n == 0"}
VALUES_OF_TWO = {"x": "x", "y": "y", "x plus y": "x + y", "x minus y": "x - y",
                 "x times y": "x * y", "the larger": "max(x, y)", "the smaller": "min(x, y)",
                 "y plus n": "y + n", "x times n": "x * n", "x plus y minus n": "x + y - n"}
# Steps of a chain; {} is the expression before the step: "x + 3" in "({} + 3)".
NUMBER_STEPS = {"plus n": "({} + n)", "minus n": "({} - n)", "times n": "{} * n",
                "the half": "{} // 2", "the rest by n": "{} % n", "the last digit": "{} % 10"}
TEXT_STEPS = {"backwards": "{}[::-1]", "in capital letters": "{}.upper()", "twice": "({} * 2)",
              "the first n letters": "{}[:n]", "the last n letters": "{}[-n:]",
              "without the first letter": "{}[1:]", "without the last letter": "{}[:-1]",
              "without spaces": "{}.replace(' ', '')", "with each word capitalized": "{}.title()"}
# The parts of a list comprehension over the items x of a list v, or the words w of a text s: a
# filter or slice, the value for each item, and a function of the whole list.
ITEMS = {"v": "", "the even ones of v": " if x % 2 == 0", "the odd ones of v": " if x % 2 == 1",
         "those of v above n": " if x > n", "those of v below n": " if x < n",
         "the first n of v": "[:n]", "the last n of v": "[-n:]"}
WORDS = {"the words of s": "", "the words of s with an e": " if 'e' in w",
         "the words of s that begin with b": " if w.startswith('b')",
         "the words of s that end in s": " if w.endswith('s')",
         "the words of s but the first": "[1:]", "the first n words of s": "[:n]"}
ITEM_MAPS = {"": "x", "each plus n": "x + n", "each minus n": "x - n", "each times n": "x * n",
             "the square of each": "x * x", "the rest of each by n": "x % n"}
WORD_MAPS = {"": "w", "each backwards": "w[::-1]", "each in capital letters": "w.upper()",
             "the first n letters of each": "w[:n]", "the last letter of each": "w[-1]",
             "each without its first letter": "w[1:]", "each twice": "w + w"}
ITEM_ENDS = {"": "{}", "in order": "sorted({})", "backwards": "{}[::-1]", "the sum": "sum({})",
             "the first n of them": "{}[:n]", "sorted without repeats": "sorted(set({}))"}
WORD_ENDS = {"": "{}", "in order": "sorted({})", "backwards": "{}[::-1]",
             "in one text": "' '.join({})", "how many": "len({})"}

# Other words for parts of a description, as regular expressions and their replacements.
SYNONYMS = (("the square of x", "x squared"), (r"\bx times 2\b", "double x"),
            (r"\b(\d) divides x\b(?! times)", r"x is divisible by \1"),
            ("is above", "is larger than"), ("begin with", "start with"), ("in order", "sorted"))


def make_inputs():
    """Return 20 test inputs, each with numbers x and y, a text s, and a list v.

    Functions that differ must differ on one of them: "x is above 4" and "x is above 5" do so for 5.
    So x takes all n from 2 to 9, their neighbours, and two-digit numbers that end in each n; y has
    multiples of them; and some x equal y."""
    rng = random.Random(0)
    xs = [-3, *range(1, 14), 34, 55, 76, 97, 18, 59]
    ys = [5, 1, 3, 2, 4, 6, 5, 7, 9, 8, 11, 10, 12, 16, 14, 3, 18, 20, 18, 35]
    return [{"x": x, "y": y, "s": " ".join(rng.sample(THINGS + COLOURS, rng.randint(1, 9))),
             "v": [rng.randint(0, 12) for _ in range(rng.randint(3, 12))]}
            for x, y in zip(xs, ys, strict=True)]


INPUTS = make_inputs()


def results_of(arguments, expression):
    """Evaluate an expression for all INPUTS. Return pairs (arguments as text, result):
    "x, y", "x + y" -> [("-3, 5", 2), ("1, 1", 2), ...]"""
    function = eval(f"lambda {arguments}: {expression}")
    rows = [[inputs[name] for name in arguments.split(", ")] for inputs in INPUTS]
    return [(", ".join(map(repr, values)), function(*values)) for values in rows]


def choose(rng, parts, count=1):
    """Draw `count` different parts, and a number for the n of each:
    (rng, VALUES) -> [["x plus 4", "x + 4"]]"""
    chosen = []
    for part in rng.sample([*parts.items()], count):
        number = rng.choice("23456789")
        chosen.append([re.sub(r"\bn\b", number, text) for text in part])
    return chosen


class Code(Family):
    """A function of one line to write: "Write g(x): x plus 3 if x is even, else x times 2."

    The function has two cases, or it is a chain of steps, or a list comprehension. Responses are
    checked by unit tests: its results for INPUTS, in random order. The key is the results, so no
    two splits share a function, whatever its name and description."""
    REQUESTS = ("Write {}: {}.", "Write {}: {}.", "Write a function {}: {}.",
                "Write {} that returns {}.", "Write a function {} that returns {}.",
                "I need a function {}: {}.")
    CASES = ("{} if {}, else {}", "{} if {}, otherwise {}", "{} when {}, else {}")
    FUNCTION_NAMES = "f g h k run get find solve value".split()

    def make(self, rng):
        kind = rng.choice((self.cases, self.chain, self.items))
        arguments, description, expression = kind(rng)
        for words, others in SYNONYMS:
            if rng.random() < 0.3:
                description = re.sub(words, others, description)
        name = rng.choice(self.FUNCTION_NAMES)
        results = results_of(arguments, expression)
        tests = [(f"{name}({values})", repr(result)) for values, result in results]
        return Task(rng.choice(self.REQUESTS).format(f"{name}({arguments})", description),
                    f"def {name}({arguments}):\n    return {expression}",
                    tuple(rng.sample(tests, len(tests))), key=repr(results))

    # The kinds of functions. Each method returns arguments, description and expression.

    def cases(self, rng):
        """"x", "x plus 3 if x is even, else half of x", "x + 3 if x % 2 == 0 else x // 2" """
        arguments, conditions, values = rng.choice((
            ("x", CONDITIONS, VALUES), ("x, y", CONDITIONS_OF_TWO, VALUES_OF_TWO)))
        condition, test = choose(rng, conditions)[0]
        (value, then), (other, otherwise) = choose(rng, values, 2)
        description = rng.choice(self.CASES).format(value, condition, other)
        return arguments, description, f"{then} if {test} else {otherwise}"

    def chain(self, rng):
        """Two or three different steps: "s", "s backwards, twice", "(s[::-1] * 2)" """
        argument, steps = rng.choice((("x", NUMBER_STEPS), ("s", TEXT_STEPS)))
        descriptions, expression = [], argument
        for description, step in choose(rng, steps, rng.choice((2, 2, 3))):
            descriptions.append(description)
            expression = step.format(expression)
        return argument, f"{argument} {', '.join(descriptions)}", expression

    def items(self, rng):
        """"v", "those of v above 4, each times 3, the sum", "sum([x * 3 for x in v if x > 4])" """
        argument, loop, *tables = rng.choice((
            ("v", "for x in v", ITEMS, ITEM_MAPS, ITEM_ENDS),
            ("s", "for w in s.split()", WORDS, WORD_MAPS, WORD_ENDS)))
        parts = [choose(rng, table)[0] for table in tables]
        description = ", ".join(text for text, _ in parts if text)
        taken, value, end = [expression for _, expression in parts]
        return argument, description, end.format(f"[{value} {loop}{taken}]")

    def wordy(self, task):
        """Assign the result to a variable before it is returned. (The grade for verbosity stays 2
        if the solution is long.) It is right by construction, so no test is run."""
        header, value = task.solution.split("\n    return ")
        return f"{header}\n    result = {value}\n    return result"

    def follows_format(self, task, response):
        """Check that the first line is the wanted header, and that the sandbox allows the code."""
        return [response.split("\n")[0] == task.solution.split("\n")[0], not violation(response)]

    def is_correct(self, task, response, tests=slice(None)):
        """Return the result of each unit test, or of a slice of them."""
        # These are right by construction: the tests are their results.
        if response in (task.solution, self.wordy(task)):
            return [True] * len(task.answer[tests])
        return passed(response, task.answer[tests])


@functools.lru_cache(2**14)
def passed(code, tests):
    """Return one boolean per unit test: True if the code passes it.

    tests: pairs of a call and the text of its result, (("f(2)", "4"), ("f(3)", "9")). Results are
    compared as text, since True == 1. All tests run in one process, so an error fails them all."""
    calls, wanted = zip(*tests)
    # The code cannot fake results: only the last line of the output counts, and the empty line
    # keeps a backslash at the end of the code from joining it to the calls.
    output = run_code(f"{code}\n\n[{', '.join(calls)}]", characters=10_000).splitlines()[-1]
    try:
        results = ast.literal_eval(output)
        return [repr(result) == text for result, text in zip(results, wanted, strict=True)]
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return [False] * len(tests)
