"""What makes crawled text fit to train on: small functions, each to be tried alone.

They follow the report's section on data: is a text decent, is it private, is it well written, may
it be used, is it about mathematics. The report names these steps but not their rules: thresholds,
words and patterns are ours, or those of the source that a function names. What finds the text of a
page is in pages.py, what counts or learns in ngrams.py.
"""
import ipaddress
import pathlib
import re
import urllib.parse

from afm_min.run import UserError


# Is it decent, and is it private?

# What no page may hold. These are made up, as readers of this file need no real ones: a list for a
# real crawl is the setting data.lexicon.
SWEARWORDS = """
    bloddock crombit drabnak fnarge glimp grimbat plogger queb skrunt smoggit snargle thrull trozzle
    vorkle yurgle zuntle""".split()


def swearing(words):
    """A pattern that finds any of these words, with the usual endings."""
    listed = "|".join(map(re.escape, words))
    return re.compile(rf"\b(?:{listed})(?:e?s|e?d|ers?|ing?|t?y)?\b", re.I)


PROFANE = swearing(SWEARWORDS)
# Words that tell nothing of what a text is about.
STOP = set("""
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


def profane(text, pattern=PROFANE):
    """Whether a swearword stands in it as a whole word: Thrullbury passes, and so does glimpse."""
    return bool(pattern.search(text))


def read_lexicon(path):
    """SWEARWORDS and the words of a file, one a line. Raises UserError if it cannot be read."""
    try:
        lines = pathlib.Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"data.lexicon={path} cannot be read as UTF-8: {error}") from None
    return SWEARWORDS + [line.strip() for line in lines if line.strip()]


def topical(text):
    """'I will tell you about her garden' -> 'garden': what a classifier of topics should see."""
    return " ".join(word for word in re.findall(r"\w+", text.lower()) if word not in STOP)


def is_public(address):
    """'8.8.8.8' -> True; '192.168.0.1' and '300.1.1.1' -> False"""
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


def luhn(digits):
    """'79927398713' -> True: from the right double every other digit; all digits make up tens."""
    doubled = [str(int(digit) * (1 + i % 2)) for i, digit in enumerate(reversed(digits))]
    return sum(map(int, "".join(doubled))) % 10 == 0


def iban(code):
    """'GB82WEST12345698765432' -> True: with the first four moved to the end, A as 10 and Z as 35,
    the number is 1 more than a multiple of 97."""
    return int("".join(str(int(c, 36)) for c in code[4:] + code[:4])) % 97 == 1


def dni(code):
    """'12345678Z' -> True: the letter stands for the rest by 23; X, Y and Z begin foreigners'."""
    number = int(code[:-1].translate(str.maketrans("XYZ", "012")))
    return "TRWAGMYFPDXBNJZSQVHLCKE"[number % 23] == code[-1]


# Kind of personal data -> its pattern, in order of precedence. A blank is for the eye only, where
# [ ] is a blank of the text.
PRIVATE = {
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
CHECKS = {"iban": iban, "card": luhn, "national id of Spain": dni, "ip": is_public}
# What stands before a number with dots that is no address: "version 1.2".
NUMBERED = re.compile(r"""(?: \w/ | (?<![^\W_]) (?: version\w* | v | (?: release | build |
    firmware | rev | revision | section | clause | chapter | figure | table | oid | kernel |
    paragraph | appendix )s?)) [\s:='"#.v]* \Z""", re.I | re.X)


def find_pii(text):
    """'write to me@mail.org' -> [('email', 9, 20)]: personally identifiable information, in order.

    Kinds: email, phone, card, iban, ip (public ones), national id (American, British, Spanish)."""
    found = []
    for kind, pattern in PRIVATE.items():
        for match in re.finditer(pattern, text, re.ASCII | re.X):
            start, end = match.span()
            checked = CHECKS.get(kind, bool)(re.sub("[ -]", "", match[0]))
            if checked and not (kind == "ip" and NUMBERED.search(text, max(0, start - 20), start)):
                found.append((kind.split(" of ")[0], start, end))
                text = text[:start] + "\0" * (end - start) + text[end:]  # no later kind's any more
    return sorted(found, key=lambda entry: entry[1])


def remove_pii(text):
    """'write to me@mail.org' -> 'write to [email]'"""
    for kind, start, end in reversed(find_pii(text)):
        text = f"{text[:start]}[{kind}]{text[end:]}"
    return text


# Is it well written, and may it be used?

# Without these there is no English sentence.
FUNCTION_WORDS = set("""
    a an and are as at be by for from has in is it of on or that the this to was with""".split())


def good_prose(text):
    """Rules after Gopher (Rae et al. 2021, table A1) and C4 (Raffel et al. 2020), made for English.

    'click here click here ...' -> False; a page that tells something in sentences -> True"""
    words, lines = text.lower().split(), list(filter(None, map(str.strip, text.splitlines())))
    count, size = len(words), sum(map(len, words))
    ended = [line for line in lines if line[-1] in ".!?:;\"')" or line[0] in "-*\u2022"]
    return (count >= 50 and 3 <= size / count <= 10
            and len(re.findall(r"[^\W\d_]", text)) >= 0.5 * size
            and sum(word in FUNCTION_WORDS for word in words) >= 0.08 * count
            and sum(map(text.count, "#{}|<>\u2026")) <= 0.3 * count
            and len(set(zip(words, words[1:], words[2:]))) >= 0.3 * count
            and len(set(lines)) >= 0.3 * len(lines) and len(ended) >= 0.1 * len(lines))


def good_code(text):
    """False for what is generated, minified, data rather than code, or tells a reader nothing.

    'def add(a, b):\\n    return a + b\\n' -> True; '1, 2, 3, 4, 5, 6, ...' -> False"""
    lines, size = text.splitlines(), len(text) or 1
    data = re.findall(r"(?:0x|\\x)[\da-fA-F]+|\d+|[\w+/=]{50,}", text)
    return (sum(map(len, lines)) <= 100 * len(lines) and max(map(len, lines), default=0) <= 1000
            and len(re.findall(r"[^\W_]", text)) >= 0.25 * size
            and sum(map(len, data)) <= 0.2 * size
            and not re.search(r"auto\w*[- ]?generated|^\W*generated (?:by|from)|do not edit",
                              text[:1000], re.I | re.M)
            and bool(re.search(r"^[ \t]*(?:#|//|/\*|\"\"\"|(?:\w+ )*(?:class|def|enum|fn|func|"
                               r"function|int|interface|struct|void)\b)", text, re.M)))


# SPDX identifiers, in lower case, of licences that let all use a text as they like.
LICENCES = set("""
    0bsd apache-2.0 blueoak-1.0.0 bsd-2-clause bsd-3-clause bsl-1.0 cc0-1.0 isc mit mit-0 ncsa
    postgresql psf-2.0 python-2.0 unlicense zlib""".split())
# The words of such licences and of headers, lower-case and without punctuation.
PERMISSIVE = re.compile("|".join((
    r"permission is hereby granted free of charge",
    r"redistribution and use in source and binary",
    r"permission to use copy modify and distribute",
    r"free and unencumbered",
    r"licensed to psf",
    r"(apache|boost software|python software foundation) license",
    r"(mit|isc|zlib|bsd|\d clause) (style )?licen[cs]e")))
# The words of the others.
RESTRICTIVE = re.compile("|".join((
    r"gnu (\w+ )?general public",
    r"\b[al]?gpl(v?\d)?\b(?! compatible)",
    r"proprietary",
    r"confidential",
    r"(mozilla|eclipse|server side) public",
    r"non ?commercial",
    r"share ?alike")))


def permissive(text):
    """Whether a licence, an SPDX expression or a file's header lets all use the text as they like.

    'MIT OR GPL-2.0-only' -> True; 'MIT AND GPL-2.0-only' -> False; no licence at all -> False"""
    tag = (re.search(r"SPDX-License-Identifier:\s*([\w.+() -]*[\w+)])", text)
           or re.fullmatch(r"\s*(\(?\S+(?: (?:and|or|with) \S+)*)\s*", text, re.I))
    if tag:  # where brackets stand inside, all must be permissive
        expression = re.sub(r"^\(([^()]*)\)$", r"\1", tag[1].lower())
        return (all if "(" in expression else any)(
            all(part.split(" with ")[0].strip("() ") in LICENCES for part in term.split(" and "))
            for term in expression.split(" or "))
    said = " ".join(re.findall(r"[a-z0-9]+", text[:4000].lower()))
    return bool(PERMISSIVE.search(said)) and not RESTRICTIVE.search(said)


LANGUAGES = {suffix: language for language, suffixes in {  # those that are trained on
    "C": ".c .h", "C#": ".cs", "C++": ".cpp .cc .cxx .hpp .hh", "Go": ".go", "Java": ".java",
    "JavaScript": ".js .jsx .mjs", "Kotlin": ".kt", "Objective-C": ".m .mm", "PHP": ".php",
    "Python": ".py", "Ruby": ".rb", "Rust": ".rs", "Swift": ".swift",
    "TypeScript": ".ts .tsx"}.items() for suffix in suffixes.split()}


def language(path):
    """'src/main.swift' -> 'Swift'; 'README' -> None"""
    return LANGUAGES.get(pathlib.PurePath(path).suffix.lower())


# Is it about mathematics?

MATH_DOMAINS = ("algebra.example", "calculus.example", "math.example")  # the report had 20
# MathML, KaTeX, MathJax and TeX in a page; blanks are for the eye only.
MATH_TAGS = re.compile(r"""<(?: math | m[ion] | mfrac | mrow | msqrt | msu[bp]) \b | math/tex
    | \b (?:class|src|href) \s*=\s* ["']? [^"'<>]* \b (?:katex|mathjax) | \\\( .{1,500}? \\\)
    | \\\[ .{1,500}? \\\] | \$\$ [^$<>]{0,500} [\\^_=+] [^$<>]{0,500} \$\$""", re.I | re.S | re.X)


def has_math_tags(page):
    """Finds MathML, KaTeX, MathJax, TeX. '<p>\\\\(x^2\\\\)' -> True; 'H<sub>2</sub>O' -> False"""
    scripts = r"(?is)<(script|style)\b(?![^>]*(?:math|katex)).*?(?:</\1|\Z)"  # $$ is none there
    return bool(MATH_TAGS.search(re.sub(scripts, "", page)))


def math_symbols(text):
    """The share of digits, operators and mathematical signs: 'a+1=2' -> 0.8"""
    signs = re.findall("[\\d+*/=<>^|\u00ac\u00b1\u00d7\u00f7\u2190-\u22ff\u27c0-\u27ef\u2980-\u2aff"
                       "\U0001d400-\U0001d7ff\u2212-]", text)
    return len(signs) / max(1, len(text))


def math_domain(url):
    """'https://forum.math.example/t/1' -> True: the host or what it belongs to is in the table."""
    host = urllib.parse.urlsplit(url if "//" in url else "//" + url).hostname or ""
    return ("." + host).endswith(tuple("." + domain for domain in MATH_DOMAINS))
