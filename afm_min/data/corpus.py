"""Where text comes from, what is held out, how sources are mixed, and how text is packed.

The default text needs no download: CPython, numpy and torch carry it, see SOURCES. A document is a
dict of source, name, topic, text, and held_out: true for those that no stage may train on.
"""
import ast
import collections
import functools
import hashlib
import importlib.metadata
import json
import pathlib
import pydoc_data.topics
import random
import re
import sysconfig

import numpy
import torch

from afm_min.data import crawl, filters
from afm_min.world import families
from afm_min.world.tasks import EVOLVED, RECALL, draw_task
from afm_min.data.funnel import Funnel
from afm_min.run import UserError, save, write_text
from afm_min.tokenizer import DOCUMENT, Tokenizer

HELD_OUT = 0.05  # share of each source's topics, at least
# Share of a source's topics that is read; of other sources it is all. Both what is read and what is
# held out have the lowest digests: so the share changes little of what is held out.
SHARES = {"code": 0.3, "public": 0.7}

# The mixture of each stage: source -> share of the rows, in any unit. "user" is --data's text;
# "recall" is written on the way: in the report in context lengthening only, but see README.
CORE = {"web": 0.5, "code": 0.2, "public": 0.25, "math": 0.05, "questions": 0.7, "user": 1,
        "recall": 0.25}
CONTINUED = CORE | {"web": 0.2, "code": 0.3, "public": 0.1, "math": 0.2, "licensed": 0.2}
LENGTHENING = CONTINUED | {"recall": 1}
ANSWER_WEIGHT = 30.0  # of an answer of recall in the loss; all other tokens have 1
STDLIB = pathlib.Path(sysconfig.get_path("stdlib"))
LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "encodings", "pydoc_data", "site-packages",
            "distutils", "msilib", "turtledemo", "ensurepip"}  # tests, tables, and copies of others


def licensed():
    """The language reference: long, edited prose."""
    yield from ({"name": name, "text": text} for name, text in pydoc_data.topics.topics.items())


def code():
    """The standard library's own sources, and files such as one meets in other repositories."""
    for path in sorted(STDLIB.rglob("*.py")):
        name = path.relative_to(STDLIB).as_posix()
        if not LEFT_OUT & set(name.split("/")):
            yield {"name": name, "text": path.read_text("utf-8"), "licence": "PSF-2.0"}
    yield from crawl.repositories()


def public():
    """Documentation that numpy and torch carry: the long string literals in their sources."""
    for package, parts in ((numpy, ". lib _core"), (torch, ". nn nn/modules optim distributions")):
        about = importlib.metadata.metadata(package.__name__)
        licence = about.get("License-Expression") or about.get("License", "")
        root = pathlib.Path(package.__file__).parent
        for path in sorted(p for part in parts.split() for p in (root / part).glob("*.py")):
            name = path.relative_to(root.parent).as_posix()
            nodes = ast.walk(ast.parse(path.read_text("utf-8")))
            values = (getattr(node, "value", None) for node in nodes)
            strings = (value for value in values if isinstance(value, str) and len(value) > 200)
            yield {"name": name, "licence": licence, "text": "\n\n".join(strings)}


def questions(count=16_000):
    """A public collection of questions and answers about the toy world, as text."""
    everything = [*families.all_families({}).values(), *EVOLVED.values()]
    for i in range(count):
        family = everything[i % len(everything)]
        task = draw_task(family, "train", f"public {i}")
        said = [*(message["content"] for message in task.messages()), task.solution]
        yield {"name": f"{family.name} {i}", "licence": "CC0-1.0", "text": "\n".join(said)}


SOURCES = {"web": crawl.pages, "licensed": licensed, "code": code, "public": public,
           "math": crawl.math_pages, "questions": questions}


def user_files(folder):
    """All files below a folder but hidden ones. One of more than 64 K characters becomes several
    documents, so that a single large file can be split into what is trained on and held out."""
    if not folder.is_dir():
        raise UserError(f"--data {folder}: there is no such folder")
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if "/." in f"/{name}" or not path.is_file():
            continue
        try:
            text = path.read_bytes().decode("utf-8")
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 (see byte {error.start}): convert it, or take it "
                            "out of the folder") from None
        for start in range(0, len(text), 2**16):
            yield {"name": f"{name} {start}", "text": text[start:start + 2**16]}


