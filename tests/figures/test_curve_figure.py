import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from tests.figures.conftest import legend
from tests.finished_run import write_stages

from orl.figures.curve_figure import (
    CurveOptions,
    curve_figure,
    draw_curve_panels,
    draw_curves,
    loss_terms,
    read_metrics,
    smooth,
)
from orl.figures.figure_files import FigureFile
from orl.rundir import RunDir


def write(path, *lines):
    path.write_text("\n".join(lines))
    return path


def test_an_incomplete_line_is_skipped(tmp_path):
    path = write(tmp_path / "m", '{"step": 1, "loss": 2.0}', '{"step": 2, "loss": 1.5}', '{"step": 3, "lo')
    assert read_metrics(path)["loss"].tolist() == [2.0, 1.5]


def test_lines_without_a_step_are_skipped(tmp_path):
    path = write(tmp_path / "m", "[1]", '{"loss": 1}', "", '{"step": 1, "loss": 2, "name": "x", "flag": true}')
    assert {name: values.tolist() for name, values in read_metrics(path).items()} == {"step": [1], "loss": [2]}


def test_the_last_line_of_a_step_written_twice_counts(tmp_path):
    lines = [json.dumps({"step": step, "loss": loss}) for step, loss in [(1, 9.0), (2, 8.0), (3, 7.0), (2, 6.0)]]
    assert read_metrics(write(tmp_path / "m", *lines))["loss"].tolist() == [9.0, 6.0, 7.0]


def test_a_missing_value_is_nan(tmp_path):
    path = write(tmp_path / "m", '{"step": 1, "lr": 1.0}', '{"step": 2, "lr": null}', '{"step": 3}')
    np.testing.assert_array_equal(read_metrics(path)["lr"], [1.0, np.nan, np.nan])


def test_an_empty_file_has_no_series(tmp_path):
    assert read_metrics(write(tmp_path / "m", "")) == {}


def test_smoothing_against_a_loop():
    values = np.random.default_rng(0).normal(size=20)
    values[4] = np.nan
    expected = [np.nanmean(values[max(0, index - 2) : index + 3]) for index in range(20)]
    np.testing.assert_allclose(smooth(values, 5), expected)


def test_smoothing_over_one_value_changes_nothing():
    values = np.array([1.0, np.nan, 3.0])
    np.testing.assert_array_equal(smooth(values, 1), values)


def test_smoothing_by_a_window_longer_than_the_series_keeps_its_length():
    assert len(smooth(np.arange(3.0), 101)) == 3


def test_one_loss_term_is_shown_alone_and_several_with_their_sum():
    one, two = np.ones(2), np.full(2, 2.0)
    assert list(loss_terms({"loss": one, "loss_global": one, "lr": one})) == ["global"]
    assert list(loss_terms({"loss": two, "loss_global": one, "loss_intra": one})) == ["sum", "global", "intra"]
    assert list(loss_terms({"loss": two})) == ["sum"]


@pytest.mark.parametrize("num_steps", [1, 30, 5000])
def test_a_chart_shows_long_series_smoothed_over_faint_raw_values(num_steps):
    epochs = np.arange(num_steps) / 10
    (axes,) = draw_curves({"global": (epochs, np.cos(epochs))}, "loss").axes
    is_smoothed = num_steps > 100
    assert [line.get_alpha() for line in axes.lines] == ([0.22, None] if is_smoothed else [None])
    assert all(len(line.get_xdata()) <= 800 for line in axes.lines)
    assert axes.get_legend().get_texts()[0].get_text() == "global"


def test_a_line_that_hardly_changes_lies_inside_the_chart():
    (axes,) = draw_curves({"feature_std": (np.array([1.0, 2.0]), np.array([0.8, 0.799]))}, "feature_std").axes
    bottom, top = axes.get_ylim()
    assert bottom == 0
    assert top >= 0.8 * 1.05 - 1e-9


