"""Fixtures of the figures' tests."""

from pathlib import Path

import pytest
from tests.finished_run import write_run

from orl.rundir import RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A finished run."""
    return write_run(tmp_path)
