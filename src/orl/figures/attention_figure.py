"""`orl figures attention` (the paper's supplementary Figure 2): attention maps of backbones, drawn and scored."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy import ndarray
from PIL import Image
from torch import nn

from orl import files
from orl.config import RunConfig, load_config
from orl.datasets.object_regions import ObjectRegions, read_object_regions
from orl.evaluation.evaluated_backbone import RANDOM
from orl.evaluation.localisation import score_backbones
from orl.figures.attention import (
    COLOUR_MAP,
    OPACITY,
    REDUCTIONS,
    STRIDE_PX,
    Reduction,
    attention_map,
    overlay_heat_map,
)
from orl.figures.figure_files import FigureFile, check_at_least, save_figure
from orl.figures.pictures import TITLE_COLOUR, image_axes
from orl.figures.run_images import RunImages, choose_image_ids, load_run_images
from orl.figures.sheets import shorten_to_fit, shrink_to_cell
from orl.networks.backbones import build_backbone
from orl.networks.device import compute_device
from orl.progress import progress_bar
from orl.rundir import RunDir
from orl.weights.loading import load_eval_network

LARGEST_SIDE_PX = 448
CELL_IN, GAP_IN, SCALE_IN = 2.2, 0.06, 0.42
COLUMN_TITLE_IN, CAPTION_LINE_IN = 0.26, 0.17
COLUMN_TITLE_PT = 10
Maps = Callable[[UInt8[ndarray, "_ _ 3"]], Mapping[str, Float[ndarray, "_ _"]]]
"""Function from an image to the map of each backbone, by label."""


@dataclass(frozen=True, kw_only=True)
class AttentionOptions:
    """The choice of the backbones, the maps, the images and the scores."""

    backbones: tuple[str, ...] = ()
    """Runs, exports, weights of other projects, or 'random'; by default stage 2's feature extractor and stage 3."""
    labels: tuple[str, ...] = ()
    """Name of each backbone in the figure; by default as given in --backbones."""
    reduction: Reduction = "magnitude"
    """Mean magnitude of the channels, first principal component, or cosine of each position to the pooled embedding."""
    threshold: float = 0.6
    """Value of the map, above 0 and below 1, at which the outline is drawn."""
    images: int = 6
    """Number of images drawn, sampled at random."""
    image: str | None = None
    """Draw one image only: its name in the table of images, or the end of the name after a slash."""
    scored: int = 100
    """Number of images scored, sampled at random among those with annotated objects; 0 for no scores."""
    against: Literal["auto", "masks", "boxes"] = "auto"
    """Annotations that maps are scored against; 'auto': masks if any image has them, otherwise boxes."""
    side_px: int | None = None
    """Longer side of an image as the network sees it; by default four views of stage 3, at most 448."""
    seed: int = 0
    """Seed of the choice of images, of the bootstrap and of random weights."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device that the networks run on."""

    def __post_init__(self) -> None:
        check_at_least(self, images=1, scored=0, seed=0)
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold must be above 0 and below 1, got {self.threshold:g}")
        if self.side_px is not None and self.side_px < STRIDE_PX:
            raise ValueError(f"side_px must be at least {STRIDE_PX}, one position of a feature map, got {self.side_px}")
        names = self.labels or self.backbones
        if len(names) != len(self.backbones):
            raise ValueError(f"{len(self.labels)} labels do not fit {len(self.backbones)} backbones; give one for each")
        if len(set(names)) < len(names):
            raise ValueError(f"two backbones have the same name: {', '.join(names)}; give each its own with --labels")


