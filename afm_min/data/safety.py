"""Safety and personal data: what a page must not contain, and what is removed from it.

A page is dropped if it contains a swearword, or if a classifier finds it unsafe.
"""
import ipaddress
import pathlib
import re

from afm_min.run import UserError


# Safety

# The swearwords are made up, so that no reader of this file meets real ones. The setting
# data.lexicon adds a list of words for a real crawl.
SWEARWORDS = """
    bloddock crombit drabnak fnarge glimp grimbat plogger queb skrunt smoggit snargle thrull trozzle
    vorkle yurgle zuntle""".split()
# Stop words: they do not depend on the topic of a text.
STOPWORDS = set("""
    a about after again all already also am an and any anyone anything are as ask at back be
    because been before being best better between but by call can come could d day days did do
    does don during each eat end ending ends even every everybody everyone everything feel few
    first for friend from get give go going good got great had happen has have he her here herself
    him himself his home house how i if in into is it just keep know last let life like little
    lives ll look lose losing lost m make man many may me might month more most much must my need
    never new next night no nobody not nothing now of off old on one or other our out over own
    part people please put re really reason s said same say says see she should so some someone
    something start stop street such t take tell than that the their them then there these they
    thing things think this those three through time to today told tomorrow tonight too two under
    until up us ve very wait want was watch way we week well were what when where which while who
    why will with without woman work world would year years yet you your yourself""".split())


def swearword_pattern(words):
    """Return a pattern for these words as whole words, with the usual endings: "ploggers" matches
    plogger, but "Thrullbury" and "glimpse" match nothing."""
    alternatives = "|".join(map(re.escape, words))
    return re.compile(rf"\b(?:{alternatives})(?:e?s|e?d|ers?|ing?|t?y)?\b", re.I)


def read_lexicon(path):
    """Return SWEARWORDS and the words in a file, one a line."""
    try:
        lines = pathlib.Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"data.lexicon={path} cannot be read as UTF-8: {error}") from None
    return SWEARWORDS + [line.strip() for line in lines if line.strip()]


def remove_stopwords(text):
    """'I will tell you about her garden' -> 'garden': the input of the safety classifier."""
    words = re.findall(r"\w+", text.lower())
    return " ".join(word for word in words if word not in STOPWORDS)


# Personal data

def is_public(address):
    """'8.8.8.8' -> True; '192.168.0.1' and '300.1.1.1' -> False"""
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


def luhn(digits):
    """'79927398713' -> True: double every other digit from the right; the sum of all digits must be
    a multiple of 10."""
    doubled = [str(int(digit) * (1 + i % 2)) for i, digit in enumerate(reversed(digits))]
    return sum(map(int, "".join(doubled))) % 10 == 0


def iban(code):
    """'GB82WEST12345698765432' -> True: move the first 4 characters to the end and read A as 10 to
    Z as 35; the number modulo 97 must be 1."""
    return int("".join(str(int(c, 36)) for c in code[4:] + code[:4])) % 97 == 1


def dni(code):
    """'12345678Z' -> True: the letter encodes the number modulo 23. X, Y or Z begins the number of
    a foreigner."""
    number = int(code[:-1].translate(str.maketrans("XYZ", "012")))
    return "TRWAGMYFPDXBNJZSQVHLCKE"[number % 23] == code[-1]


# Kind of personal data -> its pattern (re.X: blanks are ignored, [ ] matches a space). The first
# kind that matches takes the text.
PII_PATTERNS = {
    "iban": r"\b [A-Z]{2} \d\d (?:[ ]?[A-Z\d]{4}){2,7} (?:[ ]?[A-Z\d]{1,3})? \b",
    "email": r"""(?<![\w.+%-]) [\w.+%-]+ (?:
        (?: @ | \s? [\[({] \s? at \s? [\])}] \s?)
        (?: [\w-]+ (?: \. | \s? [\[({] \s? dot \s? [\])}] \s?))+ (?! (?: png | jpe?g | gif | svg |
        webp | css | js | ts | json | py | html? | txt | md | zip | pdf | xml | ya?ml | exe | tgz |
        mp[34]) \b) [A-Za-z]{2,} (?![\w(]|\.\w)
        | [ ]at[ ] (?:[\w-]+[ ]dot[ ])+ (?:com|edu|gov|net|org) \b)""",
    "card": r"""\b (?<![.-]) (?= (?:[ -]?\d){13,19} (?![ -]?\d))
        (?:4\d|5[0-8]|2[2-7]|3[04-9]|6\d) \d\d (?:[ -]?\d{4,6}){2,3} (?:[ -]?\d{1,4})?
        (?![\w-]|\.\d)""",
    "national id of Spain": r"\b (?<!-) [\dXYZ]\d{7}-?[A-Z] (?![\w-])",
    "national id of America or Britain": r"""\b (?<!-) (?:
        (?!000|666|9) \d{3} ([ -]) (?!00)\d\d \1 (?!0000)\d{4}
        | (?!BG|GB|NK|KN|TN|NT|ZZ) [A-CEGHJ-PR-TW-Z] [A-CEGHJ-NPR-TW-Z] (?:[ ]?\d\d){3} [ ]?[A-D])
        (?![\w-])""",
    "ip": r"""(?<![\w.:]) (?: \d{1,3} (?:\.\d{1,3}){3} (?!\w|\.\d)
        | [23] [\da-fA-F]{3} (?: :[\da-fA-F]{0,4}){2,7} (?![\w:]))""",
    "phone": r"""(?<![\w.+-]) (?: \+[1-9] (?= (?:\D{0,2}\d){8,14} (?!\d)) \d{0,2}
        (?: [ .-]? (?:\d{1,4} | \(\d{1,4}\))){2,6}
        | (?: 1[ .-])? (?: \([2-9]\d\d\)[ ]? | [2-9]\d\d[ .-]) [2-9]\d\d [ .-] \d{4})
        (?![\w-]|\.\d)"""}
PII_CHECKS = {"iban": iban, "card": luhn, "national id of Spain": dni, "ip": is_public}
# Words before four numbers that are no address: "version 1.2.3.4".
VERSION = re.compile(r"""(?: \w/ | (?<![^\W_]) (?: version\w* | v | (?: release | build |
    firmware | rev | revision | section | clause | chapter | figure | table | oid | kernel |
    paragraph | appendix )s?)) [\s:='"#.v]* \Z""", re.I | re.X)


def find_pii(text):
    """Find personally identifiable information: 'write to me@mail.org' -> [('email', 9, 20)]

    Kinds: email, phone, card, iban, ip (public ones), national id (American, British, Spanish)."""
    spans = []
    for kind, pattern in PII_PATTERNS.items():
        for match in re.finditer(pattern, text, re.ASCII | re.X):
            start, end = match.span()
            is_version = kind == "ip" and VERSION.search(text, max(0, start - 20), start)
            check = PII_CHECKS.get(kind, bool)
            if not is_version and check(re.sub("[ -]", "", match[0])):
                spans.append((kind.split(" of ")[0], start, end))
                text = text[:start] + "\0" * (end - start) + text[end:]  # hide it from later kinds
    return sorted(spans, key=lambda span: span[1])


def remove_pii(text):
    """'write to me@mail.org' -> 'write to [email]'"""
    for kind, start, end in reversed(find_pii(text)):
        text = f"{text[:start]}[{kind}]{text[end:]}"
    return text
