"""The filters on held-out pages, written without a look at any filter: see helpers/planted.py."""
import collections
import pydoc_data.topics
import re

import pytest

from afm_min.data import blocks, filters, formulas, safety
from afm_min.data.funnel import Decontamination, Funnel, NearDuplicates, signature
from afm_min.world.tasks import MATH, benchmark_tasks
from tests.helpers import formula_pages, free_pages, layouts, planted, planted_unsafe


@pytest.fixture(scope="module")
def funnel():
    return Funnel(pydoc_data.topics.topics.values())


def recall_and_precision(pairs):
    """[(truth, prediction), ...] -> (recall, precision)"""
    both = sum(truth and prediction for truth, prediction in pairs)
    positive = sum(truth for truth, _ in pairs)
    predicted = sum(prediction for _, prediction in pairs)
    return both / positive, both / predicted


def test_personal_data():
    """A piece is found if its kind takes its place."""
    count, pairs = collections.Counter(), []
    for text, expected in planted.pii_pages(1, 2000):
        removed = safety.remove_pii(text)
        left = sum(string in removed for _, string in expected)
        count.update(wanted=len(expected), left=left,
                     found=len(re.findall(r"\[(?:card|email|ip|national id|phone)\]", removed)))
        pairs.append((bool(expected), removed != text))
    print("pages: recall, precision", *recall_and_precision(pairs), "pieces:", count)
    assert min(recall_and_precision(pairs)) >= 0.95
    assert count["left"] <= 0.05 * count["wanted"]
    assert count["found"] - (count["wanted"] - count["left"]) <= 0.05 * count["found"]


def test_unsafe_pages(funnel):
    pairs = [(unsafe, bool(funnel.filters["safety"]({"text": text})))
             for text, unsafe in planted_unsafe.unsafe_pages(1, 1000)]
    print("recall, precision", *recall_and_precision(pairs))
    assert min(recall_and_precision(pairs)) >= 0.95


def test_freely_written_pages(funnel):
    """The classifier knows words, not sentences: on pages that follow no template it makes many
    mistakes, but still ranks most unsafe pages above most harmless ones."""
    def score(page):
        if funnel.swearword.search(page):
            return 1.0
        return funnel.unsafe(page)
    unsafe, harmless = map(score, free_pages.UNSAFE), [*map(score, free_pages.HARMLESS)]
    above = [a > b for a in unsafe for b in harmless]
    pairs = [(unsafe, bool(funnel.filters["safety"]({"text": page})))
             for pages, unsafe in ((free_pages.UNSAFE, True), (free_pages.HARMLESS, False))
             for page in pages]
    print("ranked right", sum(above) / len(above), "recall, precision",
          *recall_and_precision(pairs))
    assert sum(above) > 0.7 * len(above)


def test_quality(funnel):
    pairs = [(not good, bool(funnel.filters["quality"]({"text": text})))
             for text, good in planted.quality_pages(1, 1000)]
    print("recall, precision", *recall_and_precision(pairs))
    assert min(recall_and_precision(pairs)) >= 0.95


def shingles(text):
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i:i + 5]) for i in range(len(words) - 4)}


def test_near_duplicates():
    found, alarms = [], []
    for text, edited in planted.near_duplicates(1, 1200):
        a, b, near = shingles(text), shingles(edited), NearDuplicates()
        assert not near.seen(signature(text))
        similarity = len(a & b) / len(a | b)
        if similarity >= 0.8:
            found.append(near.seen(signature(edited)))
        elif similarity < 0.4:
            alarms.append(near.seen(signature(edited)))
    print("found", sum(found) / len(found), "false alarms", sum(alarms) / len(alarms),
          len(found), len(alarms))
    assert sum(found) >= 0.95 * len(found) and sum(alarms) <= 0.01 * len(alarms)


def test_main_content_of_other_layouts():
    """12 layouts, a quarter of the pages malformed. Navigation is also in plain <div>s."""
    kept = collections.Counter()
    for page, body, navigation in layouts.pages():
        text = collections.Counter(re.findall(r"\w+", blocks.main_content(page)))
        found = (text & collections.Counter(body)).total()
        assert found > len(body) / 2, page[:200]
        kept.update(found=found, body=len(body), navigation=len(navigation),
                    leaked=(text & collections.Counter(navigation)).total())
    print("body", kept["found"] / kept["body"], "navigation", kept["leaked"] / kept["navigation"])
    assert (kept["found"] >= 0.97 * kept["body"]
            and kept["leaked"] <= 0.06 * kept["navigation"])


def test_main_content():
    kept = collections.Counter()
    for page, body, navigation in planted.html_pages(1, 400):
        text = set(re.findall(r"\w+", blocks.main_content(page).lower()))
        kept.update(body=sum(w.lower() in text for w in body),
                    navigation=sum(w.lower() in text for w in navigation),
                    all_body=len(body), all_navigation=len(navigation))
    print("kept: body", kept["body"] / kept["all_body"],
          "navigation", kept["navigation"] / kept["all_navigation"])
    assert (kept["body"] >= 0.95 * kept["all_body"]
            and kept["navigation"] <= 0.05 * kept["all_navigation"])


def test_math_tags():
    pairs = [(has_formula, formulas.has_math_tags(page))
             for pages, has_formula in ((formula_pages.WITH, True), (formula_pages.WITHOUT, False))
             for page in pages.values()]
    print("recall, precision", *recall_and_precision(pairs))
    assert min(recall_and_precision(pairs)) >= 0.9


def test_robots():
    wrong = [case for case in planted.robots_cases() if filters.robots_allow(*case[:2]) != case[2]]
    assert not wrong


def test_no_benchmark_question_survives():
    questions = [task.question for task in benchmark_tasks(MATH)]
    texts = planted.contaminated_pages(1, questions)
    decontamination = Decontamination(questions, common=5)
    for text, _ in texts:
        decontamination.count(text)
    survived = [text for text, index in texts
                if index is not None and not decontamination.contaminated(text)]
    print("contaminated", sum(i is not None for _, i in texts), "survived", len(survived))
    assert not survived
