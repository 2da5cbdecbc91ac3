"""Training curves: losses, feature spread and learning rate over the epochs, from metrics.jsonl."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy import ndarray

MAX_POINTS = 800
SMOOTHING_FRACTION = 0.02
LINE_COLOURS = ("#2563c9", "#d9480f", "#0b7a4b", "#8a3ffc", "#b8860b", "#c2255c")


def read_metrics(path: Path) -> dict[str, Float[ndarray, "n"]]:
    """Every series of a metrics file; a value missing in a line is NaN.

    A torn line, which a killed process leaves, is skipped; of a step written twice, which a resumed run
    leaves, the last counts.

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
    """The losses to draw: each term by its short name, and their sum if there are several."""
    terms = {name.removeprefix("loss_"): metrics[name] for name in metrics if name.startswith("loss_")}
    if len(terms) > 1 or not terms:
        return {"sum": metrics["loss"], **terms} if "loss" in metrics else terms
    return terms


def smooth(values: Float[ndarray, "n"], window: int) -> Float[ndarray, "n"]:
    """The mean of the `window` values around each, of fewer at the ends; NaN values do not count."""
    known = np.isfinite(values)
    kernel = np.ones(min(window, max(1, len(values))))
    sums = np.convolve(np.where(known, values, 0), kernel, mode="same")
    counts = np.convolve(known.astype(float), kernel, mode="same")
    return np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0.5)


def draw_curves(
    curves: Mapping[str, tuple[Float[ndarray, "_"], Float[ndarray, "_"]]],
    value_name: str,
) -> Figure:
    """Several series over the epochs in one chart; a long one as its running mean over its faint raw values.

    Args:
        curves: label -> (epochs, values).
        value_name: what the vertical axis shows.
    """
    figure = Figure(figsize=(5.4, 3.2), dpi=100, layout="constrained")
    _draw_series(figure.add_subplot(), curves, value_name)
    figure.axes[0].legend(frameon=False, fontsize=9)
    return figure


def draw_curve_panels(
    panels: Mapping[str, Mapping[str, tuple[Float[ndarray, "_"], Float[ndarray, "_"]]]], dpi: int = 110
) -> Figure:
    """Several charts as `draw_curves` in two columns; a label has the same colour in all, and one legend is for all.

    Args:
        panels: what the vertical axis shows -> label -> (epochs, values).
        dpi: resolution of a PNG, pixels an inch.
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


def _draw_series(
    axes: Axes,
    curves: Mapping[str, tuple[ndarray, ndarray]],
    value_name: str,
    colours: Mapping[str, str] | None = None,
) -> None:
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
    # From 0 on, so that heights can be compared.
    bottom, top = axes.get_ylim()
    bottom = min(0.0, bottom)
    # Room above a line that hardly changes, whose own range is next to nothing.
    axes.set_ylim(bottom, max(top, axes.dataLim.y1 + 0.05 * (axes.dataLim.y1 - bottom)))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#00000018")
    axes.set_axisbelow(True)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
