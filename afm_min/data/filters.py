"""The rules that decide which text is fit to train on: small functions that can be tried alone.

They follow the section on data of AFM's report: is a text safe, private, well written, licensed,
mathematical. The report names these steps but not their rules. Thresholds, words and patterns are
ours, or those of the source that a function cites. A `check_` function returns the name of the
first rule that a text breaks, or ''.
"""
import ipaddress
import pathlib
import re
import urllib.parse

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


# Quality

# Function words: English sentences contain some of these.
FUNCTION_WORDS = set("""
    a an and are as at be by for from has in is it of on or that the this to was with""".split())


def first_broken(rules):
    """{'not empty': True, 'short': False} -> 'short': the first rule that does not hold, or ''"""
    return next((rule for rule, holds in rules.items() if not holds), "")


def check_prose(text):
    """Check English text by rules after Gopher (Rae et al. 2021, table A1) and C4 (Raffel et al.
    2020).

    'click here click here ...' x 50 -> 'distinct trigrams'; a page of sentences -> ''"""
    words = text.lower().split()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    ended = [line for line in lines if line[-1] in ".!?:;\"')" or line[0] in "-*\u2022"]
    count, size = len(words), sum(map(len, words))
    return first_broken({
        "50 words": count >= 50,
        "3 to 10 characters per word": 3 * count <= size <= 10 * count,
        "half letters": len(re.findall(r"[^\W\d_]", text)) >= 0.5 * size,
        "function words": sum(word in FUNCTION_WORDS for word in words) >= 0.08 * count,
        "few symbols": sum(map(text.count, "#{}|<>\u2026")) <= 0.3 * count,
        "distinct trigrams": len(set(zip(words, words[1:], words[2:]))) >= 0.3 * count,
        "distinct lines": len(set(lines)) >= 0.3 * len(lines),
        "sentence ends": len(ended) >= 0.1 * len(lines)})


def check_code(text):
    """Check that a file is code for people: not generated, minified, or data.

    'def add(a, b):\\n    return a + b\\n' -> ''; '1, 2, 3, 4, ...' -> 'a quarter letters'"""
    lines, size = text.splitlines(), len(text)
    data = re.findall(r"(?:0x|\\x)[\da-fA-F]+|\d+|[\w+/=]{50,}", text)
    generated = re.search(r"auto\w*[- ]?generated|^\W*generated (?:by|from)|do not edit",
                          text[:1000], re.I | re.M)
    readable = re.search(r"^[ \t]*(?:#|//|/\*|\"\"\"|(?:\w+ )*(?:class|def|enum|fn|func|function|"
                         r"int|interface|struct|void)\b)", text, re.M)
    return first_broken({
        "100 characters per line": sum(map(len, lines)) <= 100 * len(lines),
        "1000 characters in a line": max(map(len, lines), default=0) <= 1000,
        "a quarter letters": len(re.findall(r"[^\W_]", text)) >= 0.25 * size,
        "little data": sum(map(len, data)) <= 0.2 * size,
        "not generated": not generated,
        "comments or definitions": readable})


# SPDX identifiers, in lower case, of permissive licences.
PERMISSIVE = set("""
    0bsd apache-2.0 blueoak-1.0.0 bsd-2-clause bsd-3-clause bsl-1.0 cc0-1.0 isc mit mit-0 ncsa
    postgresql psf-2.0 python-2.0 unlicense zlib""".split())
LANGUAGES = {  # suffix -> programming language
    ".c": "C", ".h": "C", ".cs": "C#", ".cpp": "C++", ".cc": "C++", ".cxx": "C++", ".hpp": "C++",
    ".hh": "C++", ".go": "Go", ".java": "Java", ".js": "JavaScript", ".jsx": "JavaScript",
    ".mjs": "JavaScript", ".kt": "Kotlin", ".m": "Objective-C", ".mm": "Objective-C",
    ".php": "PHP", ".py": "Python", ".rb": "Ruby", ".rs": "Rust", ".swift": "Swift",
    ".ts": "TypeScript", ".tsx": "TypeScript"}


def permissive(licence):
    """Return True if an SPDX expression lets everybody use a text under a permissive licence.

    'MIT OR GPL-2.0-only' -> True; 'MIT AND GPL-2.0-only' -> False; '' -> False"""
    expression = re.sub(r"^\(([^()]*)\)$", r"\1", licence.strip().lower())
    choices = [all(part.split(" with ")[0].strip("() ") in PERMISSIVE
                   for part in choice.split(" and ")) for choice in expression.split(" or ")]
    return all(choices) if "(" in expression else any(choices)  # nested: all must be permissive


def language(path):
    """'src/main.swift' -> 'Swift'; 'README' -> ''"""
    return LANGUAGES.get(pathlib.PurePath(path).suffix.lower(), "")


# Mathematics

MATH_DOMAINS = ("algebra.example", "calculus.example", "math.example")  # the report used 20
# MathML, KaTeX, MathJax and TeX; blanks are ignored.
MATH_TAGS = re.compile(r"""<(?: math | m[ion] | mfrac | mrow | msqrt | msu[bp]) \b | math/tex
    | \b (?:class|src|href) \s*=\s* ["']? [^"'<>]* \b (?:katex|mathjax) | \\\( .{1,500}? \\\)
    | \\\[ .{1,500}? \\\] | \$\$ [^$<>]{0,500} [\\^_=+] [^$<>]{0,500} \$\$""", re.I | re.S | re.X)
MATH_SYMBOLS = re.compile(
    "[\\d+*/=<>^|\u00ac\u00b1\u00d7\u00f7\u2190-\u22ff\u27c0-\u27ef\u2980-\u2aff"
    "\U0001d400-\U0001d7ff\u2212-]")
MIN_SYMBOL_SHARE = 0.05


def has_math_tags(page):
    """'<p>\\\\(x^2\\\\)' -> True; 'H<sub>2</sub>O' -> False"""
    scripts = r"(?is)<(script|style)\b(?![^>]*(?:math|katex)).*?(?:</\1|\Z)"  # $$ is not TeX there
    return bool(MATH_TAGS.search(re.sub(scripts, "", page)))


def symbol_share(text):
    """Return the share of digits, operators and mathematical symbols: 'a+1=2' -> 0.8"""
    return len(MATH_SYMBOLS.findall(text)) / max(1, len(text))


def math_domain(url):
    """'https://forum.math.example/t/1' -> True: the host is in MATH_DOMAINS or a subdomain."""
    host = urllib.parse.urlsplit(url if "//" in url else "//" + url).hostname or ""
    return ("." + host).endswith(tuple("." + domain for domain in MATH_DOMAINS))
