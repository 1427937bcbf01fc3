"""Word problems for the family Math (tasks.py), and the check of solutions to them.

A solution is a chain of steps, such as "4*5=20. 20-3=17.": each step starts with the result of the
one before. Apple's report rewrites given problems into new ones ("evolves" them), which is imitated
by the kinds other than "plain":

    rephrased  a plain story in other words
    reversed   gives the end of a story, and asks for its beginning
    deeper     a plain story with three or four changes, not one or two
    broader    other topics with other chains: ages, rates, sharing, prices, times
"""
import re
import typing

from afm_min.world.words import MEN, find_numbers

KINDS = ("rephrased", "reversed", "deeper", "broader")  # the evolved ones; there is also "plain"
OPERATORS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b,
             "/": lambda a, b: a // b if b and a % b == 0 else None}  # None: not a whole number

class Story(typing.NamedTuple):
    """Phrasings of each part of a story. {n} is a change, {friend} another person."""
    beginnings: tuple
    more: tuple  # add n
    fewer: tuple  # subtract n
    questions: tuple


STORIES = {  # kind -> stories
    "plain": (
        Story(("{name} has {start} {thing}.", "{name} has {start} {thing}.",
               "{name} buys {start} {thing}."),
              ("{name} buys {n}.", "{name} finds {n}.", "{name} finds {n} more.",
               "{name} gets {n} more.", "{friend} brings {n} more."),
              ("{name} loses {n}.", "{name} sells {n}.", "{name} gives {n} to {friend}.",
               "{name} gives {n} of them to {friend}.", "{n} of them break."),
              ("How many {thing} does {name} have?", "How many {thing} does {name} have now?",
               "How many {thing} are left?", "How many are left?")),
        Story(("{name} had {start} {thing}.",),
              ("{name} bought {n}.", "{name} found {n} more.", "{friend} brought {n}."),
              ("{name} lost {n}.", "{name} sold {n}.", "{name} gave {n} to {friend}.",
               "{n} of them broke."),
              ("How many {thing} does {name} have now?", "How many {thing} are left?",
               "How many are left?")),
        Story(("There are {start} {thing}.", "There are {start} {thing} on the table."),
              ("{name} brings {n}.", "A friend gives {n}.", "{name} adds {n}.",
               "{name} adds {n} more."),
              ("{name} takes {n}.", "A friend breaks {n}.", "{name} takes away {n}.",
               "{n} of them break."),
              ("How many {thing} are there?", "How many {thing} are there now?",
               "How many are left?")),
        Story(("I have {start} {thing}.",),
              ("I buy {n}.", "I find {n} more.", "I get {n} more.", "{friend} gives me {n}."),
              ("I lose {n}.", "I sell {n}.", "I give {n} to {friend}.", "{friend} takes {n}."),
              ("How many {thing} do I have?", "How many {thing} do I have now?",
               "How many are left?"))),
    "rephrased": (
        Story(("{start} {thing} were in the box of {name}.",),
              ("Then {n} came in.", "Later {n} were added."),
              ("Then {n} went out.", "Later {n} were taken."),
              ("How many {thing} are in it now?",)),
        Story(("The bag of {name} held {start} {thing}.",),
              ("{n} were put in.", "{n} came in."), ("{n} were taken out.", "{n} fell out."),
              ("How many {thing} does it hold?",))),
    "reversed": (
        Story(("{name} has {total} {thing} now.",),
              ("Before, {name} bought {n}.", "Before, {name} found {n}."),
              ("Before, {name} lost {n}.", "Before, {name} sold {n}."),
              ("How many {thing} did {name} have at first?",)),
        Story(("{name} ends with {total} {thing}.",),
              ("Before, {n} came.", "Before, {name} got {n}."),
              ("Before, {n} went.", "Before, {name} gave away {n}."),
              ("With how many {thing} did {name} begin?",)))}
LOTS = ("{lots} lots of {size}", "{lots} boxes of {size}", "{lots} bags of {size}")

