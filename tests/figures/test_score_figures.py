import itertools
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tests.figures.conftest import legend
from tests.finished_run import write_json

from orl.cli import main
from orl.figures.figure_files import FigureFile
from orl.figures.score_figures import (
    ClassOptions,
    LowShotLine,
    LowShotOptions,
    class_figure,
    draw_class_bars,
    draw_low_shot,
    low_shot_figure,
)
from orl.rundir import RunDir


def bars_of(figure: Figure) -> list[dict[str, float]]:
    """For each backbone, the length of its bar at each class, found by the height that it lies at."""
    (axes,) = figure.axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    places = axes.get_yticks()
    return [
        {
            names[int(np.abs(places - (bar.get_y() + bar.get_height() / 2)).argmin())]: round(bar.get_width(), 6)
            for bar in container
        }
        for container in axes.containers
    ]


def test_bars_are_the_ap_of_each_class_in_percent_the_easiest_first_below_the_mean():
    figure = draw_class_bars({"one": {"cat": 0.25, "dog": 0.5}, "two": {"cat": 0.75, "dog": 0.6}})
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["mean (mAP)", "dog", "cat"]
    assert bars_of(figure) == [
        {"mean (mAP)": 37.5, "dog": 50, "cat": 25},
        {"mean (mAP)": 67.5, "dog": 60, "cat": 75},
    ]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "two"]
    bottom, top = figure.axes[0].get_ylim()
    assert bottom > top  # the mean stands at the top


def test_a_class_without_a_score_has_no_bar_and_does_not_count_in_the_mean():
    figure = draw_class_bars({"one": {"cat": 0.2, "dog": 0.4}, "two": {"dog": 0.1}})
    assert bars_of(figure) == [{"mean (mAP)": 30, "dog": 40, "cat": 20}, {"mean (mAP)": 10, "dog": 10}]


@pytest.mark.parametrize("num_backbones", [1, 3, 4])
def test_bars_do_not_overlap_and_have_numbers_while_there_is_room(num_backbones):
    classes = {"cat": 0.5, "dog": 0.4, "$a_b$": 0.3}
    figure = draw_class_bars({f"backbone {index}": classes for index in range(num_backbones)})
    bars = sorted((bar.get_y(), bar.get_height()) for container in figure.axes[0].containers for bar in container)
    assert len(bars) == 4 * num_backbones
    assert all(low + height <= higher for (low, height), (higher, _) in itertools.pairwise(bars))
    assert len(figure.axes[0].texts) == (len(bars) if num_backbones <= 3 else 0)


def lines_of(axes: Axes) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {
        container.get_label(): (container.lines[0].get_xdata(), container.lines[0].get_ydata())
        for container in axes.containers
    }


def test_a_low_shot_line_has_its_means_and_its_bars_one_std_each_way():
    line = LowShotLine(shots=(1, 4, 16), mean_ap=(0.2, 0.3, 0.5), std=(0.05, 0.02, 0.01))
    (axes,) = draw_low_shot({"one": line}).axes
    shots, means = lines_of(axes)["one"]
    np.testing.assert_allclose(shots, [1, 4, 16])
    np.testing.assert_allclose(means, [20, 30, 50])
    segments = np.array(axes.containers[0].lines[2][0].get_segments())
    np.testing.assert_allclose(segments[:, :, 1], [[15, 25], [28, 32], [49, 51]])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "4", "16"]


def test_lines_of_several_backbones_are_labelled_and_shifted():
    one = LowShotLine(shots=(1, 2), mean_ap=(0.2, 0.3), std=(0.0, 0.0))
    two = LowShotLine(shots=(2, 4), mean_ap=(0.4, 0.5), std=(0.1, 0.1))
    (axes,) = draw_low_shot({"one": one, "two": two}).axes
    found = lines_of(axes)
    np.testing.assert_allclose(found["two"][0], [2, 4], rtol=0.02)
    assert found["one"][0][1] < 2 < found["two"][0][0]  # both at 2, a little apart
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "2", "4"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["one", "two"]


