"""`orl figures curves`: training curves of several runs, such as losses and learning rate, from metrics.jsonl."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy import ndarray

from orl.figures.figure_files import FigureFile, save_figure
from orl.rundir import TRAINED_STAGES, RunDir

MAX_POINTS = 800
SMOOTHING_FRACTION = 0.02
LINE_COLOURS = ("#2563c9", "#d9480f", "#0b7a4b", "#8a3ffc", "#b8860b", "#c2255c")


DEFAULT_SERIES = ("loss", "probe_knn_map", "feature_std", "lr")
SERIES_NAMES = {
    "probe_knn_map": "mean AP by kNN while training",
    "probe_roi_knn_top1": "accuracy of object crops by kNN while training",
    "feature_std": "feature std",
    "effective_rank": "effective rank of a batch",
    "alignment": "alignment of the two views",
    "lr": "learning rate",
    "ema_momentum": "momentum of the target",
    "gradient_norm": "norm of the gradient",
    "images_per_s": "images per second",
}
Metrics = dict[str, Float[ndarray, "_"]]
"""Name of a series -> its values, one per step."""
Curves = Mapping[str, tuple[Float[ndarray, "_"], Float[ndarray, "_"]]]
"""Label of a run -> epochs and values of one series."""


@dataclass(frozen=True, kw_only=True)
class CurveOptions:
    """The choice of the stages and of the series."""

    stage: Literal["stage1", "stage3"] | None = None
    """Stage whose curves are drawn; by default every stage that a run has trained."""
    series: tuple[str, ...] = ()
    """Names in metrics.jsonl, such as loss_inter. Default: loss, mAP of the probe, feature std and rate."""
    labels: tuple[str, ...] = ()
    """Name of each run in the figure; by default the name of its folder."""


def curve_figure(runs: Sequence[Path], options: CurveOptions, file: FigureFile) -> Path:
    """Draw training curves of several runs, a panel for each series; return the path, by default in the first run.

    Raises:
        FileNotFoundError: if a folder is no run, or the run has trained nothing yet.
        ValueError: if no run is given, labels do not fit, or there is no such series.
    """
    names = unique_labels([run.resolve().name for run in runs], options.labels, "runs")
    path = file.path(RunDir(runs[0]).figures, "curves")
    metrics: dict[str, Metrics] = {}
    for name, run in zip(names, runs):
        found = _read_stages(RunDir(run), options.stage)
        metrics |= {
            f"{name}, {TRAINED_STAGES[stage]}" if len(found) > 1 else name: each for stage, each in found.items()
        }
    known = sorted({series for each in metrics.values() for series in each} - {"step", "epoch"})
    chosen = options.series or [series for series in DEFAULT_SERIES if series in known]
    unknown = [series for series in chosen if series not in known]
    if unknown:
        raise ValueError(f"no run has a series {unknown[0]!r}; there are {', '.join(known)}")
    panels = {SERIES_NAMES.get(series, series.replace("_", " ")): _curves(metrics, series) for series in chosen}
    save_figure(draw_curve_panels(panels, file.dpi), path)
    return path


def read_metrics(path: Path) -> dict[str, Float[ndarray, "n"]]:
    """Read every series of a metrics file; a value missing in a line is NaN.

    An incomplete line, left by a killed process, is skipped. If a resumed run wrote a step twice, the last line counts.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    rows: dict[int, dict[str, float]] = {}
    for line in path.read_text(errors="replace").splitlines():
        try:
            row = json.loads(line)
            rows[int(row["step"])] = row
        except (ValueError, KeyError, TypeError):
            continue
    steps = sorted(rows)
    names = sorted({name for row in rows.values() for name, value in row.items() if _is_number(value)})
    return {name: np.array([_number(rows[step].get(name)) for step in steps]) for name in names}


def loss_terms(metrics: Mapping[str, Float[ndarray, "n"]]) -> dict[str, Float[ndarray, "n"]]:
    """Return the losses to draw: each term by its short name, and their sum if there are several."""
    terms = {name.removeprefix("loss_"): metrics[name] for name in metrics if name.startswith("loss_")}
    if len(terms) > 1 or not terms:
        return {"sum": metrics["loss"], **terms} if "loss" in metrics else terms
    return terms


def smooth(values: Float[ndarray, "n"], window: int) -> Float[ndarray, "n"]:
    """Return the running mean over `window` values, over fewer at the ends; NaN values do not count."""
    known = np.isfinite(values)
    kernel = np.ones(min(window, max(1, len(values))))
    sums = np.convolve(np.where(known, values, 0), kernel, mode="same")
    counts = np.convolve(known.astype(float), kernel, mode="same")
    return np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0.5)


