"""One browser and one long run for all tests of the report: they are what costs time."""

import sys
from pathlib import Path

import pytest
from browser import Watched

sys.path += [str(Path(__file__).parents[1] / name) for name in ("samples", "dataset")]


@pytest.fixture(scope="session")
def long_run(tmp_path_factory):
    """The folder of a run of 100 epochs with everything in it that a report can show."""
    pytest.importorskip("numpy")
    from made_runs import write_long_run

    return write_long_run(tmp_path_factory.mktemp("runs") / "long")


@pytest.fixture(scope="session")
def long_page(long_run, tmp_path_factory):
    """Its report."""
    return write_page(long_run, tmp_path_factory.mktemp("pages") / "long.html")


def write_page(run, file, **options):
    """Build the report of whatever lies at `run`, and write it."""
    pytest.importorskip("bokeh")
    from xtts_gatekeeper import offline
    from xtts_gatekeeper.report.page import build

    file.write_text(build(offline.open_run(run), **options), encoding="utf-8")
    return file


@pytest.fixture
def page_of():
    """`page_of(run, file, ...)` writes a report."""
    return write_page


@pytest.fixture
def opened(chromium):
    """`opened(file, ...)` shows a page once its diagrams are drawn; nothing it says or asks for is allowed.

    `clock`: the page's clock can be moved on.
    """
    watched, contexts = Watched(), []

    def show(file, *, color_scheme="light", width=1280, height=900, clock=False, **options):
        size = {"width": width, "height": height}
        contexts.append(chromium.new_context(color_scheme=color_scheme, viewport=size, **options))
        page = watched.watch(contexts[-1].new_page())
        if clock:
            page.clock.install()
        page.goto(file.resolve().as_uri())
        page.wait_for_selector("html[data-drawn]", state="attached")
        return page

    yield show
    for context in contexts:
        context.close()
    assert watched.said == []
    assert watched.elsewhere("file://") == []
