"""Rules for pages of mathematics: markup of formulas, questions and answers, share of symbols, and
domains.

The report filters by 40 strings of templates for formulas, but does not list them. These are ours.
"""
import html
import re

from afm_min.data.blocks import BLOCK_TAGS, NAMES, markup
from afm_min.data.filters import host_and_path, main_content

MATH_DOMAINS = """
    algebra.example analysis.example arithmetic.example calculus.example counting.example
    equations.example fractions.example functions.example geometry.example graphs.example
    integers.example logic.example math.example matrices.example numbers.example primes.example
    probability.example puzzles.example sums.example topology.example
    """.split()  # 20, as in the report
# Tags and classes of elements that contain a question or an answer, and those of the best answer.
QUESTION = {"dt", "problem", "question"}
ANSWER = {"answer", "dd", "solution"}
ACCEPTED = {"accepted", "accepted-answer"}
VOTES = re.compile(r"""\sdata-(?:score|votes)\s*=\s*["']?(-?\d{1,9})""", re.I)
# Elements of MathML, also with a prefix such as "m:", and of libraries for formulas.
MATHML = set("math mi mn mo mfrac mrow msqrt msub msup mjx-container math-renderer".split())
# Classes and script types of rendered formulas; but not those that only steer a library.
MATH_CLASS = re.compile(r"""\s (?:class|type) \s*=[\s"']* (?:[^\s"'<>=]+\s+)* (?:
    (?:katex|mathjax|mjx|math/tex) (?![\w-]* (?:hidden|ignore|load|message|process))
    | (?:math/(?:asciimath|mml) | math-(?:container|display|inline|tex) | math\s+(?:display|inline|
        notranslate) | arithmatex | js-render-math | ltx_math | mwe-math[\w-]*) (?![\w-]) )""",
    re.I | re.X)
MATH_SPAN = re.compile(r"""\sclass\s*=\s*(["']?)math\1\s*(?:\s\w|$)""", re.I)
# Images of formulas by their class, by the program in their address, or by their alternative text.
MATH_IMAGE = re.compile(r"""\sclass\s*=\s*["']?(?:latex|math|tex)(?![\w-])
    | \ssrc\s*=\s*["']?[^\s"'<>]{0,300}? (?: (?:la|math|mime)tex\.(?:cgi|codecogs|php)\b
    | [?&](?:cht=tx|latex=|math=|tex=) | /math/(?:render/|[\da-f/]{8}) )""", re.I | re.X)
ALT_TEXT = re.compile(r"""\salt\s*=\s*(?:"([^"]*)"|'([^']*)')""", re.I)
# What a page loads to render formulas between dollars, and between backquotes.
DOLLAR_LIBRARY, BACKQUOTE_LIBRARY = (re.compile(
    rf"""\s(?:src|href|type)\s*=\s*["']?[^\s"'<>]{{0,300}}(?:{name})""", re.I)
    for name in ("katex|mathjax", "asciimath|[=-]am_"))
# TeX between its delimiters or in an environment, and formulas between other characters.
TEX = re.compile(r"""\\\((.{1,500}?)\\\) | \\\[(.{1,500}?)\\\] | \$\$([^$]{1,500})\$\$
    | \\begin\{(?:align(?:ed)?|array|[bpv]?matrix|cases|displaymath|eqnarray|equation|gather|math|
        multline|split)\*?\} (.{1,500}?) \\end\{""", re.S | re.X | re.I)
DOLLARS = re.compile(r"(?<![\w$])\$(?![\s$])([^$]{1,200})(?<!\s)\$(?![\w$])")
BACKQUOTES = re.compile("(?<![`$\\w])`([^`$]{1,200})`(?![`\\w])")
FORMULA = re.compile(r"[\\^_=+<>*]|^\s*(?:[a-zA-Z]|\d+|\w[/-]\w)\s*$")
# TeX's commands and exponents, as in the alternative texts of images.
TEX_COMMAND = re.compile(r"""\\(?:alpha|beta|cdot|cos|delta|displaystyle|frac|gamma|geq?|infty|int|
    lambda|leq?|lim|math\w+|mu|neq?|omega|partial|phi|pi|prod|psi|rightarrow|sigma|sin|sqrt|sum|tan|
    theta|times|vec)(?![a-z])|\w[_^]\{|\w\^\w|[})]\^""", re.X)
CODE_TAGS = set("code kbd pre samp script style textarea tt".split())
# Digits and operators; arrows and mathematical symbols; mathematical letters, and "-" at the end.
MATH_SYMBOLS = re.compile(
    "[\\d+*/=<>^|\u00ac\u00b1\u00d7\u00f7\u2190-\u22ff\u27c0-\u27ef\u2980-\u2aff"
    "\U0001d400-\U0001d7ff-]")