def collect(folder, common, share=1.0, lexicon=""):
    """All documents: those of SOURCES that pass the funnel, of this share of their topics, or a
    user's files as they are, of the source "user". Returns them, and the funnel or None."""
    if folder and lexicon:
        raise UserError(f"data.lexicon={lexicon}: with --data, text passes no filter")
    words = filters.read_lexicon(lexicon) if lexicon else filters.SWEARWORDS
    if not 0 < share <= 1:
        raise UserError(f"data.share={share}: it is a share of all topics, above 0 and at most 1")
    funnel = None if folder else Funnel(pydoc_data.topics.topics.values(), common, words)
    sources = {"user": lambda: user_files(pathlib.Path(folder))} if folder else SOURCES
    found = (d | {"source": source, "topic": topic(source, d["name"])}
             for source, read in sources.items() for d in read() if d["text"].strip())
    found = (d for d in found
             if folder or digest(d["topic"]) < share * SHARES.get(d["source"], 1))
    documents = [{key: d[key] for key in ("source", "name", "text", "topic")}
                 for d in (funnel.run(found) if funnel else found)]
    hold_out(documents)
    documents = without_known_lines(documents)
    if len({document["held_out"] for document in documents}) < 2:
        raise UserError(f"--data {folder} needs text to train on and other text to hold out: give "
                        "two UTF-8 files, or one over 64 KB")
    return documents, funnel


def topic(source, name):
    """What a document is about: ("code", "json/decoder.py") -> "json".

    A module's page and its source carry the same docstrings, so both must fall on the same side of
    the split. "_pydecimal.py" is about decimal, too."""
    if source in ("web", "code"):
        return re.sub(r"^_(py_?)?", "", re.split(r"[./]", name)[0])
    return f"{source} {name}"


def digest(topic):
    """A number in 0 to 1 that is random in the topic, but always the same."""
    return int.from_bytes(hashlib.sha256(topic.encode()).digest()[:6], "big") / 2**48


def hold_out(documents):
    """Mark those on the topics of each source with the lowest digests: HELD_OUT of them, and at
    least one."""
    held_out = set()
    for source in {d["source"] for d in documents}:
        topics = sorted({d["topic"] for d in documents if d["source"] == source}, key=digest)
        held_out.update(topics[:max(1, round(HELD_OUT * len(topics)))])
    for document in documents:
        document["held_out"] = document["topic"] in held_out


def without_known_lines(documents, length=40):
    """Take from held-out documents the lines of `length` characters or more that also stand in a
    document trained on, such as methods that a page shows as inherited: they are known, not new."""
    known = {line for d in documents if not d["held_out"]
             for line in d["text"].splitlines() if len(line) >= length}
    for d in documents:
        if d["held_out"]:
            lines = d["text"].splitlines(keepends=True)
            d["text"] = "".join(line for line in lines if line.rstrip("\r\n") not in known)
    return [d for d in documents if d["text"].strip()]


def read_documents(run):
    """The documents of a run."""
    try:
        return list(map(json.loads, run.file("documents.jsonl").read_text().splitlines()))
    except FileNotFoundError:
        raise UserError(f"{run.path} holds no documents: run the stage data first") from None


@functools.lru_cache(2)  # so that a stage finds the tasks that one before it has drawn
def toy_world(run, whole=False):
    """The families, with the run's own web pages to search. whole: see families.Tools."""
    return families.all_families({d["name"]: d["text"] for d in read_documents(run)
                                  if d["source"] == "web" and not d["held_out"]}, whole)


def data(run, *, folder="", common=5, share=1.0, lexicon=""):
    """Collect the documents: from `folder`, or those that CPython carries, through the funnel. Of
    these a share is enough for a trial. lexicon: a file of more words that no page may hold, one a
    line."""
    documents, funnel = collect(folder, common, share, lexicon)
    write_text(run.file("documents.jsonl"), "".join(json.dumps(d) + "\n" for d in documents))
    sizes = collections.Counter()
    for d in documents:
        sizes[f"{d['source']} M characters"] += len(d["text"]) / 1e6
    return {**sizes, **(funnel.report() if funnel else {})}


def tokenizer(run, *, mixture=CONTINUED, coverage=0.9995):
    """Train the tokenizer on documents in the proportions of the mixture, so that what the model
    sees often becomes few tokens; turn all documents into ids."""
    documents = read_documents(run)
    texts = {"train": {}, "held_out": {}}  # split -> source -> its texts
    for d in documents:
        of_split = texts["held_out" if d["held_out"] else "train"]
        of_split.setdefault(d["source"], []).append(d["text"])
    seen = proportioned(texts["train"], mixture)
    trained = Tokenizer.train(seen, run.config.vocab_size, coverage)
    trained.save(run.file("tokenizer.json"))
    streams = {split: {source: pack(found, trained) for source, found in sources.items()}
               for split, sources in texts.items()}  # ids (N,) instead of texts
    save(run.file("tokens.pt"), **streams, **run.provenance("tokenizer"))
    tokens = sum(len(ids) for split in streams.values() for ids in split.values())
    return {"vocabulary": trained.vocab_size,
            "characters per token": sum(len(d["text"]) for d in documents) / tokens}


