import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from tests.finished_run import write_json, write_results, write_stages

from orl.cli import main
from orl.figures import chart_figures as chart_jobs
from orl.figures.chart_figures import CurveOptions, class_figure, curve_figure, low_shot_figure
from orl.figures.figure_files import FileOptions
from orl.rundir import RunDir

LOW_SHOT = {
    "task": "low-shot",
    "shots": [1, 2],
    "mean_ap": {"1": 0.2, "2": 0.3},
    "std": {"1": 0.01, "2": 0.02},
    "mean_ap_best_cost_on_test": {"1": 0.25, "2": 0.35},
    "std_best_cost_on_test": {"1": 0.03, "2": 0.04},
}


@pytest.fixture
def judged(tmp_path: Path) -> RunDir:
    """A run with metrics and results, and no images."""
    run = RunDir(tmp_path / "runs" / "one")
    write_stages(run)
    write_results(run)
    for label in ("stage1", "stage3"):
        write_json(run.evaluation("low-shot", label), LOW_SHOT)
    return run


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The charts that were made, instead of files."""
    figures: list[Figure] = []
    monkeypatch.setattr(chart_jobs, "save_figure", lambda figure, path: figures.append(figure))
    return figures


def legend(figure: Figure) -> list[str]:
    found = figure.legends[0] if figure.legends else figure.axes[0].get_legend()
    return [text.get_text() for text in found.get_texts()]


def test_curves_of_both_stages_are_drawn_of_what_there_is(judged: RunDir, drawn: list[Figure]) -> None:
    assert curve_figure([judged.root], CurveOptions()) == judged.root / "figures" / "curves.png"
    assert legend(drawn[0]) == ["one, stage 1", "one, stage 3"]
    assert [axes.get_ylabel() for axes in drawn[0].axes] == ["loss", "feature spread", "learning rate"]


def test_names_that_charts_take_for_formulas_or_hide_are_shown(
    judged: RunDir, drawn: list[Figure], tmp_path: Path
) -> None:
    other = RunDir(tmp_path / "runs" / "two")
    write_stages(other)
    curve_figure([judged.root, other.root], CurveOptions(stage="stage3"), labels=["a $x_{$", "_b"])
    assert legend(drawn[0]) == [r"a \$x_{\$", " _b"]
    drawn[0].draw_without_rendering()


def test_curves_of_several_runs_are_told_apart_by_name(judged: RunDir, drawn: list[Figure], tmp_path: Path) -> None:
    other = RunDir(tmp_path / "runs" / "two")
    write_stages(other)
    options = CurveOptions(stage="stage3", series=("loss_inter", "lr"), to=tmp_path / "a.svg")
    assert curve_figure([judged.root, other.root], options) == tmp_path / "a.svg"
    assert legend(drawn[0]) == ["one", "two"]
    assert [axes.get_ylabel() for axes in drawn[0].axes] == ["loss inter", "learning rate"]
    curve_figure([judged.root, other.root], options, ["BYOL", "ORL"])
    assert legend(drawn[1]) == ["BYOL", "ORL"]


def test_a_series_that_few_steps_have_is_drawn_at_those(judged: RunDir, drawn: list[Figure]) -> None:
    lines = [json.loads(line) for line in judged.metrics("stage1").read_text().splitlines()[:30]]
    for step in (9, 19):
        lines[step]["probe_knn_map"] = step / 100
    judged.metrics("stage1").write_text("\n".join(map(json.dumps, lines)))
    curve_figure([judged.root], CurveOptions(stage="stage1", series=("probe_knn_map",)))
    (axes,) = drawn[0].axes
    assert [line.get_xdata().tolist() for line in axes.lines] == [[1.0, 2.0]]
    assert [line.get_ydata().tolist() for line in axes.lines] == [[0.09, 0.19]]


@pytest.mark.parametrize(
    ("runs", "options", "labels", "message"),
    [
        ([], {}, [], "no runs are given; give one or more"),
        (["nowhere"], {}, [], "no run at .*nowhere"),
        (["."], {}, [], "has no metrics of any stage yet"),
        (["."], {"stage": "stage3"}, [], "has no metrics of stage 3 yet"),
        (["runs/one"], {"series": ("los",)}, [], "no run has a series 'los'; there are loss, loss_global, loss_inter"),
        (["runs/one", "runs/one"], {}, [], "two runs are called the same: one, one; tell them apart with --labels"),
        (["runs/one"], {}, ["a", "b"], r"2 labels do not name 1 runs \(one\)"),
        (["runs/one"], {"pdf": True, "svg": True}, [], "--pdf and --svg are both given"),
    ],
)
def test_curves_that_cannot_be_drawn_are_refused(judged: RunDir, runs, options, labels, message, tmp_path) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        curve_figure([tmp_path / run for run in runs], CurveOptions(**options), labels)
    assert not (judged.root / "figures").exists()


def test_classes_of_a_run_are_those_of_its_judged_backbones(judged: RunDir, drawn: list[Figure]) -> None:
    assert class_figure([judged.root], FileOptions(pdf=True)) == judged.root / "figures" / "classes.pdf"
    assert legend(drawn[0]) == ["random weights", "stage 1", "stage 3"]
    class_figure([judged.root], FileOptions(), "knn")
    widths = [[round(bar.get_width(), 2) for bar in figure.axes[0].containers[0]] for figure in drawn]
    assert widths == [[12.34, 22.34, 2.34], [12.34, 22.34, 2.34]]


def test_results_of_files_and_of_several_runs_are_told_apart(
    judged: RunDir, drawn: list[Figure], tmp_path: Path
) -> None:
    files = [judged.evaluation("svm", label) for label in ("stage1", "stage3")]
    assert class_figure(files, FileOptions()) == judged.root / "evaluation" / "classes.png"
    assert legend(drawn[0]) == ["svm_stage1", "svm_stage3"]
    class_figure(files, FileOptions(), labels=["BYOL", "ORL"])
    assert legend(drawn[1]) == ["BYOL", "ORL"]
    other = RunDir(tmp_path / "runs" / "two")
    write_json(other.evaluation("svm", "stage3"), {"per_class_ap": {"cat": 0.5}})
    class_figure([judged.root, other.root], FileOptions())
    assert legend(drawn[2]) == ["one, random weights", "one, stage 1", "one, stage 3", "two, stage 3"]


def test_low_shot_lines_are_those_at_costs_without_test_labels_unless_asked_for(
    judged: RunDir, drawn: list[Figure]
) -> None:
    assert low_shot_figure([judged.root], FileOptions()) == judged.root / "figures" / "low_shot.png"
    low_shot_figure([judged.evaluation("low-shot", "stage1")], FileOptions(), best_cost_on_test=True, labels=["ORL"])
    assert [legend(figure) for figure in drawn] == [["stage 1", "stage 3"], ["ORL"]]
    means = [figure.axes[0].containers[0].lines[0].get_ydata().round(6).tolist() for figure in drawn]
    assert means == [[20, 30], [25, 35]]


def test_results_that_are_not_there_or_of_another_judge_are_refused(judged: RunDir, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no results are given"):
        class_figure([], FileOptions())
    with pytest.raises(FileNotFoundError, match="has no results of svm in its folder transfer"):
        class_figure([tmp_path], FileOptions())
    with pytest.raises(ValueError, match=r"stage1\.json holds no 'per_class_ap' \(its task: low-shot\)"):
        class_figure([judged.evaluation("low-shot", "stage1").rename(tmp_path / "stage1.json")], FileOptions())
    with pytest.raises(ValueError, match=r"svm_stage1\.json holds no 'shots' \(its task: svm\)"):
        low_shot_figure([judged.evaluation("svm", "stage1")], FileOptions())
    with pytest.raises(ValueError, match="1 labels do not name 3 results"):
        class_figure([judged.root], FileOptions(), labels=["a"])
    torn = tmp_path / "torn.json"
    torn.write_text("{")
    with pytest.raises(ValueError, match=r"torn\.json is not JSON"):
        class_figure([torn], FileOptions())
    torn.write_text("[1]")
    with pytest.raises(ValueError, match=r"torn\.json holds no 'per_class_ap' \(its task: none\)"):
        class_figure([torn], FileOptions())


@pytest.mark.parametrize(
    ("kind", "name", "more"),
    [
        ("curves", "curves", ["--stage", "stage1", "--series", "loss", "feature_std"]),
        ("classes", "classes", ["--task", "knn"]),
        ("low-shot", "low_shot", ["--best-cost-on-test"]),
    ],
)
def test_the_command_line_draws_the_same_each_time(
    judged: RunDir, kind: str, name: str, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    contents = []
    for _ in range(2):
        assert main(["figures", kind, str(judged.root), "--svg", *more]) == 0
        contents.append((judged.figures / f"{name}.svg").read_bytes())
    assert contents[0] == contents[1]
    assert capsys.readouterr().out.endswith(f"figure: {judged.figures / f'{name}.svg'}\n")
    assert main(["figures", kind, str(judged.root / "nowhere")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
