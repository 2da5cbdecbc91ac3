"""Charts out of files: training curves of several runs, and what judges found of several backbones."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from orl.figures.curve_figure import draw_curve_panels, read_metrics
from orl.figures.figure_files import FileOptions, check_file_options, figure_file, save_figure
from orl.figures.score_figures import LowShotLine, chart_label, draw_class_bars, draw_low_shot
from orl.rundir import TRAINED_STAGES, RunDir

BACKBONES = {"random": "random weights", **TRAINED_STAGES}
USUAL_SERIES = ("loss", "probe_knn_map", "feature_std", "lr")
SERIES_NAMES = {
    "probe_knn_map": "mean AP by kNN",
    "feature_std": "feature spread",
    "lr": "learning rate",
    "ema_momentum": "momentum of the target",
    "gradient_norm": "norm of the gradient",
    "images_per_s": "images per second",
}
Curves = dict[str, tuple[Float[ndarray, "_"], Float[ndarray, "_"]]]


@dataclass(frozen=True, kw_only=True)
class CurveOptions(FileOptions):
    """Which curves are drawn."""

    stage: Literal["stage1", "stage3"] | None = None
    """The curves of this stage only; of every stage that a run has trained if not given."""
    series: tuple[str, ...] = ()
    """Names in metrics.jsonl, such as loss_inter; the loss, the probe's mAP, the spread and the rate if not given."""


def curve_figure(runs: Sequence[Path], options: CurveOptions, labels: Sequence[str] = ()) -> Path:
    """Training curves of several runs, a panel for each series.

    Args:
        runs: folders of runs.
        options: which curves, and where they go; in the first run's folder if not said.
        labels: a name for each run; the folder's if none are given.

    Returns:
        Where the picture lies.

    Raises:
        FileNotFoundError: if a folder is no run, or has trained nothing yet.
        ValueError: if no run is given, labels do not fit, or there is no such series.
    """
    check_file_options(options)
    names = _labels([run.resolve().name for run in runs], labels, "runs")
    metrics: dict[str, dict[str, Float[ndarray, "_"]]] = {}
    for name, run in zip(names, runs):
        found = _read_stages(RunDir(run), options.stage)
        metrics |= {
            f"{name}, {TRAINED_STAGES[stage]}" if len(found) > 1 else name: each for stage, each in found.items()
        }
    there = sorted({series for each in metrics.values() for series in each} - {"step", "epoch"})
    asked = options.series or [series for series in USUAL_SERIES if series in there]
    unknown = [series for series in asked if series not in there]
    if unknown:
        raise ValueError(f"no run has a series {unknown[0]!r}; there are {', '.join(there)}")
    panels = {SERIES_NAMES.get(series, series.replace("_", " ")): _curves(metrics, series) for series in asked}
    path = figure_file(options, RunDir(runs[0]).figures, "curves")
    save_figure(draw_curve_panels(panels, options.dpi), path)
    return path


def class_figure(
    sources: Sequence[Path], options: FileOptions, task: Literal["svm", "knn"] = "svm", labels: Sequence[str] = ()
) -> Path:
    """AP of each class by one judge, as bars of several backbones.

    Args:
        sources: results of `orl evaluate`, as JSON; or folders of runs, for all backbones that were judged in them.
        options: where it goes; beside the first file, or in the first run's folder, if not said.
        task: whose results of a run are taken.
        labels: a name for each backbone, in the order of the sources.

    Returns:
        Where the picture lies.

    Raises:
        FileNotFoundError: if there is no such file, or a run has no such results.
        ValueError: if a file holds no AP of classes, or labels do not fit.
    """
    path = _chart_file(sources, options, "classes")
    found = _results(sources, task, "per_class_ap", labels)
    save_figure(draw_class_bars({label: result["per_class_ap"] for label, result in found.items()}, options.dpi), path)
    return path


