"""Documents: what is read and held out, and how text is packed and mixed."""
import functools
import html
import pydoc_data.topics
from types import SimpleNamespace

import pytest
import torch

from afm_min.data import corpus
from afm_min.run import UserError
from afm_min.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def documents(collected):
    return collected[0]


@pytest.mark.parametrize("source, megabytes", [
    ("web", 0.15), ("licensed", 0.3), ("code", 0.4), ("public", 0.4), ("math", 0.02)])
def test_every_source_yields_text(documents, source, megabytes):
    """The sizes are for the tenth that the tests read; "licensed" is complete."""
    texts = [d["text"] for d in documents if d["source"] == source]
    assert len(texts) > 20
    assert sum(map(len, texts)) > megabytes * 1e6


def test_pages_become_text_that_does_not_depend_on_the_machine(documents):
    # Planted pages come last, and have names of real ones.
    pages = {d["name"]: d["text"] for d in reversed(documents) if d["source"] == "web"}
    assert "JSON (JavaScript Object Notation)" in pages["json"]
    for name, text in pages.items():
        assert text.strip(), name
        assert "<td" not in text and "\xa0" not in text and "&nbsp" not in text, name
        assert " at 0x" not in text and "environ({'" not in text, name


def test_tokenizer_sees_sources_in_the_proportions_of_the_mixture():
    texts = {"a": ["x" * 10] * 300, "b": ["y" * 20] * 300, "c": ["z"]}
    text = "".join(corpus.in_proportion(texts, {"a": 3, "b": 1, "d": 5}))
    assert text.count("x") / text.count("y") == pytest.approx(3, rel=0.1)
    assert "z" not in text
    assert len(text) == pytest.approx(9001, rel=0.1)
    assert list(corpus.in_proportion(texts, {})) == []


def test_the_split_is_by_topic(documents):
    held_out = {d["topic"] for d in documents if d["held_out"]}
    assert not held_out & {d["topic"] for d in documents if not d["held_out"]}
    topics = {d["topic"] for d in documents}
    assert 0.05 < len(held_out) / len(topics) < 0.15
    for source in corpus.SOURCES:  # some have only 30 topics
        topics = {d["topic"] for d in documents if d["source"] == source}
        assert 0 < len(topics & held_out) / len(topics) < 0.25


def test_topics():
    assert corpus.topic("web", "decimal") == "decimal"
    assert corpus.topic("code", "_pydecimal.py") == "decimal"
    assert corpus.topic("code", "_py_abc.py") == "abc"
    assert corpus.topic("web", "json") == corpus.topic("code", "json/decoder.py")
    assert corpus.topic("public", "torch/a.py") != corpus.topic("public", "torch/b.py")


def test_held_out_lines_are_not_in_the_training_text(documents):
    known = {line for d in documents if not d["held_out"]
             for line in d["text"].splitlines() if len(line) >= 40}
    new = [line for d in documents if d["held_out"] for line in d["text"].splitlines()]
    assert len(new) > 1000
    assert not known & set(new)


def test_remove_known_lines():
    line = "A line of more than forty characters, in two documents."
    train = {"held_out": False, "text": f"{line}\nx"}
    partly_known = {"held_out": True, "text": f"{line}\r\nx\nnew"}
    known = {"held_out": True, "text": line}
    assert corpus.remove_known_lines([train, partly_known, known]) == [
        {"held_out": False, "text": f"{line}\nx"}, {"held_out": True, "text": "x\nnew"}]


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
def test_known_lines_are_removed_whatever_their_ends(end):
    line = "A line of more than forty characters, in two documents."
    train = {"held_out": False, "text": f"x\n{line}\ny"}
    held_out = {"held_out": True, "text": f"{line}{end}new{end}{line}{end}"}
    assert corpus.remove_known_lines([train, held_out])[1]["text"] == f"new{end}"


def test_a_share_of_the_topics(monkeypatch):
    monkeypatch.setattr(corpus, "Funnel", lambda *_: SimpleNamespace(run=lambda found: found))
    monkeypatch.setattr(corpus, "SHARES", {"half": 0.5})
    monkeypatch.setattr(corpus, "SOURCES", {source: lambda: (
        {"name": str(i), "text": "Some text."} for i in range(4000)) for source in ("half", "all")})

    def count(share):
        documents, _ = corpus.collect("", common=5, share=share)
        return [sum(d["source"] == source for d in documents) for source in ("half", "all")]

    assert count(1.0) == [pytest.approx(2000, abs=150), 4000]
    assert count(0.25) == [pytest.approx(500, abs=100), pytest.approx(1000, abs=130)]
    for share in (0.0, 1.5):
        with pytest.raises(UserError, match=f"data.share={share}: it is a share of all topics"):
            corpus.collect("", common=5, share=share)


