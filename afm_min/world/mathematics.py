"""Word problems for the family Math (tasks.py): stories, topics, and the check of worked solutions.

A solution is a chain of steps: the first number of a step is the result of the one before. The
kinds other than "plain" imitate the problems that the report "evolves" from given ones:

    rephrased  a plain story in other words
    reversed   gives the end of a story, and asks for its beginning
    deeper     a plain story with three or four changes, not one or two
    broader    another topic with another structure: ages, rates, sharing, prices, times
"""
import re

KINDS = ("rephrased", "reversed", "deeper", "broader")  # and "plain"
OPERATORS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b,
             "/": lambda a, b: a // b if b and a % b == 0 else None}  # None: not a whole number

# Kind -> phrasings: beginning, two ways to add n, two ways to subtract n, question.
STORIES = {
    "plain": (
        ("{name} has {start} {thing}.", "{name} buys {n}.", "{name} finds {n}.",
         "{name} loses {n}.", "{name} sells {n}.", "How many {thing} does {name} have?"),
        ("There are {start} {thing}.", "{name} brings {n}.", "A friend gives {n}.",
         "{name} takes {n}.", "A friend breaks {n}.", "How many {thing} are there?")),
    "rephrased": (
        ("{start} {thing} were in the box of {name}.", "Then {n} came in.", "Later {n} were added.",
         "Then {n} went out.", "Later {n} were taken.", "What number of {thing} is in it now?"),
        ("The bag of {name} held {start} {thing}.", "{n} were put in.", "{n} were a gift.",
         "{n} were taken out.", "{n} fell out.", "What number of {thing} does it hold?")),
    "reversed": (
        ("{name} has {total} {thing} now.", "Before, {name} bought {n}.",
         "Before, {name} found {n}.", "Before, {name} lost {n}.", "Before, {name} sold {n}.",
         "How many {thing} did {name} have first?"),
        ("{name} ends with {total} {thing}.", "Before, {n} came.", "Before, {name} got {n}.",
         "Before, {n} went.", "Before, {name} gave {n}.",
         "With how many {thing} did {name} begin?"))}

# Chain, worked out from left to right, and phrasings of a problem that it solves.
TOPICS = (
    ("x + y * 2",
     "{A} is {x} years old. {B} is {y} years older. {C} is twice as old as {B}. How old is {C}?",
     "{C} is twice as old as {B}. {B} is {y} years older than {A}, who is {x}. How old is {C}?"),
    ("x - y + z",
     "{A} is {x} years old. {B} is {y} years younger. How old is {B} in {z} years?",
     "How old is {B} in {z} years, being {y} years younger than {A}, who is {x}?"),
    ("x * y + z",
     "{A} reads {x} pages a day for {y} days, then {z} more. How many pages is that?",
     "For {y} days {A} writes {x} letters a day, and {z} on the day after. How many is that?"),
    ("x * y - z",
     "A machine makes {x} {thing} an hour for {y} hours. {z} break. How many are left?",
     "{A} earns {x} coins a week for {y} weeks and spends {z}. How many coins are left?"),
    ("x + y / z",
     "{A} has {x} {thing}, {B} has {y}. They share all among {z} children. How many has each?",
     "{z} children share {x} old and {y} new {thing}. How many does each get?"),
    ("x / y + z",
     "{y} children share {x} {thing}. One of them is {A}, who finds {z} more. How many has {A}?",
     "{A} puts {x} {thing} evenly into {y} bags, then {z} more into one. How many are in it?"),
    ("x * y + z",
     "A pen costs {x} coins, a book {z}. {A} buys {y} pens and a book. How many coins is that?",
     "What do {y} eggs for {x} coins each and a ring for {z} coins cost?"),
    ("x / y * z",
     "{y} pens cost {x} coins. How many coins do {z} pens cost?",
     "{A} pays {x} coins for {y} eggs. What does {B} pay for {z} eggs?"),
    ("x * y + z",
     "A lesson takes {x} minutes. {A} has {y} lessons and {z} minutes of break. How long is that?",
     "The show starts at minute {z}. It has {y} parts of {x} minutes. When does it end?"),
    ("x - y * 2",
     "The road takes {x} minutes, the path {y} less. {A} walks the path twice. How long is that?",
     "{A} walks a path twice. It is {y} minutes shorter than the road of {x}. How long is that?"))

# Phrasings of a further question: n more, n fewer, question.
FOLLOW_UPS = (("Then {n} more come.", "Then {n} go.", "How many now?"),
              ("Now add {n}.", "Now take {n} away.", "What is left?"))


