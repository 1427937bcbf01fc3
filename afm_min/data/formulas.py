"""Filters for pages of mathematics: formulas, questions and answers, share of symbols, fluency by a
language model, and domains.

The report finds formulas by 40 strings of the markup that programs write for them, but does not
list these. The patterns here are ours.
"""
import collections
import html
import math
import re

from afm_min.data.blocks import BLOCK_TAGS, main_content, markup, names_of
from afm_min.data.filters import host_and_path

MATH_DOMAINS = [f"{topic}.example" for topic in """
    algebra analysis arithmetic calculus counting equations fractions functions geometry graphs
    integers logic math matrices numbers primes probability puzzles sums topology
    """.split()]  # 20, as in the report
# Tags, classes and ids of elements that are a question or an answer, and those of the best answer.
QUESTION = {"dt", "problem", "question"}
ANSWER = {"answer", "dd", "solution"}
ACCEPTED = {"accepted", "accepted-answer"}
VOTES = re.compile(r"""\sdata-(?:score|votes)\s*=\s*["']?(-?\d{1,9})""", re.I)
# Elements of MathML ("m:math", too) and of libraries for formulas; the class or script type of a
# rendered formula, but none that only steers a library; <span class=math>.
MATH_TAG = re.compile(r"""
    < (?:\w+:)? (?: math | m[ino] | mfrac | mrow | msqrt | msub | msup | mjx-container |
        math-renderer) (?=[\s/]|$)
    | \s (?:class|type) \s*=[\s"']* [^"'<>=]{0,100}? \b (?: katex | mathjax (?:_display|_svg)? |
        mjx-math | math/(?:asciimath|mml|tex) | math-(?:container|tex) | math\s(?:display|inline) |
        js-render-math | ltx_math | mwe-math-element ) (?![\w-])
    | <span\s (?:[^<>]{0,100}\s)? class=(["']?)math\1 (?=\s|$)""", re.I | re.X)
# Attributes of images of formulas: class, address of the program that draws them, or TeX in "alt".
MATH_IMAGE = re.compile(r"""\sclass\s*=\s*["']?(?:la)?tex(?![\w-])
    | (?:la|math|mime)tex\.(?:cgi|codecogs|php) | [?&](?:cht=tx|latex=|math=|tex=)
    | /math/[\da-f]{8}
    | \\(?:cdot|displaystyle|frac|infty|int|leq?|geq?|lim|math\w+|pi|prod|sqrt|sum|times)(?![a-z])
    | \salt\s*=\s*["']? [^"']{0,100} (?: \w\^\w | [_^]\{ )""", re.I | re.X)
LIBRARY = re.compile("katex|mathjax|asciimath", re.I)
# TeX in \( \), \[ \], $$ $$ or an environment, and what libraries render between $ or `.
TEX = re.compile(r"""\\\((.{1,500}?)\\\) | \\\[(.{1,500}?)\\\] | \$\$([^$]{1,500})\$\$
    | \\begin\{(?:align|array|cases|eqnarray|equation|gather|[bpv]?matrix)\w*\*?\} (.{1,500}?)
        \\end\{""", re.S | re.X)
INLINE = re.compile(r"(?<![\w$])\$(?![\s$])([^$]{1,200})(?<!\s)\$(?![\w$])|`([^`$]{1,200})`")
# Of this, formulas are what has an operator or is a single term: "x", "12", "a/b".
FORMULA = re.compile(r"[\\^_=+<>*]|^\s*(?:[a-zA-Z]|\d+|\w[/-]\w)\s*$")
CODE_TAGS = set("code kbd pre samp script style textarea tt".split())
# Digits and operators; arrows and mathematical symbols; mathematical letters and "-".
MATH_SYMBOLS = re.compile(
    "[\\d+*/=<>^|\u00ac\u00b1\u00d7\u00f7\u2190-\u22ff\u27c0-\u27ef\u2980-\u2aff"
    "\U0001d400-\U0001d7ff-]")


