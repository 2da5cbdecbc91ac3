"""Figure 2 from the folder of a run: attention maps of any backbones on its images, drawn and scored."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from numpy import ndarray
from PIL import Image
from torch import nn

from orl import files
from orl.config import RunConfig, load_config
from orl.datasets.image_table import ImageTable
from orl.datasets.object_regions import ObjectRegions, read_object_regions
from orl.evaluation.localisation import score_backbones
from orl.figures.attention import REDUCTIONS, STRIDE_PX, Reduction, attention_map, draw_attention_sheet
from orl.figures.figure_files import FileOptions, check_file_options, figure_file, save_figure
from orl.figures.run_images import RunImages, find_image, load_run_images
from orl.figures.sheets import thumbnail
from orl.networks.backbones import build_backbone
from orl.networks.device import compute_device
from orl.progress import progress_bar
from orl.rundir import RunDir
from orl.weights.loading import load_eval_network

RANDOM = "random"
LARGEST_SIDE_PX = 448
Maps = Callable[[UInt8[ndarray, "_ _ 3"]], Mapping[str, Float[ndarray, "_ _"]]]
"""From an image to the map of each backbone, by label."""


@dataclass(frozen=True, kw_only=True)
class AttentionOptions(FileOptions):
    """What is reduced, drawn and scored."""

    reduction: Reduction = "magnitude"
    """What is taken of the feature map: its mean magnitude, its first principal component, or the cosine of each
    position to the pooled embedding."""
    threshold: float = 0.6
    """Where the outline runs, between 0, a map's least value, and 1, its greatest."""
    images: int = 6
    """Images drawn, at random."""
    image: str | None = None
    """Draw this image only: its name, as in the table of images, or the end of it after a slash."""
    scored: int = 100
    """Images scored, at random among those whose objects are known; 0 scores none."""
    against: Literal["auto", "masks", "boxes"] = "auto"
    """What is known of objects: masks where any image has them and else boxes, or one of the two."""
    side_px: int | None = None
    """Longer side of an image as the network sees it; four views of stage 3, at most 448, if not given."""
    seed: int = 0
    """Seed of the choice of images, of the bootstrap and of random weights."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks run."""


def attention_figure(
    run: RunDir, options: AttentionOptions, backbones: Sequence[str] = (), labels: Sequence[str] = ()
) -> tuple[Path, dict[str, Any] | None]:
    """Draw maps of several backbones on the same images, and score them where objects are known.

    Args:
        run: folder of a run, whose images are shown.
        options: what is reduced, drawn and scored, and where it goes; the scores go beside it, as JSON.
        backbones: what `orl.load_backbone` takes, or 'random', for random weights of the run's network; if none are
            given what stage 2 of the run looked with (stage 1, or weights from outside) and stage 3.
        labels: a name for each; if none are given they are called as they were given.

    Returns:
        Where the picture lies, and the scores; none where no object is known.

    Raises:
        FileNotFoundError: if there is no run, or no such weights.
        ValueError: if an option is out of range, labels do not fit the backbones, or an image cannot be read.
    """
    _check(options, backbones, labels)
    images, config = load_run_images(run), load_config(run.config)
    device, side_px = compute_device(options.device), options.side_px or attention_side_px(config)
    networks = _load_networks(run, config, backbones, labels, options.seed)

    def maps_of(image: UInt8[ndarray, "h w 3"]) -> dict[str, Float[ndarray, "h w"]]:
        return {
            label: attention_map(network, image, side_px, device, options.reduction)
            for label, network in networks.items()
        }

    run_images = RunImages(run, images, options.dpi)
    regions = _regions(config, options)
    path = figure_file(options, run.figures, "attention")
    save_figure(_draw(run_images, maps_of, options, side_px), path)
    scores = None if regions is None else _scores(run_images, regions, maps_of, options)
    if scores is not None:
        scores |= {"reduction": options.reduction, "side_px": side_px, "seed": options.seed}
        files.write_atomically(path.with_suffix(".json"), json.dumps(scores, indent=1))
    return path, scores


def attention_side_px(config: RunConfig) -> int:
    """The longer side that shows objects at about the size they had in training, in reasonable time."""
    return min(LARGEST_SIDE_PX, 4 * config.stage3.views.size_px)


def format_scores(scores: Mapping[str, Any]) -> str:
    """A table for the terminal, in percent."""
    columns = {"pointing": "peak on an object", "overlap": "best overlap", "inside": "map inside"}
    rows = [*scores["backbones"].items(), *((f"({name} map)", each) for name, each in scores["yardsticks"].items())]
    rows += [(f"{each['of']} less {each['less']}", each) for each in scores["differences"]]
    width = max(len(name) for name, _ in rows)
    lines = [f"{'':{width}}  " + "  ".join(f"{title:>22}" for title in columns.values())]
    for name, numbers in rows:
        cells = [_percent(numbers[column], signed="of" in numbers) for column in columns]
        lines.append(f"{name:{width}}  " + "  ".join(f"{cell:>22}" for cell in cells))
    return "\n".join([f"% of {scores['num_images']} images, against {scores['against']}; [95% interval]", *lines])


