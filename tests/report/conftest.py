"""Fixtures of the report's tests: a finished run, and a browser."""

from pathlib import Path

import pytest
from tests.finished_run import write_run
from tests.report.browsing import opened_browser

from orl.report.sections import attention, correspondences, neighbours, pairs, proposals, views
from orl.rundir import RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A finished run."""
    return write_run(tmp_path)


@pytest.fixture
def small_galleries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show few images of each kind, so that a report takes a second."""
    small = {
        pairs: {"NUM_TOP": 2, "NUM_RANDOM": 2, "NUM_LOWEST": 2, "NUM_QUERIES": 2, "NUM_NEIGHBOURS": 2},
        correspondences: {"NUM_QUERIES": 2},
        neighbours: {"NUM_QUERIES": 2, "NUM_NEIGHBOURS": 2},
        attention: {"NUM_IMAGES": 2},
        proposals: {"NUM_IMAGES": 6},
        views: {"NUM_IMAGES": 2},
    }
    for module, numbers in small.items():
        for name, number in numbers.items():
            monkeypatch.setattr(module, name, number)


@pytest.fixture(scope="session")
def session(tmp_path_factory: pytest.TempPathFactory):
    """One browser for all tests that need one."""
    with opened_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser
