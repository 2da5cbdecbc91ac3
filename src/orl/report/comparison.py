"""The report of several runs: one HTML file that holds them side by side."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from orl import files
from orl.progress import progress_bar
from orl.report import html as page
from orl.report.compared.facts import runs_section, settings_section, times_section
from orl.report.compared.pictures import attention_section, correspondence_section
from orl.report.compared.runs import ComparedRun, read_runs, shared_images
from orl.report.compared.scores import discovery_section, results_section
from orl.report.compared.training import curves_section
from orl.report.html import Html
from orl.report.options import GalleryOptions
from orl.report.report import footer
from orl.report.thumbnails import Album


def compare_runs(roots: Sequence[Path], path: Path, options: GalleryOptions | None = None) -> Path:
    """Write one page that compares runs by whatever they have left; their images may differ.

    Args:
        roots: folders of the runs, two or more.
        path: the file to write.
        options: how many images to show, chosen by which seed; the defaults if there are none.

    Returns:
        The path.

    Raises:
        FileNotFoundError: if a folder is not there.
        ValueError: if the file is no .html, a run is given twice, or one of its files is torn.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"{path} is to hold a page; give a name that ends in .html")
    runs, options = read_runs(roots), options or GalleryOptions()
    shared = shared_images(runs)
    albums = [Album(each.images, f"run-{index}") for index, each in enumerate(runs) if each.images is not None]
    makers = (
        partial(runs_section, runs),
        partial(settings_section, runs),
        partial(results_section, runs),
        partial(discovery_section, runs),
        partial(correspondence_section, runs, albums, shared, options),
        partial(attention_section, runs, albums, shared, options),
        partial(curves_section, runs),
        partial(times_section, runs),
    )
    sections = [make() for make in progress_bar(makers, total=len(makers), title="comparison", unit="sections")]
    images = page.join(*(album.definitions() for album in albums))
    title = ", ".join(each.label for each in runs)
    files.write_atomically(path, page.page(f"{title}: ORL comparison", _header(runs), sections, footer(), images))
    return path


def _header(runs: Sequence[ComparedRun]) -> Html:
    names = " · ".join(each.label for each in runs)
    return page.join(
        Html('<p class="over">ORL comparison</p>'),
        Html(f"<h1>{page.markup(names)}</h1>"),
        Html(f'<p class="lead">{len(runs)} runs side by side</p>'),
    )
