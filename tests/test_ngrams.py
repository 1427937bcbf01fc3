"""n-grams against plain Python and exact sets, and the laws of what is learned from them."""
import math
import random
import subprocess
import sys

import numpy
import pytest

from afm_min.data import ngrams
from afm_min.data.ngrams import CharacterModel, Classifier, Decontamination, NearDuplicates

rng = random.Random(0)
VOCABULARY = ["".join(rng.choices("abcdefghij", k=6)) for _ in range(5000)]


def words(n, seed):
    return random.Random(seed).choices(VOCABULARY, k=n)


def jaccard(a, b, n=5):
    a, b = ({tuple(x[i:i + n]) for i in range(len(x) - n + 1)} for x in (a, b))
    return len(a & b) / len(a | b)


def edited(original, share, seed):
    """With each word replaced with probability `share`."""
    rng = random.Random(seed)
    return [rng.choice(VOCABULARY) if rng.random() < share else word for word in original]


def test_ngrams_are_equal_where_words_are():
    text = "One two, three. One TWO three four"
    hashes = ngrams.hash_words(text)
    assert len(set(hashes.tolist())) == 4 and hashes[0] == hashes[3]
    pairs = ngrams.ngrams(hashes, 2)
    assert len(pairs) == 6 and pairs[0] == pairs[3] and pairs[1] == pairs[4]
    assert len(set(pairs.tolist())) == 4  # and "two three" is not "three one"
    assert ngrams.ngrams(hashes[:2], 1)[0] == hashes[0]
    assert len(ngrams.ngrams(hashes, 7)) == 1 and len(ngrams.ngrams(hashes, 8)) == 0
    swapped = ngrams.ngrams(hashes[[1, 0]], 2)
    assert swapped[0] != pairs[0]  # order counts


def test_hashes_are_the_same_in_every_process():
    command = "from afm_min.data.ngrams import signature; print(signature('a b c d e f').tolist())"
    runs = [subprocess.run([sys.executable, "-c", command], env={"PYTHONHASHSEED": seed},
                           capture_output=True, text=True, check=True).stdout for seed in "12"]
    assert runs[0] == runs[1] == f"{ngrams.signature('A b, c d e f!').tolist()}\n"


def test_times_seen():
    table = numpy.array([2, 5, 9]), numpy.array([10, 20, 30])
    assert ngrams.times_seen(table, numpy.array([9, 1, 2, 6, 10, 5])).tolist() == [
        30, 0, 10, 0, 0, 20]
    assert ngrams.times_seen(table, numpy.array([], int)).tolist() == []


def test_signatures_estimate_jaccard():
    # The number of equal entries is binomial: (128, J). Of 60 pairs none is 5 standard deviations
    # off but with odds of 1 in 30,000; their mean error is within 5 of its own.
    errors = []
    for seed in range(60):
        a = words(200, seed)
        b = edited(a, [0.01, 0.03, 0.06, 0.12][seed % 4], seed)
        exact = jaccard(a, b)
        estimate = (ngrams.signature(" ".join(a)) == ngrams.signature(" ".join(b))).mean()
        errors.append((estimate - exact) / math.sqrt(max(exact * (1 - exact), 0.02) / 128))
    assert max(map(abs, errors)) < 5
    assert abs(sum(errors)) / math.sqrt(60) < 5
    assert sum(error**2 for error in errors) / 60 > 0.3  # and they do not all hang together


def test_signatures_of_short_texts():
    assert (ngrams.signature("Two words") == ngrams.signature("two, WORDS")).all()
    assert (ngrams.signature("two words") == ngrams.signature("words two")).mean() < 0.1
    assert (ngrams.signature("") == ngrams.signature("...")).all()
    assert ngrams.signature("").shape == (128,) and ngrams.signature("").dtype == numpy.uint32


def test_near_duplicates_are_found_and_others_are_not():
    near, far = [], []
    for seed in range(600):
        a = words(200, f"original {seed}")
        b = edited(a, random.Random(seed).choice([0.01, 0.02, 0.12, 0.2]), f"edit {seed}")
        memory = NearDuplicates()
        assert not memory.seen(" ".join(a))
        found = memory.seen(" ".join(b))
        if jaccard(a, b) >= 0.8:
            near.append(found)
        elif jaccard(a, b) < 0.4:
            far.append(found)
    assert len(near) > 100 and sum(near) >= 0.95 * len(near)
    assert len(far) > 100 and sum(far) <= 0.01 * len(far)


def test_near_duplicates_among_many_that_share_bands():
    # Texts that have half of their words from one template: alike, but not near-duplicates.
    template, memory, texts = words(100, "template"), NearDuplicates(), []
    for i in range(150):
        texts.append(" ".join(template + words(60, i)))
        assert not memory.seen(texts[-1])
    assert all(memory.seen(text + " and more") for text in texts)
    kept = {id(signature): signature for alike in memory.buckets.values() for signature in alike}
    assert sum(signature.nbytes for signature in kept.values()) == 150 * 128 * 4  # each only once
    # what has been seen before is not kept again
    assert sum(map(len, memory.buckets.values())) == 150 * 8
    assert NearDuplicates(threshold=0.2).seen(texts[0]) is False


QUESTION = "How many apples has Tom if he buys three bags of nine and eats two of them?"  # 17 words


