"""`orl figures correspondences` (the paper's supplementary Figure 1): images and neighbours, matched RoIs joined."""

from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Literal

import matplotlib.patheffects as effects
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy import ndarray

from orl.figures.figure_files import FigureFile, save_figure
from orl.figures.pair_selection import best_correspondences, extreme_pairs, first_pairs, random_pairs, ranked_neighbours
from orl.figures.run_images import RunImages, boxes_of, find_image, load_run_images, open_run_table
from orl.figures.sheets import CaptionText, SheetImage, SheetOptions, draw_sheet
from orl.rundir import RunDir
from orl.tables import Table

PAIR_COLOURS = ("#ffb000", "#18c8ff", "#ff4f9a", "#74f05c", "#b79bff", "#ff6a2b")
GAP_FRACTION = 0.04
"""Width of the gap between two images, over the width of the first."""
NEST_FRACTION = 0.017
"""Distance between the frames of two pairs that share a box, over the height of the image: the width of a line."""
PAIR_OUTLINE = effects.withStroke(linewidth=4.5, foreground="#000000a0")
Order = Literal["top", "random", "lowest", "image"]
TITLES = {
    "top": "The most similar correspondences",
    "random": "Correspondences sampled at random",
    "lowest": "The least similar correspondences",
    "image": "Correspondences in the order of the images",
}
TITLES_OF_ONE_IMAGE = {
    "top": "most similar first",
    "random": "neighbours in random order",
    "lowest": "least similar first",
    "image": "nearest neighbour first",
}


