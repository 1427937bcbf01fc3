"""The funnel: each source's filters in the report's order, and how much every one let through.

A document is a dict: source, name, text, and what its source says of it (url, licence). A planted
one also says of what kind it is, and which secret of it must not get through: so we know what did.
"""
import json
import random
import tempfile

from afm_min import crawl, families, filters, pages, tasks
from afm_min.ngrams import CharacterModel, Classifier, Decontamination, NearDuplicates

ORDER = {  # source -> its filters; "benchmarks" comes last, as it wants all texts counted before
    "web": "robots.txt, body, safety, personal data, near-duplicates, quality, benchmarks",
    "licensed": "benchmarks",
    "code": "licence, language, near-duplicates, personal data, code quality, benchmarks",
    "public": "licence, personal data, benchmarks",
    "questions": "licence, personal data, benchmarks",
    "math": "robots.txt, math tags, body, symbols, fluency, domain, near-duplicates, benchmarks",
}


class Funnel:
    """All filters and what they remember: hashes and counts, not the texts.

    The report's models are trained on what people have judged. Ours learn from texts whose truth
    is known: `reference`, well-written, and what `crawl` and `tasks` can write. So what `crawl`
    plants is no fair test of them; tests/planted.py is one.
    common: times an n-gram must be seen to be common usage; the report's 1,000 is for a web."""

    def __init__(self, reference, common=1000):
        rng = random.Random(0)
        good = [text[:1000] for text in reference]
        unsafe = [crawl.unsafe(rng) for _ in range(3000)]
        harmless = good + [crawl.unsafe(rng, harmless=True) for _ in range(3000)]
        junk = [crawl.junk(rng) for _ in range(300)]
        problems = [tasks.draw(tasks.math, "train", f"fluent {i}").text() for i in range(500)]
        self.unsafe = learn(*(list(map(filters.topical, texts)) for texts in (unsafe, harmless)))
        self.junk = learn(junk, good)
        self.mathematics = CharacterModel(problems)
        self.near = NearDuplicates()
        self.benchmarks = Decontamination(
            [problem.question for family in families.families({}).values()
             for problem in tasks.benchmark(family)], common)
        self.rows = {}  # (source, filter) -> [documents in, out, million characters out]
        self.planted = {}  # kind -> [documents planted, got through]

    def filter(self, name, document):
        """The text as the filter of that name leaves it; "" if it drops the document."""
        text = document["text"]
        kept = {
            "robots.txt": lambda: allowed(document["url"]),
            "body": lambda: pages.extract_body(text),
            "personal data": lambda: filters.remove_pii(text),
            "safety": lambda: not (filters.profane(text)
                                   or self.unsafe(filters.topical(text)) > 0.3),
            "near-duplicates": lambda: not self.near.seen(text),
            "quality": lambda: filters.good_prose(text) and self.junk(text) < 0.5,
            "benchmarks": lambda: not self.benchmarks.contaminated(text),
            "licence": lambda: filters.permissive(document["licence"]),
            "language": lambda: filters.language(document["name"]) is not None,
            "code quality": lambda: filters.good_code(text),
            "math tags": lambda: filters.has_math_tags(text),
            "symbols": lambda: filters.math_symbols(text) > 0.05,
            "fluency": lambda: self.mathematics.bits(text) < 3,
            "domain": lambda: filters.math_domain(document["url"]),
        }[name]()
        return kept if isinstance(kept, str) else text * kept

    def passes(self, document, names):
        """Take a document through these filters; whether it comes out of the last."""
        for name in names:
            row = self.rows.setdefault((document["source"], name), [0, 0, 0.0])
            row[0] += 1
            document["text"] = self.filter(name, document)
            if not document["text"].strip():
                return False
            row[1] += 1
            row[2] += len(document["text"]) / 1e6
        return True

    def run(self, documents):
        """Yield the documents that pass, in two passes: what comes out of the first is counted."""
        with tempfile.TemporaryFile("w+", encoding="utf-8") as kept:
            for document in documents:
                self.planted.setdefault(document.get("planted"), [0, 0])[0] += 1
                if self.passes(document, ORDER[document["source"]].split(", ")[:-1]):
                    self.benchmarks.count(document["text"])
                    kept.write(json.dumps(document) + "\n")
            kept.seek(0)
            for document in map(json.loads, kept):
                if self.passes(document, ["benchmarks"]):
                    through = document.get("secret", "") in document["text"]
                    self.planted[document.get("planted")][1] += through
                    yield document

    def report(self):
        """For report.json: the counts of each filter, and of what was planted."""
        return {"funnel": [[source, name, *row] for (source, name), row in self.rows.items()],
                "planted": [[kind, *row] for kind, row in self.planted.items() if kind]}


def learn(yes, no):
    """A classifier that tells texts of the one kind from those of the other."""
    return Classifier(yes + no, [1] * len(yes) + [0] * len(no))


def allowed(url):
    """'docs.example/drafts/7' -> False"""
    host, slash, path = url.partition("/")
    return pages.robots_allow(crawl.ROBOTS.get(host, ""), slash + path)