def low_shot_figure(
    sources: Sequence[Path], options: FileOptions, best_cost_on_test: bool = False, labels: Sequence[str] = ()
) -> Path:
    """mAP over labelled images of each class, a line for each backbone.

    Args:
        sources: results of `orl evaluate low-shot`, as JSON; or folders of runs with such results.
        options: where it goes; beside the first file, or in the first run's folder, if not said.
        best_cost_on_test: as published, at the cost that is best on the test images; else at costs that these had no
            part in.
        labels: a name for each backbone, in the order of the sources.

    Returns:
        Where the picture lies.

    Raises:
        FileNotFoundError: if there is no such file, or a run has no such results.
        ValueError: if a file holds no low-shot scores, or labels do not fit.
    """
    path = _chart_file(sources, options, "low_shot")
    suffix = "_best_cost_on_test" if best_cost_on_test else ""
    found = _results(sources, "low-shot", "shots", labels)
    lines = {
        label: LowShotLine(
            shots=tuple(result["shots"]),
            mean_ap=tuple(result["mean_ap" + suffix][str(k)] for k in result["shots"]),
            std=tuple(result["std" + suffix][str(k)] for k in result["shots"]),
        )
        for label, result in found.items()
    }
    save_figure(draw_low_shot(lines, options.dpi), path)
    return path


def _read_stages(run: RunDir, stage: str | None) -> dict[str, dict[str, Float[ndarray, "_"]]]:
    if not run.root.is_dir():
        raise FileNotFoundError(f"no run at {run.root}")
    asked = [each for each in TRAINED_STAGES if stage in (None, each) and run.metrics(each).exists()]
    found = {each: read_metrics(run.metrics(each)) for each in asked}
    found = {each: series for each, series in found.items() if "epoch" in series}
    if not found:
        raise FileNotFoundError(f"{run.root} has no metrics of {TRAINED_STAGES[stage] if stage else 'any stage'} yet")
    return found


def _curves(metrics: Mapping[str, Mapping[str, Float[ndarray, "_"]]], series: str) -> Curves:
    """Of the runs that have the series, at the steps that have a value."""
    curves: Curves = {}
    for label, each in metrics.items():
        if series in each:
            known = np.isfinite(each[series])
            curves[label] = each["epoch"][known], each[series][known]
    return curves


def _chart_file(sources: Sequence[Path], options: FileOptions, name: str) -> Path:
    check_file_options(options)
    if not sources:
        raise ValueError("no results are given: give JSON files of 'orl evaluate', or folders of runs")
    first = sources[0]
    return figure_file(options, RunDir(first).figures if first.is_dir() else first.parent, name)


def _results(sources: Sequence[Path], task: str, needed: str, labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The results of each source by label."""
    files: dict[Path, str] = {}
    for source in sources:
        files |= _run_files(source, task, len(sources) > 1) if source.is_dir() else {source: source.stem}
    names = _labels(list(files.values()), labels, "results")
    return {name: _read_result(file, needed) for name, file in zip(names, files)}


def _run_files(run: Path, task: str, several: bool) -> dict[Path, str]:
    paths = {RunDir(run).evaluation(task, backbone): label for backbone, label in BACKBONES.items()}
    prefix = f"{run.resolve().name}, " if several else ""
    found = {path: prefix + label for path, label in paths.items() if path.exists()}
    if not found:
        raise FileNotFoundError(
            f"{run} has no results of {task} in its folder transfer; judge its backbones with 'orl run', or give JSON "
            "files of 'orl evaluate'"
        )
    return found


def _read_result(path: Path, needed: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict) or not content.get(needed):
        what = content.get("task", "none") if isinstance(content, dict) else "none"
        raise ValueError(f"{path} holds no {needed!r} (its task: {what}); give the result of a judge that writes it")
    return content


def _labels(names: Sequence[str], labels: Sequence[str], what: str) -> Sequence[str]:
    if not names:
        raise ValueError(f"no {what} are given; give one or more")
    if labels and len(labels) != len(names):
        raise ValueError(f"{len(labels)} labels do not name {len(names)} {what} ({', '.join(names)})")
    chosen = labels or names
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"two {what} are called the same: {', '.join(chosen)}; tell them apart with --labels")
    return [chart_label(each) for each in chosen]
