"""The section of kept RoIs: the boxes that discovery may match."""

from orl import tables
from orl.figures import page
from orl.figures.page import Html
from orl.figures.proposals import draw_proposals
from orl.figures.sections.frames import not_there, photo_figure
from orl.figures.sections.options import GalleryOptions, choose_photos
from orl.images.table import load_images
from orl.rundir import RunDir


def roi_section(run: RunDir, options: GalleryOptions) -> tuple[str, Html]:
    """A few photos with their kept RoIs."""
    title = "Kept RoIs"
    intro = page.paragraph(
        "The proposals that passed the filter of size, shape and overlap: the boxes that discovery may match."
    )
    try:
        images, rois = load_images(run.images), tables.load(run.table("rois"))
        boxes, starts = rois.column("box"), tables.row_starts(rois.column("image_id"), len(images))
    except (FileNotFoundError, ValueError) as error:
        return page.section(title, intro, not_there(run, "No RoIs have been kept yet", error))

    def show(index: int) -> Html:
        own = boxes[starts[index] : starts[index + 1]]
        counted = f"{len(own)} RoI{'' if len(own) == 1 else 's'}"
        return photo_figure(
            images,
            [index],
            lambda photos: draw_proposals(photos[0], own),
            f"{images.names[index]} with {counted} drawn on it",
            f"{images.names[index]}: {counted}",
        )

    shown = choose_photos(len(images), options.num_roi_photos, options.seed)
    mean = page.paragraph(f"{len(boxes) / max(1, len(images)):.1f} RoIs a photo on average.")
    return page.section(title, intro, mean, page.gallery(show(index) for index in shown))
