"""The figures that are made from the folder of a run: what discovery found, drawn on its images."""

from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes

from orl.figures.correspondence_figure import PAIR_COLOURS, draw_joined_boxes, side_by_side
from orl.figures.pair_selection import (
    best_correspondences,
    extreme_pairs,
    first_pairs,
    random_pairs,
    ranked_neighbours,
)
from orl.figures.proposal_figure import draw_found_and_kept
from orl.figures.run_images import (
    REBUILD,
    RunImages,
    boxes_of,
    find_image,
    load_run_images,
    load_run_table,
    rows_of,
)
from orl.figures.sheets import Picture, SheetOptions, Words, check_options, write_sheet
from orl.rundir import RunDir
from orl.tables import Table

Order = Literal["top", "random", "lowest", "image"]
HEADINGS = {
    "top": "The most similar correspondences",
    "random": "Correspondences drawn at random",
    "lowest": "The least similar correspondences",
    "image": "Correspondences in the order of the images",
}
HEADINGS_OF_ONE = {
    "top": "most similar first",
    "random": "neighbours in random order",
    "lowest": "least similar first",
    "image": "nearest neighbour first",
}


def correspondence_sheet(run: RunDir, options: SheetOptions, order: Order = "top", num_pairs: int = 3) -> Path:
    """Draw images beside a neighbour each, with the best pairs of RoIs joined.

    Args:
        run: folder of a run whose stage 2 is done.
        options: how much is shown, and where it goes.
        order: which pairs of images are shown, by their most similar pair of RoIs.
        num_pairs: most pairs of RoIs in each.

    Returns:
        Where the picture lies.

    Raises:
        FileNotFoundError: if there is no run, or stage 2 has not left the tables.
        ValueError: if the image is not one of the run, a table is of other images, or an image cannot be read.
    """
    check_options(options)
    if not 1 <= num_pairs <= len(PAIR_COLOURS):
        raise ValueError(f"pairs must be from 1 to {len(PAIR_COLOURS)}, one a colour, not {num_pairs}")
    images = load_run_images(run)
    rois, correspondences = (load_run_table(run, name, images) for name in ("rois", "correspondences"))
    query = None if options.image is None else find_image(images, options.image)
    chosen = _choose(correspondences, len(images), options, order, query)
    if not chosen:
        whose = "of this run" if query is None else f"of {images.names[query]}"
        raise ValueError(f"{correspondences.folder} holds no correspondences {whose}; nothing can be drawn")
    if order in ("top", "lowest") and np.isnan(best_correspondences(correspondences, *chosen[0], 1)[2][0]):
        raise ValueError(
            f"{correspondences.folder} holds no similarities (the published files have none), and so no order "
            f"{order!r}; take --order random or --order image"
        )
    run_images = RunImages(run, images, options.dpi)
    pictures = [_pair_picture(run_images, rois, correspondences, pair, num_pairs) for pair in chosen]
    heading = HEADINGS[order] if query is None else f"{Path(images.names[query]).name}, {HEADINGS_OF_ONE[order]}"
    return write_sheet(run, options, "correspondences", heading, pictures)


def proposal_sheet(run: RunDir, options: SheetOptions, num_boxes: int = 150) -> Path:
    """Draw images drawn at random, each with its proposals and, beside it, with the RoIs kept of them.

    Args:
        run: folder of a run whose proposals have been filtered.
        options: how much is shown, and where it goes.
        num_boxes: most proposals drawn of an image; of more, a random choice.

    Returns:
        Where the picture lies.

    Raises:
        FileNotFoundError: if there is no run, or stage 2 has not left the tables.
        ValueError: if the image is not one of the run, a table is of other images, or an image cannot be read.
    """
    check_options(options)
    if num_boxes < 1:
        raise ValueError(f"boxes must be at least 1, not {num_boxes}")
    images = load_run_images(run)
    proposals, rois = (load_run_table(run, name, images) for name in ("proposals", "rois"))
    if rois.inputs.get("proposals", proposals.fingerprint) != proposals.fingerprint:
        raise ValueError(f"{rois.folder} was made from other proposals; {REBUILD}")
    if options.image is None:
        chosen = np.random.default_rng(options.seed).permutation(len(images))[: options.rows * options.cols].tolist()
        heading = "Proposals and the RoIs kept of them"
    else:
        chosen = [find_image(images, options.image)]
        heading = f"Proposals of {Path(images.names[chosen[0]]).name} and the RoIs kept of them"
    run_images = RunImages(run, images, options.dpi)
    pictures = [
        _box_picture(run_images, proposals, rois, image_id, num_boxes, np.random.default_rng([options.seed, image_id]))
        for image_id in chosen
    ]
    return write_sheet(run, options, "proposals", heading, pictures)


