"""The section of correspondences: pairs of boxes that stage 2 matched."""

import numpy as np

from orl import tables
from orl.figures import page
from orl.figures.correspondences import (
    correspondence_figure,
    random_correspondences,
    similarity_text,
    top_correspondences,
)
from orl.figures.page import Html
from orl.figures.results import how_to_go_on
from orl.figures.sections.frames import not_there, photo_figure
from orl.figures.sections.options import GalleryOptions
from orl.images.table import load_images
from orl.rundir import RunDir


def correspondence_section(run: RunDir, options: GalleryOptions) -> tuple[str, Html]:
    """Pairs of RoIs that stage 2 matched: the most similar, and some at random."""
    title = "Correspondences"
    intro = page.paragraph(
        "Boxes in a photo and in one of its neighbours that stage 2 takes for the same kind of thing. In "
        "stage 3 each pair is pulled together. The number is the cosine of the two boxes' embeddings."
    )
    try:
        images, pairs = load_images(run.images), tables.load(run.table("correspondences"))
        boxes = tables.load(run.table("rois")).column("box")
    except (FileNotFoundError, ValueError) as error:
        return page.section(title, intro, not_there(run, "No correspondences have been found yet", error))
    columns = {name: pairs.column(name) for name in ("image_id", "neighbour_id", "roi", "neighbour_roi", "similarity")}
    ids = (columns["image_id"], columns["neighbour_id"])
    if pairs.num_rows == 0 or max(ids[0].max(), ids[1].max()) >= len(images):
        found = f"The correspondence table has {pairs.num_rows:,} rows that do not fit {len(images):,} photos. "
        return page.section(title, intro, page.missing(found, how_to_go_on(run)))

    def show(row: int) -> Html:
        chosen = {name: column[row] for name, column in columns.items()}
        names = images.names[chosen["image_id"]], images.names[chosen["neighbour_id"]]
        box, other = boxes[chosen["roi"]][None], boxes[chosen["neighbour_roi"]][None]
        similarity = np.array([chosen["similarity"]])
        return photo_figure(
            images,
            [int(chosen["image_id"]), int(chosen["neighbour_id"])],
            lambda photos: correspondence_figure(photos[0], photos[1], box, other, similarity),
            f"{names[0]} and its neighbour {names[1]}, a box in each, joined; similarity "
            f"{similarity_text(float(similarity[0]))}",
            f"{names[0]} and {names[1]}",
        )

    generator = np.random.default_rng(options.seed)
    top = []
    if np.isfinite(columns["similarity"]).any():
        top = top_correspondences(*ids, columns["similarity"], options.num_top_pairs)
    drawn = random_correspondences(*ids, columns["similarity"], options.num_random_pairs, generator)
    return page.section(
        title,
        intro,
        page.heading("The most similar"),
        page.paragraph(
            "The best pair of a query photo each, most similar first."
            if top
            else "The table of correspondences holds no similarities, so it is not known which these are."
        ),
        page.gallery(show(row) for row in top),
        page.heading("Drawn at random"),
        page.paragraph("The best pair of a random photo and a random neighbour of it: what stage 3 mostly sees."),
        page.gallery(show(row) for row in drawn),
    )
