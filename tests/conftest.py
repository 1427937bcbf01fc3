"""What several files of tests share because it takes long to make."""
import pytest

from afm_min import corpus


@pytest.fixture(scope="session")
def collected():
    """The default documents, and the funnel they came through."""
    return corpus.collect("", 5)