def _choose(
    correspondences: Table, num_images: int, options: SheetOptions, order: Order, query: int | None
) -> list[tuple[int, int]]:
    num_shown, generator = options.rows * options.cols, np.random.default_rng(options.seed)
    if query is None:
        if order == "random":
            return random_pairs(correspondences, num_images, num_shown, generator)
        if order == "image":
            return first_pairs(correspondences, num_images, num_shown)
        return extreme_pairs(correspondences, num_images, num_shown, sign=1 if order == "top" else -1)
    neighbour_ids, similarities = ranked_neighbours(correspondences, query)
    ranks = {
        "top": np.argsort(-similarities, kind="stable"),
        "lowest": np.argsort(similarities, kind="stable"),
        "random": generator.permutation(len(neighbour_ids)),
        "image": np.arange(len(neighbour_ids)),
    }[order]
    return [(query, int(neighbour_id)) for neighbour_id in neighbour_ids[ranks[:num_shown]]]


def _pair_picture(
    images: RunImages, rois: Table, correspondences: Table, pair: tuple[int, int], num_pairs: int
) -> Picture:
    """An image beside its neighbour; below each its name, then the similarities."""
    *roi_rows, similarities = best_correspondences(correspondences, *pair, num_pairs)
    boxes, neighbour_boxes = (boxes_of(rois, rows, image_id) for rows, image_id in zip(roi_rows, pair))
    (image, scale), (neighbour, neighbour_scale) = (images.small(image_id) for image_id in pair)
    aspect_ratio, second = side_by_side(image, neighbour)
    names = [images.images.names[image_id] for image_id in pair]
    told = [f"{value:.3f}" if np.isfinite(value) else "–" for value in similarities]
    badges = tuple(zip(told, PAIR_COLOURS))

    def draw(axes: Axes) -> None:
        draw_joined_boxes(axes, image, neighbour, boxes * scale, neighbour_boxes * neighbour_scale)

    return Picture(
        aspect_ratio=aspect_ratio,
        draw=draw,
        lines=(
            _two_words(names[0], names[1], second),
            (Words(text="similarity", badges=badges),),
        ),
    )


def _box_picture(
    images: RunImages, proposals: Table, rois: Table, image_id: int, num_boxes: int, generator: np.random.Generator
) -> Picture:
    """An image with proposals, and again with its RoIs; below them its name, then how many there are."""
    image, scale = images.small(image_id)
    found, kept = (rows_of(table, image_id) for table in (proposals, rois))
    drawn = found[np.sort(generator.permutation(len(found))[:num_boxes])]
    aspect_ratio, second = side_by_side(image, image)
    counted = f"{len(drawn):,} of {_count(len(found), 'proposal')}"
    return Picture(
        aspect_ratio=aspect_ratio,
        draw=lambda axes: draw_found_and_kept(axes, image, drawn * scale, kept * scale),
        lines=(
            (Words(text=images.images.names[image_id]),),
            _two_words(counted, f"{_count(len(kept), 'RoI')} kept", second),
        ),
    )


def _two_words(first: str, second: str, fraction: float) -> tuple[Words, Words]:
    """Words below each of two images; where one image is narrow, its words have some of the other's space."""
    fraction = min(max(fraction, 0.3), 0.7)
    return Words(text=first, right=fraction), Words(text=second, left=fraction)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
