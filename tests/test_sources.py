"""The toy crawl."""
import itertools
import pathlib
import re
from types import SimpleNamespace

import pytest

from afm_min.data import sources


def test_the_crawl_is_the_same_every_time(monkeypatch):
    reference = sources.reference
    monkeypatch.setattr(sources, "reference", lambda: itertools.islice(reference(), 20))
    pairs = list(zip(sources.web(), sources.web(), strict=True))  # both are rendered at once
    assert len(pairs) > 20
    assert all(first["text"] == second["text"] for first, second in pairs)


@pytest.mark.parametrize("source", ["code", "public"])
def test_a_file_that_is_no_python_is_left_out_with_a_warning(source, tmp_path, monkeypatch, capsys):
    text = "x = 'caf\u00e9'  # " + 30 * "long text "
    string = "y = 'caf\u00e9" + 30 * " long text" + "'\n"
    contents = {"good": string.encode(), "bom": b"\xef\xbb\xbf" + string.encode(),
                "latin": b"# coding: latin-1\n" + string.encode("latin-1"),
                "bytes": text.encode("latin-1"), "syntax": b"def f(:\n", "null": b"x = 1\0"}
    package = tmp_path / "numpy"
    package.mkdir()
    for name, content in contents.items():
        (package / f"{name}.py").write_bytes(content)
    monkeypatch.setattr(sources, "STDLIB", package)
    monkeypatch.setattr(sources, "PLANTED", 0)
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: (
        SimpleNamespace(origin=str(package / "__init__.py"))))
    documents = [d for d in getattr(sources, source)() if d["text"]]
    left_out = {"bytes"} if source == "code" else {"bytes", "syntax", "null"}
    texts = {pathlib.Path(d["name"]).stem: d["text"] for d in documents}
    assert texts.keys() == contents.keys() - left_out
    for name in ("good", "bom", "latin"):
        assert "caf\u00e9 long text" in texts[name]
    lines = set(capsys.readouterr().err.splitlines())  # public finds the same files twice
    assert len(lines) == len(left_out)
    for name in left_out:
        assert any(re.match(f"warning: .*{name}.py is left out: ", line) for line in lines)


def test_only_the_first_rank_warns(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    sources.warn("odd")
    monkeypatch.setenv("RANK", "0")
    sources.warn("odd")
    assert capsys.readouterr().err == "warning: odd\n"
