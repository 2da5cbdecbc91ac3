"""The section of proposals and kept RoIs: the boxes as found, and those that discovery may match."""

import numpy as np

from orl.datasets.decode import ImageError
from orl.figures.run_images import load_run_table, rows_of
from orl.report import html as page
from orl.report.html import Html
from orl.report.options import GalleryOptions, choose_images
from orl.report.overlays import image_svg
from orl.report.sections.frames import not_there
from orl.report.thumbnails import Album
from orl.rundir import RunDir
from orl.tables import Table


def roi_section(run: RunDir, album: Album | None, options: GalleryOptions) -> tuple[str, Html]:
    """A few images with their proposals and, beside them, with the RoIs kept of them."""
    title = "Proposals and kept RoIs"
    intro = page.paragraph(
        "Left the proposals, right those that passed the filter of size, shape and overlap: the boxes that discovery "
        "may match."
    )
    try:
        if album is None:
            raise FileNotFoundError("no images")
        rois = load_run_table(run, "rois", album.images)
    except (FileNotFoundError, ValueError) as error:
        return page.section(title, intro, not_there(run, "No RoIs have been kept yet", error))
    notes, proposals = [], None
    try:
        proposals = load_run_table(run, "proposals", album.images)
    except (FileNotFoundError, ValueError) as error:
        notes.append(not_there(run, "The proposals are not there, only what was kept of them", error))
    shown = choose_images(len(album.images), options.num_roi_images, options.seed)
    mean = page.paragraph(f"{rois.num_rows / max(1, len(album.images)):.1f} RoIs an image on average.")
    figures = [_boxes_figure(album, proposals, rois, image_id, options) for image_id in shown]
    return page.section(title, intro, mean, *notes, page.gallery(figures))


def _boxes_figure(album: Album, proposals: Table | None, rois: Table, image_id: int, options: GalleryOptions) -> Html:
    name, kept = album.images.names[image_id], rows_of(rois, image_id)
    counted = _count(len(kept), "RoI")
    try:
        image = album.thumbnail(image_id)
    except ImageError as error:
        return page.missing(f"{name}: {counted} cannot be shown; {error}")
    right = image_svg(image, f"{name} with {counted} drawn on it", kept)
    if proposals is None:
        return page.captioned(right, f"{name}: {counted}")
    found = rows_of(proposals, image_id)
    generator = np.random.default_rng([options.seed, image_id])
    drawn = found[np.sort(generator.permutation(len(found))[: options.num_drawn_proposals])]
    some = f"{len(drawn):,} of {len(found):,} proposals" if len(drawn) < len(found) else _count(len(found), "proposal")
    left = image_svg(image, f"{name} with {some} drawn on it", drawn, thin=True)
    return page.captioned(
        page.join(page.cell(left), page.cell(right)), f"{name}: {some}; {counted} kept", kind="row halves"
    )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