# A chain, and two problems that it solves. A chain is worked out from left to right, so that with
# x = 14 and y = 3, "x - y * 2" is 22.
TOPICS = (
    ("x + y * 2",
     "{A} is {x} years old. {B} is {y} years older. {C} is twice as old as {B}. How old is {C}?",
     "{C} is twice as old as {B}. {B} is {y} years older than {A}, who is {x}. How old is {C}?"),
    ("x - y + z",
     "{A} is {x} years old. {B} is {y} years younger. How old is {B} in {z} years?",
     "{B} is {y} years younger than {A}, who is {x}. How old is {B} in {z} years?"),
    ("x * y + z",
     "{A} reads {x} pages a day for {y} days, then {z} more. How many pages is that?",
     "For {y} days {A} writes {x} letters a day, and {z} on the day after. How many is that?"),
    ("x * y - z",
     "A machine makes {x} {thing} an hour for {y} hours. {z} break. How many are left?",
     "{A} earns {x} coins a week for {y} weeks and spends {z}. How many coins are left?"),
    ("x + y / z",
     "{A} has {x} {thing}, {B} has {y}. {z} children share them. How many does each get?",
     "{z} children share {x} old and {y} new {thing}. How many does each get?"),
    ("x / y + z",
     "{y} children share {x} {thing}. One of them is {A}, who finds {z} more. How many has {A}?",
     "{A} puts {x} {thing} evenly into {y} bags, then {z} more into one. How many are in it?"),
    ("x * y + z",
     "A pen costs {x} coins, a book {z}. {A} buys {y} pens and a book. How many coins is that?",
     "How much are {y} eggs at {x} coins each and a ring at {z} coins?"),
    ("x / y * z",
     "{y} pens cost {x} coins. How many coins do {z} pens cost?",
     "{A} pays {x} coins for {y} eggs. What does {B} pay for {z} eggs?"),
    ("x * y + z",
     "A lesson takes {x} minutes. {A} has {y} and a break of {z}. How many minutes is that?",
     "The show starts at minute {z}. It has {y} parts of {x} minutes. When does it end?"),
    ("x - y * 2",
     "The road takes {x} minutes, the path {y} less. {A} walks the path twice. How long is that?",
     "{A} walks a path twice. It is {y} minutes shorter than a road of {x}. How long is the walk?"))

# Phrasings of a further question: add n, subtract n, question.
FOLLOW_UPS = (("Then {n} more come.", "Then {n} go.", "How many now?"),
              ("Now add {n}.", "Now take {n} away.", "How many is that?"),
              ("Then {n} are added.", "Then {n} are taken.", "How many are there now?"),
              ("And {n} more.", "And {n} fewer.", "How many is that?"))


def draw_changes(total, count, rng):
    """Return `count` changes by 2 to 9, such as [3, -5], that keep the total above 1."""
    changes = []
    for _ in range(count):
        change = rng.randint(2, 9)
        if total > change + 1 and rng.random() >= 0.5:
            change = -change
        changes.append(change)
        total += change
    return changes


def steps_from(total, changes):
    """Return the steps and the new total: 7, [3, -5] -> ["7+3=10.", "10-5=5."], 5"""
    steps = []
    for change in changes:
        steps.append(f"{total}{change:+}={total + change}.")  # :+ writes 3 as "+3"
        total += change
    return steps, total


def draw_story(kind, rng, names, thing):
    """Return the question, steps and answer of a problem of a kind other than "broader"."""
    slots = {"name": names[0], "friend": names[1], "thing": thing}
    story = rng.choice(STORIES.get(kind, STORIES["plain"]))
    first = rng.randint(4, 20)
    start, steps = str(first), []
    in_lots = kind != "reversed" and rng.random() < 0.3
    if in_lots:
        lots, size = rng.randint(2, 4), rng.randint(2, 5)
        first = lots * size
        start, steps = rng.choice(LOTS).format(lots=lots, size=size), [f"{lots}*{size}={first}."]
    count = rng.choice([3, 4] if kind == "deeper" else [1, 2, 2, 2])
    changes = draw_changes(first, count, rng)
    sentences = []
    for change in changes:
        phrasings = story.more if change > 0 else story.fewer
        if in_lots:  # "them" could be the lots
            phrasings = [text for text in phrasings if "of them" not in text]
        sentences.append(rng.choice(phrasings).format(n=abs(change), **slots))
    more_steps, total = steps_from(first, changes)
    beginning = rng.choice(story.beginnings).format(start=start, total=total, **slots)
    questions = [text for text in story.questions  # after a gain, do not ask what is left
                 if changes[-1] < 0 or "left" not in text]
    question = rng.choice(questions).format(**slots)
    if kind == "reversed":  # the question gives the total: undo the changes, the last one first
        sentences.reverse()
        steps, total = steps_from(total, [-change for change in reversed(changes)])
    else:
        steps += more_steps
    text = " ".join([beginning, *sentences, question])
    return vary(text, *names[:2], rng) if kind == "plain" else text, steps, total


