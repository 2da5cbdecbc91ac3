"""Fixtures of the figures' tests."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from tests.finished_run import (
    NUM_IMAGES,
    write_images,
    write_json,
    write_results,
    write_run,
    write_stages,
    write_table,
    write_tables,
)

from orl.figures import correspondence_figure, curve_figure, proposal_figure, score_figures
from orl.rundir import RunDir

NUM_PROPOSALS = 40
LOW_SHOT = {
    "task": "low-shot",
    "shots": [1, 2],
    "mean_ap": {"1": 0.2, "2": 0.3},
    "std": {"1": 0.01, "2": 0.02},
    "mean_ap_best_cost_on_test": {"1": 0.25, "2": 0.35},
    "std_best_cost_on_test": {"1": 0.03, "2": 0.04},
}


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A finished run."""
    return write_run(tmp_path)


@pytest.fixture
def discovered(tmp_path: Path) -> RunDir:
    """A run with images and the tables of stage 2."""
    run = RunDir(tmp_path / "runs" / "found")
    write_images(run, tmp_path / "images")
    write_tables(run)
    corners = np.random.default_rng(0).integers(0, 30, (NUM_IMAGES * NUM_PROPOSALS, 2))
    boxes = np.concatenate([corners, corners + 20], axis=1).astype(np.float32)
    image_ids = np.arange(NUM_IMAGES, dtype=np.int32).repeat(NUM_PROPOSALS)
    rewrite_table(run, "proposals", {"image_id": image_ids, "box": boxes})
    return run


@pytest.fixture
def sheets(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures of correspondences and proposals, collected in place of their files."""
    figures: list[Figure] = []
    for module in (correspondence_figure, proposal_figure):
        monkeypatch.setattr(module, "save_figure", lambda figure, path: figures.append(figure))
    return figures


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def frames(figure: Figure, at: int = 0) -> list[list[float]]:
    """Return the boxes drawn in the axes at this index."""
    return [patch.get_bbox().extents.tolist() for patch in figure.axes[at].patches]


@pytest.fixture
def evaluated(tmp_path: Path) -> RunDir:
    """A run with metrics and results, and no images."""
    run = RunDir(tmp_path / "runs" / "one")
    write_stages(run)
    write_results(run)
    for label in ("stage1", "stage3"):
        write_json(run.evaluation("low-shot", label), LOW_SHOT)
    return run


@pytest.fixture
def charts(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The charts of curves and scores, collected in place of their files."""
    figures: list[Figure] = []
    for module in (curve_figure, score_figures):
        monkeypatch.setattr(module, "save_figure", lambda figure, path: figures.append(figure))
    return figures


def legend(figure: Figure) -> list[str]:
    found = figure.legends[0] if figure.legends else figure.axes[0].get_legend()
    return [text.get_text() for text in found.get_texts()]


def rewrite_table(run: RunDir, name: str, columns: dict[str, np.ndarray]) -> None:
    shutil.rmtree(run.table(name))
    write_table(run, name, columns)
