"""The corpus: collect documents, hold some out, train the tokenizer, and draw batches.

A document is a dict of source, name, topic, text and held_out: true if no stage may train on it.
Shapes: N ids in a stream; B rows in a batch, each of T + 1 ids: T inputs, and T targets one later.
"""
import collections
import functools
import hashlib
import pathlib
import pydoc_data.topics
import random
import re

import torch

from afm_min.data import safety
from afm_min.data.filters import is_code
from afm_min.data.funnel import Funnel
from afm_min.data.sources import SOURCES
from afm_min.progress import track
from afm_min.run import UserError, save
from afm_min.tokenizer import DOCUMENT, Tokenizer
from afm_min.world.tasks import RECALL, draw_task

HELD_OUT = 0.05  # share of each source's topics that is held out
# Share of a source's topics that is used; 1 for other sources. The topics with the lowest digests
# are used, and the lowest of these are held out. So with a smaller share, the held-out topics are
# some of those that are held out with a larger one.
SHARES = {"code": 0.3, "public": 0.7}

# The mixture of each stage: source -> weight. Rows are drawn in proportion to the weights. "user"
# is the text of --data. "recall" is no source: `recall_rows` makes its rows. (The report has such
# rows in context lengthening only.)
CORE = {"web": 0.5, "code": 0.2, "public": 0.25, "math": 0.05, "questions": 0.7, "user": 1,
        "recall": 0.5}
CONTINUED = CORE | {"web": 0.2, "code": 0.3, "public": 0.1, "math": 0.2, "licensed": 0.2}
LENGTHENING = CONTINUED | {"recall": 1}
ANSWER_WEIGHT = 30.0  # weight in the loss of answers in recall rows; other tokens have weight 1


# Documents

def user_files(folder, filtered=False):
    """Yield a document per file below a folder, except hidden ones. Its kind, by the file's suffix,
    decides its filters: "user page", "user code" or "user text".

    A file of more than 64 K characters becomes several documents, so that part of it can be held
    out. Only pages stay whole if they are `filtered`, since their main content is shorter."""
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
        if name.lower().endswith((".html", ".htm", ".xhtml")):
            kind = "user page"
        else:
            kind = "user code" if is_code(name) else "user text"
        size = len(text) if filtered and kind == "user page" else 2**16
        for start in range(0, len(text), size):
            yield {"name": f"{name} {start}", "text": text[start:start + size], "kind": kind}


def collect(folder, common, share=1.0, lexicon="", filtered=False):
    """Return (documents, funnel). funnel is None if no document is filtered.

    With a folder, the documents are its files, as source "user", and the funnel filters them only
    if `filtered`. Without one, SOURCES are read, on this share of their topics,
    and always filtered. common, lexicon: see `data`."""
    if folder and lexicon and not filtered:
        raise UserError(f"data.lexicon={lexicon}: with --data, text passes no filter unless "
                        "data.filtered=True")
    if not 0 < share <= 1:
        raise UserError(f"data.share={share}: it is a share of all topics, above 0 and at most 1")
    if folder:
        documents = read_sources({"user": lambda: user_files(pathlib.Path(folder), filtered)})
    else:
        # Digests are uniform from 0 to 1, so `digest < s` selects a share s of the topics.
        documents = (d for d in read_sources(SOURCES)
                     if digest(d["topic"]) < share * SHARES.get(d["source"], 1))
    funnel = None
    if filtered or not folder:
        swearwords = safety.read_lexicon(lexicon) if lexicon else safety.SWEARWORDS
        funnel = Funnel(pydoc_data.topics.topics.values(), common, swearwords)
        documents = funnel.run(documents)
    documents = [{key: d[key] for key in ("source", "name", "text", "topic")} for d in documents]
    hold_out(documents)
    documents = remove_known_lines(documents)
    if len({d["held_out"] for d in documents}) < 2:
        remedy = f"raise data.share={share}"
        if folder:
            remedy = f"give --data {folder} two UTF-8 files, or one over {2**16:,} characters"
        if filtered:
            remedy += ", that pass the filters"
        raise UserError(f"there must be text to train on and other text to hold out: {remedy}")
    return documents, funnel


def read_sources(sources):
    """Yield the documents of all sources that contain any text, with their source and topic."""
    for source, read in track(sources.items(), "data: sources"):
        for document in read():
            if document["text"].strip():
                yield document | {"source": source, "topic": topic(source, document["name"])}


def topic(source, name):
    """Return the topic of a document: ("code", "json/decoder.py") -> "json"

    The split is by topic. A module's page and its code contain the same docstrings, so they have
    the same topic. Prefixes are removed: _json, _pydecimal, _py_abc -> json, decimal, abc"""
    if source in ("web", "code"):
        return re.sub(r"^_(py_?)?", "", re.split(r"[./]", name)[0])
    return f"{source} {name}"


