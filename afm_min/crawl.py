"""A small web to crawl: the standard library's documentation, as pydoc renders it to HTML.

Run as a script, it prints the pages as JSON lines. `pages` does so in an interpreter of its own,
with a fixed hash seed and modules as they are when imported: so on one machine the pages are
always the same.
"""
import contextlib
import inspect
import io
import json
import os
import pathlib
import pydoc
import re
import subprocess
import sys

# Modules that open windows when imported, print, or tell of the machine.
UNFIT = {"antigravity", "this", "idlelib", "turtledemo", "sys"}
LARGEST = 250_000  # characters; a longer page is mostly lists of inherited methods


def pages():
    """Yield (module name, HTML page)."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-m", "afm_min.crawl"], check=True,
                          cwd=pathlib.Path(__file__).parent.parent,
                          env={**os.environ, "PYTHONHASHSEED": "0"},
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    for line in done.stdout.splitlines():
        yield json.loads(line)


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
        html = page.page(name, page.document(module, name)).replace(sys.executable, "python")
    html = re.sub(r"(?: |&nbsp;)at(?: |&nbsp;)0x[0-9a-f]+", "", html)
    return html if len(html) <= LARGEST else None


if __name__ == "__main__":
    os.environ.clear()  # some modules keep it as a default argument, and pydoc prints those
    for name in sorted(sys.stdlib_module_names - UNFIT):
        if not name.startswith("_") and (html := render(name)):
            print(json.dumps((name, html)))
