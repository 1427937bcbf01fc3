"""Rules for pages and files, each a function of its own: robots.txt, quality, licences and
programming languages.

The report on AFM names these steps but not their rules. Thresholds, words and patterns are ours
unless a source is cited. A `check_` function returns the name of the first rule that a text breaks,
or ''.
"""
import collections
import re
from urllib.parse import quote, unquote_to_bytes, urlsplit

import regex


# robots.txt (RFC 9309)

def robots_allow(robots, path, agent="Applebot"):
    """Return True if a robots.txt lets `agent` fetch `path` (which includes a query).

    ('User-agent: *\\nDisallow: /a\\nAllow: /a/*.html$', '/a/b.html') -> True

    The longest pattern that matches decides; if two are equally long, the one that allows. Several
    groups of one agent are merged. Group * is for agents without a group. 'Applebot/0.1 (any)' is
    the agent Applebot. (urllib.robotparser takes the first match instead, and supports neither *
    nor $ in patterns.)"""
    entries = re.findall(r"(?im)^[ \t\ufeff]*(user-agent|allow|disallow)[ \t]*:([^#\n]*)",
                         robots.replace("\r", "\n"))
    groups = collections.defaultdict(list)  # agent -> its groups, each a list of rules
    rules = []  # (pattern, allows) of the current group
    for key, value in entries:
        if key.lower() == "user-agent":
            if rules:  # a user-agent line after a rule starts a new group
                rules = []
            # Successive user-agent lines share one list, which the rules below them fill.
            groups[product_token(value)].append(rules)
        else:
            rules.append((normalize_path(value.strip(), "*$"), key.lower() == "allow"))
    path = normalize_path(path if path.startswith("/") else "/" + path)
    matches = [(0, True)]  # without a rule, everything is allowed
    for group in groups.get(product_token(agent)) or groups["*"]:
        matches += [(len(pattern), allows) for pattern, allows in group
                    if path_matches(path, pattern)]
    return path == "/robots.txt" or max(matches)[1]  # the longest; True > False if equally long


def product_token(agent):
    """Return the first letters, - and _ of an agent's name: ' Applebot/0.1' -> 'applebot'"""
    return re.match(r"\*|[a-z_-]*", agent.strip().lower())[0]


def normalize_path(path, wildcards=""):
    """Percent-encode only the characters that need it, so that equal paths are equal strings:
    ('/caf\u00e9/%7ea*', '*') -> '/caf%C3%A9/~a*'"""
    path = quote(path, safe="/?%" + wildcards)
    return re.sub("%[0-9A-Fa-f]{2}", lambda code: quote(unquote_to_bytes(code[0]), safe=""), path)


def path_matches(path, pattern):
    """Return True if a pattern matches a beginning of the path, or all of it if it ends with '$'.

    ('/abcd', '/a*c') -> True; ('/abcd', '/a*c$') -> False

    It is enough to try the first match of each piece between two stars. So atomic groups (?>)
    forbid backtracking, and many stars take no longer than few. The first piece must match at the
    start: it begins with '^', an ordinary character here, which no normalized path contains."""
    pattern = pattern[:-1] if pattern.endswith("$") else pattern + "*"
    # Any other '$' is an ordinary character, which is '%24' in a normalized path.
    *pieces, last = map(regex.escape, f"^{pattern}".replace("$", "%24").split("*"))
    first_matches = "".join(f"(?>.*?{piece})" for piece in pieces)
    return bool(regex.fullmatch(f"{first_matches}.*{last}", "^" + path))


def host_and_path(url):
    """Split a URL with or without a scheme. The path includes the query, and begins with "/".

    'HTTP://me@Docs.Example:80?a=1#top' and 'docs.example/?a=1' -> ('docs.example', '/?a=1')
    Raises ValueError if the URL is impossible, such as 'http://[x/1'."""
    url = url.strip().replace("\\", "/")  # as browsers do
    parts = urlsplit(url if re.match(r"([a-z][a-z\d+.-]*:)?//", url, re.I) else f"//{url}")
    query = f"?{parts.query}" if parts.query else ""
    return (parts.hostname or "").rstrip("."), (parts.path or "/") + query


# Quality

# Words that every English text contains, whatever its topic.
FUNCTION_WORDS = set("""
    a an and are as at be by for from has in is it of on or that the this to was with""".split())


def first_broken(rules):
    """Return the name of the first rule that does not hold, or '':
    {'50 words': True, 'few symbols': False} -> 'few symbols'"""
    return next((rule for rule, holds in rules.items() if not holds), "")


