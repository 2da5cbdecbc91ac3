"""Chart of an ablation: a dot per seed, a line at the mean of each variant, one panel per score."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orl.ablations.markdown import (
    LIFT,
    SCORE_COLUMNS,
    SIZE_MATCHED_LIFT,
    Column,
    differs_in_discovery,
    values_by_seed,
    variant_labels,
)
from orl.ablations.seed_statistics import SeedStatistics

COLOURS = {"reference": "#5c626b", "other": "#2563c9"}


def draw_ablation(result: Mapping[str, Any]) -> Figure | None:
    """Draw the scores of an ablation and, if its variants differ in stage 2, the lift of their pairs.

    The lift is the size-matched one; results of before 0.2 have only that over random pairs of any size.

    Args:
        result: result of an ablation, as `read_result` returns it.

    Returns:
        The chart; None if there is no score.
    """
    labels = variant_labels(result)
    has_size_matched = any(values_by_seed(result, label, SIZE_MATCHED_LIFT) for label in labels)
    lift = SIZE_MATCHED_LIFT if has_size_matched else LIFT
    columns = [*SCORE_COLUMNS, *([lift] if differs_in_discovery(result, [lift]) else [])]
    columns = [column for column in columns if any(values_by_seed(result, label, column) for label in labels)]
    if not columns:
        return None
    figure = Figure(figsize=(3.2 * len(columns) + 2.0, 0.42 * len(labels) + 1.0), dpi=100, layout="constrained")
    figure.patch.set_facecolor("white")
    for axes, column in zip(figure.subplots(1, len(columns), sharey=True, squeeze=False)[0], columns):
        _draw_panel(axes, result, labels, column)
    return figure


def _draw_panel(axes: Axes, result: Mapping[str, Any], labels: Sequence[str], column: Column) -> None:
    for row, label in enumerate(labels):
        values = [column.scale * value for value in values_by_seed(result, label, column).values()]
        if not values:
            continue
        colour = COLOURS["reference" if label == result["reference"] else "other"]
        axes.plot(values, [row] * len(values), "o", color=colour, alpha=0.55, markersize=5, markeredgewidth=0)
        mean = SeedStatistics(tuple(values)).mean
        axes.plot([mean, mean], [row - 0.28, row + 0.28], color=colour, linewidth=2.4)
    reference = values_by_seed(result, result["reference"], column)
    if reference:
        mean = column.scale * SeedStatistics(tuple(reference.values())).mean
        axes.axvline(mean, color=COLOURS["reference"], linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlabel(column.title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#00000014")
    axes.set_axisbelow(True)
