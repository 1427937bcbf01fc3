"""The sources of text. No source needs a download: the texts come with CPython, numpy and torch, or
are generated.

A source yields documents: dicts of name, text and, for the filters, url or licence. The web is a
toy crawl: the standard library's documentation as pydoc renders it to HTML, with bad pages planted
among it. A planted document also has "planted", its kind. The filters should drop it; or, if it has
a "canary", remove this text from it.

python -m afm_min.data.sources prints the documentation as JSON lines. `reference` runs this command
in a new process with a fixed hash seed, so that the pages are the same in every run.
"""
import ast
import contextlib
import html
import importlib.metadata
import importlib.util
import inspect
import json
import keyword
import os
import pathlib
import pydoc
import pydoc_data.topics
import random
import re
import subprocess
import sys
import sysconfig
import tokenize

from afm_min.data import languages, math_pages
from afm_min.data.safety import unsafe_page
from afm_min.world import families
from afm_min.world.tasks import EVOLVED, MATH, benchmark_tasks, draw_task
from afm_min.world.words import COLOURS, NAMES, THINGS

def warn(message):
    """Print a warning. What is wrong with a single document or source must not end a run."""
    if os.environ.get("RANK", "0") == "0":  # with torchrun, all ranks read the sources
        print(f"warning: {message}", file=sys.stderr)


# Web pages

# Modules that open windows or print when imported, or describe the machine.
NOT_RENDERED = {"antigravity", "this", "idlelib", "turtledemo", "sys"}
MAX_PAGE = 250_000  # characters; longer pages are mostly lists of inherited methods
PLANTED = 40  # bad web pages of each kind
LONG_PAGE = 10_000  # characters of a page that bad pages are based on
ROBOTS = {  # host -> its robots.txt
    "docs.example": "User-agent: *\nDisallow: /drafts/",
    "forum.example": """
        User-agent: *
        Disallow: /
        User-agent: Applebot
        Disallow: /members
        Disallow: /*?session=
        Disallow: /*.print$
        Allow: /members/rules"""}
BLOCKED = ("docs.example/drafts/{}", "forum.example/members/{}", "forum.example/{}?session=7",
           "forum.example/{}.print")  # URLs that these files forbid
MENU = "Home Products Pricing Careers Newsroom Investors Support Login Imprint Cookies".split()
# Made-up personal data: {0} is a name, {1} a number of two digits.
CONTACTS = ("{0}.{1}@mail.example", "(212) 555-01{1}", "+44 20 7946 09{1}", "4111 1111 1111 1111",
            "93.184.216.{1}", "078-05-11{1}")


class Page(pydoc.HTMLDoc):
    """pydoc's HTML, but the same on every machine: without the folders of files, and without the
    values of variables that are not numbers, such as os.environ."""

    def docother(self, object, name=None, mod=None, *rest):
        if isinstance(object, (int, float)):
            return super().docother(object, name, mod, *rest)
        return name or ""

    def filelink(self, url, path):
        return pathlib.Path(path).name


def render_reference():
    """Print [module name, HTML] of each page as a line of JSON."""
    os.environ.clear()  # some functions have it as a default argument, and pydoc prints those
    for name in sorted(name for name in sys.stdlib_module_names - NOT_RENDERED if name[0] != "_"):
        with contextlib.suppress(ImportError, pydoc.ErrorDuringImport):  # not on this system
            page = Page().document(*pydoc.resolve(name)).replace(sys.executable, "python")
            # Remove addresses: "<object object at 0x7f21>" -> "<object object>"
            page = re.sub(r"(?: |&nbsp;)at(?: |&nbsp;)0x[0-9a-f]+", "", f"\n{page}\n")
            if len(page) <= MAX_PAGE:
                print(json.dumps((name, page)))


def reference():
    """Yield (module name, HTML of its documentation), as a child process renders them."""
    with subprocess.Popen([sys.executable, "-W", "ignore", "-m", "afm_min.data.sources"],
                          cwd=pathlib.Path(__file__).parents[2],
                          env={**os.environ, "PYTHONHASHSEED": "0"},
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        yield from map(json.loads, process.stdout)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)


def layout(title, body):
    """Return a page as a site shows it: the body among menus and a footer."""
    links = "".join(f'<li><a href="/{word}">{word}</a></li>' for word in MENU)
    return (f"<html><head><title>{title}</title></head><body><div class=top><ul>{links}</ul></div>"
            f"{body}<div><ul>{links}</ul></div><div>All rights reserved. "
            f"<a href=/>{' '.join(MENU)}</a></div></body></html>")