def draw_changes(total, count, rng):
    """Return `count` changes by 2 to 6 after which the total is still above 0, such as [3, -5]."""
    changes = []
    for _ in range(count):
        n = rng.randint(2, 6)
        change = n if total <= n or rng.random() < 0.5 else -n
        changes.append(change)
        total += change
    return changes


def steps_from(total, changes):
    """Return the steps and the new total: 7, [3, -5] -> ["7+3=10.", "10-5=5."], 5"""
    steps = []
    for change in changes:
        steps.append(f"{total}{change:+}={total + change}.")  # :+ writes the sign: "10-5=5."
        total += change
    return steps, total


def draw_story(kind, rng, name, thing):
    """Return the question, steps and answer of a problem of any kind but "broader"."""
    slots = {"name": name, "thing": thing}
    beginning, more, also_more, fewer, also_fewer, question = rng.choice(
        STORIES.get(kind, STORIES["plain"]))
    first = start = rng.randint(4, 15)  # start: as told, 7 or "4 lots of 5"
    steps = []
    if rng.random() < 0.3:
        lots, size = rng.randint(2, 4), rng.randint(2, 5)
        first, start = lots * size, f"{lots} lots of {size}"
        steps.append(f"{lots}*{size}={first}.")
    count = rng.choice([3, 4] if kind == "deeper" else [1, 2, 2, 2])
    changes = draw_changes(first, count, rng)
    story = [rng.choice((more, also_more) if change > 0 else (fewer, also_fewer))
             .format(n=abs(change), **slots) for change in changes]
    more_steps, total = steps_from(first, changes)
    beginning = beginning.format(start=start, total=total, **slots)
    if kind == "reversed":
        story.reverse()
        steps, total = steps_from(total, [-change for change in reversed(changes)])
    else:
        steps += more_steps
    return " ".join([beginning, *story, question.format(**slots)]), steps, total


def draw_topic(rng, names, thing):
    """Return the question, steps and answer of a "broader" problem. names: three."""
    chain, *phrasings = rng.choice(TOPICS)
    while True:  # until all results are whole numbers above 0
        x = rng.randint(2, 9) if chain.startswith("x *") else rng.randint(4, 15)
        slots = {"x": x, "y": rng.randint(2, 6), "z": rng.randint(2, 6)}
        steps, total = [], x
        tokens = chain.split()[1:]  # "x + y * 2" -> "+", "y", "*", "2"
        for sign, token in zip(tokens[::2], tokens[1::2]):
            number = slots.get(token) or int(token)
            result = OPERATORS[sign](total, number)
            if not result or result < 0:
                break
            steps.append(f"{total}{sign}{number}={result}.")
            total = result
        else:
            slots |= dict(zip("ABC", names), thing=thing)
            return rng.choice(phrasings).format(**slots), steps, total


def draw_follow_up(total, rng):
    """Return the question, steps and answer of a further question about a known total:
    7 -> "Then 3 more come. How many now?", ["7+3=10."], 10"""
    more, fewer, question = rng.choice(FOLLOW_UPS)
    changes = draw_changes(total, rng.randint(1, 2), rng)
    story = [(more if change > 0 else fewer).format(n=abs(change)) for change in changes]
    return " ".join([*story, question]), *steps_from(total, changes)


def verified_answer(question, response):
    """Return the answer of a response if all the steps that it shows hold, else None.

    Many wrong solutions reach the right answer by chance. So each step has to be true and to
    start from the result of the one before, and the steps have to use exactly the numbers of
    the question, where "twice" is a 2:
    ("Ada has 4 pens. Ada buys 3. ..", "4+3=7. The answer is 7.") -> "7"
    A response without steps has nothing to check: "The answer is 7." -> "7" """
    match = re.fullmatch(r"((?:\d+[-+*/]\d+=\d+\. )*)The answer is (\d+)\.", response)
    if not match or not match[1]:
        return match and match[2]
    steps = re.findall(r"(\d+)(.)(\d+)=(\d+)", match[1])
    lefts, _, rights, results = zip(*steps)
    # Each result is the left number of the next step; the last one is the answer.
    connected = results == (*lefts[1:], match[2])
    true = all(OPERATORS[sign](int(left), int(right)) == int(result)
               for left, sign, right, result in steps)
    numbers = re.findall(r"\d+", question.replace("twice", "2"))
    same_numbers = sorted([lefts[0], *rights]) == sorted(numbers)
    return match[2] if connected and true and same_numbers else None
