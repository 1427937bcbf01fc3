"""What n-grams tell: near-duplicates, contamination by a benchmark, and quality that is learned.

A text is its lower-case words, a word a hash of 64 bits, an n-gram a hash of its words' hashes: so
numpy takes a whole text at once, and no text is kept. Hashes are the same in every process. (Only
CharacterModel sees bytes.) Shapes: W words, N n-grams of a text.
"""
import functools
import hashlib
import re

import numpy

MULTIPLIER = numpy.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: odd, no pattern in it


@functools.lru_cache(2**18)  # words recur
def hash_word(word):
    digest = hashlib.blake2b(word.encode(errors="replace"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


@functools.lru_cache(2)  # one filter after the other takes the same text
def hash_words(text):
    """'Two words' -> (2,), uint64"""
    return numpy.fromiter(map(hash_word, re.findall(r"\w+", text.lower())), numpy.uint64)


def ngrams(words, n):
    """Hashes of words (W,) -> those of every n in a row (W - n + 1,), or (0,) of fewer than n."""
    hashes = words[:max(0, len(words) - n + 1)]
    for i in range(1, n):  # modulo 2^64
        hashes = hashes * MULTIPLIER + words[i:i + len(hashes)]
    return hashes


SIGNATURE, BANDS, ROWS = 128, 8, 3  # entries of a signature; bands of it, and entries of a band
FACTORS, SUMMANDS = numpy.random.default_rng(0).integers(
    2**64, size=(2, SIGNATURE, 1), dtype=numpy.uint64) | numpy.uint64(1)


def signature(text):
    """MinHash (Broder 1997) of a text's 5-grams: the least value on them of 128 random functions.

    text -> (128,), uint32. Two texts agree in an entry as probably as an n-gram of either is one of
    both: their Jaccard similarity. A text of fewer than 5 words counts as one n-gram."""
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
        self.threshold, self.buckets = threshold, {}  # (number of a band, *band) -> signatures

    def seen(self, text):
        """False for a text unlike all before, whose signature is then kept; True for others."""
        return self.seen_signature(signature(text))

    def seen_signature(self, new):
        """As `seen`, of a text whose signature is known."""
        bands = [(i, *new[i * ROWS:(i + 1) * ROWS].tolist()) for i in range(BANDS)]
        alike = (old for band in bands for old in self.buckets.get(band, ()))
        if any((old == new).mean() >= self.threshold for old in alike):
            return True
        for band in bands:
            self.buckets.setdefault(band, []).append(new)
        return False


class Decontamination:
    """Finds texts that share with a benchmark 4 to 13 words in a row that are not common usage.

    Two passes over the corpus: `count` all texts, then ask for each whether it is `contaminated`:
    an n-gram seen `common` times or more is common usage, and tells nothing (the report's rule)."""
    LENGTHS = range(4, 14)  # of n-grams, in words

    def __init__(self, questions, common=1000):
        self.common, self.counts = common, {}  # n-gram of the benchmark -> times seen
        for words in map(hash_words, questions):
            for n in self.LENGTHS:
                self.counts |= dict.fromkeys(ngrams(words, n).tolist(), 0)

    def shared(self, text):
        """The benchmark's n-grams in a text, each as often as it stands there."""
        for n in self.LENGTHS:
            found = [gram for gram in ngrams(hash_words(text), n).tolist() if gram in self.counts]
            yield from found
            if not found:  # nor, then, is any longer one shared
                return

    def count(self, text):
        for ngram in self.shared(text):
            self.counts[ngram] += 1

    def contaminated(self, text):
        return any(self.counts[ngram] < self.common for ngram in self.shared(text))


ENDING = re.compile(r"(?<=\w\w\w)(?:ing|ed|es|er|e|s)\b")  # so "bombing" and "bombs" say the same


class Classifier:
    """Logistic regression on the words, less endings, and pairs of words that a text has. Call it
    with a text for the probability of label 1.

    Words and pairs are hashed to weights (2^18,); number 0 is on in every text: the bias."""

    def __init__(self, texts, labels, steps=200, rate=10.0, decay=1e-5):
        """Least mean cross-entropy + decay / 2 |weights|^2 by gradient descent, momentum 0.9.

        labels: 0 or 1 for each text. Features of length 1 bound the curvature by 1/4, and descent
        with this momentum converges if rate * curvature < 3.8: no data can make it diverge."""
        features = list(map(self.features, texts))
        sizes, column = list(map(len, features)), numpy.concatenate(features)
        row = numpy.repeat(numpy.arange(len(sizes)), sizes)
        value = numpy.repeat(numpy.array(sizes)**-0.5, sizes)
        self.weights, velocity = numpy.zeros((2, 2**18))
        for _ in range(steps):
            error = sigmoid(numpy.bincount(row, self.weights[column] * value)) - labels
            gradient = numpy.bincount(column, error[row] * value, len(self.weights)) / len(sizes)
            velocity = 0.9 * velocity - rate * (gradient + decay * self.weights)
            self.weights += velocity

    @staticmethod
    def features(text):
        """Indices of the weights that a text turns on. Of F of them each has the value F^-0.5, so
        that a long text has no more to say than a short one."""
        words = hash_words(ENDING.sub("", text.lower()))
        hashes = numpy.concatenate([words, ngrams(words, 2)]) >> numpy.uint64(64 - 18)
        return numpy.union1d(hashes.astype(int), 0)

    def __call__(self, text):
        features = self.features(text)
        return float(sigmoid(self.weights[features].sum() / len(features)**0.5))


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
                        for shift in (0, 8)] for n in range(1, 5)]  # n bytes; all but the last

    @staticmethod
    def codes(text):
        """Each byte and the 3 before it as one number, (bytes,). Before a text stand line ends."""
        data = numpy.frombuffer(b"\n\n\n" + text.encode(errors="replace"), "uint8").astype(int)
        return sum(data[i:len(data) - 3 + i] << 8 * (3 - i) for i in range(4))

    def probabilities(self, codes):
        """P of the last byte of each code after the 3 before it."""
        result = numpy.full(len(codes), 1 / 256)
        for n, (grams, contexts) in enumerate(self.tables, 1):
            last = codes % 256**n
            result = (times_seen(grams, last) + 2 * result) / (times_seen(contexts, last >> 8) + 2)
        return result

    def bits(self, text):
        """Cross-entropy in bits per character: low for what is like the texts it has learned."""
        return float(-numpy.log2(self.probabilities(self.codes(text))).sum() / max(1, len(text)))


def times_seen(table, queries):
    """(([2, 5], [10, 20]), [5, 6]) -> [20, 0]: the count of each query; keys are sorted."""
    keys, counts = table
    places = numpy.searchsorted(keys, queries) % len(keys)
    return numpy.where(keys[places] == queries, counts[places], 0)
