"""`orl figures views`: augmented views as the network sees them, beside the images and the boxes of the crops."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.patheffects as effects
import torch
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy import ndarray
from torch import Tensor

from orl.figures.correspondence_figure import PAIR_COLOURS
from orl.figures.figure_files import FigureFile, check_at_least, save_figure
from orl.figures.pictures import TITLE_COLOUR, image_axes
from orl.figures.run_images import RunImages, choose_image_ids
from orl.figures.sheets import shorten_to_fit
from orl.rundir import TRAINED_STAGES, RunDir
from orl.views.augment import augment
from orl.views.colour import IMAGENET_MEAN, IMAGENET_STD
from orl.views.view_dataset import ViewDataset, collate_views
from orl.views.view_samplers import GlobalViewSampler, ObjectViewSampler, SampleKey

IMAGE_IN, TILE_IN, GAP_IN, TITLE_IN, NAME_IN, CAPTION_IN = (1.74, 1.3), 1.3, 0.08, 0.26, 0.2, 0.2
NAME_PT = 8
BOX_OUTLINE = effects.withStroke(linewidth=2.6, foreground="#00000090")


@dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """The choice of the images and of the epoch."""

    images: int = 5
    """Number of images drawn, sampled at random."""
    image: str | None = None
    """Draw one image only: its name in the table of images, or the end of the name after a slash."""
    epoch: int = 0
    """Epoch of the views, from 0."""
    seed: int = 0
    """Seed of the choice of images; the views themselves depend on the run's own seed."""

    def __post_init__(self) -> None:
        check_at_least(self, images=1, epoch=0, seed=0)


@dataclass(frozen=True, kw_only=True)
class SampleViews:
    """One sample of a stage."""

    names: tuple[str, ...]
    """Name of the image, and in stage 3 of the neighbour."""
    images: tuple[UInt8[ndarray, "_ _ 3"], ...]
    """Pixels of these images, resized for the figure."""
    boxes: Mapping[str, tuple[int, Float[ndarray, "4"]]]
    """View -> index of the image that it was cut from, and its box in the pixels of `images`."""
    views: Mapping[str, UInt8[ndarray, "_ _ 3"]]
    """View -> its pixels after all colour changes."""


def view_figure(
    run: RunDir,
    view_sampler: GlobalViewSampler | ObjectViewSampler,
    stage: str,
    options: ViewOptions,
    file: FigureFile,
) -> Path:
    """Draw the views of some images of a run; return the path.

    Args:
        run: folder of the run.
        view_sampler: sampler of the stage's views.
        stage: 'stage1' or 'stage3'.
        options: choice of the images and of the epoch.
        file: file of the figure.

    Raises:
        ValueError: if there is no such image, or an image cannot be read.
    """
    path = file.path(run.figures, f"views_{stage}")
    images = RunImages(run, view_sampler.images, file.dpi)
    image_ids = choose_image_ids(view_sampler.images, options.image, options.images, options.seed)
    samples = [read_sample(view_sampler, (options.epoch, image_id), images) for image_id in image_ids]
    caption = (
        f"Views of {TRAINED_STAGES[stage]}, epoch {options.epoch}, as the network sees them, before normalisation."
    )
    save_figure(draw_views(samples, caption, file.dpi), path)
    return path


def read_sample(view_sampler: GlobalViewSampler | ObjectViewSampler, key: SampleKey, images: RunImages) -> SampleViews:
    """Make the views of an image in an epoch by the code of the training.

    Args:
        view_sampler: sampler of a stage's views.
        key: epoch and image.
        images: images of the run.

    Raises:
        ValueError: if an image cannot be read.
    """
    view_boxes = view_sampler.sample_boxes(key)
    image_ids = list(dict.fromkeys(view_box.image_id for view_box in view_boxes.values()))
    small = [images.load_thumbnail(image_id) for image_id in image_ids]
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
    """Draw a row for each sample: the image, each view in the colour of its box, and in stage 3 the neighbour.

    Args:
        samples: samples of one stage.
        caption: text below all.
        dpi: resolution of a PNG, in pixels per inch.
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
            style: dict[str, Any] = {"fontsize": NAME_PT, "color": TITLE_COLOUR, "parse_math": False}
            name = shorten_to_fit(sample.names[index], IMAGE_IN[0], NAME_PT)
            figure.text(left_in / width_in, (bottom_in - 0.7 * NAME_IN) / height_in, name, **style)
        for column, (name, view) in enumerate(sample.views.items()):
            left_in = GAP_IN + IMAGE_IN[0] + GAP_IN + column * (TILE_IN + GAP_IN)
            title = f"{name.replace('_', ' ')}, {view.shape[0]} px" if row == 0 else ""
            axes = image_axes(
                figure, left_in / width_in, bottom_in / height_in, TILE_IN / width_in, TILE_IN / height_in, title
            )
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
) -> None:
    """Draw an image as large as its cell allows, at the upper left of the cell."""
    scale = min(IMAGE_IN[0] / image.shape[1], IMAGE_IN[1] / image.shape[0])
    image_width_in, image_height_in = image.shape[1] * scale, image.shape[0] * scale
    width_in, height_in = figure.get_size_inches()
    bottom_in = corner_in[1] + IMAGE_IN[1] - image_height_in
    axes = image_axes(
        figure,
        corner_in[0] / width_in,
        bottom_in / height_in,
        image_width_in / width_in,
        image_height_in / height_in,
        title,
    )
    axes.imshow(image)
    for name, (x0, y0, x1, y1) in boxes.items():
        frame = Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor=colours[name], linewidth=1.5)
        frame.set_path_effects([BOX_OUTLINE])
        axes.add_patch(frame)


def _pixels(view: Float[Tensor, "3 s s"]) -> UInt8[ndarray, "s s 3"]:
    """Return the pixels of a normalised view."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((view * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