def digest(topic):
    """Hash a topic to a number from 0 to 1 that is the same in every run."""
    data = topic.encode(errors="surrogateescape")  # names of files need not be UTF-8
    return int.from_bytes(hashlib.sha256(data).digest()[:6], "big") / 2**48


def hold_out(documents):
    """Set held_out of each document: true for the topics with the lowest digests, HELD_OUT of each
    source's topics, but at least one. A topic held out of one source is held out of all."""
    held_out = set()
    for source in {d["source"] for d in documents}:
        topics = sorted({d["topic"] for d in documents if d["source"] == source}, key=digest)
        held_out.update(topics[:max(1, round(HELD_OUT * len(topics)))])
    for document in documents:
        document["held_out"] = document["topic"] in held_out


def remove_known_lines(documents, length=40):
    """Remove from held-out documents the lines of `length` characters or more that a training
    document contains, such as inherited methods. Then drop the documents without text."""
    known = {line for d in documents if not d["held_out"]
             for line in d["text"].splitlines() if len(line) >= length}
    for d in documents:
        if d["held_out"]:
            lines = zip(d["text"].splitlines(keepends=True), d["text"].splitlines())
            d["text"] = "".join(with_end for with_end, line in lines if line not in known)
    return [d for d in documents if d["text"].strip()]


# Stages

def data(run, *, folder="", common=5, share=1.0, lexicon="", filtered=False):
    """Collect the documents: the files in `folder`, or those of SOURCES that pass the funnel.

    common: documents from which an n-gram is common usage (see funnel.Decontamination).
    share: of the topics; a small one is enough for a trial.
    lexicon: file of more words that no web page may contain, one a line.
    filtered: send the files in `folder` through the funnel, too, as pages, code or other text."""
    documents, funnel = collect(folder, common, share, lexicon, filtered)
    run.write_lines("documents", documents)
    sizes = collections.Counter()
    for d in documents:
        sizes[f"{d['source']} M characters"] += len(d["text"]) / 1e6
    return {**sizes, **(funnel.report() if funnel else {})}


def tokenizer(run, *, mixture=CONTINUED, coverage=0.9995):
    """Train the tokenizer on documents in the proportions of the mixture, so that frequent text
    needs few tokens. Then encode all documents.

    coverage: share of the characters that become tokens of their own (see Tokenizer.train)."""
    documents = run.read_lines("documents", "data")
    texts = {"train": {}, "held_out": {}}  # split -> source -> texts
    for d in documents:
        sources = texts["held_out" if d["held_out"] else "train"]
        sources.setdefault(d["source"], []).append(d["text"])
    trained = Tokenizer.train(in_proportion(texts["train"], mixture), run.config.vocab_size,
                              coverage)
    trained.save(run.file("tokenizer.json"))
    streams = {}  # split -> source -> ids (N,)
    for split, sources in texts.items():
        streams[split] = {source: pack(sources[source], trained) for source in sources}
    save(run.file("tokens.pt"), **streams, **run.provenance("tokenizer"))
    tokens = sum(len(ids) for split in streams.values() for ids in split.values())
    return {"vocabulary": trained.vocab_size,
            "characters per token": sum(len(d["text"]) for d in documents) / tokens}


def in_proportion(texts, mixture):
    """Yield texts of all sources, some repeatedly and some not at all, so that the sources' numbers
    of characters are in the proportions of the mixture.

    For example, a source with 1/2 of all characters and 3/4 of all weights needs 1.5 copies of
    each text: one, and with probability 1/2 a second."""
    lengths = {source: sum(map(len, source_texts)) for source, source_texts in texts.items()}
    total_weight = sum(mixture.get(source, 0) for source in texts) or 1
    characters_per_weight = sum(lengths.values()) / total_weight
    rng = random.Random(0)
    for source, source_texts in texts.items():
        copies = mixture.get(source, 0) * characters_per_weight / lengths[source]
        for text in source_texts:
            yield from [text] * int(copies + rng.random())  # rounded up or down at random


def pack(texts, tokenizer):
    """Encode texts as one stream of ids (N,), int32. Each text begins with <|document|>."""
    encoded = ([tokenizer.special(DOCUMENT), *tokenizer.encode(text)] for text in texts)
    return torch.tensor([i for ids in encoded for i in ids], dtype=torch.int32)


# Batches

