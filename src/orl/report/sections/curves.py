"""The section of training curves: losses of each stage, and what else was measured at every step."""

import numpy as np
from numpy import ndarray

from orl.figures.curve_figure import loss_terms, read_metrics
from orl.report import html as page
from orl.report.html import Html
from orl.report.results import how_to_go_on
from orl.report.sections.frames import chart, trained_stages
from orl.rundir import RunDir

SERIES = {
    "probe_knn_map": "mean AP by kNN while training",
    "feature_std": "feature spread",
    "alignment": "alignment of the two views",
    "gradient_norm": "norm of the gradient",
    "lr": "learning rate",
    "images_per_s": "images per second",
}
"""What is drawn of the numbers of every step, beside the losses."""


def curve_section(run: RunDir) -> tuple[str, Html]:
    """Losses of each stage, and what else was measured at every step."""
    title = "Training curves"
    intro = page.paragraph(
        "Spread is the deviation of the normalised projections: about 1 when they use all directions, 0 "
        "when they have collapsed to one point. Alignment is the mean squared distance between the two views of a "
        "image, as unit vectors: 0 when both look the same to the network, 2 when they have nothing in common. Faint "
        "lines are raw values, strong ones their running mean."
    )
    metrics, notes = {}, []
    for stage, label in trained_stages(run).items():
        series = read_metrics(run.metrics(stage)) if run.metrics(stage).exists() else {}
        if "epoch" in series:
            metrics[label] = series
        else:
            notes.append(_no_metrics(run, stage, label))
    figures = [
        chart(
            {name: (series["epoch"], values) for name, values in loss_terms(series).items()},
            f"loss, {label}",
            f"Loss of {label} from {_first_to_last(series, 'loss')} over {series['epoch'][-1]:.3g} epochs.",
        )
        for label, series in metrics.items()
        if "loss" in series
    ]
    for name, value_name in SERIES.items():
        known = {label: _known(series, name) for label, series in metrics.items() if name in series}
        curves = {label: (epochs, values) for label, (epochs, values) in known.items() if len(values)}
        if curves:
            told = [f"{label} from {values[0]:.3g} to {values[-1]:.3g}" for label, (_, values) in curves.items()]
            figures.append(chart(curves, value_name, f"{value_name[0].upper()}{value_name[1:]}: {'; '.join(told)}."))
    return page.section(title, intro, *notes, page.gallery(figures))


def _no_metrics(run: RunDir, stage: str, label: str) -> Html:
    if run.backbone(stage).exists():
        return page.missing(f"{label.capitalize()} was trained elsewhere: only its weights are here.")
    return page.missing(f"{label.capitalize()} has not been trained yet. ", how_to_go_on(run))


def _known(series: dict[str, ndarray], name: str) -> tuple[ndarray, ndarray]:
    """Epochs and values of the steps that have one: a probe comes at few of them."""
    known = np.isfinite(series[name])
    return series["epoch"][known], series[name][known]


def _first_to_last(series: dict[str, ndarray], name: str) -> str:
    return f"{series[name][0]:.3g} to {series[name][-1]:.3g}"