def attention_figure(run: RunDir, options: AttentionOptions, file: FigureFile) -> tuple[Path, dict[str, Any] | None]:
    """Draw attention maps of several backbones on the same images, and score them against annotated objects.

    Returns:
        Path of the figure, and the scores, which are also written beside it as JSON; None if no object is annotated.

    Raises:
        FileNotFoundError: if there is no run, or no such weights.
        ValueError: if there is no such image, or an image cannot be read.
    """
    path = file.path(run.figures, "attention")
    images, config = load_run_images(run), load_config(run.config)
    device, side_px = compute_device(options.device), options.side_px or attention_side_px(config)
    networks = _load_networks(run, config, options)

    def maps_of(image: UInt8[ndarray, "h w 3"]) -> dict[str, Float[ndarray, "h w"]]:
        return {
            label: attention_map(network, image, side_px, device, options.reduction)
            for label, network in networks.items()
        }

    regions = None
    if options.scored:
        annotations = None if options.against == "auto" else options.against
        regions = read_object_regions(config.images, config.split, annotations)
    run_images = RunImages(run, images, file.dpi)
    save_figure(_draw_run(run_images, maps_of, options, side_px), path)
    scores = None if regions is None else _score(run_images, regions, maps_of, options)
    if scores is not None:
        scores |= {"reduction": options.reduction, "side_px": side_px, "seed": options.seed}
        files.write_atomically(path.with_suffix(".json"), json.dumps(scores, indent=1))
    return path, scores


def attention_side_px(config: RunConfig) -> int:
    """Return the longer side that shows objects at about the size they had in training; at most 448, to save time."""
    return min(LARGEST_SIDE_PX, 4 * config.stage3.views.size_px)


def format_scores(scores: Mapping[str, Any]) -> str:
    """Format scores as a table for the terminal, in percent."""
    columns = {"pointing": "peak on an object", "overlap": "best overlap", "inside": "map inside"}
    rows = [*scores["backbones"].items(), *((f"({name} map)", each) for name, each in scores["baselines"].items())]
    rows += [(f"{each['of']} less {each['less']}", each) for each in scores["differences"]]
    width = max(len(name) for name, _ in rows)
    lines = [f"{'':{width}}  " + "  ".join(f"{title:>22}" for title in columns.values())]
    for name, numbers in rows:
        cells = [_percent(numbers[column], signed="of" in numbers) for column in columns]
        lines.append(f"{name:{width}}  " + "  ".join(f"{cell:>22}" for cell in cells))
    return "\n".join([f"% of {scores['num_images']} images, against {scores['against']}; [95% interval]", *lines])


def draw_attention_sheet(
    images: Sequence[UInt8[ndarray, "_ _ 3"]],
    maps: Mapping[str, Sequence[Float[ndarray, "_ _"]]],
    captions: Sequence[str],
    threshold: float,
    dpi: int = 110,
) -> Figure:
    """Draw a row for each image, a column for each backbone, and one colour scale for all.

    Args:
        images: images at any size.
        maps: label of each backbone -> its map of each image, in the image's size.
        captions: lines of text below all.
        threshold: value of the outlines, in (0, 1).
        dpi: resolution of a PNG, in pixels per inch.
    """
    heights_in = [min(CELL_IN * image.shape[0] / image.shape[1], CELL_IN) for image in images]
    num_columns = len(maps) + 1
    width_in = num_columns * (CELL_IN + GAP_IN) + SCALE_IN
    below_in = GAP_IN + CAPTION_LINE_IN * len(captions)
    height_in = COLUMN_TITLE_IN + sum(heights_in) + GAP_IN * (len(images) - 1) + below_in
    figure = Figure(figsize=(width_in, height_in), dpi=dpi)
    top_in = height_in - COLUMN_TITLE_IN
    for row, (image, row_in) in enumerate(zip(images, heights_in)):
        top_in -= row_in
        for column, label in enumerate(["image", *maps]):
            image_in = min(CELL_IN, row_in * image.shape[1] / image.shape[0])
            left_in = column * (CELL_IN + GAP_IN) + (CELL_IN - image_in) / 2
            title = "" if row else shorten_to_fit(label, CELL_IN, COLUMN_TITLE_PT)
            axes = image_axes(
                figure, left_in / width_in, top_in / height_in, image_in / width_in, row_in / height_in, title
            )
            if column:
                overlay_heat_map(axes, image, maps[label][row], threshold)
            else:
                axes.imshow(image)
        top_in -= GAP_IN
    scale_in = min(sum(heights_in), 2 * CELL_IN)
    bottom_in = height_in - COLUMN_TITLE_IN - scale_in
    left_in = num_columns * (CELL_IN + GAP_IN)
    _draw_scale(
        figure.add_axes((left_in / width_in, bottom_in / height_in, 0.12 / width_in, scale_in / height_in)), threshold
    )
    for line, caption in enumerate(reversed(captions)):
        y_in = CAPTION_LINE_IN * (line + 0.35)
        figure.text(0, y_in / height_in, caption, fontsize=8, color=TITLE_COLOUR, parse_math=False)
    return figure


