"""A small web to crawl: real pages, and bad ones planted among them, whose truth is known.

The real pages are the standard library's documentation, as pydoc renders it to HTML. Run as a
script, this file prints them as JSON lines; `reference` does so in an interpreter of its own, with
a fixed hash seed and modules as they are when imported: so on one machine they are always the same.
"""
import contextlib
import html
import importlib
import inspect
import io
import json
import os
import pathlib
import pydoc
import random
import re
import subprocess
import sys

from afm_min import filters, tasks

# Modules that open windows when imported, print, or tell of the machine.
UNFIT = {"antigravity", "this", "idlelib", "turtledemo", "sys"}
LARGEST = 250_000  # characters; a longer page is mostly lists of inherited methods
PLANTED = 40  # pages of each kind
ROBOTS = {  # host -> its robots.txt
    "docs.example": "User-agent: *\nDisallow: /drafts/\n",
    "forum.example": "User-agent: Applebot\nDisallow: /members\n\nUser-agent: *\nDisallow: /\n\n"
                     "User-agent: applebot\nDisallow: /*?session=\nDisallow: /*.print$\n"
                     "Allow: /members/rules\n"}
BLOCKED = ("docs.example/drafts/{}", "forum.example/members/{}", "forum.example/{}?session=7",
           "forum.example/{}.print")
COPIED = "glob imaplib queue shlex statistics threading".split()  # modules that corpus.code reads
MENU = "Home Products Pricing Careers Newsroom Investors Support Login Imprint Cookies".split()
ORDINARY = filters.words("ordinary").split(", ")
TOPICS = [[words.strip().split(", ") for words in topic.split("|")]
          for topic in filters.words("topics").split(";")]
CONTACTS = ("{name}.{n}@mail.example", "(212) 555-01{n}", "+44 20 7946 09{n}",
            "4111 1111 1111 1111", "93.184.216.{n}", "078-05-11{n}")


def reference():
    """Yield (module name, HTML page), while the next ones are rendered on another core."""
    with subprocess.Popen([sys.executable, "-W", "ignore", "-m", "afm_min.crawl"],
                          cwd=pathlib.Path(__file__).parent.parent,
                          env={**os.environ, "PYTHONHASHSEED": "0"},
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        yield from map(json.loads, process.stdout)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)


def layout(title, body):
    """A page as a site shows it: the body among menus, banners and links that are no text of it."""
    links = "".join(f'<li><a href="/{word}">{word}</a></li>' for word in MENU)
    return (f"<html><head><title>{title}</title></head><body><div class=top><ul>{links}</ul></div>"
            f"{body}<div><ul>{links}</ul></div><div>All rights reserved. "
            f"<a href=/>{' '.join(MENU)}</a></div></body></html>")


def unsafe(rng, harmless=False):
    """Fragments on one topic that does harm; or on what only sounds like it, or on nothing such."""
    about, urged, told = rng.choice(TOPICS)
    ordinary = [rng.sample(ORDINARY, 4) for _ in range(rng.randint(1, 6))]
    parts = ordinary[::2] + [rng.sample(about, rng.randint(1, 2))
                             + rng.sample(told if harmless else urged, rng.randint(1, 3))
                             for _ in range(rng.randint(2, 6))]
    parts = ordinary if harmless and rng.random() < 0.3 else parts
    for part in [*parts, parts]:
        rng.shuffle(part)
    return ". ".join(map(", ".join, parts)) + "."


def junk(rng):
    """What no reader wants: keywords, lines again and again, numbers, noise."""
    words = rng.sample(MENU + tasks.THINGS + tasks.COLOURS, 4)
    return rng.choice((
        " ".join(rng.choice(words).upper() for _ in range(120)),
        f"Buy {words[0]} and {words[1]} now, the best {words[2]} online!\n" * 20,
        "\n".join(" ".join(f"{rng.random():.4f}" for _ in range(8)) for _ in range(20)),
        " ".join("".join(rng.choices("bcdfghjkxz%&#_~", k=7)) for _ in range(90))))


def planted(kind, rng, text):
    """A bad page as (path, text, secret). text: a stretch of a real page, to hide among.
    secret: what must not get through; of a copy all."""
    path, secret = f"forum.example/{kind}/{rng.randrange(10**6)}", ""
    if kind == "blocked":
        path = rng.choice(BLOCKED).format(rng.randrange(10**6))
        secret = f"Canary {rng.randrange(10**9)}."
    elif kind == "unsafe":
        text, secret = "", unsafe(rng)
    elif kind == "personal":
        contact = rng.choice(CONTACTS).format(name=rng.choice(tasks.NAMES), n=rng.randint(10, 99))
        text, secret = f"{text}\nPlease tell us about mistakes on this page: ", contact
    elif kind == "junk":
        text, secret = "", junk(rng)
    elif kind == "benchmark":
        secret = rng.choice(tasks.benchmark(tasks.math)).question
    return path, f"{text}\n{secret}", secret


