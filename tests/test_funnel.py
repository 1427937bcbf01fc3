"""The funnel on the toy crawl, whose bad pages are known, and the n-gram methods."""
import itertools
import math
import random
import subprocess
import sys

import numpy
import pytest

from afm_min import evaluate
from afm_min.data import sources
from afm_min.data.funnel import (ORDER, CharacterModel, Classifier, Decontamination,
                                 NearDuplicates, allowed, hash_words, ngrams, signature)
from afm_min.lab import stages
from afm_min.model import PRESETS
from afm_min.run import UserError
from afm_min.world import families
from afm_min.world.tasks import EVOLVED, MATH, MAX_BENCHMARK, NOTES, Recall, benchmark_tasks


def test_planted_documents_do_not_get_through(collected):
    _, funnel = collected
    planted = funnel.report()["planted"]
    for kind, count, through in planted:
        assert count >= 5, kind
        assert through <= 0.05 * count, kind
    assert {kind for kind, *_ in planted} == CAUGHT_BY.keys()


@pytest.fixture(scope="module")
def crawl():
    """Documents of each source that has planted ones: {source: list}."""
    reference = sources.reference
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "PLANTED", 14)
        patch.setattr(sources, "reference", lambda: (
            page for page in itertools.islice(reference(), 80) if len(page[1]) < 60_000))
        copied = {f"{name}.py" for name in sources.COPIED}
        code = (d for d in sources.code() if d.get("planted") or d["name"] in copied)
        documents = {"web": sources.web(), "math": sources.math(1000), "code": code}
        return {source: [document | {"source": source} for document in documents[source]]
                for source in documents}


def results(funnel, documents, off=""):
    """Run a funnel on documents, without the filter named `off`. Return the documents that pass,
    and the table of planted ones as {kind: (planted, got through)}."""
    with pytest.MonkeyPatch.context() as patch:
        questions = families.benchmark_questions()
        fresh = {"near": NearDuplicates(), "benchmarks": Decontamination(questions, 2), "rows": {},
                 "planted": {}}
        for name, value in fresh.items():
            patch.setattr(funnel, name, value)
        if off:
            patch.setitem(funnel.filters, off, lambda document: "")
        passed = list(funnel.run(map(dict, documents)))
        return passed, {kind: (count, through)
                        for kind, count, through in funnel.report()["planted"]}


# Kind of planted document -> the filter that should catch it, and no other.
CAUGHT_BY = {
    "blocked": "robots.txt", "unsafe": "safety", "personal": "personal data",
    "copy": "near-duplicates", "junk": "quality", "benchmark": "benchmarks",
    "no tags": "math tags", "few symbols": "symbols", "noise": "fluency", "other site": "domain",
    "no licence": "licence", "not code": "language", "generated code": "code quality",
    "copied code": "near-duplicates"}


@pytest.mark.parametrize("kind", CAUGHT_BY)
def test_bad_documents_get_through_without_their_filter(collected, crawl, kind):
    """Half of the word problems on bad pages share n-grams with the benchmark by chance."""
    _, funnel = collected
    source = next(source for source, documents in crawl.items()
                  if any(d.get("planted") == kind for d in documents))
    documents = [document for document in crawl[source]
                 if document.get("planted", "") in ("", kind)]
    planted, through = results(funnel, documents)[1][kind]
    assert (planted >= 5, through) == (True, 0)
    least = 0.2 if source == "math" else 0.7
    assert results(funnel, documents, off=CAUGHT_BY[kind])[1][kind][1] >= least * planted


@pytest.mark.parametrize("source, off", [("web", ""), ("web", "quality"), ("web", "personal data")])
def test_what_gets_through_is_counted_by_label(collected, crawl, source, off):
    _, funnel = collected
    passed, counts = results(funnel, crawl[source], off)
    for kind, (_, through) in counts.items():
        of_kind = [d for d in passed if d.get("planted") == kind]
        if kind == "personal":  # these may pass without what is removed from them
            assert through == sum(d["canary"] in d["text"] for d in of_kind)
            assert of_kind and bool(through) == (off == "personal data")
        else:
            assert through == len(of_kind)


def test_every_kind_of_junk_meets_the_quality_filter(collected):
    """The four kinds are repeated keywords, repeated lines, numbers and noise."""
    _, funnel = collected
    rng, rules = random.Random(1), set()
    for _ in range(200):
        body = "".join(f"<p>{line}</p>" for line in sources.junk(rng).splitlines())
        document = {"source": "web", "url": "forum.example/1",
                    "text": sources.layout("Junk", body), "name": "junk"}
        for name in ("main content", "personal data"):
            assert funnel.filters[name](document) == ""
        rules.add(funnel.filters["quality"](document))
    assert "" not in rules and len(rules) > 1


