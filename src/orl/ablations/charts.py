"""A study as a chart: every seed a dot, every arm's mean a line, one panel a score."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orl.ablations.markdown import LIFT, SCORES, Column, differs_in_discovery, seed_statistics_of, variant_names
from orl.ablations.seed_statistics import SeedStatistics

COLOURS = {"reference": "#5c626b", "other": "#2563c9"}


def ablation_chart(result: Mapping[str, Any]) -> Figure | None:
    """The scores of a study and, where its arms differ in stage 2, the lift of its pairs; None where nothing is known.

    Args:
        result: of a study, as `read_result` gives it.
    """
    wanted = [*SCORES, *([LIFT] if differs_in_discovery(result, [LIFT]) else [])]
    variants = variant_names(result)
    panels = [
        column for column in wanted if any(seed_statistics_of(result, variant, column.value) for variant in variants)
    ]
    if not panels:
        return None
    figure = Figure(figsize=(3.2 * len(panels) + 2.0, 0.42 * len(variants) + 1.0), dpi=100, layout="constrained")
    figure.patch.set_facecolor("white")
    for axes, column in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels):
        _draw(axes, result, variants, column)
    return figure


def _draw(axes: Axes, result: Mapping[str, Any], variants: Sequence[str], column: Column) -> None:
    for place, variant in enumerate(variants):
        values = [column.scale * value for value in seed_statistics_of(result, variant, column.value).values()]
        if not values:
            continue
        colour = COLOURS["reference" if variant == result["reference"] else "other"]
        axes.plot(values, [place] * len(values), "o", color=colour, alpha=0.55, markersize=5, markeredgewidth=0)
        mean = SeedStatistics(tuple(values)).mean
        axes.plot([mean, mean], [place - 0.28, place + 0.28], color=colour, linewidth=2.4)
    reference = seed_statistics_of(result, result["reference"], column.value)
    if reference:
        mean = column.scale * SeedStatistics(tuple(reference.values())).mean
        axes.axvline(mean, color=COLOURS["reference"], linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(variants)), variants)
    axes.set_ylim(len(variants) - 0.5, -0.5)
    axes.set_xlabel(column.title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#00000014")
    axes.set_axisbelow(True)
