"""The family Follow: instructions that a program can check, as in IFEval."""
import collections
import re

from afm_min.world.tasks import Conversation, Task
from afm_min.world.words import ANIMALS, CITIES, COLOURS, THINGS, spell_numbers

LISTS = {"colours": COLOURS, "animals": ANIMALS, "things": THINGS, "cities": CITIES}
MARKS = {"dash": "-", "star": "*", "plus": "+", "slash": "/"}
BETWEEN = ("and", "or", "then")  # marks that stand between the words: "red and white"
REQUESTS = ("Name {n} {kind}.", "List {n} {kind}.", "Give me {n} {kind}.",  # first sentence
            "Please name {n} {kind}.", "Can you name {n} {kind}?")
# Rule -> phrasings of its sentence;
#         a clause that the first sentence may have instead, as in "Name 3 colours, but not red.";
#         the values to choose from (None: the list of the kind).
INSTRUCTIONS = {
    "kind": (("Name {}.",), "", [*LISTS]),
    "n": (("Name {}.",), "", [2, 3, 4]),
    "mark": (("Put a {} before each.", "Write a {} before each.", "Put a {} in front of each."),
             " with a {} before each", [*MARKS, *BETWEEN]),
    "first": (("Begin with {}.", "Start with {}."), " starting with {}", None),
    "avoided": (("Do not use {}.", "Leave out {}."), ", but not {}", None),
    "end": (("End with {}.",), "", ["Done", "Bye", "Over", "That is all", "I hope this helps"]),
    "order": (("Go from {}.", "Sort them from {}."), " from {}", ["a to z", "z to a"]),
    "capitals": (("Write in capital letters.", "Use capital letters."), " in capital letters",
                 [True]),
    "lines": (("Put each on a line.", "Put each on a new line."), ", one per line", [True]),
    "letters": (("Use at most {} letters per word.", "No word has more than {} letters."),
                " of at most {} letters", [3, 4, 5])}
# The values of all rules of a task. kind and n are required; for the others, from "mark" to
# "letters", the default means that there is no such rule.
Rules = collections.namedtuple("Rules", INSTRUCTIONS,
                               defaults=("", "", "", "", "", False, False, 0))
MORE = ("first", "avoided", "order", "capitals", "lines", "letters")  # a task has up to three


def sentence(name, value, rng):
    """Return an instruction in words: "letters", 3 -> "Use at most 3 letters per word." """
    if value in BETWEEN:
        return f'Put "{value}" between them.'
    return rng.choice(INSTRUCTIONS[name][0]).format(value)


def clause(name, value):
    """Return an instruction for the first sentence: "letters", 3 -> " of at most 3 letters" """
    if value in BETWEEN:
        return f' with "{value}" between them'
    return INSTRUCTIONS[name][1].format(value)


def draw_value(name, kind, rng):
    """Draw a value of the rule `name`: "first", "colours" -> "red" """
    return rng.choice(INSTRUCTIONS[name][2] or LISTS[kind])


def draw_rules(rng):
    """Draw a kind, a number, mostly a mark, and up to three more rules that go together."""
    while True:
        kind = rng.choice([*LISTS])
        names = ["n", *rng.sample(MORE, rng.randint(0, 3))]
        if rng.random() < 0.7:
            names.append("mark")
        rules = Rules(kind, **{name: draw_value(name, kind, rng) for name in names})
        if possible(rules):
            return rules


def allowed_words(rules):
    """Return all words that the rules allow, in the order of the solution."""
    words = [word for word in LISTS[rules.kind] if word != rules.avoided
             and (not rules.letters or len(word) <= rules.letters)]
    # LISTS are alphabetical. Move the words before a prescribed first word behind the others: the
    # sort is stable, and False sorts before True.
    words.sort(key=lambda word: word < rules.first)
    return words[::-1] if rules.order == "z to a" else words


def possible(rules):
    """Return True if there are enough words and no two rules exclude each other."""
    words = allowed_words(rules)
    return (len(words) >= rules.n
            and (not rules.first or rules.first in words)
            and not (rules.first and rules.order)
            and not (rules.lines and rules.mark in BETWEEN))


