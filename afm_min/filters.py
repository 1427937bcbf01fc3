"""What makes crawled text fit to train on: small functions, each to be tried alone.

They follow the report's section on data: is a text decent, is it private, is it well written, may
it be used, is it about mathematics. The report names these steps but not their rules: thresholds,
and words and patterns in words.txt, are ours, or those of the source that a function names. What
finds the text of a page is in pages.py, what counts or learns in ngrams.py.
"""
import ipaddress
import pathlib
import re
import urllib.parse


# What words.txt holds, by name

def words(name):
    """'stop' -> 'a about after ...': a list of words.txt, in one line."""
    text = pathlib.Path(__file__).with_name("words.txt").read_text(encoding="utf-8")
    return " ".join(re.search(rf"(?ms)^# {name}: .*?\n(?!#)(.*?)(?:\n\n|\Z)", text)[1].split())


def table(name):
    """'further' -> [['int', 'plus {n}', 'r + {n}'], ...]: a list of words.txt that has rows."""
    return [row.split(" | ") for row in words(name).split("; ")]


# Is it decent, and is it private?

PROFANE = re.compile(rf"\b(?:{words('profane').replace(' ', '|')})(?:e?s|e?d|ers?|ing?|t?y)?\b",
                     re.I)
STOP = set(words("stop").lower().split())


def profane(text):
    """Whether a swearword stands in it as a whole word: Scunthorpe passes, and so do shiitake."""
    return bool(PROFANE.search(text))


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


PRIVATE = [entry.split(" = ") for entry in words("private").split("; ")]  # [kind, pattern]
CHECKS = {"iban": iban, "card": luhn, "national id of Spain": dni, "ip": is_public}
NUMBERED = re.compile(words("numbered"), re.I | re.X)


def find_pii(text):
    """'write to me@mail.org' -> [('email', 9, 20)]: personally identifiable information, in order.

    Kinds: email, phone, card, iban, ip (public ones), national id (American, British, Spanish)."""
    found = []
    for kind, pattern in PRIVATE:
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

FUNCTION_WORDS = set(words("function").split())


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


LICENCES = set(words("licences").split())
PERMISSIVE, RESTRICTIVE = (re.compile("|".join(words(name).split(", ")))
                           for name in ("permissive", "restrictive"))


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


LANGUAGES = dict(pair.split("=") for pair in words("languages").split())


def language(path):
    """'src/main.swift' -> 'Swift'; 'README' -> None"""
    return LANGUAGES.get(pathlib.PurePath(path).suffix.lower())


# Is it about mathematics?

MATH_DOMAINS = ("algebra.example", "calculus.example", "math.example")  # the report had 20
MATH_TAGS = re.compile(words("math"), re.I | re.S | re.X)


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
