"""Where text comes from, what is held out, how sources are mixed, and how text is packed.

The default text needs no download: every CPython carries it, see SOURCES. A document is a dict of
source, name, topic, text, and held_out: true for those that no stage may train on.
"""
import ast
import hashlib
import html.parser
import json
import pathlib
import pydoc_data.topics
import re
import sysconfig

import numpy
import torch

from afm_min import crawl
from afm_min.run import UserError
from afm_min.tokenizer import DOCUMENT

HELD_OUT = 0.05  # share of each source's topics, at least
STDLIB = pathlib.Path(sysconfig.get_path("stdlib"))
LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "encodings", "pydoc_data", "site-packages",
            "distutils", "msilib", "turtledemo", "ensurepip"}  # tests, tables, and copies of others


class PageText(html.parser.HTMLParser):
    """Gathers the text of an HTML page, a line per block."""
    BLOCKS = set("p br div table tr td dl dt dd ul ol li pre h1 h2 h3".split())
    SILENT = {"script", "style", "title"}

    def __init__(self):
        super().__init__()
        self.parts, self.silent = [], False

    def handle_starttag(self, tag, attributes):
        self.silent = tag in self.SILENT
        if tag in self.BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag):
        self.silent = False

    def handle_data(self, data):
        if not self.silent:
            self.parts.append(data.replace("\xa0", " "))


def page_text(page):
    """'<p>One<p>Two &amp; three' -> 'One\\nTwo & three'"""
    parser = PageText()
    parser.feed(page)
    parser.close()
    return re.sub(r"\s*\n", "\n", "".join(parser.parts)).strip()


def web():
    """The standard library's documentation, as HTML pages reduced to their text."""
    for name, page in crawl.pages():
        yield name, page_text(page)


def licensed():
    """The language reference: long, edited prose."""
    yield from pydoc_data.topics.topics.items()


def code():
    """The standard library's own sources."""
    for path in sorted(STDLIB.rglob("*.py")):
        name = path.relative_to(STDLIB)
        if not LEFT_OUT & set(name.parts):
            yield name.as_posix(), path.read_text(encoding="utf-8")


def public():
    """Documentation that numpy and torch carry: the long string literals in their sources."""
    for package, names in ((numpy, "lib _core"), (torch, "nn nn/modules optim distributions")):
        root = pathlib.Path(package.__file__).parent
        folders = [root, *(root / folder for folder in names.split())]
        for path in sorted(path for folder in folders for path in folder.glob("*.py")):
            strings = [node.value for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                       if isinstance(node, ast.Constant) and isinstance(node.value, str)]
            yield (path.relative_to(root.parent).as_posix(),
                   "\n\n".join(string for string in strings if len(string) > 200))


SOURCES = {"web": web, "licensed": licensed, "code": code, "public": public}


def user_files(folder):
    """All files below a folder. One of more than 64 K characters becomes several documents, so
    that a single large file can be split into what is trained on and what is held out."""
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise UserError(f"--data {folder}: there is no such folder")
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            text = path.read_bytes().decode("utf-8")
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 (see byte {error.start}): convert it, or take it "
                            "out of the folder") from None
        for start in range(0, len(text), 2**16):
            yield f"{path.relative_to(folder)} {start}", text[start:start + 2**16]


def collect(folder=None):
    """All documents: of SOURCES, or of a user's folder as the source "user"."""
    sources = {"user": lambda: user_files(folder)} if folder else SOURCES
    documents = [{"source": source, "name": name, "topic": topic(source, name), "text": text}
                 for source, read in sources.items() for name, text in read() if text.strip()]
    held_out = held_out_topics(documents)
    for document in documents:
        document["held_out"] = document["topic"] in held_out
    documents = without_known_lines(documents)
    if len({document["held_out"] for document in documents}) < 2:
        raise UserError(f"--data {folder} needs text to train on and other text to hold out: give "
                        "two UTF-8 files, or one over 64 KB")
    return documents


def topic(source, name):
    """What a document is about: ("code", "json/decoder.py") -> "json".

    A module's page and its source carry the same docstrings, so both must fall on the same side of
    the split. "_pydecimal.py" is about decimal, too."""
    if source in ("web", "code"):
        return re.sub(r"^_(py_?)?", "", re.split(r"[./]", name)[0])
    return f"{source} {name}"


def held_out_topics(documents):
    """In each source, the topics with the lowest hashes: HELD_OUT of them, and at least one."""
    topics = {}  # source -> set of topics
    for document in documents:
        topics.setdefault(document["source"], set()).add(document["topic"])
    return {topic for names in topics.values()
            for topic in sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
            [:max(1, round(HELD_OUT * len(names)))]}


def without_known_lines(documents, length=40):
    """Take from held-out documents the lines of `length` characters or more that also stand in a
    document trained on, such as methods that a page shows as inherited: they are known, not new."""
    known = {line for document in documents if not document["held_out"]
             for line in document["text"].splitlines() if len(line) >= length}
    for document in documents:
        if document["held_out"]:
            lines = document["text"].splitlines(keepends=True)
            document["text"] = "".join(line for line in lines if line.rstrip("\r\n") not in known)
    return [document for document in documents if document["text"].strip()]


def read(run):
    """The documents of a run."""
    try:
        with open(run.file("documents.jsonl"), encoding="utf-8") as file:
            return [json.loads(line) for line in file]
    except FileNotFoundError:
        raise UserError(f"{run.path} holds no documents: run the stage data first") from None


def pack(texts, tokenizer):
    """Texts -> one stream of ids (N,), int32, each text opened by <|document|>."""
    ids = []
    for text in texts:
        ids += [tokenizer.special(DOCUMENT), *tokenizer.encode(text)]
    return torch.tensor(ids, dtype=torch.int32)


def mixture_batches(streams, weights, rows, length):
    """A function from step to batch, {"ids": (rows, length + 1)}: windows drawn from the streams.

    streams: source -> ids (N,). weights: source -> share of the rows, in any unit; one that has no
    stream is passed over. A window may run on from one document into the next. Draws come from
    torch's global generator, which the loop seeds anew at every step."""
    if rows < 1 or not all(isinstance(weight, (int, float)) for weight in weights.values()):
        raise UserError(f"{rows} rows drawn by the mixture {weights}: there must be at least one, "
                        "and weights must be numbers")
    names = [name for name in streams if weights.get(name, 0) > 0]
    for name in names:
        if len(streams[name]) <= length:
            raise UserError(f"source {name} has {len(streams[name])} tokens, too few for sequences "
                            f"of {length}: give more text, or a smaller model.context")
    if not names:
        raise UserError(f"the mixture {weights} names none of the sources {', '.join(streams)}")
    shares = torch.tensor([float(weights[name]) for name in names])

    def batch(step):
        drawn = []
        for source in torch.multinomial(shares, rows, replacement=True):
            stream = streams[names[source]]
            start = torch.randint(len(stream) - length, ())
            drawn.append(stream[start:start + length + 1])
        return {"ids": torch.stack(drawn).long()}

    return batch


def windows(stream, length, most):
    """A stream as rows that overlap by one, (rows, length + 1); of a stream longer than `most`,
    as many rows as make up that, from all over it."""
    rows = stream.unfold(0, min(length, len(stream) - 1) + 1, min(length, len(stream) - 1))
    kept = max(1, min(len(rows), most // length))
    return rows[torch.linspace(0, len(rows) - 1, kept).long()].long()