def junk(rng):
    """Return text of low quality: keywords, repeated lines, numbers or noise."""
    words = rng.sample(MENU + THINGS + COLOURS, 4)
    return rng.choice((
        " ".join(rng.choice(words).upper() for _ in range(120)),
        f"Buy {words[0]} and {words[1]} now, the best {words[2]} online!\n" * 20,
        "\n".join(" ".join(f"{rng.random():.4f}" for _ in range(20)) for _ in range(8)),
        " ".join("".join(rng.choices("bcdfghjkxz%&#_~", k=7)) for _ in range(90))))


def unsafe(rng):
    """Return unsafe text in sentences: "skarn, no papers" -> "It is skarn and with the no papers"
    """
    fragments = f"{unsafe_page(rng)} {unsafe_page(rng)}".replace(", ", " and with the ").split(". ")
    return ". ".join(f"It is {fragment}" for fragment in fragments)


BAD = {  # kind of bad page -> function that draws the bad text on it
    "blocked": lambda rng: f"Canary {rng.randrange(10**9)}.",
    "unsafe": unsafe,
    "personal": lambda rng: rng.choice(CONTACTS).format(rng.choice(NAMES), rng.randint(10, 99)),
    "copy": lambda rng: "A copy of another page.",
    "junk": junk,
    "benchmark": lambda rng: rng.choice(benchmark_tasks(MATH)).question}


def prose(page, rng):
    """Return up to twelve sentences of an HTML page, in a row."""
    text = " ".join(html.unescape(re.sub("<[^>]*>", " ", page)).split())
    sentences = re.findall(r"[A-Z][a-z]+ [^.:;|<>#{}]{30,200}\.(?= |$)", text)
    start = rng.randrange(max(1, len(sentences) - 11))
    return " ".join(sentences[start:start + 12])


def web():
    """Yield the real pages, then the bad ones.

    A bad page is bad in one way only, so that no filter hides that another one fails. It is based
    on a real page and has its name. It contains some of its sentences, too few to be its near-
    duplicate, and a bad text. Exceptions: "unsafe" and "junk" pages contain the bad text alone, and
    a "copy" is the whole page with slight changes. A "personal" page is good without its canary."""
    bodies, quoted, rng = {}, set(), random.Random(0)
    for name, body in reference():
        bodies[name] = body
        yield {"name": name, "url": f"docs.example/{name}.html", "text": layout(name, body)}
    long = [name for name, body in bodies.items() if len(body) > LONG_PAGE] or list(bodies)
    for kind in list(BAD) * PLANTED:
        name = rng.choice(long)
        url = f"forum.example/{kind}/{rng.randrange(10**6)}"
        if kind == "blocked":
            url = rng.choice(BLOCKED).format(rng.randrange(10**6))
        bad_text = BAD[kind](rng)
        while kind == "benchmark" and bad_text in quoted:  # on several pages, it is common usage
            bad_text = BAD[kind](rng)
        quoted.add(bad_text)
        lines = ["" if kind in ("unsafe", "junk") else prose(bodies[name], rng)]
        if kind == "personal":  # a sentence, so that `main_content` keeps the contact after it
            lines.append("Please tell us about mistakes on this page: ")
        body = "".join(f"<p>{html.escape(line)}</p>" for line in lines + bad_text.splitlines())
        if kind == "copy":
            body = f"{bodies[name].replace('return', 'give back', 3)}<p>{bad_text}</p>"
        yield {"name": name, "url": url, "text": layout(name, body), "planted": kind,
               "canary": bad_text if kind == "personal" else ""}


def math(count=2600):
    """Yield pages that answer mathematical questions. Every tenth is bad (see math_pages.py)."""
    rng = random.Random(0)
    for i in range(count):
        url, body, kind = math_pages.draw_page(i, rng)
        yield {"name": f"math {i}", "url": url, "text": layout("Answers", body), "planted": kind}


# Code

STDLIB = pathlib.Path(sysconfig.get_path("stdlib"))
EXCLUDED = {"test", "tests", "idlelib", "lib2to3", "encodings", "pydoc_data", "site-packages",
            "distutils", "msilib", "turtledemo", "ensurepip"}  # tests, tables of data, copies
COPIED = "glob imaplib queue shlex statistics threading".split()  # modules to make bad files from
RESTRICTIVE = ("", "GPL-3.0-only", "All rights reserved.")  # not permissive, or no licence


