"""`orl figures proposals`: images with their proposals, and beside them with the RoIs that the filter kept."""

from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import matplotlib.patheffects as effects
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy import ndarray

from orl import boxes as geometry
from orl.figures.correspondence_figure import GAP_FRACTION, PAIR_COLOURS, caption_pair, side_by_side
from orl.figures.figure_files import FigureFile, check_at_least, save_figure
from orl.figures.run_images import REBUILD, RunImages, choose_image_ids, load_run_images, open_run_table, rows_of
from orl.figures.sheets import CaptionText, SheetImage, SheetOptions, count_text, draw_sheet
from orl.rundir import RunDir
from orl.tables import Table


@dataclass(frozen=True, kw_only=True)
class ProposalOptions(SheetOptions):
    """The choice of the images and of their proposals."""

    boxes: int = 150
    """Most proposals drawn per image; of more, a random choice."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, boxes=1)


def proposal_figure(run: RunDir, options: ProposalOptions, file: FigureFile) -> Path:
    """Draw images of a run with their proposals and with the RoIs kept of them; return the path.

    Raises:
        FileNotFoundError: if there is no run, or stage 2 has not filtered its proposals.
        ValueError: if there is no such image, a table was made from other images, or an image cannot be read.
    """
    path = file.path(run.figures, "proposals")
    images = load_run_images(run)
    proposals, rois = (open_run_table(run, name, images) for name in ("proposals", "rois"))
    if rois.inputs.get("proposals", proposals.fingerprint) != proposals.fingerprint:
        raise ValueError(f"{rois.folder} was made from other proposals; {REBUILD}")
    image_ids = choose_image_ids(images, options.image, options.rows * options.cols, options.seed)
    title = "Proposals and the RoIs kept of them"
    if options.image is not None:
        title = f"Proposals of {Path(images.names[image_ids[0]]).name} and the RoIs kept of them"
    run_images = RunImages(run, images, file.dpi)
    sheet = [_box_image(run_images, proposals, rois, image_id, options) for image_id in image_ids]
    save_figure(draw_sheet(title, run.root.resolve().name, sheet, options.cols, file.dpi), path)
    return path


def sample_boxes(boxes: Float[ndarray, "n 4"], most: int, seed: tuple[int, int]) -> Float[ndarray, "m 4"]:
    """Sample some of an image's boxes, in their order; the seed is that of the figure, and the image."""
    return boxes[np.sort(np.random.default_rng(seed).permutation(len(boxes))[:most])]


def draw_found_and_kept(
    axes: Axes, image: UInt8[ndarray, "h w 3"], proposals: Float[ndarray, "n 4"], rois: Float[ndarray, "b 4"]
) -> None:
    """Draw an image twice: with its proposals in thin lines, and with the RoIs that the filter kept.

    Args:
        axes: axes without frame.
        image: at any size.
        proposals: boxes as found, in its pixels.
        rois: boxes as kept, in its pixels.
    """
    height, width = image.shape[:2]
    shift = width * (1 + GAP_FRACTION)
    axes.imshow(image, extent=(0, width, height, 0))
    axes.imshow(image, extent=(shift, shift + width, height, 0))
    draw_boxes(axes, proposals, linewidth=0.6)
    draw_boxes(axes, rois + np.array([shift, 0, shift, 0], dtype=np.float32), linewidth=1.5)
    axes.set(xlim=(0, shift + width), ylim=(height, 0))


def draw_boxes(axes: Axes, boxes: Float[ndarray, "n 4"], linewidth: float) -> None:
    """Draw boxes in cycling colours, large ones first so that small ones lie on top; lines in points."""
    outline = effects.withStroke(linewidth=linewidth + min(1.3, linewidth), foreground="#00000070")
    for index, colour in zip(np.argsort(-geometry.area(boxes), kind="stable"), cycle(PAIR_COLOURS)):
        x0, y0, x1, y1 = boxes[index]
        frame = Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=linewidth)
        frame.set_path_effects([outline])
        axes.add_patch(frame)


def _box_image(images: RunImages, proposals: Table, rois: Table, image_id: int, options: ProposalOptions) -> SheetImage:
    """Return an image with proposals, and again with its RoIs; below them its name and the numbers of boxes."""
    image, scale = images.load_thumbnail(image_id)
    found, kept = (rows_of(table, image_id) for table in (proposals, rois))
    shown = sample_boxes(found, options.boxes, (options.seed, image_id))
    aspect_ratio, second = side_by_side(image, image)
    num_found, num_kept = count_text(len(found), "proposal"), count_text(len(kept), "RoI")
    return SheetImage(
        aspect_ratio=aspect_ratio,
        draw=lambda axes: draw_found_and_kept(axes, image, shown * scale, kept * scale),
        lines=(
            (CaptionText(text=images.images.names[image_id]),),
            caption_pair(f"{len(shown):,} of {num_found}", f"{num_kept} kept", second),
        ),
    )
