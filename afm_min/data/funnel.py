"""The funnel: each source's filters in the report's order, and how much every one let through.

A document is a dict: source, name, text, and what its source says of it (url, licence). A planted
one also says of what kind it is, and which secret of it must not get through: so we know what did.
"""
import collections
import concurrent.futures
import json
import random
import tempfile

from afm_min import distributed
from afm_min.data import crawl, filters, pages
from afm_min.world import families
from afm_min.world.tasks import MATH, benchmark_tasks, draw_task
from afm_min.data.ngrams import (CharacterModel, Classifier, Decontamination, NearDuplicates,
                            signature)
from afm_min.run import UserError
from afm_min.data.unsafe_pages import unsafe_page

ORDER = {  # source -> its filters; "benchmarks" comes last, as it wants all texts counted before
    "web": "robots.txt, body, safety, personal data, near-duplicates, quality, benchmarks",
    "licensed": "benchmarks",
    "code": "licence, language, near-duplicates, personal data, code quality, benchmarks",
    "public": "licence, personal data, benchmarks",
    "questions": "licence, personal data, benchmarks",
    "math": "robots.txt, math tags, body, symbols, fluency, domain, near-duplicates, benchmarks",
}


class Filters:
    """The filters that look at one document at a time, and so can work on several at once.

    The report's models are trained on what people have judged. Ours learn from texts whose truth
    is known: `reference`, well-written, and what `crawl` and `tasks` can write. So what `crawl`
    plants is no fair test of them; tests/planted.py is one. lexicon: see `filters.read_lexicon`."""

    def __init__(self, reference, lexicon=filters.SWEARWORDS):
        self.swearing = filters.swearing(lexicon)
        rng = random.Random(0)
        good = [text[:1000] for text in reference]
        unsafe = [unsafe_page(rng) for _ in range(3000)]
        harmless = good + [unsafe_page(rng, harmless=True) for _ in range(3000)]
        junk = [crawl.junk(rng) for _ in range(300)]
        tasks = [draw_task(MATH, "train", f"fluent {i}").text() for i in range(500)]
        self.unsafe = learn(*(list(map(filters.topical, texts)) for texts in (unsafe, harmless)))
        self.junk = learn(junk, good)
        self.mathematics = CharacterModel(tasks)

    def filter(self, name, document):
        """The text as the filter of that name leaves it; "" if it drops the document."""
        text = document["text"]
        kept = {
            "robots.txt": lambda: allowed(document["url"]),
            "body": lambda: pages.extract_body(text),
            "personal data": lambda: filters.remove_pii(text),
            "safety": lambda: not (filters.profane(text, self.swearing)
                                   or self.unsafe(filters.topical(text)) > 0.4),
            "quality": lambda: filters.good_prose(text) and self.junk(text) < 0.5,
            "licence": lambda: filters.permissive(document["licence"]),
            "language": lambda: filters.language(document["name"]) is not None,
            "code quality": lambda: filters.good_code(text),
            "math tags": lambda: filters.has_math_tags(text),
            "symbols": lambda: filters.math_symbols(text) > 0.05,
            "fluency": lambda: self.mathematics.bits(text) < 3,
            "domain": lambda: filters.math_domain(document["url"]),
        }[name]()
        return kept if isinstance(kept, str) else text * kept

    def examine(self, document):
        """Take a document through all filters of its source but the last, until one drops it.

        Returns the document as they leave it, and a list of (filter, characters left). What
        near-duplicates are is not known here: for that, its signature stands in the place of the
        characters, and the document goes on as if it were none."""
        steps = []
        for name in ORDER[document["source"]].split(", ")[:-1]:
            if name == "near-duplicates":
                steps.append((name, signature(document["text"])))
                continue
            document["text"] = self.filter(name, document)
            left = len(document["text"]) if document["text"].strip() else 0
            steps.append((name, left))
            if not left:
                break
        return document, steps


