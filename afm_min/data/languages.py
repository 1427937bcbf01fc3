"""Generated files of code in ten languages, since the standard library is in Python alone.

Each function goes through a list. Its goal, condition and names are drawn at random: sumEvenCoins,
countLargePens, ...
"""
import random

from afm_min.world.words import THINGS

TEMPLATE = """\
// Return {goal} {kind} {x}s.
{header} {{
    {variable} = 0;
    {loop} {{
        if ({condition}) {{
            total {change};
        }}
    }}
    return total;
}}
"""
# Suffix -> header of a function, declaration of a variable, header of a loop. In C, 0 ends a list.
SYNTAX = {
    ".c": ("int {name}(const int *{x}s)", "int total", "for (int {x}; ({x} = *{x}s); {x}s++)"),
    ".cpp": ("int {name}(const std::vector<int>& {x}s)", "int total", "for (int {x} : {x}s)"),
    ".cs": ("static int {name}(int[] {x}s)", "var total", "foreach (int {x} in {x}s)"),
    ".go": ("func {name}({x}s []int) int", "var total int", "for _, {x} := range {x}s"),
    ".java": ("static int {name}(int[] {x}s)", "int total", "for (int {x} : {x}s)"),
    ".js": ("function {name}({x}s)", "let total", "for (const {x} of {x}s)"),
    ".kt": ("fun {name}({x}s: List<Int>): Int", "var total", "for ({x} in {x}s)"),
    ".rs": ("fn {name}({x}s: &[i32]) -> i32", "let mut total", "for &{x} in {x}s"),
    ".swift": ("func {name}(_ {x}s: [Int]) -> Int", "var total", "for {x} in {x}s"),
    ".ts": ("function {name}({x}s: number[]): number", "let total", "for (const {x} of {x}s)")}
GOALS = {  # first word of the name -> (what is returned, how a value changes it)
    "sum": ("the sum of the", "+= {x}"), "count": ("the number of", "+= 1"),
    "find": ("the last of the", "= {x}"), "square": ("the sum of squares of the", "+= {x} * {x}")}
CONDITIONS = {"Even": "{x} % 2 == 0", "Odd": "{x} % 2 != 0", "Large": "{x} > {n}",
              "Small": "{x} < {n}", "Other": "{x} != {n}", "Divisible": "{x} % {n} == 0"}


def draw_function(suffix, rng):
    """Return the text of a function in the language of files with this suffix."""
    verb, (goal, change) = rng.choice(list(GOALS.items()))
    kind, condition = rng.choice(list(CONDITIONS.items()))
    x, n = rng.choice(THINGS)[:-1], rng.randint(3, 99)  # "coins" -> "coin"
    header, variable, loop = SYNTAX[suffix]
    name = f"{verb}{kind}{x.title()}s"
    return TEMPLATE.format(
        goal=goal, kind=kind.lower(), x=x, header=header.format(name=name, x=x), variable=variable,
        loop=loop.format(x=x), condition=condition.format(x=x, n=n), change=change.format(x=x))


def files(count=25):
    """Yield `count` files of each suffix. lists0.c, lists0.go, ... are one topic."""
    rng = random.Random(0)
    for i in range(count):
        for suffix in SYNTAX:
            functions = [draw_function(suffix, rng) for _ in range(rng.randint(3, 6))]
            yield {"name": f"lists{i}{suffix}", "text": "\n".join(functions), "licence": "CC0-1.0"}