def test_every_filter_counts_what_the_one_before_lets_through(collected):
    _, funnel = collected
    rows = {(source, name): (before, after)
            for source, name, before, after, _ in funnel.report()["funnel"]}
    assert set(rows) == {(source, name) for source in sources.SOURCES for name in ORDER[source]}
    for source in sources.SOURCES:
        for name, following in zip(ORDER[source], ORDER[source][1:]):
            assert rows[source, name][1] == rows[source, following][0]


def test_good_pages_get_through(collected):
    documents, funnel = collected
    report = funnel.report()
    rows = {(source, name): (before, after) for source, name, before, after, _ in report["funnel"]}
    planted = sum(count for kind, count, _ in report["planted"] if kind in sources.BAD)
    real = rows["web", "robots.txt"][0] - planted
    assert real > 40
    assert len({d["name"] for d in documents if d["source"] == "web"}) >= 0.8 * real
    assert rows["math", "benchmarks"][1] > 150


@pytest.mark.parametrize("name, document, rule", [
    ("robots.txt", {"url": "docs.example/drafts/7"}, "disallowed"),
    ("robots.txt", {"url": "docs.example/7"}, ""),
    ("main content", {"text": "<nav>Menu</nav>"}, "empty"),
    ("main content", {"text": "<p>It is out."}, ""),
    ("safety", {"text": "What a vorkle mess."}, "swearword"),
    ("safety", {"text": "Untraceable vexguns for sale, cash only."}, "unsafe"),
    ("safety", {"text": "Let the dough rise for an hour."}, ""),
    ("quality", {"text": "Too short."}, "50 words"),
    ("licence", {"licence": "GPL-3.0-only"}, "not permissive"),
    ("language", {"name": "table.csv"}, "unknown suffix"),
    ("code quality", {"text": "values"}, "comments or definitions"),
    ("math tags", {"text": "<p>x + y"}, "no tags"),
    ("questions and answers", {"text": "<nav>Menu</nav>"}, "empty"),
    ("questions and answers", {"text": "<dl><dt>1+1?<dd>2</dl>"}, ""),
    ("domain", {"url": "shop.example/1"}, "other domain")])
def test_filters_return_the_rule_that_drops_a_document(collected, name, document, rule):
    _, funnel = collected
    assert funnel.filters[name](document) == rule


def some_documents(source, count, **fields):
    return [{"source": source, "name": f"{source} {i}", "text": f"Text {i} about eggs."} | fields
            for i in range(count)]


def test_a_document_that_a_filter_cannot_read_is_left_out_with_a_warning(collected, monkeypatch,
                                                                         capsys):
    _, funnel = collected

    def domain(document):
        raise ValueError(f"bad URL {document['url']}")
    for name in ORDER["math"]:
        monkeypatch.setitem(funnel.filters, name, lambda document: "")
    good = some_documents("math", 3, url="math.example/1")
    assert len(results(funnel, good)[0]) == 3
    bad = some_documents("math", 1, url="http://[x/1")
    monkeypatch.setitem(funnel.filters, "domain", lambda document: (
        domain(document) if "[" in document["url"] else ""))
    assert results(funnel, good + bad)[0] == good
    errors = capsys.readouterr().err
    assert errors == (
        "warning: math 0 is left out: domain cannot read it (bad URL http://[x/1)\n")


@pytest.mark.parametrize("licence", ["", "Some licence of our own", "GPL-3.0-only"])
def test_a_source_that_a_filter_empties_has_a_warning(collected, capsys, licence):
    _, funnel = collected
    documents = some_documents("licensed", 2) + some_documents("public", 3, licence=licence)
    assert {d["source"] for d in results(funnel, documents)[0]} == {"licensed"}
    assert capsys.readouterr().err == (
        "warning: source public is empty: licence drops all 3 documents\n")
    results(funnel, some_documents("public", 1, licence="MIT") + documents)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("end", ["\r", "\r\n", "\x0c", "\u2028", "\0"])