def _load_networks(run: RunDir, config: RunConfig, options: AttentionOptions) -> dict[str, nn.Module]:
    if options.backbones:
        labels = options.labels or options.backbones
        return {label: _load(source, config, options.seed) for label, source in zip(labels, options.backbones)}
    feature_extractor = config.discover.feature_extractor
    if feature_extractor is None:
        first = {"stage 1": load_eval_network(run.backbone("stage1"))}
    else:
        first = {"feature extractor": load_eval_network(feature_extractor, config.discover.architecture)}
    return {**first, "stage 3": load_eval_network(run.backbone("stage3"))}


def _load(source: str, config: RunConfig, seed: int) -> nn.Module:
    if Path(source) != RANDOM:
        return load_eval_network(Path(source))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_backbone(config.network.backbone, config.network.initial_weights).eval()


def _draw_run(images: RunImages, maps_of: Maps, options: AttentionOptions, side_px: int) -> Figure:
    shown: list[ndarray] = []
    maps: dict[str, list[ndarray]] = {}
    for image_id in choose_image_ids(images.images, options.image, options.images, options.seed):
        image = images.load(image_id)
        shown.append(shrink_to_cell(image, images.dpi))
        size_wh = shown[-1].shape[1], shown[-1].shape[0]
        for label, attention in maps_of(image).items():
            resized = Image.fromarray(attention).resize(size_wh, Image.Resampling.BILINEAR)
            maps.setdefault(label, []).append(np.asarray(resized))
    captions = [
        f"Each map is scaled from its least (0) to its greatest value (1); outline at {options.threshold:g}.",
        f"{REDUCTIONS[options.reduction].capitalize()}; images of at most {side_px} px a side.",
    ]
    return draw_attention_sheet(shown, maps, captions, options.threshold, images.dpi)


def _draw_scale(axes: Axes, threshold: float) -> None:
    """Draw the colour scale over medium gray, as the maps are drawn over gray images."""
    axes.set_facecolor("#808080")
    figure = axes.get_figure()
    assert figure is not None
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), COLOUR_MAP), cax=axes, ticks=[0, threshold, 1], alpha=OPACITY)
    bar.ax.tick_params(labelsize=8, length=2)
    bar.outline.set_visible(False)


def _score(
    run_images: RunImages, regions: ObjectRegions, maps_of: Maps, options: AttentionOptions
) -> dict[str, Any] | None:
    """Score maps on some images with annotated objects; return None if there is no such image."""
    images = run_images.images
    shuffled = choose_image_ids(images, None, len(images), options.seed)
    scored = [image_id for image_id in shuffled if images.names[image_id] in regions][: options.scored]
    if not scored:
        return None
    with progress_bar(scored, title="score attention", unit="images") as bar:
        each = (
            (run_images.load(image_id), regions.region(images.names[image_id], images.sizes_wh[image_id]))
            for image_id in bar
        )
        scores = score_backbones(maps_of, each, options.seed)
    return {"against": regions.kind, **scores}


def _percent(estimate: Mapping[str, float], signed: bool) -> str:
    value, low, high = (100 * estimate[name] for name in ("value", "low", "high"))
    sign = "+" if signed else ""
    return f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"
