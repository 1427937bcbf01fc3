"""What several files of tests share because it takes long to make."""
import functools
import gc
import itertools
import sys

import pytest

from afm_min.data import corpus, sources


def pytest_collection_finish(session):
    """Leave what has been imported, a million objects, out of the garbage collections to come."""
    gc.collect()
    gc.freeze()
    if launch := sys.modules.get("tests.launch"):  # wanted by a test
        launch.prepare()


def some_code():
    """What is planted, what that is copied from, and a fifth of the other code."""
    copied = {f"{name}.py" for name in sources.COPIED}
    return (document for i, document in enumerate(sources.code())
            if i % 5 == 0 or document.get("planted") or document["name"] in copied)


@pytest.fixture(scope="session")
def collected():
    """About a tenth of the default documents, of each source, and the funnel they came through."""
    reference = sources.reference
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "PLANTED", 20)
        patch.setattr(sources, "reference", lambda: (  # the first pages, without the largest
            page for page in itertools.islice(reference(), 80)
            if len(page[1]) < 20_000 or page[0] == "json"))
        patch.setattr(corpus, "SOURCES", corpus.SOURCES | {
            "code": some_code,
            "public": lambda: itertools.islice(sources.public(), 100),
            "math": functools.partial(sources.math, 600),
            "questions": functools.partial(sources.questions, 2000)})
        return corpus.collect("", 2)
