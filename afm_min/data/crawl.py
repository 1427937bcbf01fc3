"""A small web to crawl: real pages, and bad ones planted among them, whose truth is known.

The real pages are the standard library's documentation, as pydoc renders it to HTML. Run as a
script, this file prints them as JSON lines; `reference` does so in an interpreter of its own, with
a fixed hash seed and modules as they are when imported: so on one machine they are always the same.
"""
import contextlib
import html
import importlib
import inspect
import json
import os
import pathlib
import pydoc
import random
import re
import subprocess
import sys

from afm_min.world.tasks import COLOURS, MATH, NAMES, THINGS, benchmark_tasks, draw_task
from afm_min.data.unsafe_pages import unsafe_page

# Modules that open windows when imported, print, or tell of the machine.
UNFIT = {"antigravity", "this", "idlelib", "turtledemo", "sys"}
LARGEST = 250_000  # characters; a longer page is mostly lists of inherited methods
PLANTED = 40  # pages of each kind
ROBOTS = {  # host -> its robots.txt
    "docs.example": (
        "User-agent: *\n"
        "Disallow: /drafts/"),
    "forum.example": (
        "User-agent: Applebot\n"
        "Disallow: /members\n"
        "User-agent: *\n"
        "Disallow: /\n"
        "User-agent: applebot\n"
        "Disallow: /*?session=\n"
        "Disallow: /*.print$\n"
        "Allow: /members/rules")}
BLOCKED = ("docs.example/drafts/{}", "forum.example/members/{}", "forum.example/{}?session=7",
           "forum.example/{}.print")  # addresses that these files keep crawlers from
COPIED = "glob imaplib queue shlex statistics threading".split()  # modules that corpus.code reads
UNFREE = ("", "GPL-3.0-only", "All rights reserved.")  # licences that are not permissive, or none
MENU = "Home Products Pricing Careers Newsroom Investors Support Login Imprint Cookies".split()
# Whom to write to, or what to pay with; all made up.
CONTACTS = ("{0}.{1}@mail.example", "(212) 555-01{1}", "+44 20 7946 09{1}", "4111 1111 1111 1111",
            "93.184.216.{1}", "078-05-11{1}")


def reference():
    """Yield (module name, body of its page), while the next are rendered on another core."""
    with subprocess.Popen([sys.executable, "-W", "ignore", "-m", "afm_min.data.crawl"],
                          cwd=pathlib.Path(__file__).parents[2],
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


def junk(rng):
    """What no reader wants: keywords, lines again and again, numbers, noise."""
    words = rng.sample(MENU + THINGS + COLOURS, 4)
    return rng.choice((
        " ".join(rng.choice(words).upper() for _ in range(120)),
        f"Buy {words[0]} and {words[1]} now, the best {words[2]} online!\n" * 20,
        "\n".join(" ".join(f"{rng.random():.4f}" for _ in range(8)) for _ in range(20)),
        " ".join("".join(rng.choices("bcdfghjkxz%&#_~", k=7)) for _ in range(90))))


BAD = {  # kind of page -> what of it must not get through; of a copy all
    "blocked": lambda r: f"Canary {r.randrange(10**9)}.",
    "unsafe": unsafe_page,
    "personal": lambda r: r.choice(CONTACTS).format(r.choice(NAMES), r.randint(10, 99)),
    "copy": lambda r: "",
    "junk": junk,
    "benchmark": lambda r: r.choice(benchmark_tasks(MATH)).question}


def pages():
    """The crawl: yield {"name", "url", "text"}, the text in HTML; of bad pages also "planted", the
    kind, and "secret", which stands after a stretch of a real page or alone. A planted page is
    named like the real one that it was made from."""
    bodies, rng = {}, random.Random(0)
    for name, body in reference():
        bodies[name] = body
        yield {"name": name, "url": f"docs.example/{name}.html", "text": layout(name, body)}
    for kind in [*BAD] * PLANTED:
        name = rng.choice(list(bodies))
        url = f"forum.example/{kind}/{rng.randrange(10**6)}"
        if kind == "blocked":
            url = rng.choice(BLOCKED).format(rng.randrange(10**6))
        secret = BAD[kind](rng)
        words = html.unescape(re.sub("<[^>]*>", " ", bodies[name])).split()[100:300]
        lines = ["" if kind in ("unsafe", "junk") else " ".join(words)]
        lines += ["Please tell us about mistakes on this page: "] * (kind == "personal")
        body = "".join(f"<p>{html.escape(line)}</p>" for line in lines + secret.splitlines())
        if kind == "copy":
            body = bodies[name].replace("return", "give back", 3) + "<p>A copy of another page.</p>"
        yield {"name": name, "url": url, "text": layout(name, body), "planted": kind,
               "secret": secret}


def repositories():
    """Source files such as one meets elsewhere, each with something against it."""
    rng = random.Random(0)
    for i in range(2 * PLANTED):
        name = rng.choice(COPIED)
        kind = rng.choice(("no licence", "not code", "generated code", "copied code"))
        licence = rng.choice(UNFREE) if kind == "no licence" else "MIT"
        text = inspect.getsource(importlib.import_module(name)).replace("self", "this", 2)
        if kind == "generated code":
            numbers = [rng.randrange(10**9) for _ in range(300)]
            text = f"# Generated by a table compiler, do not edit.\nTABLE = {numbers}"
        yield {"name": f"{name}.{i}.{'csv' if kind == 'not code' else 'py'}", "text": text,
               "licence": licence, "planted": kind, "secret": ""}


def math_pages(count=3000):
    """Pages that each answer a question in mathematics, and some that only look like it."""
    rng = random.Random(0)
    for i in range(count):
        task = draw_task(MATH, "train", i)
        kind = "" if i % 10 else rng.choice(("no tags", "few symbols", "noise", "other site"))
        host = "shop.example" if kind == "other site" else "math.example"
        answer, secret = task.solution, f"{kind} {i}" if kind else ""
        if kind == "noise":
            answer = "".join(rng.choices("0123456789+-*=(){}", k=200))
        if kind != "no tags":
            answer = f'<span class="katex">{answer}</span>'
        if kind == "few symbols":
            answer = '<span class="katex">x</span> is what many people ask here every day.' * 3
        body = f"<p>Question: {task.question}</p><p>Answer: {answer} {secret}</p>"
        yield {"name": f"math {i}", "url": f"{host}/{i}", "text": layout("Answers", body),
               "planted": kind, "secret": secret}


class Page(pydoc.HTMLDoc):
    """pydoc's page, without what differs between machines: paths, values other than numbers."""

    def docother(self, object, name=None, mod=None, *rest):
        number = isinstance(object, (int, float))
        return super().docother(object, name, mod, *rest) if number else name or ""

    def filelink(self, url, path):
        return pathlib.Path(path).name


if __name__ == "__main__":
    os.environ.clear()  # some modules keep it as a default argument, and pydoc prints those
    for name in sorted(name for name in sys.stdlib_module_names - UNFIT if name[0] != "_"):
        with contextlib.suppress(ImportError, pydoc.ErrorDuringImport):  # not to be had here
            page = Page().document(*pydoc.resolve(name)).replace(sys.executable, "python")
            page = re.sub(r"(?: |&nbsp;)at(?: |&nbsp;)0x[0-9a-f]+", "", f"\n{page}\n")
            if len(page) <= LARGEST:
                print(json.dumps((name, page)))