def test_contaminated_by_4_to_13_words_in_a_row():
    decontamination, question = Decontamination([QUESTION]), QUESTION.split()
    for n in range(1, 18):
        for start in range(0, 18 - n, 3):
            text = " ".join(["Before:", *question[start:start + n], "- after"]).upper()
            assert decontamination.contaminated(text) == (n >= 4)
    assert not Decontamination(["What is it?", ""]).contaminated("What is it? What is it?")
    assert not Decontamination([]).contaminated(QUESTION)


def test_common_usage_does_not_contaminate():
    decontamination = Decontamination([QUESTION], common=3)
    for text in ("How many apples has Ann?", "how many apples has he", "How many apples has"):
        assert decontamination.contaminated("how many apples has it")
        decontamination.count(text)
    assert not decontamination.contaminated("how many apples has it")
    # Its 4 words are common, the 5 with Tom are not.
    assert decontamination.contaminated("how many apples has Tom")
    # A longer run can be rare though all its 4-grams are common.
    for _ in range(3):
        decontamination.count("many apples has Tom, yes")
    assert decontamination.contaminated("how many apples has Tom")
    for _ in range(3):
        decontamination.count("how many apples has Tom")
    assert not decontamination.contaminated("how many apples has Tom")


def test_counts_each_time_an_ngram_stands_there():
    decontamination = Decontamination(["one two three four five"])
    decontamination.count("one two three four, one two three four five")
    assert sorted(decontamination.counts.values()) == [1, 1, 2]


def test_classifier_learns_what_separates():
    rng = random.Random(1)

    def text(label):
        return " ".join(rng.choices(VOCABULARY[:200], k=30) + ["good" if label else "bad", "news"])

    labels = [i % 2 for i in range(200)]
    classifier = Classifier([text(label) for label in labels], labels)
    fresh = [text(label) for label in labels]
    assert all((classifier(text) > 0.5) == label for text, label in zip(fresh, labels))
    assert classifier("") == pytest.approx(0.5, abs=0.1)  # the bias alone; both are as frequent


def test_classifier_learns_from_the_order_of_words():
    rng, texts = random.Random(2), []
    for i in range(100):
        pairs = [("not", "good", "but", "bad") if i % 2 else ("not", "bad", "but", "good")] * 5
        texts.append(" ".join(
            word for pair in pairs for word in (*pair, *rng.choices(VOCABULARY, k=3))))
    classifier = Classifier(texts, [i % 2 for i in range(100)])
    assert classifier("not good but bad") > 0.5 > classifier("not bad but good")


def test_classifier_reaches_the_minimum():
    # One text, seen with labels 3 to 1: without decay its probability is 3 in 4. All rows are the
    # same, the hardest case for the step: it must not diverge.
    classifier = Classifier(["same text"] * 4, [1, 1, 1, 0], decay=0.0)
    assert classifier("same text") == pytest.approx(0.75, abs=1e-4)
    # There the gradient is 0, which by its definition is, for each weight,
    texts, labels, decay = ["a", "a b c", "c d", "a d", "b b a b"], [1, 0, 1, 1, 0], 0.01
    classifier = Classifier(texts, labels, steps=400, decay=decay)
    gradient = decay * classifier.weights
    for text, label in zip(texts, labels):
        on = Classifier.features(text)
        gradient[on] += (classifier(text) - label) / math.sqrt(len(on)) / len(texts)
    assert len(Classifier.features("a b c")) == 6  # three words, two pairs, the bias
    assert abs(gradient).max() < 1e-6 < abs(classifier.weights).max()
    with pytest.raises(ValueError):
        Classifier(["a", "b"], [1, 0, 1])


def test_character_model_by_hand():
    # "ab" after three line ends. One byte: a, b once each, so N = 2:
    # P(a) = (1 + 2 / 256) / (2 + 2) = 129 / 512, and P(z) = (0 + 2 / 256) / 4 = 1 / 512.
    # In the context of a, b was seen: P(b | a) = (1 + 2 P(b)) / (1 + 2); and so up to 4 bytes.
    model = CharacterModel(["ab"])
    probability = 129 / 512
    for _ in range(3):
        probability = (1 + 2 * probability) / 3
    assert model.bits("ab") == pytest.approx(-math.log2(probability))
    # After a line end z was not seen, but the contexts were, once: each takes a third.
    assert model.bits("z") == pytest.approx(-math.log2(1 / 512 * 8 / 27))
    # In contexts that were never seen, the probability is that of the byte alone.
    assert CharacterModel.codes("b").tolist() == [int.from_bytes(b"\n\n\nb", "big")]
    assert CharacterModel.codes("xyzb").tolist()[-1] == int.from_bytes(b"xyzb", "big")
    codes = numpy.array([int.from_bytes(b"xyz" + b, "big") for b in (b"a", b"z")])
    assert model.probabilities(codes).tolist() == pytest.approx([129 / 512, 1 / 512])


def test_character_model_sums_to_one():
    model = CharacterModel(["the cat sat on the mat", "a hat, the bat"])
    for context in (b"the", b" th", b"\n\n\n", b"qat", b"xyz"):
        codes = int.from_bytes(context, "big") * 256 + numpy.arange(256)
        assert model.probabilities(codes).sum() == pytest.approx(1, abs=1e-12)
        assert model.probabilities(codes).min() > 0


def test_character_model_tells_like_from_unlike():
    model = CharacterModel(" ".join(words(100, seed)) for seed in range(20))
    assert model.bits(" ".join(words(50, "new"))) < 4.5 < 8 < model.bits("ZQXW" * 50)
    assert model.bits("") == 0
    # Per character, not per byte: three bytes of a character that is unknown count together.
    assert model.bits("\u6f22" * 50) > 2 * model.bits("Z" * 50)