def pages(seed=0):
    """The crawl: yield {"name", "url", "text"}, HTML, and of bad pages "planted", their kind, and
    "secret". A planted page is named like the real one that it was made from."""
    bodies = {}
    for name, page in reference():
        bodies[name] = re.search(r"(?s)<body[^>]*>(.*)</body>", page)[1]
        yield {"name": name, "url": f"docs.example/{name}.html", "text": layout(name, bodies[name])}
    rng = random.Random(seed)
    for kind in ("blocked", "unsafe", "personal", "copy", "junk", "benchmark") * PLANTED:
        name = rng.choice(list(bodies))
        text = " ".join(html.unescape(re.sub("<[^>]*>", " ", bodies[name])).split()[100:300])
        path, text, secret = planted(kind, rng, text)
        body = "".join(f"<p>{html.escape(line)}</p>" for line in text.splitlines())
        if kind == "copy":
            body = bodies[name].replace("return", "give back", 3) + "<p>A copy of another page.</p>"
        yield {"name": name, "url": path, "text": layout(name, body), "planted": kind,
               "secret": secret}


def repositories(seed=0):
    """Source files such as one meets elsewhere, each with something against it."""
    rng = random.Random(seed)
    for i in range(2 * PLANTED):
        module = importlib.import_module(rng.choice(COPIED))
        kind = rng.choice(("no licence", "not code", "generated code", "copied code"))
        text, licence = inspect.getsource(module).replace("self", "this", 2), "MIT"
        if kind == "no licence":
            licence = rng.choice(("", "GPL-3.0-only", "All rights reserved."))
        elif kind == "generated code":
            text = "# Generated by a table compiler, do not edit.\nTABLE = " + repr(
                [rng.randrange(10**9) for _ in range(300)])
        name = f"{module.__name__}.{i}" + (".csv" if kind == "not code" else ".py")
        yield {"name": name, "text": text, "licence": licence, "planted": kind, "secret": ""}


def math_pages(count=3000, seed=0):
    """Pages that each answer a question in mathematics, and some that only look like it."""
    rng = random.Random(seed)
    for i in range(count):
        problem = tasks.draw(tasks.math, "train", i)
        host, answer = "math.example", f'<span class="katex">{problem.worked}</span>'
        kind = "" if i % 10 else rng.choice(("no tags", "few symbols", "noise", "other site"))
        secret = f"{kind} {i}" if kind else ""
        if kind == "no tags":
            answer = problem.worked
        elif kind == "few symbols":
            answer = '<span class="katex">x</span> is what many people ask here every day.' * 3
        elif kind == "noise":
            noise = "".join(rng.choices("0123456789+-*=(){}", k=200))
            answer = f'<span class="katex">{noise}</span>'
        elif kind == "other site":
            host = "shop.example"
        body = f"<p>Question: {problem.question}</p><p>Answer: {answer} {secret}</p>"
        yield {"name": f"math {i}", "url": f"{host}/{i}", "text": layout("Answers", body),
               **({"planted": kind, "secret": secret} if kind else {})}


class Page(pydoc.HTMLDoc):
    """pydoc's page, without what differs between machines: paths, values other than numbers."""

    def docother(self, object, name=None, mod=None, *rest):
        number = isinstance(object, (int, float))
        return super().docother(object, name, mod, *rest) if number else name or ""

    def filelink(self, url, path):
        return pathlib.Path(path).name


def render(name):
    """The page of one module, or None if it cannot be imported here or is too large."""
    page = Page()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            module = pydoc.locate(name)
        except pydoc.ErrorDuringImport:
            return None
        if not inspect.ismodule(module):
            return None
        source = page.page(name, page.document(module, name)).replace(sys.executable, "python")
    source = re.sub(r"(?: |&nbsp;)at(?: |&nbsp;)0x[0-9a-f]+", "", source)
    return source if len(source) <= LARGEST else None


if __name__ == "__main__":
    os.environ.clear()  # some modules keep it as a default argument, and pydoc prints those
    for name in sorted(sys.stdlib_module_names - UNFIT):
        if not name.startswith("_") and (source := render(name)):
            print(json.dumps((name, source)))