def proportioned(texts, mixture):
    """Of each source so many of its texts, or so often, that it has its share of all characters."""
    lengths = {source: sum(map(len, found)) for source, found in texts.items()}
    unit = sum(lengths.values()) / (sum(mixture.get(source, 0) for source in texts) or 1)
    rng = random.Random(0)
    for source, found in texts.items():
        times = mixture.get(source, 0) * unit / lengths[source]
        for text in found:
            yield from [text] * int(times + rng.random())


def pack(texts, tokenizer):
    """Texts -> one stream of ids (N,), int32, each text opened by <|document|>."""
    encoded = ([tokenizer.special(DOCUMENT), *tokenizer.encode(text)] for text in texts)
    return torch.tensor([i for ids in encoded for i in ids], dtype=torch.int32)


def mixture_batches(streams, weights, rows, length):
    """A function from step to batch, {"ids": (rows, length + 1), "loss_weights": as ids, of each token in
    the loss}: windows drawn from the streams.

    streams: source -> ids (N,), or a function from a length to a row of ids and one of weights.
    weights: source -> share of the rows, in any unit; one that has no stream is passed over. A
    window may run on from one document into the next. Draws come from torch's global generator,
    which the loop seeds anew at every step."""
    if rows < 1 or not all(isinstance(weight, (int, float)) for weight in weights.values()):
        raise UserError(f"{rows} rows drawn by the mixture {weights}: there must be at least one, "
                        "and weights must be numbers")
    chosen = {name: stream for name, stream in streams.items() if weights.get(name, 0) > 0}
    for name, stream in chosen.items():
        if not callable(stream) and len(stream) <= length:
            raise UserError(f"source {name} has {len(stream)} tokens, too few for sequences "
                            f"of {length}: give more text, or a smaller model.context")
    if not chosen:
        raise UserError(f"the mixture {weights} names none of the sources {', '.join(streams)}")
    shares = torch.tensor([float(weights[name]) for name in chosen])
    draws = [s if callable(s) else functools.partial(window, s) for s in chosen.values()]

    def batch(step):
        drawn = [draws[i](length + 1) for i in torch.multinomial(shares, rows, replacement=True)]
        ids, weight = map(torch.stack, zip(*drawn))
        return {"ids": ids.long(), "loss_weights": weight}

    return batch


def window(stream, size):
    """`size` ids in a row from anywhere in a stream, and the weight 1 of each."""
    start = torch.randint(len(stream) - size + 1, ())
    return stream[start:start + size], torch.ones(size)


def insert_fact(filler, task, places, tokenizer):
    """Ids in which a task's fact stands at the first of some places in the filler, and at each
    of the others its question with the answer. Returns them, and for each if it is an answer's."""
    before, after = task.text().split(task.answer)
    told = [(i, False) for i in tokenizer.encode(f"\n{task.fact}\n")]
    asked = [(i, text == task.answer) for text in (f"\n{before}", task.answer, after)
             for i in tokenizer.encode(text)]
    row = [(i, False) for i in filler]
    for place, piece in reversed([*zip(places, [told] + [asked] * (len(places) - 1))]):
        row[place:place] = piece  # the last first, as it moves what stands behind it
    return [list(column) for column in zip(*row)]


def recall_rows(streams, mixture, tokenizer):
    """A function from size to a row of ids, and one of weights, (size,): text of the mixture,
    somewhere in it a fact, and behind that questions about it (the report's synthetic long-context
    question answering)."""
    shares = {name: mixture[name] for name in streams if mixture.get(name, 0)}

    def row(size):
        if not shares:
            raise UserError(f"the mixture {mixture} has no text to tell facts in: add a source")
        rng = random.Random(torch.randint(2**31, ()).item())
        filler = window(streams[rng.choices(list(shares), shares.values())[0]], size)[0].tolist()
        task = draw_task(RECALL, "train", rng.random())
        asked = rng.randint(1, max(1, size // 40))  # times
        room = max(0, size - len(insert_fact([], task, [0] * (1 + asked), tokenizer)[0]))
        told = rng.randint(0, room // 4)  # so early that questions can be far from it
        places = [told, *sorted(rng.randint(told, room) for _ in range(asked))]
        ids, answers = torch.tensor(insert_fact(filler, task, places, tokenizer))[:, :size]
        return ids, 1 + (ANSWER_WEIGHT - 1) * answers.float()
    return row


def held_out_windows(stream, length, most):
    """A stream as rows that overlap by one id, (rows, length + 1); of a stream of more than `most`
    ids, as many rows as make up that, from all over it."""
    rows = stream.unfold(0, min(length, len(stream) - 1) + 1, min(length, len(stream) - 1))
    kept = max(1, min(len(rows), most // length))
    return rows[torch.linspace(0, len(rows) - 1, kept).long()].long()