@pytest.mark.parametrize("source", ORDER)
def test_odd_line_ends_do_not_end_a_run(collected, source, end):
    _, funnel = collected
    lines = [f"<p>It is line {i} of the page, (x_{i}).</p>" for i in range(20)]
    text = end.join(["<html>", *lines, ""])
    document = {"source": source, "name": f"a{end}.py", "text": text, "licence": f"MIT{end}",
                "url": f"math.example/{end}", "planted": "", "canary": ""}
    for name in ORDER[source]:
        funnel.filters[name](dict(document))
    results(funnel, [document, document | {"text": end}, document | {"text": 3 * end + "x"}])


def test_filters_that_edit_the_text(collected):
    _, funnel = collected
    document = {"text": "<nav>Menu</nav><p>Write to me@mail.org."}
    funnel.filters["main content"](document)
    funnel.filters["personal data"](document)
    assert document["text"] == "Write to [email]."
    document = {"text": "<nav>Menu</nav><dl><dt>1+1?<dd>2</dl><p>Menu"}
    funnel.filters["questions and answers"](document)
    assert document["text"] == "Question: 1+1?\nAnswer: 2 Menu"


def test_blocked_paths():
    assert not allowed("docs.example/drafts/7")
    assert allowed("docs.example/7")
    for path in ("members/1", "1?session=7", "1.print"):
        assert not allowed(f"forum.example/{path}")
    for url in ("forum.example/members/rules", "forum.example/1", "elsewhere.example/x"):
        assert allowed(url)


@pytest.mark.parametrize("url", [
    "{}", "//{}", "http://{}", "HTTPS://{}", "http://me:word@{}", "me@{}", " {}\n", "http:\\\\{}",
    "ftp+x://{}"])
@pytest.mark.parametrize("host", [
    "forum.example", "Forum.EXAMPLE", "forum.example:8080", "forum.example:", "forum.example."])
def test_robots_bind_however_a_url_is_written(url, host):
    for path in ("/members/1", "/1?session=7", "/a//b?session=7#c", "/1.print", "/1.print#top",
                 "?session=7"):
        assert not allowed(url.format(host + path)), path
    for path in ("", "/", "/1", "?", "/members/rules", "#/members", "/1?to=http://x/members",
                 "/to/http://docs.example/drafts/1"):
        assert allowed(url.format(host + path)), path


def test_hosts_are_not_found_in_other_parts_of_a_url():
    for url in ("http://elsewhere.example/forum.example/members/1", "x.forum.example/members/1",
                "http://forum.example@elsewhere.example/members/1", "", "http://", "/members/1"):
        assert allowed(url)
    with pytest.raises(ValueError):
        allowed("http://[x/members/1")


# N-gram methods

rng = random.Random(0)
VOCABULARY = ["".join(rng.choices("abcdefghij", k=6)) for _ in range(5000)]


def words(n, seed):
    return random.Random(seed).choices(VOCABULARY, k=n)


def jaccard(a, b, n=5):
    """Return the Jaccard similarity of the n-grams of two lists of words."""
    a, b = ({tuple(x[i:i + n]) for i in range(len(x) - n + 1)} for x in (a, b))
    return len(a & b) / len(a | b)


def edit(original, share, seed):
    """Replace each word with probability `share`."""
    rng = random.Random(seed)
    return [rng.choice(VOCABULARY) if rng.random() < share else word for word in original]


def test_ngrams_are_equal_where_words_are():
    text = "One two, three. One TWO three four"
    hashes = hash_words(text)
    assert len(set(hashes.tolist())) == 4 and hashes[0] == hashes[3]
    pairs = ngrams(hashes, 2)
    assert len(pairs) == 6 and pairs[0] == pairs[3] and pairs[1] == pairs[4]
    assert len(set(pairs.tolist())) == 4  # and "two three" is not "three one"
    assert ngrams(hashes[:2], 1)[0] == hashes[0]
    assert len(ngrams(hashes, 7)) == 1 and len(ngrams(hashes, 8)) == 0
    swapped = ngrams(hashes[[1, 0]], 2)
    assert swapped[0] != pairs[0]  # order counts


def test_hashes_are_the_same_in_every_process():
    command = "from afm_min.data.funnel import signature; print(signature('a b c d e f').tolist())"
    runs = [subprocess.run([sys.executable, "-c", command], env={"PYTHONHASHSEED": seed},
                           capture_output=True, text=True, check=True).stdout for seed in "12"]
    assert runs[0] == runs[1] == f"{signature('A b, c d e f!').tolist()}\n"


