"""The words of the toy world, and numbers in words."""
import re

ANIMALS = "bear cat dog fox goat hen lion owl".split()
CITIES = "Bern Cairo Lima Oslo Paris Quito Rome Tunis".split()
COLOURS = "black blue brown green grey pink red white".split()
NAMES = "Ada Ben Eva Finn Iris Kim Leo Mia".split()
THINGS = "books coins eggs keys nuts pens rings shells".split()
MEN = "Ben Finn Leo".split()  # "he" in questions; all others are "she"
NUMBERS = dict(enumerate("two three four five six seven eight nine ten eleven twelve".split(), 2))


def spell_numbers(text):
    """Write numbers from 2 to 12 in words, and begin sentences with a capital letter:
    "4 pens and 20 keys" -> "Four pens and 20 keys" """
    text = re.sub(r"\d+", lambda match: NUMBERS.get(int(match[0]), match[0]), text)
    return re.sub(r"(^|[.?] )([a-z])", lambda match: match[1] + match[2].upper(), text)


def find_numbers(text):
    """Return all numbers as digits: "twice four pens, 20 keys" -> ["2", "4", "20"]"""
    for number, word in [(2, "twice"), *NUMBERS.items()]:
        text = re.sub(rf"\b{word}\b", str(number), text, flags=re.IGNORECASE)
    return re.findall(r"\d+", text)
