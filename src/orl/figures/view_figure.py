"""Augmented views as the network sees them: images with the boxes that were cut, and what became of each.

`read_sample` makes the views by the code that training uses, `draw_views` shows some samples; both take what
`orl.pipeline.view_samplers.view_placer` gives.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.patheffects as effects
import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy import ndarray
from torch import Tensor

from orl.figures.correspondence_figure import PAIR_COLOURS
from orl.figures.figure_files import FileOptions, check_file_options, figure_file, save_figure
from orl.figures.pictures import TITLE_COLOUR, image_axes
from orl.figures.run_images import RunImages, find_image
from orl.figures.sheets import shorten_to_fit
from orl.rundir import TRAINED_STAGES, RunDir
from orl.views.augment import augment
from orl.views.colour import IMAGENET_MEAN, IMAGENET_STD
from orl.views.view_dataset import ViewDataset, collate_views
from orl.views.view_samplers import GlobalViewSampler, ObjectViewSampler, SampleKey

IMAGE_IN, TILE_IN, GAP_IN, TITLE_IN, NAME_IN, CAPTION_IN = (1.74, 1.3), 1.3, 0.08, 0.26, 0.2, 0.2
NAME_PT = 8
OUTLINE = effects.withStroke(linewidth=2.6, foreground="#00000090")


@dataclass(frozen=True, kw_only=True)
class ViewOptions(FileOptions):
    """Which views are drawn."""

    images: int = 5
    """Images drawn, at random."""
    image: str | None = None
    """Draw this image only: its name, as in the table of images, or the end of it after a slash."""
    epoch: int = 0
    """The epoch whose views are drawn, from 0."""
    seed: int = 0
    """Seed of the choice of images; the views themselves depend on the run's own seed."""


@dataclass(frozen=True, kw_only=True)
class SampleViews:
    """One sample of a stage."""

    names: tuple[str, ...]
    """The image, and of an object sample the neighbour."""
    images: tuple[UInt8[ndarray, "_ _ 3"], ...]
    """Their pixels, or fewer."""
    boxes: Mapping[str, tuple[int, Float[ndarray, "4"]]]
    """View -> which of the images it was cut from, and the box in the pixels of `images`."""
    views: Mapping[str, UInt8[ndarray, "_ _ 3"]]
    """View -> its pixels after all colour changes."""


def view_sheet(
    run: RunDir, view_sampler: GlobalViewSampler | ObjectViewSampler, stage: str, options: ViewOptions
) -> Path:
    """Draw the views of some images.

    Args:
        run: folder of a run.
        placer: where the views of the stage lie.
        stage: 'stage1' or 'stage3', for the words.
        options: which views, and where they go.

    Returns:
        Where the picture lies.

    Raises:
        ValueError: if an option is out of range, the image is not one of the run, or an image cannot be read.
    """
    check_file_options(options)
    for name, least in (("images", 1), ("epoch", 0), ("seed", 0)):
        if getattr(options, name) < least:
            raise ValueError(f"{name} must be at least {least}, not {getattr(options, name)}")
    images = RunImages(run, view_sampler.images, options.dpi)
    if options.image is None:
        chosen = np.random.default_rng(options.seed).permutation(len(view_sampler.images))[: options.images].tolist()
    else:
        chosen = [find_image(view_sampler.images, options.image)]
    samples = [read_sample(view_sampler, (options.epoch, image_id), images) for image_id in chosen]
    caption = (
        f"Views of {TRAINED_STAGES[stage]}, epoch {options.epoch}, as the network sees them, before normalisation."
    )
    path = figure_file(options, run.figures, f"views_{stage}")
    save_figure(draw_views(samples, caption, options.dpi), path)
    return path


def read_sample(view_sampler: GlobalViewSampler | ObjectViewSampler, key: SampleKey, images: RunImages) -> SampleViews:
    """The views of an image in an epoch, cut and coloured as in training.

    Args:
        placer: where the views of a stage lie.
        key: epoch and image.
        images: the images of the run.

    Raises:
        ValueError: if an image cannot be read.
    """
    view_boxes = view_sampler.sample_boxes(key)
    image_ids = list(dict.fromkeys(view_box.image_id for view_box in view_boxes.values()))
    small = [images.small(image_id) for image_id in image_ids]
    batch = collate_views([ViewDataset(view_sampler)[key]]).views
    return SampleViews(
        names=tuple(view_sampler.images.names[image_id] for image_id in image_ids),
        images=tuple(image for image, _ in small),
        boxes={
            name: (image_ids.index(each.image_id), each.box * small[image_ids.index(each.image_id)][1])
            for name, each in view_boxes.items()
        },
        views={name: _pixels(augment(view.crop, view.colours, torch.device("cpu"))[0]) for name, view in batch.items()},
    )


