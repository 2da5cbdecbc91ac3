"""The report: one HTML file about one run or several, which opens from disk and needs no other file."""

from collections.abc import Callable, Sequence
from pathlib import Path

from orl import files
from orl.progress import progress_bar
from orl.report.content import Section
from orl.report.options import Annotations, GalleryOptions
from orl.report.page import render_page
from orl.report.runs import ReportInputs, read_runs
from orl.report.scores import BACKBONES, read_scores
from orl.report.sections.attention import attention_section
from orl.report.sections.correspondences import correspondence_section
from orl.report.sections.curves import curve_section
from orl.report.sections.discovery import discovery_section
from orl.report.sections.low_shot import low_shot_section
from orl.report.sections.neighbours import neighbour_section
from orl.report.sections.overview import duration, overview_section, total_seconds
from orl.report.sections.proposals import proposal_section
from orl.report.sections.results import results_section
from orl.report.sections.roi_map import roi_map_section
from orl.report.sections.views import view_section
from orl.rundir import RunDir

SECTIONS: tuple[Callable[[ReportInputs], Section], ...] = (
    overview_section,
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
ONE_RUN_SECTIONS = (view_section,)
"""Sections that a comparison leaves out: they need annotations, which only one run has."""


def write_report(run: RunDir, options: GalleryOptions | None = None, annotations: Annotations | None = None) -> Path:
    """Write `report/index.html` of a run from the files that it has written so far.

    The page names every missing part with the command that makes it.

    Args:
        run: folder of the run.
        options: choice of images and device of the attention maps; the defaults if not given.
        annotations: labels and samplers of the images, beside the files of the run.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ValueError: if a file of results is damaged.
    """
    runs = read_runs([run.root], annotations)
    return _write_page(ReportInputs(runs=runs, options=options or GalleryOptions()), run.report)


def compare_runs(roots: Sequence[Path], path: Path, options: GalleryOptions | None = None) -> Path:
    """Write one page about several runs from the files that they have written; their images may differ.

    Args:
        roots: folders of the runs, two or more.
        path: the page.
        options: choice of images and device of the attention maps; the defaults if not given.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: if a folder does not exist.
        ValueError: if the page is no .html, a run is given twice or alone, or one of its files is damaged.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"{path} is not the name of a page; give one that ends in .html")
    if len(roots) < 2:
        raise ValueError(f"a comparison needs two runs or more, got {len(roots)}")
    return _write_page(ReportInputs(runs=read_runs(roots), options=options or GalleryOptions()), path)


def _write_page(inputs: ReportInputs, path: Path) -> Path:
    chosen = [each for each in SECTIONS if not (inputs.is_comparison and each in ONE_RUN_SECTIONS)]
    sections = [gather(inputs) for gather in progress_bar(chosen, total=len(chosen), title="report", unit="sections")]
    names = [each.label for each in inputs.runs]
    page = render_page(
        kind="ORL comparison" if inputs.is_comparison else "ORL report",
        names=names,
        lead=f"{len(names)} runs side by side" if inputs.is_comparison else _lead(inputs),
        tiles=[] if inputs.is_comparison else _tiles(inputs),
        sections=sections,
        thumbnails=[thumbnail for _, own in inputs.runs_with_images for _, thumbnail in sorted(own.made.items())],
    )
    files.write_atomically(path, page)
    return path


def _lead(inputs: ReportInputs) -> str:
    """Return one line about a run: recipe, images and time."""
    run = inputs.runs[0]
    total_s = total_seconds(run)
    parts = [
        f"recipe {run.record['recipe']}" if run.record.get("recipe") else "",
        "" if run.thumbnails is None else f"{len(run.thumbnails.images):,} images, no labels",
        duration(total_s) if total_s else "",
    ]
    return " · ".join(part for part in parts if part)


def _tiles(inputs: ReportInputs) -> list[tuple[str, str]]:
    """Return the scores to show first, with their names: the main score of each backbone on the first data set."""
    scores = read_scores(inputs.runs[0].run)
    main = [each for each in scores if each.dataset == scores[0].dataset and each.evaluation is scores[0].evaluation]
    return [
        (f"{100 * value:.1f}", f"{column}, {BACKBONES[each.backbone].lower()}")
        for each in main
        for column, value in list(each.columns.items())[:1]
        if value is not None
    ]
