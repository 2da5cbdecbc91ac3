"""The section of training curves: losses of each stage, and the other numbers measured at every step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from orl.figures.curve_figure import SERIES_NAMES, chart_label, draw_curves, loss_terms, read_metrics
from orl.report.content import Figure, Note, Section, chart_figure
from orl.report.runs import ReportedRun, ReportInputs
from orl.rundir import TRAINED_STAGES

SHOWN = (
    "probe_knn_map",
    "probe_roi_knn_top1",
    "feature_std",
    "effective_rank",
    "alignment",
    "gradient_norm",
    "lr",
    "images_per_s",
)
"""Series of every step that are shown beside the losses."""

Metrics = Mapping[str, ndarray]
Curve = tuple[ndarray, ndarray]
"""Epochs and values."""


@dataclass(frozen=True, kw_only=True)
class Curves(Section):
    """Charts of losses and other series; of several runs a group of charts for each stage."""

    template = "curves.html"
    groups: Mapping[str, Sequence[Figure]]
    """Heading, empty for one run -> charts."""


def curve_section(inputs: ReportInputs) -> Curves:
    """Gather the curves: one run has all stages in one chart, several runs have a chart for each stage."""
    metrics: dict[str, dict[str, Metrics]] = {stage: {} for stage in TRAINED_STAGES}
    notes = []
    for run in inputs.runs:
        for stage, name in run.trained_stages.items():
            path = run.run.metrics(stage)
            series = read_metrics(path) if path.exists() else {}
            if "epoch" in series:
                metrics[stage][run.label] = series
            else:
                notes.append(_missing_metrics(run, stage, name))
    groups: dict[str, Sequence[Figure]] = {}
    if inputs.is_comparison:
        for stage, of_runs in metrics.items():
            name = TRAINED_STAGES[stage]
            groups[name.capitalize()] = [
                chart for key in ("loss", *SHOWN) for chart in _charts(key, of_runs, f" of {name}")
            ]
    else:
        of_stages = {TRAINED_STAGES[stage]: each for stage, runs in metrics.items() for each in runs.values()}
        losses = [_loss_chart(name, series) for name, series in of_stages.items() if "loss" in series]
        others = [chart for key in SHOWN for chart in _charts(key, of_stages, "")]
        groups[""] = losses + others
    return Curves(title="Training curves", notes=notes, groups=groups)


def _missing_metrics(run: ReportedRun, stage: str, name: str) -> Note:
    if run.run.backbone(stage).exists():
        return Note(f"{run.named(name.capitalize())} was trained elsewhere: only its weights are here.")
    return run.note(f"{name.capitalize()} has not been trained yet")


def _loss_chart(stage: str, series: Metrics) -> Figure:
    losses = series["loss"]
    caption = f"Loss of {stage} from {losses[0]:.3g} to {losses[-1]:.3g} over {series['epoch'][-1]:.3g} epochs."
    return _chart(
        {name: (series["epoch"], values) for name, values in loss_terms(series).items()}, f"loss, {stage}", caption
    )


def _charts(key: str, metrics: Mapping[str, Metrics], stage: str) -> list[Figure]:
    """Return the chart of one series, with a line for each label; nothing if no label has it."""
    known = {label: _known_values(series, key) for label, series in metrics.items() if key in series}
    curves = {label: curve for label, curve in known.items() if len(curve[1])}
    text = SERIES_NAMES.get(key, key)
    if not curves:
        return []
    ends = "; ".join(f"{label} from {values[0]:.3g} to {values[-1]:.3g}" for label, (_, values) in curves.items())
    return [_chart(curves, text, f"{text[0].upper()}{text[1:]}{stage}: {ends}.")]


def _known_values(series: Metrics, key: str) -> Curve:
    """Return the steps that have a value: a probe runs at few of them."""
    known = np.isfinite(series[key])
    return series["epoch"][known], series[key][known]


def _chart(curves: Mapping[str, Curve], value_name: str, caption: str) -> Figure:
    return chart_figure(
        draw_curves({chart_label(label): curve for label, curve in curves.items()}, value_name), caption
    )