def mixture_batches(streams, weights, batch_size, length):
    """Return a function from step to batch: {"ids": (B, T + 1), "loss_weights": (B, T + 1)}.

    streams: source -> ids (N,), from which random windows are taken, or a function draw_row(size)
    -> ids (size,), loss weights (size,). weights: source -> weight. Each row comes from one source,
    drawn in proportion to the weights. Sources without a stream are ignored.
    A window may cross the border between documents. Random numbers come from torch's global
    generator, which the training loop seeds at every step."""
    if batch_size < 1 or not all(isinstance(weight, (int, float)) for weight in weights.values()):
        raise UserError(f"{batch_size} rows drawn by the mixture {weights}: there must be at least "
                        "one, and weights must be numbers")
    used = {name: stream for name, stream in streams.items() if weights.get(name, 0) > 0}
    if not used:
        raise UserError(f"the mixture {weights} names none of the sources {', '.join(streams)}")
    for name, stream in used.items():
        if not callable(stream) and len(stream) <= length:
            raise UserError(f"source {name} has {len(stream)} tokens, too few for sequences "
                            f"of {length}: give more text, or a smaller model.context")
    shares = torch.tensor([float(weights[name]) for name in used])
    draw_row = [s if callable(s) else functools.partial(window, s) for s in used.values()]

    def get_batch(step):
        chosen = torch.multinomial(shares, batch_size, replacement=True)  # (B,): index of a source
        ids, loss_weights = zip(*[draw_row[i](length + 1) for i in chosen])  # B rows each
        return {"ids": torch.stack(ids).long(), "loss_weights": torch.stack(loss_weights)}

    return get_batch


def window(stream, size):
    """Draw `size` consecutive ids of a stream. Return them, and a loss weight of 1 for each."""
    start = torch.randint(len(stream) - size + 1, ())
    return stream[start:start + size], torch.ones(size)


def insert_facts(filler, facts, questions, tokenizer):
    """Insert the facts of tasks, and their questions with answers, into filler ids. facts and
    questions: pairs (place, task). At the same place, facts come first, then the order is kept.
    Return the ids, and for each of them True if it is part of an answer.

    (filler = 1 2 3 4, a fact at 1, its question at 3) -> 1 fact 2 3 question answer 4"""
    def encode(text, is_answer=False):
        return [(i, is_answer) for i in tokenizer.encode(text)]

    pieces = [(place, encode(f"\n{task.fact}\n")) for place, task in facts]
    for place, task in questions:
        before, after = task.text().split(task.answer)  # the answer, one digit, occurs once
        pieces.append((place, encode(f"\n{before}") + encode(task.answer, True) + encode(after)))
    row, start = [], 0
    for place, ids in sorted(pieces, key=lambda piece: piece[0]):
        row += [(i, False) for i in filler[start:place]] + ids
        start = place
    row += [(i, False) for i in filler[start:]]
    return [i for i, _ in row], [is_answer for _, is_answer in row]


def draw_facts(rng, count):
    """Draw `count` tasks of RECALL, each about what another person has."""
    tasks = {}  # "Ada" -> task
    while len(tasks) < count:
        task = draw_task(RECALL, "train", rng.random())
        tasks[task.key.partition("'s ")[0]] = task
    return list(tasks.values())


def recall_rows(streams, mixture, tokenizer, max_facts=4):
    """Return a function from a size to a row: ids and loss weights, both (size,).

    A row is text of the mixture that contains one to `max_facts` facts and, later, questions about
    them. This is the report's synthetic long-context question answering."""
    weights = {name: mixture[name] for name in streams if mixture.get(name, 0)}

    def draw_row(size):
        if not weights:
            raise UserError(f"the mixture {mixture} has no text to insert facts in: add a source")
        rng = random.Random(torch.randint(2**31, ()).item())  # so torch's seed decides the row
        source = rng.choices(list(weights), weights.values())[0]
        filler = window(streams[source], size)[0].tolist()
        tasks = draw_facts(rng, rng.randint(1, max(1, min(max_facts, size // 40))))
        # Few questions, so that most of the row is filler.
        asked = [task for task in tasks
                 for _ in range(rng.randint(1, max(1, size // (40 * len(tasks)))))]
        # Insert into an empty row to measure the length. All places are within `room`, so that the
        # cut to `size` drops filler only.
        inserted, _ = insert_facts([], [(0, task) for task in tasks],
                                   [(0, task) for task in asked], tokenizer)
        room = max(0, size - len(inserted))
        # Facts are early, so that questions can be far from them.
        facts = [(rng.randint(0, room // 4), task) for task in tasks]
        questions = [(rng.randint(next(p for p, other in facts if other is task), room), task)
                     for task in asked]
        row = torch.tensor(insert_facts(filler, facts, questions, tokenizer))  # (2, length)
        ids, is_answer = row[:, :size]
        return ids, 1 + (ANSWER_WEIGHT - 1) * is_answer.float()

    return draw_row


def held_out_windows(stream, length, max_tokens):
    """Cut a stream into rows that overlap by one id: (N,) -> (rows, T + 1), so that each id but the
    first is a target once. An incomplete last row is dropped. If there are more than max_tokens
    targets, max_tokens // T evenly spaced rows are returned."""
    length = min(length, len(stream) - 1)
    rows = stream.unfold(0, length + 1, length)
    num_rows = max(1, min(len(rows), max_tokens // length))
    return rows[torch.linspace(0, len(rows) - 1, num_rows).long()].long()
