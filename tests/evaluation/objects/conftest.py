"""Labelled data for the evaluations of objects."""

from pathlib import Path

import pytest

from orl.synthetic.scenes import draw_scenes


@pytest.fixture(scope="session")
def labelled_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw 26 scenes to train on and 22 to score."""
    folder = tmp_path_factory.mktemp("labelled") / "scenes"
    draw_scenes(folder, num_trainval=26, num_test=22, size_wh=(96, 72), quiet=True)
    return folder
