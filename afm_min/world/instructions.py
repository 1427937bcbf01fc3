"""The family Follow: instructions that a program can check, as in IFEval."""
import collections
import re

from afm_min.world.tasks import ANIMALS, CITIES, COLOURS, THINGS, Conversation, Task

LISTS = {"colours": COLOURS, "animals": ANIMALS, "things": THINGS, "cities": CITIES}
MARKS = {"dash": "-", "star": "*", "plus": "+", "slash": "/"}
BETWEEN = ("and", "or", "then")
# Name of a rule: the sentence that gives it, and its values (None: the words of the kind).
INSTRUCTIONS = {
    "kind": ("Name {}.", [*LISTS]),
    "n": ("Name {}.", [2, 3, 4]),
    "mark": ("Put a {} before each.", [*MARKS, *BETWEEN]),
    "first": ("Begin with {}.", None),
    "avoided": ("Do not use {}.", None),
    "end": ("End with {}.", ["Done", "Bye", "Over", "That is all", "I hope this helps"]),
    "order": ("Go from {}.", ["a to z", "z to a"]),
    "capitals": ("Write in capitals.", [True]),
    "lines": ("Put each on a line.", [True]),
    "letters": ("Use at most {} letters a word.", [3, 4, 5])}
# A value for each rule for one list of words. "", False and 0 mean that there is no such rule.
Rules = collections.namedtuple("Rules", INSTRUCTIONS, defaults=("", "", "", "", False, False, 0))
MORE = ("first", "avoided", "order", "capitals", "lines", "letters")  # up to three are given


def sentence(name, value):
    """Return an instruction in words: "n", 3 -> "Name 3." """
    return f"Put {value} between." if value in BETWEEN else INSTRUCTIONS[name][0].format(value)


def draw_value(name, kind, rng):
    """Draw a value of a field of Rules for words of a kind."""
    return rng.choice(INSTRUCTIONS[name][1] or LISTS[kind])


def draw_rules(rng):
    while True:
        kind = rng.choice([*LISTS])
        names = ["n", "mark", *rng.sample(MORE, rng.randint(0, 3))]
        rules = Rules(kind, **{name: draw_value(name, kind, rng) for name in names})
        if possible(rules):
            return rules


def allowed_words(rules):
    """Return the words that the rules allow in the order of the solution: alphabetically, but if
    the first word is prescribed, the words before it in the alphabet are moved to the end."""
    words = [word for word in LISTS[rules.kind] if word != rules.avoided
             and (not rules.letters or len(word) <= rules.letters)]
    words.sort(key=lambda word: word < rules.first)  # False sorts before True
    return words[::-1] if rules.order == "z to a" else words


def possible(rules):
    """Return True if there are words enough and no two rules exclude each other."""
    words = allowed_words(rules)
    return (len(words) >= rules.n and (not rules.first or rules.first in words)
            and not (rules.first and rules.order) and not (rules.lines and rules.mark in BETWEEN))


def solve(rules):
    words = allowed_words(rules)[:rules.n]
    if rules.capitals:
        words = [word.upper() for word in words]
    if rules.mark in BETWEEN:
        text = f" {rules.mark} ".join(words)
    else:
        space = "\n" if rules.lines else " "
        text = space.join(f"{MARKS[rules.mark]} {word}" for word in words)
    return f"{text}. {rules.end}" if rules.end else text


class Follow(Conversation):
    """Words to list: "Name 3 colours. Begin with red. Put a dash before each. End with Done."
    -> "- red - white - black. Done"

    Some tasks continue with a change: "Now put a star before each." The other instructions remain,
    and the key has all of them."""
    follow_up = 0.35

    def begin(self, rng):
        rules, end_asked_by = draw_rules(rng), rng.choice(["", "user", "system"])
        sentences = [sentence(name, value) for name, value in rules._asdict().items()
                     if value and name not in ("kind", "n")]
        if end_asked_by:
            rules = rules._replace(end=draw_value("end", rules.kind, rng))
        if end_asked_by == "user":
            sentences.append(sentence("end", rules.end))
        rng.shuffle(sentences)
        return Task(" ".join([f"Name {rules.n} {rules.kind}.", *sentences]), solve(rules),
                    answer=rules, key=repr(rules),
                    system=f"Always end with {rules.end}." if end_asked_by == "system" else "")

    def proceed(self, task, rng):
        rules = task.answer
        while True:
            name = rng.choice(("kind", "n", "mark", *MORE))
            value = draw_value(name, rules.kind, rng)
            changed = rules._replace(**{name: value})
            if name == "kind":  # the words of the old kind no longer matter
                changed = changed._replace(first="", avoided="")
            if value != getattr(rules, name) and possible(changed):
                break
        text = sentence(name, value)
        return task.then(f"Now {text[0].lower()}{text[1:]}", solve(changed),
                         answer=changed, key=repr(changed))

    def follows_format(self, task, response):
        rules, text = task.answer, response.strip()
        body = text.removesuffix(f". {rules.end}")
        if rules.mark in BETWEEN:
            before, words = "", re.split(rf"\s{rules.mark}\s", body)
        else:  # "- red - white" -> before = "", words = ["red", "white"]
            before, *words = re.split(rf"\s{re.escape(MARKS[rules.mark])} ", f" {body}")
        known = {word.upper() for word in LISTS[rules.kind]}
        upper = [word.upper() for word in words]
        followed = {
            "mark": before == "" and len(words) == rules.n,
            "kind": set(upper) <= known and len(set(upper)) == len(upper) > 0,
            "first": upper[:1] == [rules.first.upper()],
            "avoided": rules.avoided.upper() not in upper,
            "end": text.endswith(f". {rules.end}"),
            "order": len(upper) > 1 and upper == sorted(upper, reverse=rules.order == "z to a"),
            "capitals": words == upper != [],
            "lines": len(body.splitlines()) == rules.n,
            "letters": 0 < max(map(len, words), default=0) <= rules.letters}
        return [result for name, result in followed.items() if getattr(rules, name)]

    def is_correct(self, task, response):
        return []  # there are no facts to get wrong
