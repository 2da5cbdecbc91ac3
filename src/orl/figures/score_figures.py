"""`orl figures classes` and `orl figures low-shot`: charts of the scores of several backbones, from result files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orl import files
from orl.evaluation.evaluations import find_evaluation
from orl.evaluation.low_shot import LOW_SHOT
from orl.figures.curve_figure import LINE_COLOURS, unique_labels
from orl.figures.figure_files import FigureFile, save_figure
from orl.rundir import BACKBONES, RunDir

MEAN = "mean (mAP)"
BAR_IN, BETWEEN_CLASSES_IN, AXIS_IN = 0.13, 0.12, 0.75
MAX_VALUES_WRITTEN = 3
"""Most backbones with numbers at the ends of their bars; the numbers of more would overlap the bars."""


@dataclass(frozen=True, kw_only=True)
class ClassOptions:
    """The choice of the results, and their labels."""

    task: str = "svm"
    """Evaluation whose results are taken from a run, such as svm or knn."""
    labels: tuple[str, ...] = ()
    """Name of each backbone in the figure, in the order of the results."""


@dataclass(frozen=True, kw_only=True)
class LowShotOptions:
    """The choice of the scores, and their labels."""

    best_cost_on_test: bool = False
    """Show the published protocol's scores, at the cost that is best on the test images. By default the cost is chosen
    without the test images."""
    labels: tuple[str, ...] = ()
    """Name of each backbone in the figure, in the order of the results."""


@dataclass(frozen=True, kw_only=True)
class LowShotLine:
    """Low-shot scores of one backbone, as fractions of 1."""

    shots: tuple[int, ...]
    """Labelled images per class."""
    mean_ap: tuple[float, ...]
    """Mean AP over the samples, for each number of shots."""
    std: tuple[float, ...]
    """Standard deviation over the samples, for each number of shots."""


def class_figure(sources: Sequence[Path], options: ClassOptions, file: FigureFile) -> Path:
    """Draw the AP of each class as bars of several backbones; return the path.

    Args:
        sources: JSON files of `orl evaluate`, or folders of runs, for all backbones that were evaluated in them. The
            figure is written beside the first file, or into the first run, unless the file is named.
        options: choice of the results, and their labels.
        file: file of the figure.

    Raises:
        FileNotFoundError: if there is no such file, or a run has no such results.
        ValueError: if a file holds no AP of classes, or labels do not fit.
    """
    path = _chart_path(sources, "classes", file)
    results = _read_results(sources, find_evaluation(options.task).name, "per_class_ap", options.labels)
    figure = draw_class_bars({label: result["per_class_ap"] for label, result in results.items()}, file.dpi)
    save_figure(figure, path)
    return path


def low_shot_figure(sources: Sequence[Path], options: LowShotOptions, file: FigureFile) -> Path:
    """Draw mAP over the labelled images per class, a line for each backbone; return the path.

    Args:
        sources: JSON files of `orl evaluate low-shot`, or folders of runs, for all backbones that were evaluated in
            them. The figure is written beside the first file, or into the first run, unless the file is named.
        options: choice of the scores, and their labels.
        file: file of the figure.

    Raises:
        FileNotFoundError: if there is no such file, or a run has no such results.
        ValueError: if a file holds no low-shot scores, or labels do not fit.
    """
    path = _chart_path(sources, "low_shot", file)
    suffix = "_best_cost_on_test" if options.best_cost_on_test else ""
    lines = {
        label: low_shot_line(result, suffix)
        for label, result in _read_results(sources, LOW_SHOT.name, "shots", options.labels).items()
    }
    save_figure(draw_low_shot(lines, file.dpi), path)
    return path


def low_shot_line(result: Mapping[str, Any], suffix: str = "") -> LowShotLine:
    """Return the scores of a result of low-shot; the suffix chooses those at another cost."""
    means, stds = (result[f"{name}{suffix}"] for name in ("mean_ap", "std"))
    shots = result["shots"]
    return LowShotLine(
        shots=tuple(shots), mean_ap=tuple(means[str(k)] for k in shots), std=tuple(stds[str(k)] for k in shots)
    )


def draw_class_bars(per_class: Mapping[str, Mapping[str, float]], dpi: int = 110) -> Figure:
    """Draw the AP of each class as bars of all backbones side by side, below the mean over the classes.

    Classes are sorted by the mean over the backbones, the highest first. A class without a score of a backbone has no
    bar, and does not count in the mean of that backbone.

    Args:
        per_class: label of each backbone -> its AP of each class, in [0, 1].
        dpi: resolution of a PNG, in pixels per inch.
    """
    classes = list(dict.fromkeys(name for scores in per_class.values() for name in scores))
    classes.sort(key=lambda name: -np.mean([scores[name] for scores in per_class.values() if name in scores]))
    group_in = len(per_class) * BAR_IN + BETWEEN_CLASSES_IN
    legend_in = 0.24 * len(per_class)
    figure = Figure(figsize=(6.4, AXIS_IN + legend_in + (len(classes) + 1) * group_in), dpi=dpi, layout="constrained")
    axes = figure.add_subplot()
    for index, (label, scores) in enumerate(per_class.items()):
        known = {MEAN: float(np.mean(list(scores.values()))), **scores}
        rows = [row for row, name in enumerate([MEAN, *classes]) if name in known]
        values = [100 * known[name] for name in [MEAN, *classes] if name in known]
        positions = np.array(rows) * group_in + index * BAR_IN
        bars = axes.barh(positions, values, height=0.9 * BAR_IN, align="edge", color=_colour(index), label=label)
        if len(per_class) <= MAX_VALUES_WRITTEN:
            axes.bar_label(bars, fmt="%.1f", fontsize=6.5, padding=2, color="#3a3d42")
    middles = np.arange(len(classes) + 1) * group_in + len(per_class) * BAR_IN / 2
    axes.set_yticks(middles, [MEAN, *classes], fontsize=8.5, parse_math=False)
    axes.get_yticklabels()[0].set_fontweight("bold")
    axes.set(xlabel="AP (%)", xlim=(0, 106), xticks=range(0, 101, 20))
    axes.set_ylim((len(classes) + 1) * group_in - BETWEEN_CLASSES_IN / 2, -BETWEEN_CLASSES_IN / 2)
    axes.tick_params(axis="y", length=0)
    _style_axes(axes, "x")
    figure.legend(loc="outside upper left", frameon=False, fontsize=9, ncols=1)
    return figure


def draw_low_shot(lines: Mapping[str, LowShotLine], dpi: int = 110) -> Figure:
    """Draw mAP over the labelled images per class, with error bars of one standard deviation over the samples.

    Args:
        lines: label of each backbone -> its scores.
        dpi: resolution of a PNG, in pixels per inch.
    """
    figure = Figure(figsize=(5.4, 3.6), dpi=dpi, layout="constrained")
    axes = figure.add_subplot()
    for index, (label, line) in enumerate(lines.items()):
        # A small shift keeps the error bars of two backbones apart.
        shots = np.array(line.shots) * 1.015 ** (index - (len(lines) - 1) / 2)
        mean, std = 100 * np.array(line.mean_ap), 100 * np.array(line.std)
        axes.errorbar(shots, mean, yerr=std, label=label, color=_colour(index), marker="o", markersize=4, capsize=2.5)
    ticks = sorted({k for line in lines.values() for k in line.shots})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(k) for k in ticks])
    axes.minorticks_off()
    axes.set(xlabel="labelled images of each class", ylabel="mAP (%) ± std over samples")
    _style_axes(axes, "y")
    axes.legend(frameon=False, fontsize=9)
    return figure


def _read_results(sources: Sequence[Path], task: str, key: str, labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Read the results of all sources, by label; each must have the key."""
    paths: dict[Path, str] = {}
    for source in sources:
        paths |= _run_results(source, task, len(sources) > 1) if source.is_dir() else {source: source.stem}
    names = unique_labels(list(paths.values()), labels, "results")
    return {name: _read_result(path, key) for name, path in zip(names, paths)}