def is_formula(tag, attributes):
    """('m:mi', ''), ('span', ' class=katex') -> True; ('body', ' class=mathjax') -> False"""
    if tag.rpartition(":")[2] in MATHML:
        return True
    if tag == "img":
        attributes = html.unescape(attributes)
        alts = ALT_TEXT.findall(attributes)  # pairs: in double quotes, in single ones
        if MATH_IMAGE.search(attributes) or any(
                TEX_COMMAND.search(" ".join(alt)) or DOLLARS.fullmatch("".join(alt))
                for alt in alts):
            return True
    if tag == "span" and MATH_SPAN.search(attributes):
        return True
    return tag not in ("body", "html", "link") and bool(MATH_CLASS.search(attributes))


def has_math_tags(page):
    """'<p>\\\\(x^2\\\\)' -> True; 'H<sub>2</sub>O' -> False

    Formulas are MathML, elements and images that MathJax and others make of TeX, and TeX itself
    outside code. A page that only loads a library for formulas has none."""
    texts, code_depth, has_dollars, has_backquotes = [], 0, False, False
    for tag, attributes, text in markup(page):
        if is_formula(tag, attributes):
            return True
        has_dollars = has_dollars or bool(DOLLAR_LIBRARY.search(attributes))
        has_backquotes = has_backquotes or bool(BACKQUOTE_LIBRARY.search(attributes))
        if tag in CODE_TAGS:
            code_depth += 1
        elif tag[:1] == "/" and tag[1:] in CODE_TAGS:
            code_depth = max(0, code_depth - 1)
        if not code_depth:
            texts.append(text)
    text = "".join(texts)
    formulas = ["".join(groups) for groups in TEX.findall(text)]
    if has_dollars:
        formulas += DOLLARS.findall(text)
    if has_backquotes:
        formulas += BACKQUOTES.findall(text)
    return any(map(FORMULA.search, formulas))


def marked_elements(page):
    """Return the elements that are a question or an answer by their tag, class or id: dicts of tag,
    names (its tag, classes and id), votes and text. One inside another ends that one.

    '<dt>1+1?</dt>' -> [{"tag": "dt", "names": {"dt"}, "votes": 0, "text": "1+1?"}]"""
    elements = []
    depth = 0  # open elements with the tag of the last marked one, from that one on
    for tag, attributes, text in markup(page):
        names = {tag, *" ".join("".join(n) for n in NAMES.findall(attributes)).lower().split()}
        if names & (QUESTION | ANSWER):
            votes = VOTES.search(attributes)
            elements.append({"tag": tag, "names": names, "pieces": [],
                             "votes": int(votes[1]) if votes else 0})
            depth = 1
        elif depth:
            element = elements[-1]
            element["pieces"].append(" " if tag.strip("/") in BLOCK_TAGS else text)
            depth += (tag == element["tag"]) - (tag == "/" + element["tag"])
    for element in elements:
        element["text"] = " ".join("".join(element.pop("pieces")).split())
    return elements


def questions_and_answers(page):
    """Return the questions of a page with their answers, found by tags, classes and ids.

    '<dl><dt>1+1?</dt><dd>It is <b>2</b>.</dd></dl>' -> 'Question: 1+1?\\nAnswer: It is 2.'

    Of several answers to a question, the accepted one is kept, or else the one with most votes. A
    page without answers to marked questions, such as a blog, is reduced to its main content."""
    threads = []  # (question, its answers)
    for element in marked_elements(page):
        if element["names"] & QUESTION:
            threads.append((element["text"], []))
        elif threads:
            threads[-1][1].append(element)
    pairs = []
    for question, answers in threads:
        if answers:
            best = max(answers, key=lambda a: (bool(a["names"] & ACCEPTED), a["votes"]))
            pairs.append(f"Question: {question}\nAnswer: {best['text']}")
    return "\n".join(pairs) or main_content(page)


def symbol_share(text):
    """Return the share of digits, operators and mathematical symbols: 'a+1=2' -> 0.8"""
    return len(MATH_SYMBOLS.findall(text)) / max(1, len(text))


def math_domain(url):
    """'https://forum.math.example/t/1' -> True: the host is in MATH_DOMAINS or a subdomain."""
    try:
        host, _ = host_and_path(url)
    except ValueError:  # such as 'http://[x/1'
        return False
    return ("." + host).endswith(tuple("." + domain for domain in MATH_DOMAINS))
