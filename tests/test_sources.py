"""The toy crawl."""
import itertools

from afm_min.data import sources


def test_the_crawl_is_the_same_every_time(monkeypatch):
    reference = sources.reference
    monkeypatch.setattr(sources, "reference", lambda: itertools.islice(reference(), 20))
    pairs = list(zip(sources.web(), sources.web(), strict=True))  # both are rendered at once
    assert len(pairs) > 20
    assert all(first["text"] == second["text"] for first, second in pairs)
