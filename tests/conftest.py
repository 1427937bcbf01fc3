"""Fixtures that several test files share, because they take long to make."""
import functools
import gc
import itertools
import shutil
import sys

import pytest

from afm_min.data import corpus, sources
from afm_min.tokenizer import Tokenizer


def pytest_collection_finish(session):
    """Exempt what has been imported, a million objects, from later garbage collections."""
    gc.collect()
    gc.freeze()
    if launch := sys.modules.get("tests.helpers.launch"):  # some test needs it
        launch.start_server()


def some_code():
    """Yield planted code, the files it was copied from, and a fifth of the other code."""
    copied = {f"{name}.py" for name in sources.COPIED}
    for i, document in enumerate(sources.code()):
        if i % 5 == 0 or document.get("planted") or document["name"] in copied:
            yield document


@pytest.fixture(scope="session")
def collected():
    """About a tenth of the default documents, of each source, and their funnel."""
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


@pytest.fixture(scope="session")
def tokenizer():
    """A tokenizer of a few merges."""
    return Tokenizer.train(["Hi. Yes. No. What is it?"] * 3, 272)


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    """A folder of four text files."""
    folder = tmp_path_factory.mktemp("texts")
    for i in range(4):
        (folder / f"{i}.txt").write_text(f"Text number {i} says: the quick brown fox jumps.\n" * 40)
    return folder


@pytest.fixture(scope="session")
def pretrained(texts, tmp_path_factory):
    """A run with all of pre-training: (its folder, what train.py printed). Do not change it."""
    from tests.helpers.commands import PRETRAIN, SETTINGS, shell
    folder = tmp_path_factory.mktemp("runs") / "pretrained"
    code, output, errors = shell("train.py", "--out", folder, "--data", texts, *PRETRAIN, *SETTINGS)
    assert (code, errors) == (0, "")
    return folder, output


@pytest.fixture(scope="session")
def post_trained(pretrained, tmp_path_factory):
    """A run with all stages: (its folder, what train.py printed). Do not change it."""
    from tests.helpers import post_training
    from tests.helpers.launch import Launched
    folder = shutil.copytree(pretrained[0], tmp_path_factory.mktemp("runs") / "post_trained")
    code, output, errors = Launched(post_training.post_train, folder).finish()
    assert (code, errors) == (0, "")
    return folder, output