def chart_label(name: str) -> str:
    """Escape a name for a chart's legend, in which dollars are formulas and a name that begins with '_' is hidden."""
    escaped = name.replace("$", "\\$")
    return f" {escaped}" if escaped.startswith("_") else escaped


def unique_labels(names: Sequence[str], labels: Sequence[str], kind: str) -> list[str]:
    """Return the labels of a chart's legend: those given, or the names.

    Args:
        names: default labels.
        labels: one label for each name, or none.
        kind: plural noun for the error messages.

    Raises:
        ValueError: if there are no names, the labels do not fit them, or two labels are the same.
    """
    if not names:
        raise ValueError(f"no {kind} are given; give one or more")
    if labels and len(labels) != len(names):
        raise ValueError(f"{len(labels)} labels do not fit {len(names)} {kind} ({', '.join(names)})")
    chosen = labels or names
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"two {kind} have the same name: {', '.join(chosen)}; give each its own with --labels")
    return [chart_label(each) for each in chosen]


def draw_curves(curves: Curves, value_name: str) -> Figure:
    """Draw several curves over the epochs in one chart, long ones as a running mean over the faint raw values.

    Args:
        curves: label -> (epochs, values).
        value_name: label of the vertical axis.
    """
    figure = Figure(figsize=(5.4, 3.2), dpi=100, layout="constrained")
    _draw_series(figure.add_subplot(), curves, value_name)
    figure.axes[0].legend(frameon=False, fontsize=9)
    return figure


def draw_curve_panels(panels: Mapping[str, Curves], dpi: int = 110) -> Figure:
    """Draw several charts in two columns, with one legend; a label has the same colour in all of them.

    Args:
        panels: label of the vertical axis -> curves.
        dpi: resolution of a PNG, in pixels per inch.
    """
    num_columns = min(2, len(panels))
    num_rows = -(-len(panels) // num_columns)
    labels = list(dict.fromkeys(label for curves in panels.values() for label in curves))
    colours = {label: LINE_COLOURS[index % len(LINE_COLOURS)] for index, label in enumerate(labels)}
    size_in = 4.6 * num_columns, 2.7 * num_rows + 0.22 * -(-len(labels) // num_columns)
    figure = Figure(figsize=size_in, dpi=dpi, layout="constrained")
    lines: dict[str, Line2D] = {}
    for index, (value_name, curves) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(num_rows, num_columns, index)
        _draw_series(axes, curves, value_name, colours)
        lines |= {str(line.get_label()): line for line in axes.get_lines() if line.get_label() in colours}
    figure.legend(
        list(lines.values()), list(lines), loc="outside upper left", frameon=False, fontsize=9, ncols=num_columns
    )
    return figure


def _read_stages(run: RunDir, stage: str | None) -> dict[str, Metrics]:
    if not run.root.is_dir():
        raise FileNotFoundError(f"no run at {run.root}")
    stages = [each for each in TRAINED_STAGES if stage in (None, each) and run.metrics(each).exists()]
    found = {each: read_metrics(run.metrics(each)) for each in stages}
    found = {each: series for each, series in found.items() if "epoch" in series}
    if not found:
        raise FileNotFoundError(f"{run.root} has no metrics of {TRAINED_STAGES[stage] if stage else 'any stage'} yet")
    return found


def _curves(metrics: Mapping[str, Metrics], series: str) -> Curves:
    """Return a series of all runs that have it, at the steps that have a value."""
    curves = {}
    for label, each in metrics.items():
        if series in each:
            known = np.isfinite(each[series])
            curves[label] = each["epoch"][known], each[series][known]
    return curves


def _draw_series(axes: Axes, curves: Curves, value_name: str, colours: Mapping[str, str] | None = None) -> None:
    for index, (label, (epochs, values)) in enumerate(curves.items()):
        colour = colours[label] if colours else LINE_COLOURS[index % len(LINE_COLOURS)]
        window = 2 * (int(len(values) * SMOOTHING_FRACTION) // 2) + 1
        thin = slice(None, None, max(1, -(-len(values) // MAX_POINTS)))
        if window > 1:
            axes.plot(epochs[thin], values[thin], color=colour, alpha=0.22, linewidth=0.8)
        marker = "o" if len(values) == 1 else None
        axes.plot(epochs[thin], smooth(values, window)[thin], color=colour, label=label, marker=marker)
    axes.set(xlabel="epoch", ylabel=value_name)
    if axes.dataLim.width >= 1:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    # The axis begins at 0, so that heights can be compared.
    bottom, top = axes.get_ylim()
    bottom = min(0.0, bottom)
    # Margin above a line that hardly changes, whose range is almost zero.
    axes.set_ylim(bottom, max(top, axes.dataLim.y1 + 0.05 * (axes.dataLim.y1 - bottom)))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#00000018")
    axes.set_axisbelow(True)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
