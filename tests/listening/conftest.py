"""One real server process for the tests of a file."""

import pytest
from clients import listening
from made_sets import TEXTS, make_run


@pytest.fixture(scope="module")
def served_run(tmp_path_factory):
    """A run whose name and one of whose prompts are markup, with a real clip among the samples and one alone."""
    texts = ("<script>alert('prompt')</script>", *TEXTS[1:])
    folder = tmp_path_factory.mktemp("served") / "run <img src=x onerror=alert(1)>"
    return make_run(folder, real=(TEXTS[1], "A clip of the speaker that says something else."), texts=texts)


@pytest.fixture(scope="module")
def client(served_run):
    """A client that has followed the link."""
    with listening(served_run) as client:
        yield client
