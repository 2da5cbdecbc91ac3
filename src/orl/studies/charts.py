"""A study as a chart: every seed a dot, every arm's mean a line, one panel a score."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orl.studies.markdown import LIFT, SCORES, Column, arm_names, differs_in_discovery, spread_of
from orl.studies.spread import Spread

COLOURS = {"reference": "#5c626b", "other": "#2563c9"}


def study_chart(result: Mapping[str, Any]) -> Figure | None:
    """The scores of a study and, where its arms differ in stage 2, the lift of its pairs; None where nothing is known.

    Args:
        result: of a study, as `read_result` gives it.
    """
    wanted = [*SCORES, *([LIFT] if differs_in_discovery(result, [LIFT]) else [])]
    arms = arm_names(result)
    panels = [column for column in wanted if any(spread_of(result, arm, column.value) for arm in arms)]
    if not panels:
        return None
    figure = Figure(figsize=(3.2 * len(panels) + 2.0, 0.42 * len(arms) + 1.0), dpi=100, layout="constrained")
    figure.patch.set_facecolor("white")
    for axes, column in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels):
        _draw(axes, result, arms, column)
    return figure


def _draw(axes: Axes, result: Mapping[str, Any], arms: Sequence[str], column: Column) -> None:
    for place, arm in enumerate(arms):
        values = [column.scale * value for value in spread_of(result, arm, column.value).values()]
        if not values:
            continue
        colour = COLOURS["reference" if arm == result["reference"] else "other"]
        axes.plot(values, [place] * len(values), "o", color=colour, alpha=0.55, markersize=5, markeredgewidth=0)
        mean = Spread(tuple(values)).mean
        axes.plot([mean, mean], [place - 0.28, place + 0.28], color=colour, linewidth=2.4)
    reference = spread_of(result, result["reference"], column.value)
    if reference:
        mean = column.scale * Spread(tuple(reference.values())).mean
        axes.axvline(mean, color=COLOURS["reference"], linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(arms)), arms)
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.set_xlabel(column.title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#00000014")
    axes.set_axisbelow(True)