def has_math_tags(page):
    """Return True if a page has formulas: '<p>\\\\(x^2\\\\)', but not 'H<sub>2</sub>O'.

    Formulas are MathML, elements and images that MathJax and others make of TeX, and TeX itself
    outside code. It is not enough to load a library for formulas."""
    texts, code_depth, has_library = [], 0, False
    for tag, attributes, text in markup(page):
        if MATH_TAG.search(f"<{tag}{attributes}") or (
                tag == "img" and MATH_IMAGE.search(html.unescape(attributes))):
            return True
        has_library = has_library or bool(LIBRARY.search(attributes))
        if tag in CODE_TAGS:
            code_depth += 1
        elif tag[:1] == "/" and tag[1:] in CODE_TAGS:
            code_depth = max(0, code_depth - 1)
        if not code_depth:
            texts.append(text)
    text = "".join(texts)
    formulas = TEX.findall(text)
    if has_library:
        formulas += INLINE.findall(text)
    return any(FORMULA.search("".join(groups)) for groups in formulas)


def marked_elements(page):
    """Return (names, votes, text) of each question and answer. Names are tag, classes and ids. A
    question or an answer inside another one ends that one.

    '<dt>1+1?</dt>' -> [({"dt"}, 0, "1+1?")]"""
    elements = []
    marked_tag = ""  # tag of the last marked element
    depth = 0  # number of open elements with this tag since then; at 0, the element has ended
    for tag, attributes, text in markup(page):
        names = {tag, *names_of(attributes.lower())}
        if names & (QUESTION | ANSWER):
            votes = VOTES.search(attributes)
            pieces = []  # of the element's text
            elements.append((names, int(votes[1]) if votes else 0, pieces))
            marked_tag, depth = tag, 1
        elif depth:
            pieces.append(" " if tag.strip("/") in BLOCK_TAGS else text)
            if tag == marked_tag:
                depth += 1
            elif tag == "/" + marked_tag:
                depth -= 1
    return [(names, votes, " ".join("".join(pieces).split())) for names, votes, pieces in elements]


def questions_and_answers(page):
    """Return the questions of a page, each with its accepted answer, or else the one with most
    votes. Return the main content of a page without answers to questions, such as a blog.

    '<dl><dt>1+1?</dt><dd>It is <b>2</b>.</dd></dl>' -> 'Question: 1+1?\\nAnswer: It is 2.'"""
    threads = []  # (question, [(is accepted, votes, text of the answer), ...])
    for names, votes, text in marked_elements(page):
        if names & QUESTION:
            threads.append((text, []))
        elif threads:
            threads[-1][1].append((bool(names & ACCEPTED), votes, text))
    pairs = []
    for question, answers in threads:
        if answers:
            _, _, best = max(answers, key=lambda answer: answer[:2])
            pairs.append(f"Question: {question}\nAnswer: {best}")
    return "\n".join(pairs) or main_content(page)


def symbol_share(text):
    """Return the share of digits, operators and mathematical symbols: 'a+1=2' -> 0.8"""
    return len(MATH_SYMBOLS.findall(text)) / max(1, len(text))


def math_domain(url):
    """Return True for a host in MATH_DOMAINS or a subdomain: 'https://forum.math.example/t/1'"""
    host, _ = host_and_path(url)
    return f".{host}".endswith(tuple(f".{domain}" for domain in MATH_DOMAINS))


class CharacterModel:
    """A 4-gram language model of UTF-8 bytes, smoothed as by MacKay and Peto (1995):

    P(byte | context) = (n(context + byte) + 2 P(byte | shorter context)) / (n(context) + 2)

    n counts occurrences in the training texts. The recursion ends below the empty context, with
    P = 1 / 256."""

    def __init__(self, texts):
        suffixes = [ngram[start:] for text in texts for ngram in self.ngrams(text)
                    for start in range(4)]  # of 4, 3, 2 and 1 bytes
        self.counts = collections.Counter(suffixes)  # 1 to 4 bytes -> occurrences
        self.contexts = collections.Counter(s[:-1] for s in suffixes)  # 0 to 3 bytes -> occurrences

    @staticmethod
    def ngrams(text):
        """'ab' -> [b'\\n\\n\\na', b'\\n\\nab']: every byte after its context of 3 bytes."""
        data = b"\n\n\n" + text.encode(errors="replace")
        return [data[i:i + 4] for i in range(len(data) - 3)]

    def probability(self, ngram):
        """Return P(last byte | the 3 bytes before it)."""
        p = 1 / 256
        for start in (3, 2, 1, 0):  # the context grows from 0 to 3 bytes
            p = (self.counts[ngram[start:]] + 2 * p) / (self.contexts[ngram[start:-1]] + 2)
        return p

    def bits(self, text):
        """Return the cross-entropy in bits per character: low for texts like the training texts."""
        total = sum(math.log2(self.probability(ngram)) for ngram in self.ngrams(text))
        return -total / max(1, len(text))
