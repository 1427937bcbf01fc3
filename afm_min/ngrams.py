"""What n-grams tell: near-duplicates, contamination by a benchmark, and quality that is learned.

A text is its lower-case words, a word a hash of 64 bits, an n-gram a hash of its words' hashes: so
numpy takes a whole text at once, and no text is kept. The same in every process. (Only
CharacterModel sees bytes.) Shapes: W words, N n-grams of a text.
"""
import functools
import hashlib
import re

import numpy

MULTIPLIER = numpy.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: odd, no pattern in it


@functools.lru_cache(2**18)  # words recur
def hash_word(word):
    digest = hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


@functools.lru_cache(2)  # one filter after the other takes the same text
def hash_words(text):
    """'Two words' -> (2,), uint64"""
    return numpy.fromiter(map(hash_word, re.findall(r"\w+", text.lower())), numpy.uint64)


def ngrams(words, n):
    """Hashes of words (W,) -> those of every n in a row (W - n + 1,), or (0,) of fewer than n."""
    hashes = words[:max(0, len(words) - n + 1)]
    for i in range(1, n):
        hashes = hashes * MULTIPLIER + words[i:i + len(hashes)]
    return hashes


def find(keys, queries):
    """([2, 5], [5, 6]) -> [1, -1]: where in the keys, sorted and at least one, the queries are."""
    places = numpy.searchsorted(keys, queries) % len(keys)
    return numpy.where(keys[places] == queries, places, -1)


SIGNATURE, BANDS, ROWS = 128, 8, 3
FACTORS, SUMMANDS = numpy.random.default_rng(0).integers(
    2**64, size=(2, SIGNATURE, 1), dtype=numpy.uint64) | numpy.uint64(1)


def signature(text):
    """MinHash (Broder 1997) of a text's 5-grams: the least value on them of 128 random functions.

    text -> (128,), uint32. Two texts agree in an entry as probably as an n-gram of either is one of
    both: their Jaccard similarity. A text of fewer words counts as one n-gram."""
    words = hash_words(text)
    shingles = ngrams(words, min(5, max(1, len(words))))
    values = (FACTORS * shingles + SUMMANDS) >> numpy.uint64(32)  # (128, N)
    return values.min(axis=1, initial=2**32 - 1).astype(numpy.uint32)


