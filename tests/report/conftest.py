"""Fixtures of the report's tests: a finished run, and a browser."""

from pathlib import Path

import pytest
from tests.finished_run import write_run
from tests.report.browsing import opened_browser

from orl.rundir import RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A finished run."""
    return write_run(tmp_path)


@pytest.fixture(scope="session")
def session(tmp_path_factory: pytest.TempPathFactory):
    """One browser for all tests that need one."""
    with opened_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser
