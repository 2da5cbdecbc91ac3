"""Training curves of the compared runs, in one chart a series."""

from collections.abc import Sequence

import numpy as np
from numpy import ndarray

from orl.figures.curve_figure import read_metrics
from orl.report import html as page
from orl.report.compared.runs import ComparedRun
from orl.report.html import Html
from orl.report.sections.frames import chart
from orl.rundir import TRAINED_STAGES

SERIES = {
    "loss": "loss",
    "probe_knn_map": "mean AP by kNN while training",
    "feature_std": "feature spread",
    "lr": "learning rate",
    "images_per_s": "images per second",
}


def curves_section(runs: Sequence[ComparedRun]) -> tuple[str, Html]:
    """Losses and what else was measured at every step, of each stage."""
    parts: list[Html] = []
    for stage, name in TRAINED_STAGES.items():
        metrics = {
            each.label: read_metrics(each.run.metrics(stage)) for each in runs if each.run.metrics(stage).exists()
        }
        metrics = {label: series for label, series in metrics.items() if "epoch" in series}
        missing = [each.label for each in runs if each.label not in metrics]
        parts.append(page.heading(name.capitalize()))
        if missing:
            parts.append(page.missing(f"No training of {name} in {', '.join(missing)}."))
        if metrics:
            parts.append(_charts(metrics, name))
    intro = page.paragraph(
        "The same series of all runs in one chart. Losses of different methods are not of one scale."
    )
    return page.section("Training curves", intro, *parts)


def _charts(metrics: dict[str, dict[str, ndarray]], stage: str) -> Html:
    figures = []
    for name, words in SERIES.items():
        curves = {}
        for label, series in metrics.items():
            known = np.isfinite(series[name]) if name in series else np.zeros(0, dtype=bool)
            if known.any():
                curves[label] = series["epoch"][known], series[name][known]
        if curves:
            ends = "; ".join(
                f"{label} from {values[0]:.3g} to {values[-1]:.3g}" for label, (_, values) in curves.items()
            )
            figures.append(chart(curves, f"{words}, {stage}", f"{words[0].upper()}{words[1:]} of {stage}: {ends}."))
    return page.gallery(figures)