class NearDuplicates:
    """Tells whether nearly the same text came before. Of a new one it keeps some 2 KB, no text.

    Locality-sensitive hashing: a text is compared with those that share one of its 8 bands of 3
    entries, which one of similarity s does with probability 1 - (1 - s^3)^8: 0.997 at s = 0.8.
    Then the share of equal entries decides. Its standard deviation is sqrt(s (1 - s) / 128), 0.035
    at s = 0.8, and the threshold 3 of these lower."""

    def __init__(self, threshold=0.7):
        self.threshold, self.kept = threshold, bytearray()  # signatures, one after the other
        self.buckets = {}  # hash of a band -> indices of those that have it

    def seen(self, text):
        """False for a text unlike all before, which is then kept; True for others."""
        entries = signature(text)
        bands = ngrams(entries[:BANDS * ROWS].astype(numpy.uint64), ROWS)[::ROWS]
        bands = (bands + numpy.arange(BANDS, dtype=numpy.uint64)).tolist()
        known = list({index for band in bands for index in self.buckets.get(band, ())})
        known = numpy.frombuffer(self.kept, numpy.uint32).reshape(-1, SIGNATURE)[known]
        if (known == entries).mean(axis=1).max(initial=0) >= self.threshold:
            return True
        for band in bands:
            self.buckets.setdefault(band, []).append(len(self.kept) // entries.nbytes)
        self.kept += entries.tobytes()
        return False


class Decontamination:
    """Finds texts that share 4 to 13 words in a row with a benchmark, and not as everyone does.

    Two passes over the corpus: `count` all texts, then ask for each whether it is `contaminated`:
    an n-gram seen `common` times or more is common usage, and tells nothing (the report's rule)."""

    def __init__(self, questions, common=1000):
        hashes = [ngrams(hash_words(question), n) for question in questions for n in range(4, 14)]
        self.ngrams = numpy.unique(numpy.concatenate([numpy.zeros(1, numpy.uint64), *hashes]))
        self.common, self.counts = common, numpy.zeros(len(self.ngrams), int)

    def shared(self, text):
        """Indices of the benchmark's n-grams in a text, each as often as it stands there."""
        words, found = hash_words(text), []
        for n in range(4, 14):
            places = find(self.ngrams, ngrams(words, n))
            found.append(places[places >= 0])
            if not len(found[-1]):  # so no longer one is shared
                break
        return numpy.concatenate(found)

    def count(self, text):
        numpy.add.at(self.counts, self.shared(text), 1)

    def contaminated(self, text):
        return bool((self.counts[self.shared(text)] < self.common).any())


@functools.lru_cache(2**18)
def hash_stem(word):
    """Without its ending, so that "bombing" and "bombs" say the same."""
    return hash_word(re.sub(r"(?<=\w\w\w)(?:ing|ed|es|er|e|s)$", "", word))


class Classifier:
    """Logistic regression on the words and pairs of words that a text has. Call it with a text for
    the probability of label 1.

    Words and pairs are hashed to weights (2^18,); number 0 is on in every text: the bias."""

    def __init__(self, weights):
        self.weights = weights

    @staticmethod
    def features(text):
        """Indices of the weights that a text turns on. Of F of them each has the value F^-0.5, so
        that a long text has no more to say than a short one."""
        words = numpy.fromiter(map(hash_stem, re.findall(r"\w+", text.lower())), numpy.uint64)
        hashes = numpy.concatenate([words, ngrams(words, 2)]) >> numpy.uint64(64 - 18)
        return numpy.union1d(hashes.astype(int), 0)

    def __call__(self, text):
        features = self.features(text)
        return float(sigmoid(self.weights[features].sum() / len(features)**0.5))

    @classmethod
    def train(cls, texts, labels, steps=200, rate=10.0, decay=1e-5):
        """Least mean cross-entropy + decay / 2 |weights|^2 by gradient descent, momentum 0.9.

        labels: 0 or 1 for each text. Features of length 1 bound the curvature by 1/4, and descent
        with this momentum converges if rate * curvature < 3.8: no data can make it diverge."""
        features = [cls.features(text) for text in texts]
        sizes, column = [len(indices) for indices in features], numpy.concatenate(features)
        row = numpy.repeat(numpy.arange(len(sizes)), sizes)
        value = numpy.repeat(numpy.array(sizes)**-0.5, sizes)
        weights, velocity = numpy.zeros((2, 2**18))
        for _ in range(steps):
            error = sigmoid(numpy.bincount(row, weights[column] * value)) - labels
            gradient = numpy.bincount(column, error[row] * value, 2**18) / len(sizes)
            velocity = 0.9 * velocity - rate * (gradient + decay * weights)
            weights += velocity
        return cls(weights)


def sigmoid(logits):
    return 1 / (1 + numpy.exp(-logits))


class CharacterModel:
    """A language model of characters as their UTF-8 bytes, each told from the 3 bytes before it.

    P(b | context) = (n(context b) + 2 P(b | shorter context)) / (n(context) + 2), with n the times
    seen in the texts; at last stands 1 / 256 (MacKay and Peto 1995). All 256 bytes sum to 1, and
    none is impossible."""

    def __init__(self, texts):
        codes = numpy.concatenate([self.codes(text) for text in texts])
        self.tables = [[numpy.unique(codes % 256**n >> shift, return_counts=True)
                        for shift in (0, 8)] for n in range(1, 5)]  # n bytes; less the last

    @staticmethod
    def codes(text):
        """Each byte and the 3 before it as one number, (bytes,). Before a text stand line ends."""
        data = b"\n\n\n" + text.encode("utf-8", "replace")
        data = numpy.frombuffer(data, numpy.uint8).astype(int)
        return sum(data[i:len(data) - 3 + i] << 8 * (3 - i) for i in range(4))

    def probabilities(self, codes):
        """P of the last byte of each code after the 3 before it."""
        result = numpy.full(len(codes), 1 / 256)
        for n, (grams, contexts) in enumerate(self.tables, 1):
            last = codes % 256**n
            result = (seen(grams, last) + 2 * result) / (seen(contexts, last >> 8) + 2)
        return result

    def bits(self, text):
        """Cross-entropy in bits per character: low for what is like the texts it has learned."""
        return float(-numpy.log2(self.probabilities(self.codes(text))).sum() / max(1, len(text)))


def seen(table, queries):
    """(([2, 5], [10, 20]), [5, 6]) -> [20, 0]: how often the queries are counted in the table."""
    keys, counts = table
    return numpy.append(counts, 0)[find(keys, queries)]