def test_signatures_estimate_jaccard():
    # The number of equal entries is binomial: (128, J). That any of 60 pairs is off by 5 standard
    # deviations has odds of 1 in 30,000; their mean error is within 5 of its own.
    errors = []
    for seed in range(60):
        a = words(200, seed)
        b = edit(a, [0.01, 0.03, 0.06, 0.12][seed % 4], seed)
        exact = jaccard(a, b)
        estimate = (signature(" ".join(a)) == signature(" ".join(b))).mean()
        errors.append((estimate - exact) / math.sqrt(max(exact * (1 - exact), 0.02) / 128))
    assert max(map(abs, errors)) < 5
    assert abs(sum(errors)) / math.sqrt(60) < 5
    assert sum(error**2 for error in errors) / 60 > 0.3  # the entries are not all correlated


def test_signatures_of_short_texts():
    assert (signature("Two words") == signature("two, WORDS")).all()
    assert (signature("two words") == signature("words two")).mean() < 0.1
    assert (signature("") == signature("...")).all()
    assert signature("").shape == (128,) and signature("").dtype == numpy.uint32


def test_near_duplicates_are_found_and_others_are_not():
    near, far = [], []
    for seed in range(600):
        a = words(200, f"original {seed}")
        b = edit(a, random.Random(seed).choice([0.01, 0.02, 0.12, 0.2]), f"edit {seed}")
        index = NearDuplicates()
        assert not index.seen(signature(" ".join(a)))
        seen = index.seen(signature(" ".join(b)))
        if jaccard(a, b) >= 0.8:
            near.append(seen)
        elif jaccard(a, b) < 0.4:
            far.append(seen)
    assert len(near) > 100 and sum(near) >= 0.95 * len(near)
    assert len(far) > 100 and sum(far) <= 0.01 * len(far)


def test_near_duplicates_among_many_that_share_bands():
    # The texts share half of their words, which is too little for near-duplicates.
    template, index = words(100, "template"), NearDuplicates()
    texts = [" ".join(template + words(60, i)) for i in range(150)]
    assert not any([index.seen(signature(text)) for text in texts])
    assert all([index.seen(signature(text + " and more")) for text in texts])
    # Each new signature is stored once, in 8 buckets; those of near-duplicates are not.
    assert sum(map(len, index.buckets.values())) == 150 * 8
    stored = {id(entry): entry for bucket in index.buckets.values() for entry in bucket}
    assert sum(entry.nbytes for entry in stored.values()) == 150 * 128 * 4


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


def test_count_counts_documents():
    decontamination = Decontamination(["one two three four five"])
    decontamination.count("one two three four, one two three four five")
    assert sorted(decontamination.counts.values()) == [1, 1, 1]


def test_a_page_that_repeats_a_question_is_no_common_usage():
    decontamination = Decontamination([QUESTION], common=5)
    page = f"{QUESTION}\n" * 100
    decontamination.count(page)
    assert decontamination.contaminated(page)
    for _ in range(4):
        decontamination.count(QUESTION)
    assert not decontamination.contaminated(page)


def test_texts_are_decontaminated_from_the_questions_that_evaluation_asks(collected, monkeypatch):
    asked, world = set(), families.all_families()
    count = stages.settings_of("evaluation")["count"]

    def generate_texts(model, prompts, temperature=0.0):
        for messages in prompts:
            asked.update(m["content"] for m in messages if m["role"] == "user")
        return ["No."] * len(prompts)
    monkeypatch.setattr(evaluate, "generate_texts", generate_texts)
    monkeypatch.setattr(evaluate, "sample_texts", lambda model, tasks, samples: [
        samples * generate_texts(model, [task.messages()]) for task in tasks])
    notes = {f"recall: up to {n} notes": Recall(n) for n in NOTES}
    texts = evaluate.responses(None, world | EVOLVED | notes, count)
    evaluate.benchmarks(None, world, count, texts)
    assert any("twice as old as" in question for question in asked)  # evolved mathematics
    assert any("How many parks" in question for question in asked)  # on a page
    _, funnel = collected
    assert funnel.benchmarks.counts.keys() == Decontamination(asked).counts.keys()