class Funnel:
    """All filters and what they remember of all documents: hashes and counts, not the texts.

    common: times an n-gram must be seen to be common usage; the report's 1,000 is for a web."""

    def __init__(self, reference, common=1000, lexicon=filters.SWEARWORDS):
        self.filters, self.near = Filters(reference, lexicon), NearDuplicates()
        self.benchmarks = Decontamination(
            [task.question for family in families.all_families({}).values()
             for task in benchmark_tasks(family)], common)
        self.rows = {}  # (source, filter) -> [documents in, out, million characters out]
        self.planted = {}  # kind -> [documents planted, got through]

    def passes(self, source, name, characters):
        """Count a document at a filter that leaves so many characters of it; 0 drops it."""
        row = self.rows.setdefault((source, name), [0, 0, 0.0])
        row[0] += 1
        row[1] += characters > 0
        row[2] += characters / 1e6
        return characters > 0

    def survives(self, document, steps):
        """Count what `Filters.examine` found; whether the document comes out of the last filter."""
        left = len(document["text"])
        for name, found in steps:
            if name == "near-duplicates":
                found = 0 if self.near.seen_signature(found) else left
            if not self.passes(document["source"], name, found):
                return False
            left = found
        return True

    def run(self, documents):
        """Yield the documents that pass, in two passes: what comes out of the first is counted."""
        with tempfile.TemporaryFile("w+", encoding="utf-8") as kept:
            for document, steps in examined(self.filters, documents):
                self.planted.setdefault(document.get("planted"), [0, 0])[0] += 1
                if self.survives(document, steps):
                    self.benchmarks.count(document["text"])
                    kept.write(json.dumps(document) + "\n")
            kept.seek(0)
            for document in map(json.loads, kept):
                clean = not self.benchmarks.contaminated(document["text"])
                if self.passes(document["source"], "benchmarks", clean * len(document["text"])):
                    through = document.get("secret", "") in document["text"]
                    self.planted[document.get("planted")][1] += through
                    yield document

    def report(self):
        """For report.json: the counts of each filter, and of what was planted."""
        return {"funnel": [[source, name, *row] for (source, name), row in self.rows.items()],
                "planted": [[kind, *row] for kind, row in self.planted.items() if kind]}


def examined(filters, documents):
    """Yield `filters.examine` of each document, in their order, computed in several processes.

    A few chunks are under way at a time, so that memory does not grow with the corpus."""
    workers = min(4, distributed.cores())
    if workers == 1:
        yield from map(filters.examine, documents)
        return
    with concurrent.futures.ProcessPoolExecutor(workers, initializer=start_worker,
                                                initargs=[filters]) as pool:
        pool.submit(len, "")  # starts them before the documents open what they would inherit
        under_way = collections.deque()
        try:
            for chunk in chunks(documents):
                under_way.append(pool.submit(examine_chunk, chunk))
                if len(under_way) > 2 * workers:
                    yield from under_way.popleft().result()
            while under_way:
                yield from under_way.popleft().result()
        except concurrent.futures.process.BrokenProcessPool:
            raise UserError("a process that filters documents ended early, perhaps for want of "
                            "memory: free some and call again") from None


def chunks(documents, characters=50_000):
    """Yield lists of documents in a row that have so many characters or a little more."""
    chunk, size = [], 0
    for document in documents:
        chunk.append(document)
        size += len(document["text"])
        if size >= characters:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def start_worker(filters):
    """Keep the filters in this process, which `examine_chunk` uses; end with the one before."""
    global worker_filters
    worker_filters = filters
    distributed.end_with_parent()


def examine_chunk(documents):
    return [worker_filters.examine(document) for document in documents]


def learn(yes, no):
    """A classifier that tells texts of the one kind from those of the other."""
    return Classifier(yes + no, [1] * len(yes) + [0] * len(no))


def allowed(url):
    """'docs.example/drafts/7' -> False"""
    host, slash, path = url.partition("/")
    return pages.robots_allow(crawl.ROBOTS.get(host, ""), slash + path)
