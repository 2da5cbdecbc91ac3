"""The report: one HTML file about one run or several, which opens from disk and needs no other file."""

from collections.abc import Callable, Sequence
from pathlib import Path

from orl import files
from orl.config import RunConfig
from orl.progress import progress_bar
from orl.report.content import Section
from orl.report.options import Annotations, GalleryOptions
from orl.report.page import render_page
from orl.report.runs import ReportedRun, ReportInputs, read_runs
from orl.report.scores import BACKBONE_TITLES, read_object_results, read_scores
from orl.report.sections.attention import attention_section
from orl.report.sections.correspondences import correspondence_section
from orl.report.sections.curves import curve_section
from orl.report.sections.discovery import discovery_section
from orl.report.sections.low_shot import low_shot_section
from orl.report.sections.neighbours import neighbour_section
from orl.report.sections.objects import object_section
from orl.report.sections.overview import duration, overview_section, total_seconds
from orl.report.sections.proposals import proposal_section
from orl.report.sections.results import results_section
from orl.report.sections.roi_map import roi_map_section
from orl.report.sections.views import view_section

SECTIONS: tuple[Callable[[ReportInputs], Section], ...] = (
    overview_section,
    object_section,
    results_section,
    low_shot_section,
    discovery_section,
    correspondence_section,
    attention_section,
    neighbour_section,
    proposal_section,
    roi_map_section,
    view_section,
    curve_section,
)
"""Sections of the page, in their order."""


def write_report(
    roots: Sequence[Path],
    path: Path | None = None,
    options: GalleryOptions | None = None,
    annotate: Callable[[RunConfig], Annotations] | None = None,
) -> Path:
    """Write one page about one run or several from the files that they have written so far; images may differ.

    The page names every missing part with the command that makes it.

    Args:
        roots: folders of the runs.
        path: the page; by default in the first run, `report/index.html` of one run or `report/compare.html`.
        options: choice of images and device of the attention maps; the defaults if not given.
        annotate: function that returns labels and samplers of a run's images, beside the files of the run.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: if a folder does not exist.
        ValueError: if the page is no .html, no run is given, one is given twice, or one of its files is damaged.
    """
    inputs = ReportInputs(runs=read_runs(roots, annotate), options=options or GalleryOptions())
    first = inputs.runs[0].run.report
    path = path or (first.with_name("compare.html") if inputs.is_comparison else first)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"{path} is not the name of a page; give one that ends in .html")
    with progress_bar(SECTIONS, total=len(SECTIONS), title="report", unit="sections") as bar:
        sections = [gather(inputs) for gather in bar]
    names = [each.label for each in inputs.runs]
    page = render_page(
        kind="ORL comparison" if inputs.is_comparison else "ORL report",
        names=names,
        lead=f"{len(names)} runs side by side" if inputs.is_comparison else _lead(inputs.runs[0]),
        tiles=[] if inputs.is_comparison else _tiles(inputs.runs[0]),
        sections=sections,
        thumbnails={
            each.name: each for _, own in inputs.runs_with_images for _, each in sorted(own.made.items())
        }.values(),
    )
    files.write_atomically(path, page)
    return path


def _lead(run: ReportedRun) -> str:
    """Return one line about a run: recipe, images and time."""
    total_s = total_seconds(run)
    parts = [
        f"recipe {run.record['recipe']}" if run.record.get("recipe") else "",
        "" if run.thumbnails is None else f"{len(run.thumbnails.images):,} images, no labels",
        duration(total_s) if total_s else "",
    ]
    return " · ".join(part for part in parts if part)


def _tiles(run: ReportedRun) -> list[tuple[str, str]]:
    """Return the scores to show first, with their names: the main score of each backbone on the first data set.

    Scores of objects come before those of images, which hardly differ between backbones of short runs.
    """
    objects = read_object_results(run.run)
    first = [each for each in objects if (each.dataset, each.task) == (objects[0].dataset, objects[0].task)]
    if first:
        rows = [(each, each.result["rows"][0]) for each in first]
        return [
            (f"{100 * row['estimate']['value']:.1f}", f"{each.task}, {row['name']}, {BACKBONE_TITLES[each.backbone]}")
            for each, row in rows
        ]
    scores = read_scores(run.run)
    main = [each for each in scores if each.dataset == scores[0].dataset and each.evaluation is scores[0].evaluation]
    return [
        (f"{100 * value:.1f}", f"{column}, {BACKBONE_TITLES[each.backbone].lower()}")
        for each in main
        for column, value in list(each.columns.items())[:1]
        if value is not None
    ]