def _run_results(run: Path, task: str, several: bool) -> dict[Path, str]:
    paths = {RunDir(run).evaluation(task, backbone): label for backbone, label in BACKBONES.items()}
    prefix = f"{run.resolve().name}, " if several else ""
    found = {path: prefix + label for path, label in paths.items() if path.exists()}
    if not found:
        raise FileNotFoundError(
            f"{run} has no results of {task} in its folder evaluation; evaluate its backbones with 'orl run', or give "
            "JSON files of 'orl evaluate'"
        )
    return found


def _read_result(path: Path, key: str) -> dict[str, Any]:
    content = files.read_json(path)
    if not content.get(key):
        task = content.get("task", "none")
        raise ValueError(f"{path} holds no {key!r} (its task: {task}); give the result of an evaluation that has it")
    return content


def _chart_path(sources: Sequence[Path], name: str, file: FigureFile) -> Path:
    """Return the path of a chart; by default beside the first file that it shows, or in the first run."""
    if not sources:
        raise ValueError("no results are given; give JSON files of 'orl evaluate', or folders of runs")
    return file.path(RunDir(sources[0]).figures if sources[0].is_dir() else sources[0].parent, name)


def _colour(index: int) -> str:
    return LINE_COLOURS[index % len(LINE_COLOURS)]


def _style_axes(axes: Axes, grid: Literal["x", "y"]) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#00000018")
    axes.set_axisbelow(True)