def _check(options: AttentionOptions, backbones: Sequence[str], labels: Sequence[str]) -> None:
    check_file_options(options)
    if not 0 < options.threshold < 1:
        raise ValueError(f"threshold must be above 0 and below 1, not {options.threshold:g}")
    if options.images < 1:
        raise ValueError(f"images must be at least 1, not {options.images}")
    if options.side_px is not None and options.side_px < STRIDE_PX:
        raise ValueError(f"side_px must be at least {STRIDE_PX}, one position of a feature map, not {options.side_px}")
    for name in ("scored", "seed"):
        if getattr(options, name) < 0:
            raise ValueError(f"{name} must be 0 or more, not {getattr(options, name)}")
    names = labels or backbones
    if len(names) != len(backbones):
        raise ValueError(f"{len(labels)} labels do not name {len(backbones)} backbones; give one for each")
    if len(set(names)) < len(names):
        raise ValueError(f"two backbones are called the same: {', '.join(names)}; tell them apart with --labels")


def _load_networks(
    run: RunDir, config: RunConfig, backbones: Sequence[str], labels: Sequence[str], seed: int
) -> dict[str, nn.Module]:
    if backbones:
        return {
            label: _load(source, config, seed) for label, source in zip(labels or backbones, backbones, strict=True)
        }
    feature_extractor = config.discover.feature_extractor
    if feature_extractor is None:
        first = {"stage 1": load_eval_network(run.backbone("stage1"))}
    else:
        first = {"the prior": load_eval_network(feature_extractor, config.discover.architecture)}
    return {**first, "stage 3": load_eval_network(run.backbone("stage3"))}


def _load(source: str, config: RunConfig, seed: int) -> nn.Module:
    if source != RANDOM:
        return load_eval_network(Path(source))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_backbone(config.network.backbone).eval()


def _regions(config: RunConfig, options: AttentionOptions) -> ObjectRegions | None:
    """What is known of the objects of the run's images, if maps are to be scored."""
    if not options.scored:
        return None
    return read_object_regions(config.images, config.split, None if options.against == "auto" else options.against)


def _draw(images: RunImages, maps_of: Maps, options: AttentionOptions, side_px: int) -> Figure:
    shown = [_shown(images, image_id, maps_of) for image_id in _chosen(images.images, options)]
    captions = [
        f"Each map by itself from its least (0) to its greatest value (1); outline at {options.threshold:g}.",
        f"{REDUCTIONS[options.reduction].capitalize()}; images of at most {side_px} px a side.",
    ]
    maps = {label: [found[label] for _, found in shown] for label in shown[0][1]}
    return draw_attention_sheet([image for image, _ in shown], maps, captions, options.threshold, options.dpi)


def _chosen(images: ImageTable, options: AttentionOptions) -> list[int]:
    if options.image is not None:
        return [find_image(images, options.image)]
    return _shuffled(images, options.seed)[: options.images]


def _shuffled(images: ImageTable, seed: int) -> list[int]:
    return np.random.default_rng(seed).permutation(len(images)).tolist()


def _shown(
    images: RunImages, image_id: int, maps_of: Maps
) -> tuple[UInt8[ndarray, "h w 3"], dict[str, Float[ndarray, "h w"]]]:
    """An image and its maps, at the size they are shown in; the networks have seen it whole."""
    image = images.whole(image_id)
    small = thumbnail(image, images.dpi)
    size_wh = small.shape[1], small.shape[0]
    return small, {label: _resized(attention, size_wh) for label, attention in maps_of(image).items()}


def _resized(attention: Float[ndarray, "_ _"], size_wh: tuple[int, int]) -> Float[ndarray, "_ _"]:
    return np.asarray(Image.fromarray(attention).resize(size_wh, Image.Resampling.BILINEAR))


def _scores(
    run_images: RunImages,
    regions: ObjectRegions,
    maps_of: Maps,
    options: AttentionOptions,
) -> dict[str, Any] | None:
    """None where no object of the run's images is known."""
    images = run_images.images
    known = [image_id for image_id in _shuffled(images, options.seed) if images.names[image_id] in regions]
    chosen = known[: options.scored]
    if not chosen:
        return None
    with progress_bar(chosen, title="score attention", unit="images") as bar:
        each = (
            (run_images.whole(image_id), regions.region(images.names[image_id], images.sizes_wh[image_id]))
            for image_id in bar
        )
        scores = score_backbones(maps_of, each, options.seed)
    return {"against": regions.kind, **scores}


def _percent(estimate: Mapping[str, float], signed: bool) -> str:
    value, low, high = (100 * estimate[name] for name in ("value", "low", "high"))
    sign = "+" if signed else ""
    return f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"