def check_prose(text):
    """Check English text by rules after Gopher (Rae et al. 2021, table A1) and C4 (Raffel et al.
    2020).

    'click here ' x 50 -> 'function words'; a page of sentences -> ''"""
    words = text.lower().split()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # Lines that end like a sentence or begin like an item of a list.
    sentences = [line for line in lines if line[-1] in ".!?:;\"')" or line[0] in "-*\u2022"]
    count, size = len(words), sum(map(len, words))  # size: characters without blanks
    return first_broken({
        "50 words": count >= 50,
        "3 to 10 characters per word": 3 * count <= size <= 10 * count,
        "half letters": len(re.findall(r"[^\W\d_]", text)) >= 0.5 * size,
        "function words": sum(word in FUNCTION_WORDS for word in words) >= 0.08 * count,
        "few symbols": sum(map(text.count, "#{}|<>\u2026")) <= 0.3 * count,
        "distinct trigrams": len(set(zip(words, words[1:], words[2:]))) >= 0.3 * count,
        "distinct lines": len(set(lines)) >= 0.3 * len(lines),
        "sentence ends": len(sentences) >= 0.1 * len(lines)})


def check_code(text):
    """Check that a file is code that people write: not generated, minified, or data.

    'def add(a, b):\\n    return a + b\\n' -> ''; '1, 2, 3, 4, 5, 6' -> 'little data'"""
    lines, size = text.splitlines(), len(text)
    # Hexadecimal numbers and escapes, decimal numbers, and encoded bytes such as base64.
    data = re.findall(r"(?:0x|\\x)[\da-fA-F]+|\d+|[\w+/=]{50,}", text)
    generated = re.search(r"auto\w*[- ]?generated|@generated|do not edit|^\W*(?:generated (?:by|"
                          r"from)|(?:this |the )?(?:code|file) (?:is |was |has been )?generated)\b",
                          text[:1000], re.I | re.M)
    readable = re.search(r"^[ \t]*(?:#|//|/\*|\"\"\"|(?:\w+ )*(?:class|def|enum|fn|func|function|"
                         r"int|interface|struct|void)\b)", text, re.M)
    return first_broken({
        "100 characters per line": sum(map(len, lines)) <= 100 * len(lines),
        "1000 characters in a line": max(map(len, lines), default=0) <= 1000,
        "a quarter letters or digits": len(re.findall(r"[^\W_]", text)) >= 0.25 * size,
        "little data": sum(map(len, data)) <= 0.2 * size,
        "not generated": not generated,
        "comments or definitions": readable})


# Code

# SPDX identifiers, in lower case, of permissive licences.
PERMISSIVE = set("""
    0bsd apache-2.0 blueoak-1.0.0 bsd-2-clause bsd-3-clause bsl-1.0 cc0-1.0 isc mit mit-0 ncsa
    postgresql psf-2.0 python-2.0 unlicense zlib""".split())
# Phrases of permissive licences, and of others.
PERMISSIVE_TEXT = re.compile(r"""
    permission\ is\ hereby\ granted,\ free\ of\ charge | permission\ to\ use,\ copy,\ modify
    | redistribution\ and\ use\ in\ source\ and\ binary | (?:apache|bsd|isc|mit|zlib)\ license\b
    """, re.X)
RESTRICTIVE_TEXT = re.compile(r"""\b[al]?gpl | general\ public | proprietary | confidential |
    non-?commercial | share-?alike | \b(?:not|no\ longer|other\ than)\b [^.]{0,40} \blicense
    """, re.X)
# Language -> suffixes of its files. The number of languages, 14, is the report's.
LANGUAGES = {
    "C": ".c .h", "C#": ".cs", "C++": ".cpp .cc .cxx .hpp .hh", "Go": ".go", "Java": ".java",
    "JavaScript": ".js .jsx .mjs", "Kotlin": ".kt", "Objective-C": ".m .mm", "PHP": ".php",
    "Python": ".py", "Ruby": ".rb", "Rust": ".rs", "Swift": ".swift", "TypeScript": ".ts .tsx"}
CODE_SUFFIXES = tuple(" ".join(LANGUAGES.values()).split())


def permissive(licence):
    """Return True for the SPDX expression or the text of a permissive licence.

    'MIT OR GPL-2.0-only' -> True; 'MIT AND GPL-2.0-only' -> False

    An expression with parentheses is never accepted: they are not parsed."""
    # Only the beginning counts: the licences of parts of a work may follow its own.
    licence = " ".join(licence[:4000].lower().split())
    for choice in licence.split(" or "):
        parts = [part.split(" with ")[0] for part in choice.split(" and ")]
        if PERMISSIVE.issuperset(parts):
            return True
    return bool(PERMISSIVE_TEXT.search(licence)) and not RESTRICTIVE_TEXT.search(licence)


def is_code(path):
    """'src/main.swift' -> True; 'README' -> False"""
    return path.lower().endswith(CODE_SUFFIXES)