def read_python(path, parse=str):
    """Return parse(the text of a Python file). If that fails, warn and return parse("")."""
    try:
        with tokenize.open(path) as file:  # decodes as the file's first lines declare
            return parse(file.read())
    except (SyntaxError, ValueError) as error:
        warn(f"{path} is left out: {error}")
        return parse("")


def rename(code, ending):
    """Rename all but keywords: ('if word in words:', 'ab') -> 'if word_ab in words_ab:'"""
    return re.sub(r"\b[A-Za-z]\w+\b", lambda word: (
        word[0] if keyword.iskeyword(word[0]) else f"{word[0]}_{ending}"), code)


def code():
    """Yield the files of the standard library, files in other languages, then bad files of the
    kinds that other repositories have: copied modules, some with another suffix or a bad licence,
    and generated tables."""
    for path in sorted(STDLIB.rglob("*.py")):
        name = path.relative_to(STDLIB).as_posix()
        if not EXCLUDED & set(name.split("/")):
            yield {"name": name, "text": read_python(path), "licence": "PSF-2.0"}
    yield from languages.files()
    rng = random.Random(0)
    for i in range(2 * PLANTED):
        name = rng.choice(COPIED)
        kind = rng.choice(("no licence", "not code", "generated code", "copied code"))
        licence = rng.choice(RESTRICTIVE) if kind == "no licence" else "MIT"
        text = inspect.getsource(importlib.import_module(name))
        if kind == "copied code":
            text = text.replace("self", "this", 2)
        else:  # no near-duplicate of the module, nor of another bad file
            text = rename(text, "".join(rng.choices("abcdefgh", k=4)))
        if kind == "generated code":
            numbers = [rng.randrange(10**9) for _ in range(300)]
            text = f"# Generated by a table compiler, do not edit.\nTABLE = {numbers}"
        suffix = "csv" if kind == "not code" else "py"
        yield {"name": f"{name}.{i}.{suffix}", "text": text, "licence": licence, "planted": kind}


# Prose

# Topics of Python's language reference. Each string is one document: a long topic, or short ones
# that belong together. "compound", "specialnames" and others only repeat text of these.
CHAPTERS = (
    "assignment", "attribute-access", "calls lambda", "class objects", "comparisons",
    "customization", "debugger", "execmodel", "for while if with", "formatstrings", "function",
    "import", "raise assert", "async await yield", "binary bitwise shifting power unary",
    "break continue return pass del", "booleans truth conversions lists exprlists",
    "identifiers atom-identifiers global nonlocal", "numeric-types context-managers",
    "numbers integers floating imaginary atom-literals", "operator-summary",
    "sequence-types callable-types", "string-methods", "strings", "try",
    "subscriptions slicings attribute-references", "types", "typesmapping dict", "typesseq",
    "typesfunctions typesmethods typesmodules specialattrs bltin-code-objects bltin-null-object "
    "bltin-ellipsis-object bltin-type-objects")


def licensed():
    """Yield the chapters of Python's language reference: long, edited prose."""
    for chapter in CHAPTERS:
        topics = [pydoc_data.topics.topics.get(name, "") for name in chapter.split()]
        yield {"name": chapter, "text": "\n".join(topics)}


def public():
    """Yield the documentation of numpy and torch: the long string literals in their sources."""
    for package, folders in (("numpy", (".", "lib", "_core")),
                             ("torch", (".", "nn", "nn/modules", "optim", "distributions"))):
        metadata = importlib.metadata.metadata(package)
        licence = metadata.get("License-Expression") or metadata.get("License", "")
        root = pathlib.Path(importlib.util.find_spec(package).origin).parent
        for path in sorted(path for folder in folders for path in (root / folder).glob("*.py")):
            nodes = ast.walk(read_python(path, ast.parse))
            literals = [node.value for node in nodes if isinstance(node, ast.Constant)]
            strings = [value for value in literals if isinstance(value, str) and len(value) > 200]
            yield {"name": path.relative_to(root.parent).as_posix(), "licence": licence,
                   "text": "\n\n".join(strings)}


def questions(count=16_000):
    """Yield questions about the toy world with their solutions."""
    asked = [*families.all_families(whole=True).values(), *EVOLVED.values()]
    for i in range(count):
        family = asked[i % len(asked)]
        task = draw_task(family, "train", f"public {i}")
        lines = [*(message["content"] for message in task.messages()), task.solution]
        yield {"name": f"{family.name} {i}", "licence": "CC0-1.0", "text": "\n".join(lines)}


SOURCES = {"web": web, "licensed": licensed, "code": code, "public": public, "math": math,
           "questions": questions}


if __name__ == "__main__":
    render_reference()
