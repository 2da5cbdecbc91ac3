"""Charts of what judges found: bars of each class (`draw_class_bars`), mAP over few images (`draw_low_shot`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orl.figures.curve_figure import LINE_COLOURS

MEAN = "mean (mAP)"
BAR_IN, BETWEEN_CLASSES_IN, AXIS_IN = 0.13, 0.12, 0.75
MAX_VALUES_WRITTEN = 3
"""With more bars a class the numbers at their ends would run into each other's bars."""


@dataclass(frozen=True, kw_only=True)
class LowShotLine:
    """The low-shot scores of one backbone, all as shares of 1."""

    shots: tuple[int, ...]
    """Images of each class to learn from."""
    mean_ap: tuple[float, ...]
    """Mean over the samples at each."""
    std: tuple[float, ...]
    """Standard deviation over the samples."""


def chart_label(name: str) -> str:
    """A name from elsewhere for a chart's legend, which takes dollars for formulas and hides what begins with '_'."""
    shown = name.replace("$", "\\$")
    return f" {shown}" if shown.startswith("_") else shown


def draw_class_bars(per_class: Mapping[str, Mapping[str, float]], dpi: int = 110) -> Figure:
    """AP of each class as bars of all backbones side by side, below the mean over the classes.

    Classes come by the mean over the backbones, the easiest first. Where a backbone has no score of a class there is no
    bar, and its mean is over the classes that it has.

    Args:
        per_class: label of each backbone -> its AP of each class, as shares of 1.
        dpi: resolution of a PNG, pixels an inch.
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
        places = np.array(rows) * group_in + index * BAR_IN
        bars = axes.barh(places, values, height=0.9 * BAR_IN, align="edge", color=_colour(index), label=label)
        if len(per_class) <= MAX_VALUES_WRITTEN:
            axes.bar_label(bars, fmt="%.1f", fontsize=6.5, padding=2, color="#3a3d42")
    middles = np.arange(len(classes) + 1) * group_in + len(per_class) * BAR_IN / 2
    axes.set_yticks(middles, [MEAN, *classes], fontsize=8.5, parse_math=False)
    axes.get_yticklabels()[0].set_fontweight("bold")
    axes.set(xlabel="AP (%)", xlim=(0, 106), xticks=range(0, 101, 20))
    axes.set_ylim((len(classes) + 1) * group_in - BETWEEN_CLASSES_IN / 2, -BETWEEN_CLASSES_IN / 2)
    axes.tick_params(axis="y", length=0)
    _finish(axes, "x")
    figure.legend(loc="outside upper left", frameon=False, fontsize=9, ncols=1)
    return figure


def draw_low_shot(lines: Mapping[str, LowShotLine], dpi: int = 110) -> Figure:
    """mAP over the images of each class that were learnt from; bars are one standard deviation over the samples.

    Args:
        lines: label of each backbone -> its scores.
        dpi: resolution of a PNG, pixels an inch.
    """
    figure = Figure(figsize=(5.4, 3.6), dpi=dpi, layout="constrained")
    axes = figure.add_subplot()
    for index, (label, line) in enumerate(lines.items()):
        # A little apart, so that the bars of two backbones do not hide each other.
        shots = np.array(line.shots) * 1.015 ** (index - (len(lines) - 1) / 2)
        mean, std = 100 * np.array(line.mean_ap), 100 * np.array(line.std)
        axes.errorbar(shots, mean, yerr=std, label=label, color=_colour(index), marker="o", markersize=4, capsize=2.5)
    ticks = sorted({k for line in lines.values() for k in line.shots})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(k) for k in ticks])
    axes.minorticks_off()
    axes.set(xlabel="labelled images of each class", ylabel="mAP (%) ± std over samples")
    _finish(axes, "y")
    axes.legend(frameon=False, fontsize=9)
    return figure


def _colour(index: int) -> str:
    return LINE_COLOURS[index % len(LINE_COLOURS)]


def _finish(axes: Axes, grid: Literal["x", "y"]) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#00000018")
    axes.set_axisbelow(True)
