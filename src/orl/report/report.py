"""The report of a run: one HTML file that opens from disk and asks for nothing else."""

from functools import partial
from pathlib import Path

from orl import files
from orl.datasets.image_table import load_image_table
from orl.progress import progress_bar
from orl.report import html as page
from orl.report.html import Html
from orl.report.options import Annotations, GalleryOptions
from orl.report.sections.attention import attention_section
from orl.report.sections.correspondences import correspondence_section
from orl.report.sections.curves import curve_section
from orl.report.sections.discovery import discovery_section
from orl.report.sections.kept_rois import roi_section
from orl.report.sections.low_shot import low_shot_section
from orl.report.sections.neighbours import neighbour_section
from orl.report.sections.results import results_section
from orl.report.sections.roi_map import roi_map_section
from orl.report.sections.run import header, run_section
from orl.report.sections.views import view_section
from orl.report.thumbnails import Album
from orl.rundir import RunDir

HOW_TO_READ = (
    "The paper trains a ResNet-50 for 800 epochs on 118,287 images. A run with fewer images, epochs or a "
    "smaller network shows that the method works, not how well: its numbers are not the paper's.",
    "Compare rows of one table only: they share images, settings and judge. One run has one seed; small "
    "differences between rows can be chance.",
    "Images are chosen by the report's seed, not by hand, except for the most similar correspondences, "
    "which are the best of the run and say so.",
    "A heat map shows where features are strong, not why, and each is stretched to its own range: compare "
    "its shape, not its brightness.",
)


def write_report(run: RunDir, options: GalleryOptions | None = None, known: Annotations | None = None) -> Path:
    """Write `report/index.html` from whatever the run has left so far.

    A part that is missing is named, with the command that makes it.

    Args:
        run: folder of the run.
        options: how many images to show, chosen by which seed; the defaults if there are none.
        known: what is known of the images beside what lies in the folder.

    Returns:
        Where the report lies.

    Raises:
        FileNotFoundError: if there is no such run.
        ValueError: if a file of results is torn.
    """
    if not run.root.is_dir():
        raise FileNotFoundError(f"no run at {run.root}; make one with 'orl run --images DIR --out {run.root}'")
    options, known = options or GalleryOptions(), known or Annotations()
    album = Album(load_image_table(run.images)) if run.images.exists() else None
    makers = (
        partial(run_section, run),
        partial(results_section, run),
        partial(low_shot_section, run),
        partial(discovery_section, run),
        partial(correspondence_section, run, album, options, known.labels),
        partial(attention_section, run, album, options, known.regions),
        partial(neighbour_section, run, album, options),
        partial(roi_section, run, album, options),
        partial(roi_map_section, run, options, known.labels),
        partial(view_section, run, album, options, known.view_sampler),
        partial(curve_section, run),
    )
    sections = [make() for make in progress_bar(makers, total=len(makers), title="report", unit="sections")]
    images = album.definitions() if album else Html("")
    title = f"{run.root.resolve().name}: ORL report"
    files.write_atomically(run.report, page.page(title, header(run), sections, footer(), images))
    return run.report


def footer() -> Html:
    """How such pages are to be read."""
    points = "".join(f"<li>{page.markup(point)}</li>" for point in HOW_TO_READ)
    return Html(f"<h2>How to read this</h2><ul>{points}</ul>")