def solve(rules):
    words = allowed_words(rules)[:rules.n]
    if rules.capitals:
        words = [word.upper() for word in words]
    if rules.mark in BETWEEN:
        text = f" {rules.mark} ".join(words)
    elif rules.mark:
        space = "\n" if rules.lines else " "
        text = space.join(f"{MARKS[rules.mark]} {word}" for word in words)
    else:
        text = ("\n" if rules.lines else ", ").join(words)
    return f"{text}. {rules.end}" if rules.end else text


class Follow(Conversation):
    """Words to list: "Name 3 colours. Begin with red. Put a dash before each. End with Done."
    -> "- red - white - black. Done"

    Some tasks continue with a change of one rule: "Now put a star before each." The other rules
    remain. The key contains all of them."""
    follow_up = 0.35

    def begin(self, rng):
        rules = draw_rules(rng)
        end_asked_by = rng.choice(["", "user", "system"])
        asked = [name for name, value in rules._asdict().items()
                 if value and name not in ("kind", "n")]
        if end_asked_by:
            rules = rules._replace(end=draw_value("end", rules.kind, rng))
        request = rng.choice(REQUESTS).format(n=rules.n, kind=rules.kind)
        if asked and rng.random() < 0.3:  # a rule in the first sentence
            name = asked.pop(rng.randrange(len(asked)))
            request = f"{request[:-1]}{clause(name, getattr(rules, name))}{request[-1]}"
        if end_asked_by == "user":
            asked.append("end")
        rng.shuffle(asked)
        sentences = [sentence(name, getattr(rules, name), rng) for name in asked]
        question = " ".join([request, *sentences])
        if rng.random() < 0.15:
            question = spell_numbers(question)
        system = f"Always end with {rules.end}." if end_asked_by == "system" else ""
        return Task(question, solve(rules), answer=rules, key=repr(rules), system=system)

    def proceed(self, task, rng):
        rules = task.answer
        while True:
            name = rng.choice(("kind", "n", "mark", *MORE))
            value = draw_value(name, rules.kind, rng)
            changed = rules._replace(**{name: value})
            if name == "kind":  # the words to begin with and to avoid are of the old kind
                changed = changed._replace(first="", avoided="")
            # A second word to avoid would have to be added to the first.
            again = name == "avoided" and rules.avoided
            if value != getattr(rules, name) and not again and possible(changed):
                break
        text = sentence(name, value, rng)
        return task.then(f"Now {text[0].lower()}{text[1:]}", solve(changed),
                         answer=changed, key=repr(changed))

    def follows_format(self, task, response):
        """Cut the response into words, and return the result of each rule of the task."""
        rules, text = Rules(*task.answer), response.strip()
        body = text.removesuffix(f". {rules.end}").rstrip(".")
        if rules.mark in BETWEEN:
            before, words = "", re.split(rf"\s{rules.mark}\s", body)
        elif not rules.mark:
            before, words = "", re.split(r"\n" if rules.lines else r",\s", body)
        else:  # "- red - white" -> before: "", words: ["red", "white"]
            before, *words = re.split(rf"\s{re.escape(MARKS[rules.mark])} ", f" {body}")
        known = {word.upper() for word in LISTS[rules.kind]}
        upper = [word.upper() for word in words]
        followed = {
            "n": before == "" and len(words) == rules.n,
            "kind": bool(upper) and known.issuperset(upper) and len(set(upper)) == len(upper),
            "first": upper[:1] == [rules.first.upper()],
            "avoided": rules.avoided.upper() not in upper,
            "end": text.endswith(f". {rules.end}"),
            "order": len(upper) > 1 and upper == sorted(upper, reverse=rules.order == "z to a"),
            "capitals": bool(words) and words == upper,
            "lines": len(body.splitlines()) == rules.n,
            "letters": any(words) and max(map(len, words)) <= rules.letters}
        return [result for name, result in followed.items() if getattr(rules, name)]

    def is_correct(self, task, response):
        return []  # there are no facts to get wrong
