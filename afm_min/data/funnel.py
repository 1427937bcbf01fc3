"""The funnel: each source's filters in the report's order, and the n-gram methods that some of them
use: near-duplicates, decontamination and a text classifier.

For n-grams, a text is the sequence of its lower-case words. A word is hashed to 64 bits, and an
n-gram to a hash of its word hashes, so numpy processes a whole text at once. Hashes are the same in
every process. Shapes: W words and N n-grams of a text.
"""
import functools
import hashlib
import random
import re

import numpy

from afm_min.data import blocks, filters, formulas, safety, sources
from afm_min.data.formulas import CharacterModel
from afm_min.data.safety import unsafe_page
from afm_min.world import families
from afm_min.world.tasks import MATH, draw_task

MULTIPLIER = numpy.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, the usual odd multiplier


@functools.lru_cache(2**18)  # words recur
def hash_word(word):
    digest = hashlib.blake2b(word.encode(errors="replace"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


@functools.lru_cache(2)  # several filters hash the same text
def hash_words(text):
    """'Two words' -> (2,), uint64"""
    return numpy.fromiter(map(hash_word, re.findall(r"\w+", text.lower())), numpy.uint64)


def ngrams(words, n):
    """Hash every n words in a row: word hashes (W,) -> (W - n + 1,), or (0,) if W < n."""
    hashes = words[:max(0, len(words) - n + 1)]
    for i in range(1, n):  # a polynomial of the words' hashes, modulo 2^64 as uint64 overflows
        hashes = hashes * MULTIPLIER + words[i:i + len(hashes)]
    return hashes


# Near-duplicates

SIGNATURE_SIZE = 128
BANDS, BAND_SIZE = 8, 3  # the first 24 entries of a signature are used for look-up
MIN_SIMILARITY = 0.7
# Random functions of a hash x, one per entry: FACTOR x + SUMMAND, (128, 1) each. "| 1" makes the
# factors odd, so that different hashes have different values. (Odd summands do no harm.)
FACTORS, SUMMANDS = numpy.random.default_rng(0).integers(
    2**64, size=(2, SIGNATURE_SIZE, 1), dtype=numpy.uint64) | numpy.uint64(1)


def signature(text):
    """Return the MinHash signature (Broder 1997) of a text's 5-grams: (128,), uint32.

    Entry i is the minimum of random function i over all 5-grams of the text, so
    P(two signatures agree in an entry) = Jaccard similarity of the texts.
    A text of fewer than 5 words counts as one n-gram."""
    words = hash_words(text)
    shingles = ngrams(words, min(5, max(1, len(words))))
    # Modulo 2^64. Only the upper half of the result is kept: the lower bits are less random.
    values = (FACTORS * shingles + SUMMANDS) >> numpy.uint64(32)  # (128, N)
    return values.min(axis=1, initial=2**32 - 1).astype(numpy.uint32)


class NearDuplicates:
    """An index of signatures that finds near-duplicates by locality-sensitive hashing.

    Two signatures are compared only if they agree in one of 8 bands of 3 entries. Then they are
    near-duplicates if they agree in a share MIN_SIMILARITY of all entries.

    Almost all pairs of similarity s = 0.8 are found. They agree in a band with probability
    1 - (1 - s^3)^8 = 0.997. Their share of equal entries is 0.8 on average, with standard deviation
    sqrt(s (1 - s) / 128) = 0.035, so the threshold of 0.7 is almost 3 deviations below."""

    def __init__(self):
        self.buckets = {}  # (band number, *its 3 entries) -> signatures with these entries

    def seen(self, new):
        """Return True if a near-duplicate of this signature was added before. If not, add it."""
        bands = [(i, *new[i * BAND_SIZE:(i + 1) * BAND_SIZE].tolist()) for i in range(BANDS)]
        candidates = (old for band in bands for old in self.buckets.get(band, ()))
        if any((old == new).mean() >= MIN_SIMILARITY for old in candidates):
            return True
        for band in bands:
            self.buckets.setdefault(band, []).append(new)
        return False


class Decontamination:
    """Find texts that share 4 to 13 words in a row with a benchmark, unless these are common usage.

    Longer n-grams find texts whose 4-grams are all common usage. Two passes over the corpus: first
    `count` all texts, then call `contaminated` for each. N-grams in `common` texts or more are
    common usage and are ignored, as in the report. A text that repeats one counts once.

    So a question on `common` pages is not found. A smaller `common` misses more copies. A larger
    one drops more texts that share a few words by chance, such as word problems of one template:
    "Ada sells 4. How many" may be rare, though it is no copy of a question."""
    LENGTHS = range(4, 14)  # of n-grams, in words

    def __init__(self, questions, common=1000):
        self.common = common
        self.counts = {}  # n-gram of the benchmark -> texts that contain it
        for question in questions:
            for n in self.LENGTHS:
                for ngram in ngrams(hash_words(question), n).tolist():
                    self.counts[ngram] = 0

    def shared(self, text):
        """Yield each occurrence in a text of an n-gram of the benchmark, shortest n-grams first."""
        for n in self.LENGTHS:
            hashes = ngrams(hash_words(text), n).tolist()
            shared = [ngram for ngram in hashes if ngram in self.counts]
            yield from shared
            if not shared:  # then no n-gram of more words is shared either
                return

    def count(self, text):
        for ngram in set(self.shared(text)):
            self.counts[ngram] += 1

    def contaminated(self, text):
        return any(self.counts[ngram] < self.common for ngram in self.shared(text))


# Learned filters

ENDING = re.compile(r"(?<=\w\w\w)(?:ing|ed|es|er|e|s)\b")  # "bombing", "bombs" -> "bomb"


class Classifier:
    """Logistic regression on the words (without endings) and word pairs of a text. A call returns
    the probability that a text is positive.

    Each word or pair has one of 2^18 weights, found by its hash. Weight 0 is the bias."""

    def __init__(self, positive, negative, steps=200, lr=10.0, weight_decay=1e-5):
        """Minimise mean cross-entropy + weight_decay / 2 |weights|^2 by gradient descent with
        momentum 0.9.

        The learning rate is stable for all texts: momentum m needs lr * curvature < 2 (1 + m) =
        3.8. The curvature is at most 1/4, as each text's feature vector x has length 1 and the
        loss has curvature |x|^2 / 4 at most. So lr * curvature is 2.5 at most."""
        features = [self.features(text) for text in [*positive, *negative]]
        labels = [1] * len(positive) + [0] * len(negative)
        sizes = numpy.array([len(indices) for indices in features])
        # The sparse matrix X of features: row (text), column (weight) and value of each entry.
        row = numpy.repeat(numpy.arange(len(sizes)), sizes)
        column = numpy.concatenate(features)
        value = numpy.repeat(sizes**-0.5, sizes)
        self.weights = numpy.zeros(2**18)
        velocity = 0
        for _ in range(steps):
            logits = numpy.bincount(row, self.weights[column] * value)  # X weights
            error = sigmoid(logits) - labels
            gradient = numpy.bincount(column, error[row] * value, len(self.weights)) / len(sizes)
            velocity = 0.9 * velocity - lr * (gradient + weight_decay * self.weights)
            self.weights += velocity

    @staticmethod
    def features(text):
        """Return the weight indices of a text's F features, in order and without repetitions. Each
        feature has value F^-0.5, so that long texts do not outweigh short ones."""
        words = hash_words(ENDING.sub("", text.lower()))
        hashes = numpy.concatenate([words, ngrams(words, 2)]) >> numpy.uint64(64 - 18)  # < 2^18
        return numpy.union1d(hashes.astype(int), 0)  # 0 for the bias

    def __call__(self, text):
        features = self.features(text)
        return float(sigmoid(self.weights[features].sum() / len(features)**0.5))


def sigmoid(logits):
    return 1 / (1 + numpy.exp(-logits))


# The funnel

# Source -> its filters, in order. "benchmarks" is always last, as it needs the counts of all texts.
ORDER = {
    "web": ["robots.txt", "main content", "safety", "personal data", "near-duplicates", "quality",
            "benchmarks"],
    "licensed": ["benchmarks"],
    "code": ["licence", "language", "near-duplicates", "personal data", "code quality",
             "benchmarks"],
    "public": ["licence", "personal data", "benchmarks"],
    "questions": ["licence", "personal data", "benchmarks"],
    "math": ["robots.txt", "math tags", "questions and answers", "symbols", "fluency", "domain",
             "near-duplicates", "benchmarks"],
    # Kinds of a user's files: there is no URL and no licence to check.
    "user page": ["main content", "safety", "personal data", "near-duplicates", "quality",
                  "benchmarks"],
    "user code": ["near-duplicates", "personal data", "code quality", "benchmarks"],
    "user text": ["safety", "personal data", "near-duplicates", "quality", "benchmarks"]}
MAX_UNSAFE, MAX_JUNK = 0.74, 0.5  # probabilities
MIN_SYMBOLS = 0.05  # share of mathematical symbols in a text
MAX_BITS = 3  # per character, of a fluent text on mathematics


class Funnel:
    """Apply the filters to documents, and count what each filter lets through.

    A document is a dict with source, name, text and, if its filters need them, url or licence. Its
    filters are those of its kind, in ORDER, or of its source if it has no kind.
    Some documents are planted to test the filters: "planted" is their kind, such as "junk". Such a
    document gets through if it passes all filters; but if it has a "canary", only if the filters
    leave this text in it.

    The report's classifiers learned from pages that people have judged. Ours learn from `reference`
    (well-written texts), and from pages that we generate. They are tested on pages that were
    written without a look at the filters, in tests/helpers.
    common: documents that make an n-gram common usage. The report's 1,000 is for a real web; a run
    has fewer documents, and a smaller default (see corpus.data)."""

    def __init__(self, reference, common=1000, swearwords=safety.SWEARWORDS):
        rng = random.Random(0)
        good = [text[:1000] for text in reference]
        unsafe = [unsafe_page(rng) for _ in range(3000)]
        harmless = good + [unsafe_page(rng, harmless=True) for _ in range(3000)]
        junk = [sources.junk(rng) for _ in range(300)]
        fluent = [draw_task(MATH, "train", f"fluent {i}").text() for i in range(500)]
        self.swearword = safety.swearword_pattern(swearwords)
        self.unsafe = Classifier(unsafe, harmless)
        self.junk = Classifier(junk, good)
        self.math = CharacterModel(fluent)
        self.near = NearDuplicates()
        self.benchmarks = Decontamination(families.benchmark_questions(), common)
        self.rows = {}  # (source, filter) -> [documents in, documents out, million characters out]
        self.planted = {}  # kind -> [documents planted, got through]
        # Name -> function of a document that returns the rule that drops it, or "" to keep it.
        # Those that call `edit` also replace its text.
        self.filters = {
            "robots.txt": lambda d: "" if allowed(d["url"]) else "disallowed",
            "main content": lambda d: edit(d, blocks.main_content),
            "safety": lambda d: self.check_safety(d["text"]),
            "personal data": lambda d: edit(d, safety.remove_pii),
            "near-duplicates": lambda d: "seen" if self.near.seen(signature(d["text"])) else "",
            "quality": lambda d: self.check_quality(d["text"]),
            "licence": lambda d: "" if filters.permissive(d["licence"]) else "not permissive",
            "language": lambda d: "" if filters.is_code(d["name"]) else "unknown suffix",
            "code quality": lambda d: filters.check_code(d["text"]),
            "math tags": lambda d: "" if formulas.has_math_tags(d["text"]) else "no tags",
            "questions and answers": lambda d: edit(d, formulas.questions_and_answers),
            "symbols": lambda d: "" if formulas.symbol_share(d["text"]) > MIN_SYMBOLS else "few",
            "fluency": lambda d: "" if self.math.bits(d["text"]) < MAX_BITS else "not fluent",
            "domain": lambda d: "" if formulas.math_domain(d["url"]) else "other domain",
            "benchmarks": lambda d: "overlap" if self.benchmarks.contaminated(d["text"]) else ""}

    def check_safety(self, text):
        if self.swearword.search(text):
            return "swearword"
        return "unsafe" if self.unsafe(text) > MAX_UNSAFE else ""

    def check_quality(self, text):
        return filters.check_prose(text) or ("junk" if self.junk(text) >= MAX_JUNK else "")

    def passes(self, name, document):
        """Apply one filter to a document and count the result. Return False if it is dropped.

        A document that a filter cannot read, such as one with an impossible URL, is dropped."""
        try:
            rule = self.filters[name](document)
        except ValueError as error:
            sources.warn(f"{document['name']} is left out: {name} cannot read it ({error})")
            rule = "unreadable"
        row = self.rows.setdefault((kind_of(document), name), [0, 0, 0.0])  # see __init__
        row[0] += 1
        if not rule:
            row[1] += 1
            row[2] += len(document["text"]) / 1e6
        return not rule

    def run(self, documents):
        """Yield the documents that pass, with filtered texts.

        "benchmarks" needs a second pass, after the n-grams of all other documents are counted."""
        remaining = []
        for document in documents:
            planted = self.planted.setdefault(document.get("planted"), [0, 0])  # of None, "": good
            planted[0] += 1
            # `all` stops at the first filter that drops the document.
            if all(self.passes(name, document) for name in ORDER[kind_of(document)][:-1]):
                self.benchmarks.count(document["text"])
                remaining.append(document)
        for document in remaining:
            if self.passes("benchmarks", document):
                if document.get("canary", "") in document["text"]:
                    self.planted[document.get("planted")][1] += 1
                yield document
        for (source, name), (before, after, _) in self.rows.items():
            if not after:
                sources.warn(f"source {source} is empty: {name} drops all {before} documents")

    def report(self):
        """Return the tables of report.json: counts per filter, and per kind of planted document."""
        return {"funnel": [[source, name, *row] for (source, name), row in self.rows.items()],
                "planted": [[kind, *row] for kind, row in self.planted.items() if kind]}


def kind_of(document):
    return document.get("kind", document["source"])


def allowed(url):
    """Return True if robots.txt allows reading a page: 'http://docs.example/drafts/7' -> False"""
    host, path = filters.host_and_path(url)
    return filters.robots_allow(sources.ROBOTS.get(host, ""), path)


def edit(document, function):
    """Replace the text of a document by function(text). Return "empty" if no text remains."""
    document["text"] = function(document["text"])
    return "" if document["text"].strip() else "empty"
