"""The funnel on the toy crawl, whose bad pages are known."""
import tracemalloc

from afm_min import crawl
from afm_min.funnel import ORDER, Funnel, allowed
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
    assert len({d["name"] for d in documents
                if d["source"] == "web"}) >= 0.8 * 200  # pages of pydoc
    assert rows["math", "benchmarks"][1] > 1000


def test_blocked_paths():
    assert not allowed("docs.example/drafts/7") and allowed("docs.example/7")
    for path in ("members/1", "1?session=7", "1.print"):
        assert not allowed(f"forum.example/{path}")
    assert (allowed("forum.example/members/rules") and allowed("forum.example/1")
            and allowed("elsewhere.example/x"))


def test_memory_does_not_grow_with_the_text():
    """300 documents with ten times the text in each: little of what is added is ever in memory."""
    texts, peaks, sizes = [text for text, _ in planted.quality_pages(1, 300)], [], []
    for repeat in (1, 10):
        funnel = Funnel(["A text that is well written, about the sea and its fish."] * 5)
        documents = ({"source": "licensed", "name": "", "text": (text + "\n") * repeat}
                     for text in texts)
        tracemalloc.start()
        assert sum(1 for _ in funnel.run(documents)) == 300  # one after the other, so none is kept
        peaks.append(tracemalloc.get_traced_memory()[1])
        sizes.append(repeat * sum(map(len, texts)))
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 0.25 * (sizes[1] - sizes[0])