def test_a_label_has_one_colour_in_all_panels_and_one_place_in_the_legend():
    epochs = np.arange(3.0)
    panels = {
        "loss": {"a": (epochs, epochs), "b": (epochs, 2 * epochs)},
        "feature_std": {"b": (epochs, epochs)},
        "rate": {"a": (epochs, epochs)},
    }
    figure = draw_curve_panels(panels)
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "feature_std", "rate"]
    colours = [{line.get_label(): line.get_color() for line in axes.lines} for axes in figure.axes]
    assert colours[1]["b"] == colours[0]["b"] != colours[0]["a"] == colours[2]["a"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_curves_of_both_stages_show_the_series_that_exist(evaluated: RunDir, charts: list[Figure]) -> None:
    assert curve_figure([evaluated.root], CurveOptions(), FigureFile()) == evaluated.root / "figures" / "curves.png"
    assert legend(charts[0]) == ["one, stage 1", "one, stage 3"]
    assert [axes.get_ylabel() for axes in charts[0].axes] == ["loss", "feature std", "learning rate"]


def test_names_with_dollars_or_a_leading_underscore_are_shown(
    evaluated: RunDir, charts: list[Figure], tmp_path: Path
) -> None:
    other = RunDir(tmp_path / "runs" / "two")
    write_stages(other)
    options = CurveOptions(stage="stage3", labels=("a $x_{$", "_b"))
    curve_figure([evaluated.root, other.root], options, FigureFile())
    assert legend(charts[0]) == [r"a \$x_{\$", " _b"]
    charts[0].draw_without_rendering()


def test_curves_of_several_runs_are_labelled_by_name(evaluated: RunDir, charts: list[Figure], tmp_path: Path) -> None:
    other = RunDir(tmp_path / "runs" / "two")
    write_stages(other)
    options = CurveOptions(stage="stage3", series=("loss_inter", "lr"))
    file = FigureFile(to=tmp_path / "a.svg")
    assert curve_figure([evaluated.root, other.root], options, file) == tmp_path / "a.svg"
    assert legend(charts[0]) == ["one", "two"]
    assert [axes.get_ylabel() for axes in charts[0].axes] == ["loss inter", "learning rate"]
    curve_figure([evaluated.root, other.root], replace(options, labels=("BYOL", "ORL")), file)
    assert legend(charts[1]) == ["BYOL", "ORL"]


def test_a_series_of_few_steps_is_drawn_at_these_steps(evaluated: RunDir, charts: list[Figure]) -> None:
    lines = [json.loads(line) for line in evaluated.metrics("stage1").read_text().splitlines()[:30]]
    for step in (9, 19):
        lines[step]["probe_knn_map"] = step / 100
    evaluated.metrics("stage1").write_text("\n".join(map(json.dumps, lines)))
    curve_figure([evaluated.root], CurveOptions(stage="stage1", series=("probe_knn_map",)), FigureFile())
    (axes,) = charts[0].axes
    assert [line.get_xdata().tolist() for line in axes.lines] == [[1.0, 2.0]]
    assert [line.get_ydata().tolist() for line in axes.lines] == [[0.09, 0.19]]


@pytest.mark.parametrize(
    ("runs", "options", "labels", "message"),
    [
        ([], {}, [], "no runs are given; give one or more"),
        (["nowhere"], {}, [], "no run at .*nowhere"),
        (["."], {}, [], "has no metrics of any stage yet"),
        (["."], {"stage": "stage3"}, [], "has no metrics of stage 3 yet"),
        (["runs/one"], {"series": ("los",)}, [], "no run has a series 'los'; there are feature_std, loss, loss_global"),
        (["runs/one", "runs/one"], {}, [], "two runs have the same name: one, one; give each its own with --labels"),
        (["runs/one"], {}, ["a", "b"], r"2 labels do not fit 1 runs \(one\)"),
    ],
)
def test_curves_that_cannot_be_drawn_are_refused(evaluated: RunDir, runs, options, labels, message, tmp_path) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        curve_figure([tmp_path / run for run in runs], CurveOptions(**options, labels=tuple(labels)), FigureFile())
    assert not (evaluated.root / "figures").exists()