def test_classes_of_a_run_are_drawn_for_its_evaluated_backbones(evaluated: RunDir, charts: list[Figure]) -> None:
    assert (
        class_figure([evaluated.root], ClassOptions(), FigureFile(pdf=True))
        == evaluated.root / "figures" / "classes.pdf"
    )
    assert legend(charts[0]) == ["random weights", "stage 1", "stage 3"]
    class_figure([evaluated.root], ClassOptions(task="knn"), FigureFile())
    widths = [[round(bar.get_width(), 2) for bar in figure.axes[0].containers[0]] for figure in charts]
    assert widths == [[12.34, 22.34, 2.34], [12.34, 22.34, 2.34]]


def test_results_of_files_and_of_several_runs_are_labelled(
    evaluated: RunDir, charts: list[Figure], tmp_path: Path
) -> None:
    files = [evaluated.evaluation("svm", label) for label in ("stage1", "stage3")]
    assert class_figure(files, ClassOptions(), FigureFile()) == evaluated.root / "evaluation" / "classes.png"
    assert legend(charts[0]) == ["svm_stage1", "svm_stage3"]
    class_figure(files, ClassOptions(labels=("BYOL", "ORL")), FigureFile())
    assert legend(charts[1]) == ["BYOL", "ORL"]
    other = RunDir(tmp_path / "runs" / "two")
    write_json(other.evaluation("svm", "stage3"), {"per_class_ap": {"cat": 0.5}})
    class_figure([evaluated.root, other.root], ClassOptions(), FigureFile())
    assert legend(charts[2]) == ["one, random weights", "one, stage 1", "one, stage 3", "two, stage 3"]


def test_low_shot_scores_are_at_costs_chosen_without_test_labels_by_default(
    evaluated: RunDir, charts: list[Figure]
) -> None:
    assert (
        low_shot_figure([evaluated.root], LowShotOptions(), FigureFile()) == evaluated.root / "figures" / "low_shot.png"
    )
    options = LowShotOptions(best_cost_on_test=True, labels=("ORL",))
    low_shot_figure([evaluated.evaluation("low-shot", "stage1")], options, FigureFile())
    assert [legend(figure) for figure in charts] == [["stage 1", "stage 3"], ["ORL"]]
    means = [figure.axes[0].containers[0].lines[0].get_ydata().round(6).tolist() for figure in charts]
    assert means == [[20, 30], [25, 35]]


def test_results_that_are_missing_or_of_another_evaluation_are_refused(evaluated: RunDir, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no results are given"):
        class_figure([], ClassOptions(), FigureFile())
    with pytest.raises(FileNotFoundError, match="has no results of svm in its folder evaluation"):
        class_figure([tmp_path], ClassOptions(), FigureFile())
    with pytest.raises(ValueError, match=r"stage1\.json holds no 'per_class_ap' \(its task: low-shot\)"):
        class_figure(
            [evaluated.evaluation("low-shot", "stage1").rename(tmp_path / "stage1.json")], ClassOptions(), FigureFile()
        )
    with pytest.raises(ValueError, match=r"svm_stage1\.json holds no 'shots' \(its task: svm\)"):
        low_shot_figure([evaluated.evaluation("svm", "stage1")], LowShotOptions(), FigureFile())
    with pytest.raises(ValueError, match="1 labels do not fit 3 results"):
        class_figure([evaluated.root], ClassOptions(labels=("a",)), FigureFile())
    torn = tmp_path / "torn.json"
    torn.write_text("{")
    with pytest.raises(ValueError, match=r"torn\.json is not JSON"):
        class_figure([torn], ClassOptions(), FigureFile())
    torn.write_text("{}")
    with pytest.raises(ValueError, match=r"torn\.json holds no 'per_class_ap' \(its task: none\)"):
        class_figure([torn], ClassOptions(), FigureFile())


@pytest.mark.parametrize(
    ("kind", "name", "more"),
    [
        ("curves", "curves", ["--stage", "stage1", "--series", "loss", "feature_std"]),
        ("classes", "classes", ["--task", "knn"]),
        ("low-shot", "low_shot", ["--best-cost-on-test"]),
    ],
)
def test_the_command_line_draws_the_same_each_time(
    evaluated: RunDir, kind: str, name: str, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    contents = []
    for _ in range(2):
        assert main(["figures", kind, str(evaluated.root), "--svg", *more]) == 0
        contents.append((evaluated.figures / f"{name}.svg").read_bytes())
    assert contents[0] == contents[1]
    assert capsys.readouterr().out.endswith(f"figure: {evaluated.figures / f'{name}.svg'}\n")
    assert main(["figures", kind, str(evaluated.root / "nowhere")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