def draw_views(samples: Sequence[SampleViews], caption: str = "", dpi: int = 110) -> Figure:
    """A row for each sample: the image, each view in the colour of its box, and the neighbour where there is one.

    Args:
        samples: of one stage.
        caption: below all.
        dpi: resolution of a PNG, pixels an inch.
    """
    names = list(samples[0].views)
    num_images = max(len(sample.images) for sample in samples)
    width_in = num_images * (IMAGE_IN[0] + GAP_IN) + len(names) * (TILE_IN + GAP_IN) + GAP_IN
    row_in = IMAGE_IN[1] + NAME_IN
    height_in = TITLE_IN + len(samples) * row_in + (CAPTION_IN if caption else 0)
    figure = Figure(figsize=(width_in, height_in), dpi=dpi)
    colours = dict(zip(names, PAIR_COLOURS))
    for row, sample in enumerate(samples):
        bottom_in = height_in - TITLE_IN - row * row_in - IMAGE_IN[1]
        for index, image in enumerate(sample.images):
            left_in = GAP_IN if index == 0 else width_in - IMAGE_IN[0] - GAP_IN
            boxes = {name: box for name, (at, box) in sample.boxes.items() if at == index}
            title = ("image", "neighbour")[index] if row == 0 else ""
            _show_image(figure, (left_in, bottom_in), image, boxes, colours, title)
            look: dict[str, Any] = {"fontsize": NAME_PT, "color": TITLE_COLOUR, "parse_math": False}
            name = shorten_to_fit(sample.names[index], IMAGE_IN[0], NAME_PT)
            figure.text(left_in / width_in, (bottom_in - 0.7 * NAME_IN) / height_in, name, **look)
        for column, (name, view) in enumerate(sample.views.items()):
            left_in = GAP_IN + IMAGE_IN[0] + GAP_IN + column * (TILE_IN + GAP_IN)
            place = (left_in / width_in, bottom_in / height_in, TILE_IN / width_in, TILE_IN / height_in)
            title = f"{name.replace('_', ' ')}, {view.shape[0]} px" if row == 0 else ""
            axes = image_axes(figure, *place, title)
            axes.imshow(view, interpolation="nearest", extent=(0, 1, 1, 0))
            frame = Rectangle((0, 0), 1, 1, fill=False, edgecolor=colours[name], linewidth=4, clip_on=True)
            axes.add_patch(frame)
    figure.text(GAP_IN / width_in, 0.3 * CAPTION_IN / height_in, caption, fontsize=NAME_PT, color=TITLE_COLOUR)
    return figure


def _show_image(
    figure: Figure,
    corner_in: tuple[float, float],
    image: ndarray,
    boxes: Mapping[str, ndarray],
    colours: Mapping[str, str],
    title: str,
) -> Axes:
    """The image as large as its place allows, at the upper left of it."""
    scale = min(IMAGE_IN[0] / image.shape[1], IMAGE_IN[1] / image.shape[0])
    size_in = image.shape[1] * scale, image.shape[0] * scale
    width_in, height_in = figure.get_size_inches()
    bottom_in = corner_in[1] + IMAGE_IN[1] - size_in[1]
    place = (corner_in[0] / width_in, bottom_in / height_in, size_in[0] / width_in, size_in[1] / height_in)
    axes = image_axes(figure, *place, title)
    axes.imshow(image)
    for name, (x0, y0, x1, y1) in boxes.items():
        frame = Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor=colours[name], linewidth=1.5)
        frame.set_path_effects([OUTLINE])
        axes.add_patch(frame)
    return axes


def _pixels(view: Float[Tensor, "3 s s"]) -> UInt8[ndarray, "s s 3"]:
    """A normalised view as a picture."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((view * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
