"""The funnel on the toy crawl, whose bad pages are known."""
import copy
import os
import tracemalloc

import pytest

from afm_min.data import crawl
from afm_min.data import funnel as funnel_module
from afm_min.data.funnel import ORDER, Funnel, allowed
from afm_min.run import UserError
from tests import planted


def test_what_was_planted_does_not_get_through(collected):
    _, funnel = collected
    for kind, count, through in funnel.report()["planted"]:
        assert count >= 5, kind
        assert through <= 0.05 * count, kind
    assert {"blocked", "unsafe", "personal", "copy", "junk", "benchmark", "no tags", "few symbols",
            "noise", "other site", "no licence", "not code", "generated code", "copied code"} == {
                kind for kind, *_ in funnel.report()["planted"]}


def test_good_pages_get_through(collected):
    documents, funnel = collected
    rows = {(source, name): (into, out) for source, name, into, out, _ in funnel.report()["funnel"]}
    assert set(rows) == {(source, name) for source in ORDER for name in ORDER[source].split(", ")}
    for source in ORDER:
        names = ORDER[source].split(", ")
        assert all(rows[source, a][1] == rows[source, b][0] for a, b in zip(names, names[1:]))
    planted_pages = sum(count for kind, count, _ in funnel.report()["planted"] if kind in crawl.BAD)
    real_pages = rows["web", "robots.txt"][0] - planted_pages
    names = {d["name"] for d in documents if d["source"] == "web"}
    assert real_pages > 40 and len(names) >= 0.8 * real_pages
    assert rows["math", "benchmarks"][1] > 200


def test_blocked_paths():
    assert not allowed("docs.example/drafts/7") and allowed("docs.example/7")
    for path in ("members/1", "1?session=7", "1.print"):
        assert not allowed(f"forum.example/{path}")
    assert (allowed("forum.example/members/rules") and allowed("forum.example/1")
            and allowed("elsewhere.example/x"))


def test_several_processes_find_what_one_does(monkeypatch):
    """Near-duplicates in other chunks than what they copy, documents dropped before and after."""
    texts = [text for text, _ in planted.quality_pages(1, 60)]
    texts += [text + " And some more." for text in texts[:30]] + [" ", "call ann@mail.com or"]
    sources, found = ("web", "code", "public"), []
    for workers in (1, 3):
        monkeypatch.setattr(funnel_module.distributed, "cores", lambda: workers)
        documents = [{"source": sources[i % 3], "name": f"{i}.py", "url": "docs.example/1",
                      "licence": "MIT", "text": f"<p>{text}</p>"} for i, text in enumerate(texts)]
        funnel = Funnel(["A text that is well written, about the sea and its fish."] * 5)
        found.append((list(funnel.run(documents)), funnel.report()))
    assert found[0] == found[1]
    rows = {row[1]: row for row in found[0][1]["funnel"] if row[0] == "web"}
    assert 0 < rows["near-duplicates"][3] < rows["near-duplicates"][2]  # some are found


def die(_):
    os._exit(9)  # as the kernel ends a process when memory is short


def test_a_lost_worker_is_one_line(monkeypatch):
    monkeypatch.setattr(funnel_module.distributed, "cores", lambda: 2)
    monkeypatch.setattr(funnel_module, "examine_chunk", die)
    documents = [{"source": "code", "name": "a.py", "licence": "MIT", "text": "x = 1\n" * 20}]
    with pytest.raises(UserError, match="ended early, perhaps for want of memory"):
        list(funnel_module.examined(funnel_module.Filters(["A text about the sea."] * 5), documents))


def test_chunks_hold_some_characters_each():
    documents = [{"text": "x" * n} for n in (3, 3, 9, 1, 1)]
    assert [[len(d["text"]) for d in chunk] for chunk in funnel_module.chunks(documents, 5)] == [
        [3, 3], [9], [1, 1]]


def test_memory_does_not_grow_with_the_text():
    """300 documents with ten times the text in each: little of what is added is ever in memory."""
    texts, peaks, sizes = [text for text, _ in planted.quality_pages(1, 300)], [], []
    unused = Funnel(["A text that is well written, about the sea and its fish."] * 5)
    for repeat in (1, 10):
        funnel = copy.deepcopy(unused)
        documents = ({"source": "licensed", "name": "", "text": (text + "\n") * repeat}
                     for text in texts)
        tracemalloc.start()
        assert sum(1 for _ in funnel.run(documents)) == 300  # one after the other, so none is kept
        peaks.append(tracemalloc.get_traced_memory()[1])
        sizes.append(repeat * sum(map(len, texts)))
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 0.25 * (sizes[1] - sizes[0])