def vary(text, name, friend, rng):
    """Join the first two sentences if both are about the same person, and use pronouns, at random:

    "Ben has 9 pens. Ben loses 3. How many pens does Ben have?"
    -> "If Ben has 9 pens and loses 3, how many pens does he have?" """
    person = "I" if text.startswith("I ") else name
    if text.startswith(person) and rng.random() < 0.4:
        # The second sentence may begin with a number, too: "3 of them break."
        joined = re.sub(rf"^([^.]*)\. (?:{person} |(?=\d))", r"\1 and ", text)
        one_change = joined != text and joined.count(".") == 1
        if one_change and " had " not in joined and rng.random() < 0.4:
            joined = f"If {joined}".replace(". How", ", how")
        text = joined
    if name in text and friend not in text and rng.random() < 0.4:  # "she" could be the friend
        pronoun = "he" if name in MEN else "she"
        head, _, tail = text.partition(name)  # the first name stays
        tail = tail.replace(f"does {name}", f"does {pronoun}").replace(name, pronoun.title())
        text = f"{head}{name}{tail}"
    return text


def work_out(chain, numbers):
    """Return the steps and the result of a chain. The result is None if a step has none above 0:
    "x + y * 2", {"x": 4, "y": 3} -> ["4+3=7.", "7*2=14."], 14"""
    first, *operations = chain.split()  # "x" and "+", "y", "*", "2"
    steps, total = [], numbers[first]
    for sign, token in zip(operations[::2], operations[1::2]):
        number = numbers[token] if token in numbers else int(token)
        result = OPERATORS[sign](total, number)
        if result is None or result <= 0:
            return steps, None
        steps.append(f"{total}{sign}{number}={result}.")
        total = result
    return steps, total


def draw_topic(rng, names, thing):
    """Return the question, steps and answer of a "broader" problem with three people's names."""
    chain, *phrasings = rng.choice(TOPICS)
    total = None
    while total is None:
        x = rng.randint(2, 9) if chain.startswith("x *") else rng.randint(4, 15)
        numbers = {"x": x, "y": rng.randint(2, 6), "z": rng.randint(2, 6)}
        steps, total = work_out(chain, numbers)
    people = dict(zip("ABC", names))
    return rng.choice(phrasings).format(**numbers, **people, thing=thing), steps, total


def draw_follow_up(total, rng):
    """Return a further question about a known total, its steps and its answer:
    7 -> "Then 3 more come. How many now?", ["7+3=10."], 10"""
    more, fewer, question = rng.choice(FOLLOW_UPS)
    changes = draw_changes(total, rng.randint(1, 2), rng)
    story = [(more if change > 0 else fewer).format(n=abs(change)) for change in changes]
    steps, total = steps_from(total, changes)
    return " ".join([*story, question]), steps, total


def verified_answer(question, response):
    """Return the answer of a worked solution as text if its steps are valid, else None.

    Many wrong solutions reach the right answer by chance. So each step must be true and start with
    the result of the one before, and each number of the question is used once ("twice" is a 2):
    ("Ada has 4 pens. Ada buys 3. ..", "4+3=7. The answer is 7.") -> "7" """
    match = re.fullmatch(r"((?:\d+[-+*/]\d+=\d+\. )+)The answer is (\d+)\.", response)
    if not match:
        return None
    shown, answer = match.groups()
    steps = re.findall(r"(\d+)(.)(\d+)=(\d+)", shown)
    lefts, _, rights, results = zip(*steps)
    # Each result is the left number of the next step; the last one is the answer.
    connected = results == (*lefts[1:], answer)
    true = all(OPERATORS[sign](int(left), int(right)) == int(result)
               for left, sign, right, result in steps)
    same_numbers = sorted([lefts[0], *rights]) == sorted(find_numbers(question))
    return answer if connected and true and same_numbers else None