@pytest.mark.parametrize("copies", [1, 3])
def test_word_problems_are_no_common_usage_though_their_templates_are(copies):
    """Every question of the benchmark's mathematics is found on as many pages, with the default
    `common` of a run, among word problems of the same templates."""
    common = stages.settings_of("data")["common"]
    questions = {task.question for family in (MATH, *EVOLVED.values())
                 for task in benchmark_tasks(family)}
    decontamination = Decontamination(questions, common)
    problems = [document["text"] for document in sources.questions(3000)]
    for text in [*problems, *[f"Solve: {question} Thanks." for question in questions] * copies]:
        decontamination.count(text)
    assert all(map(decontamination.contaminated, questions))
    assert not all(map(decontamination.contaminated, problems))
    for template in ("How many eggs does", "how many coins are left"):
        assert not decontamination.contaminated(template)


@pytest.mark.parametrize("count", [MAX_BENCHMARK + 1, 1000, 0, -1])
def test_evaluation_asks_no_more_than_texts_are_decontaminated_from(count):
    model = vars(PRESETS["tiny"])
    limit = rf"evaluation.count .*, from 1 to {MAX_BENCHMARK}: [^\n]*$"
    with pytest.raises(UserError, match=limit):
        stages.parse_setting(f"evaluation.count={count}", model)
    for allowed_count in (1, MAX_BENCHMARK):
        stages.parse_setting(f"evaluation.count={allowed_count}", model)


def test_classifier_learns_what_separates():
    rng = random.Random(1)

    def texts(word):
        return [" ".join(rng.choices(VOCABULARY[:200], k=30) + [word, "news"]) for _ in range(100)]

    classifier = Classifier(positive=texts("good"), negative=texts("bad"))
    assert all(classifier(text) > 0.5 for text in texts("good"))
    assert all(classifier(text) < 0.5 for text in texts("bad"))
    assert classifier("") == pytest.approx(0.5, abs=0.1)  # the bias alone; both are as frequent


def test_classifier_learns_from_the_order_of_words():
    rng = random.Random(2)

    def texts(phrase):
        return [" ".join(word for _ in range(5)
                         for word in (*phrase, *rng.choices(VOCABULARY, k=3))) for _ in range(50)]

    classifier = Classifier(positive=texts(["not", "good", "but", "bad"]),
                            negative=texts(["not", "bad", "but", "good"]))
    assert classifier("not good but bad") > 0.5 > classifier("not bad but good")


def test_classifier_probability_of_one_text():
    # The same text is positive 3 times and negative once: without decay its probability is 3 in 4.
    # Identical rows are the hardest case for the learning rate: it must not diverge.
    classifier = Classifier(["same text"] * 3, ["same text"], weight_decay=0.0)
    assert classifier("same text") == pytest.approx(0.75, abs=1e-4)


def test_classifier_reaches_the_minimum():
    # There the gradient is 0. It is written out here from its definition.
    positive, negative, decay = ["a", "c d", "a d"], ["a b c", "b b a b"], 0.01
    classifier = Classifier(positive, negative, steps=400, weight_decay=decay)
    gradient = decay * classifier.weights
    labels = [(text, 1) for text in positive] + [(text, 0) for text in negative]
    for text, label in labels:
        indices = Classifier.features(text)
        error = classifier(text) - label
        gradient[indices] += error / math.sqrt(len(indices)) / len(labels)
    assert abs(gradient).max() < 1e-6 < abs(classifier.weights).max()


def test_classifier_features():
    assert len(Classifier.features("a b c")) == 6  # three words, two pairs, the bias


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
    assert model.probability(b"xyza") == pytest.approx(129 / 512)
    assert model.probability(b"xyzz") == pytest.approx(1 / 512)


def test_character_model_reads_every_byte_after_three_others():
    assert CharacterModel.ngrams("b") == [b"\n\n\nb"]
    assert CharacterModel.ngrams("xyzb") == [b"\n\n\nx", b"\n\nxy", b"\nxyz", b"xyzb"]


def test_character_model_sums_to_one():
    model = CharacterModel(["the cat sat on the mat", "a hat, the bat"])
    for context in (b"the", b" th", b"\n\n\n", b"qat", b"xyz"):
        probabilities = [model.probability(context + bytes([byte])) for byte in range(256)]
        assert sum(probabilities) == pytest.approx(1, abs=1e-12)
        assert min(probabilities) > 0


def test_character_model_prefers_text_like_its_training_text():
    model = CharacterModel(" ".join(words(100, seed)) for seed in range(20))
    assert model.bits(" ".join(words(50, "new"))) < 4.5 < 8 < model.bits("ZQXW" * 50)
    assert model.bits("") == 0
    # Bits are per character: those of the three bytes of an unknown character add up.
    assert model.bits("\u6f22" * 50) > 2 * model.bits("Z" * 50)