def test_user_files(tmp_path):
    collect = functools.partial(corpus.collect, common=5)
    with pytest.raises(UserError, match="no such folder"):
        collect(tmp_path / "none")
    with pytest.raises(UserError, match="text to train on and other text"):
        collect(tmp_path)
    (tmp_path / "small.txt").write_text("One small file.")
    with pytest.raises(UserError, match="text to train on and other text"):
        collect(tmp_path)
    text = "".join(f"Line {i} of a large file.\r\n" for i in range(10_000))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "large.txt").write_bytes(text.encode())
    documents, funnel = collect(tmp_path)
    assert funnel is None
    assert "".join(d["text"] for d in documents if d["name"].startswith("sub")) == text
    assert {d["held_out"] for d in documents} == {True, False}
    with pytest.raises(UserError, match="passes no filter unless data.filtered=True"):
        collect(tmp_path, lexicon="words")
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin.txt is not UTF-8 \(see byte 3\)"):
        collect(tmp_path)


def test_user_files_pass_the_filters_of_their_kind(tmp_path):
    """A page loses its markup, a text its e-mail address, and junk, a copy and bad code are
    dropped. A page stays whole, since most of it can be markup."""
    page, prose, other = sorted(pydoc_data.topics.topics.values(), key=len)[20:23]
    files = {"a.txt": f"{prose}\n\nWrite to ada@mail.example.", "b.txt": prose, "f.txt": other,
             "c.html": f"<nav>Home</nav><!-- {2**17 * 'x'} --><pre>{html.escape(page)}</pre>",
             "d.py": "# generated by a tool, do not edit\nx = 1\n", "e.md": "click here $$$ " * 40}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    documents, funnel = corpus.collect(tmp_path, common=5, filtered=True)
    texts = {}
    for d in documents:
        name = d["name"].split()[0]
        texts[name] = texts.get(name, "") + d["text"]
    assert {"a.txt", "c.html", "f.txt"} == set(texts)
    assert "ada@mail.example" not in texts["a.txt"]
    assert page.split()[:50] == texts["c.html"].split()[:50]
    counts = {(kind, name): (before, after)
              for kind, name, before, after, _ in funnel.report()["funnel"]}
    assert counts["user text", "near-duplicates"] == (4, 3)
    assert counts["user code", "code quality"] == (1, 0)
    assert counts["user page", "main content"] == (1, 1)


def test_a_file_may_have_a_name_that_is_not_utf_8():
    documents = [{"source": "user", "topic": corpus.topic("user", name)}
                 for name in ("caf\udce9.txt 0", "caf\udcea.txt 0", "plain.txt 0")]
    corpus.hold_out(documents)
    assert [d["held_out"] for d in documents].count(True) == 1
    first, second, _ = (corpus.digest(d["topic"]) for d in documents)
    assert first != second


def test_pack_begins_each_document_with_a_token():
    tokenizer = Tokenizer.train(["ab"], 272 + 3)
    a, b, ab = (tokenizer.encode(text)[0] for text in ("a", "b", "ab"))
    assert a != b
    assert corpus.pack(["ab", "b"], tokenizer).tolist() == [0, ab, 0, b]


def test_the_mixture_follows_the_weights():
    # The ids show the source. 3/4 of the 4000 rows must be from a; the standard deviation of the
    # share is 0.007.
    streams = {"a": torch.arange(100), "b": torch.arange(100, 130), "unused": torch.arange(5)}
    torch.manual_seed(0)
    batch = corpus.mixture_batches(streams, {"a": 3, "b": 1}, 4000, 8)(0)
    ids = batch["ids"]
    assert ids.shape == (4000, 9) and ids.dtype == torch.int64
    assert batch["loss_weights"].shape == ids.shape
    assert (batch["loss_weights"] == 1).all()
    assert (ids.diff() == 1).all()  # each row is a window
    assert (ids[:, 0] < 100).float().mean().item() == pytest.approx(0.75, abs=0.035)
    first = ids[ids[:, 0] < 100][:, 0]
    assert first.min() == 0 and first.max() == 100 - 9  # every window can be drawn


def test_mixtures_that_cannot_be_drawn():
    streams = {"a": torch.arange(100), "short": torch.arange(5)}
    with pytest.raises(UserError, match="source short has 5 tokens"):
        corpus.mixture_batches(streams, {"short": 1}, 2, 8)
    with pytest.raises(UserError, match="there must be at least one"):
        corpus.mixture_batches(streams, {"a": 1}, 0, 8)
    with pytest.raises(UserError, match="weights must be numbers"):
        corpus.mixture_batches(streams, {"a": "x"}, 2, 8)
    with pytest.raises(UserError, match="names none of the sources"):
        corpus.mixture_batches(streams, {"c": 1}, 2, 8)


def test_windows_predict_each_token_once():
    assert corpus.held_out_windows(torch.arange(10), 4, 12).tolist() == [
        [0, 1, 2, 3, 4], [4, 5, 6, 7, 8]]
    assert corpus.held_out_windows(torch.arange(21), 4, 12).tolist() == [
        [0, 1, 2, 3, 4], [8, 9, 10, 11, 12], [16, 17, 18, 19, 20]]  # 3 of 5, evenly spaced
    assert corpus.held_out_windows(torch.arange(3), 4, 12).tolist() == [
        [0, 1, 2]]  # shorter than a window