@dataclass(frozen=True, kw_only=True)
class CorrespondenceOptions(SheetOptions):
    """The choice of the pairs of images, and of the pairs of RoIs in each."""

    order: Order = "top"
    """Pairs of images by their most similar RoIs (top, lowest), at random, or image by image."""
    pairs: int = 3
    """Most pairs of RoIs in each pair of images, from 1 to 6."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.pairs <= len(PAIR_COLOURS):
            raise ValueError(f"pairs must be from 1 to {len(PAIR_COLOURS)}, one per colour, got {self.pairs}")


def correspondence_figure(run: RunDir, options: CorrespondenceOptions, file: FigureFile) -> Path:
    """Draw images of a run beside a neighbour each, with the best pairs of RoIs joined; return the path.

    Raises:
        FileNotFoundError: if there is no run, or stage 2 has not written its tables.
        ValueError: if there is no such image, a table was made from other images, or an image cannot be read.
    """
    path = file.path(run.figures, "correspondences")
    images = load_run_images(run)
    rois, correspondences = (open_run_table(run, name, images) for name in ("rois", "correspondences"))
    query = None if options.image is None else find_image(images, options.image)
    pairs = _choose_pairs(correspondences, len(images), options, query)
    if not pairs:
        origin = "of this run" if query is None else f"of {images.names[query]}"
        raise ValueError(f"{correspondences.folder} holds no correspondences {origin}; nothing can be drawn")
    if options.order in ("top", "lowest") and np.isnan(best_correspondences(correspondences, *pairs[0], 1)[2][0]):
        raise ValueError(
            f"{correspondences.folder} holds no similarities (the published files have none), and so no order "
            f"{options.order!r}; use --order random or --order image"
        )
    run_images = RunImages(run, images, file.dpi)
    sheet = [_pair_image(run_images, rois, correspondences, pair, options.pairs) for pair in pairs]
    title = TITLES[options.order]
    if query is not None:
        title = f"{Path(images.names[query]).name}, {TITLES_OF_ONE_IMAGE[options.order]}"
    save_figure(draw_sheet(title, run.root.resolve().name, sheet, options.cols, file.dpi), path)
    return path


def draw_joined_boxes(
    axes: Axes,
    image: UInt8[ndarray, "h w 3"],
    neighbour: UInt8[ndarray, "h2 w2 3"],
    boxes: Float[ndarray, "p 4"],
    neighbour_boxes: Float[ndarray, "p 4"],
) -> None:
    """Draw an image beside its neighbour at one height; the boxes and the line of a pair have one colour.

    A box that several pairs share is framed once per pair, each frame inside the one before.

    Args:
        axes: axes without frame.
        image: the query.
        neighbour: one of its neighbours.
        boxes: RoIs of the query, in its pixels.
        neighbour_boxes: the matched RoIs, in the neighbour's pixels.
    """
    height, width = image.shape[:2]
    scale = height / neighbour.shape[0]
    shift = width * (1 + GAP_FRACTION)
    right = shift + neighbour.shape[1] * scale
    axes.imshow(image, extent=(0, width, height, 0))
    axes.imshow(neighbour, extent=(shift, right, height, 0))
    shifted = neighbour_boxes * scale + np.array([shift, 0, shift, 0], dtype=np.float32)
    step = NEST_FRACTION * height
    for pair in zip(nest_equal_boxes(boxes, step), nest_equal_boxes(shifted, step), cycle(PAIR_COLOURS)):
        _draw_pair(axes, *pair)
    axes.set(xlim=(0, right), ylim=(height, 0))


def side_by_side(image: UInt8[ndarray, "h w 3"], neighbour: UInt8[ndarray, "h2 w2 3"]) -> tuple[float, float]:
    """Compute the layout of two images at one height with a gap.

    Returns:
        Width over height of both together, and the start of the second image as a fraction of the width.
    """
    first_and_gap = image.shape[1] / image.shape[0] * (1 + GAP_FRACTION)
    aspect_ratio = first_and_gap + neighbour.shape[1] / neighbour.shape[0]
    return aspect_ratio, first_and_gap / aspect_ratio


def caption_pair(first: str, second: str, fraction: float) -> tuple[CaptionText, CaptionText]:
    """Return a caption below each of two images; a narrow image's caption takes some of the other's space.

    Args:
        first: text below the first image.
        second: text below the second image.
        fraction: start of the second image, as `side_by_side` returns it.
    """
    fraction = min(max(fraction, 0.3), 0.7)
    return CaptionText(text=first, right=fraction), CaptionText(text=second, left=fraction)


def nest_equal_boxes(boxes: Float[ndarray, "p 4"], step: float) -> Float[ndarray, "p 4"]:
    """Shrink each box by a step per equal box before it, and by a quarter of its side at most."""
    times = np.array([sum(np.array_equal(box, other) for other in boxes[:index]) for index, box in enumerate(boxes)])
    sides = boxes[:, 2:] - boxes[:, :2]
    inwards = np.minimum(times.reshape(-1, 1) * step, sides / 4)
    return np.concatenate([boxes[:, :2] + inwards, boxes[:, 2:] - inwards], axis=1).astype(np.float32)


def similarity_text(similarity: float, digits: int = 2) -> str:
    """Format a similarity; an unknown one (NaN, in an imported table) is a dash."""
    return "–" if np.isnan(similarity) else f"{similarity:.{digits}f}"


def _choose_pairs(
    correspondences: Table, num_images: int, options: CorrespondenceOptions, query: int | None
) -> list[tuple[int, int]]:
    num_shown, generator = options.rows * options.cols, np.random.default_rng(options.seed)
    if query is None:
        if options.order == "random":
            return random_pairs(correspondences, num_images, num_shown, generator)
        if options.order == "image":
            return first_pairs(correspondences, num_images, num_shown)
        return extreme_pairs(correspondences, num_images, num_shown, sign=1 if options.order == "top" else -1)
    neighbour_ids, similarities = ranked_neighbours(correspondences, query)
    ranks = {
        "top": np.argsort(-similarities, kind="stable"),
        "lowest": np.argsort(similarities, kind="stable"),
        "random": generator.permutation(len(neighbour_ids)),
        "image": np.arange(len(neighbour_ids)),
    }[options.order]
    return [(query, int(neighbour_id)) for neighbour_id in neighbour_ids[ranks[:num_shown]]]


def _pair_image(
    images: RunImages, rois: Table, correspondences: Table, pair: tuple[int, int], num_pairs: int
) -> SheetImage:
    """Return an image beside its neighbour; below them their names, then the similarities."""
    *roi_rows, similarities = best_correspondences(correspondences, *pair, num_pairs)
    boxes, neighbour_boxes = (boxes_of(rois, rows, image_id) for rows, image_id in zip(roi_rows, pair))
    (image, scale), (neighbour, neighbour_scale) = (images.load_thumbnail(image_id) for image_id in pair)
    aspect_ratio, second = side_by_side(image, neighbour)
    names = [images.images.names[image_id] for image_id in pair]
    badges = tuple(zip((similarity_text(float(value), 3) for value in similarities), PAIR_COLOURS))
    return SheetImage(
        aspect_ratio=aspect_ratio,
        draw=lambda axes: draw_joined_boxes(axes, image, neighbour, boxes * scale, neighbour_boxes * neighbour_scale),
        lines=(caption_pair(names[0], names[1], second), (CaptionText(text="similarity", badges=badges),)),
    )


def _draw_pair(axes: Axes, box: ndarray, other: ndarray, colour: str) -> None:
    """Draw both frames, and a line from the right of the first to the left of the second."""
    for x0, y0, x1, y1 in (box, other):
        frame = Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=2.4)
        frame.set_path_effects([PAIR_OUTLINE])
        axes.add_patch(frame)
    heights = [float(each[1] + each[3]) / 2 for each in (box, other)]
    line = Line2D([float(box[2]), float(other[0])], heights, color=colour, linewidth=1.8)
    line.set_path_effects([PAIR_OUTLINE])
    axes.add_line(line)
