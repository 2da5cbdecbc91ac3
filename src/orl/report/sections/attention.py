"""The section of attention: where each backbone looks, scored where the objects are known."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import nn

from orl.datasets.decode import ImageError, load_image
from orl.datasets.object_regions import ObjectRegions
from orl.evaluation.localisation import score_backbones
from orl.figures.attention import REDUCTIONS, THRESHOLD, Reduction, attention_map
from orl.networks.backbones import read_backbone_file
from orl.report import html as page
from orl.report.heat_maps import colour_scale, maps_figure
from orl.report.html import Html
from orl.report.options import GalleryOptions, choose_images
from orl.report.sections.frames import Image, not_there, readable_config, trained_stages
from orl.report.thumbnails import Album
from orl.rundir import RunDir
from orl.weights.loading import load_eval_network

MEASURES = {"pointing": "Peak on an object (%)", "overlap": "Best overlap (%)", "inside": "Map inside objects (%)"}
YARDSTICKS = {"even": "an even map", "centre": "a map that falls from the middle"}


def attention_section(
    run: RunDir, album: Album | None, options: GalleryOptions, regions: ObjectRegions | None
) -> tuple[str, Html]:
    """Attention maps of the run's backbones and of other weights that stage 2 looked with, scored where possible."""
    title = "Attention"
    intro = page.paragraph(
        "Where the backbone's last feature map is strong: mean magnitude over its channels, each map stretched from 0 "
        f"to 1 over its image; the white outline is {THRESHOLD:g}. Objects fully covered, all of them and little else, "
        "is what to look for in stage 3."
    )
    backbones, notes = _load_backbones(run)
    if album is None or not backbones:
        return page.section(title, intro, *notes)
    scores = _scores(album, backbones, options, regions)
    shown = choose_images(len(album.images), options.num_attention_images, options.seed)
    figures = [attention_figure(album, image_id, backbones, options) for image_id in shown]
    return page.section(title, intro, *notes, scores, colour_scale(), page.gallery(figures, columns=""))


def _load_backbones(run: RunDir) -> tuple[dict[str, nn.Module], list[Html]]:
    """What the run looked with and what it trained, by name, and sentences about what is not there."""
    backbones: dict[str, nn.Module] = {}
    notes = []
    config = readable_config(run)
    looks_with = None if config is None else config.discover.feature_extractor
    if config is not None and looks_with is not None:
        try:
            backbones["the prior"] = load_eval_network(looks_with, config.discover.architecture)
        except (OSError, ValueError, ImportError) as error:
            notes.append(page.missing(f"What stage 2 looked with cannot be loaded: {error}"))
    for stage, label in trained_stages(run).items():
        try:
            backbones[label] = read_backbone_file(run.backbone(stage))
        except (FileNotFoundError, ValueError) as error:
            notes.append(not_there(run, f"{label.capitalize()} has left no backbone yet", error))
    return backbones, notes


def attention_figure(album: Album, image_id: int, backbones: Mapping[str, nn.Module], options: GalleryOptions) -> Html:
    """An image and the map of each backbone, or a sentence if the image is gone."""
    name = album.images.names[image_id]
    try:
        thumbnail, image = album.thumbnail(image_id), load_image(album.images.path(image_id), None)
    except ImageError as error:
        return page.missing(f"{name} cannot be shown; {error}")
    return maps_figure(thumbnail, name, image, _maps(backbones, image, options, "magnitude"))


def _maps(
    backbones: Mapping[str, nn.Module], image: Image, options: GalleryOptions, reduction: Reduction
) -> dict[str, Float[ndarray, "h w"]]:
    device = torch.device(options.device)
    return {
        label: attention_map(backbone, image, options.attention_side_px, device, reduction)
        for label, backbone in backbones.items()
    }


def _scores(
    album: Album, backbones: Mapping[str, nn.Module], options: GalleryOptions, regions: ObjectRegions | None
) -> Html:
    """How well the maps lie on the objects, by each way to reduce them; nothing where no object is known."""
    images = album.images
    drawn = choose_images(len(images), len(images), options.seed)
    chosen = [each for each in drawn if regions is not None and images.names[each] in regions]
    chosen = chosen[: options.num_scored_images]
    if regions is None or not chosen:
        return Html("")
    try:
        # Read anew for each: sixty images of a camera are gigabytes.
        scores: dict[Reduction, dict[str, Any]] = {
            reduction: score_backbones(
                _maps_by(backbones, options, reduction), _with_regions(album, chosen, regions), options.seed
            )
            for reduction in REDUCTIONS
        }
    except ValueError as error:
        return page.missing(f"The attention maps are not scored; {error}")
    ways = "; ".join(f"{name}: {REDUCTIONS[name]}" for name in scores)
    return page.join(
        page.paragraph(f"What a map takes of the features: {ways}."),
        _score_table(scores, len(chosen), regions.kind),
        _difference_told(scores["magnitude"]),
    )


def _with_regions(
    album: Album, image_ids: Sequence[int], regions: ObjectRegions
) -> Iterator[tuple[Image, UInt8[ndarray, "h w"]]]:
    for image_id in image_ids:
        name, size_wh = album.images.names[image_id], album.images.sizes_wh[image_id]
        yield load_image(album.images.path(image_id), None), regions.region(name, size_wh)


def _maps_by(
    backbones: Mapping[str, nn.Module], options: GalleryOptions, reduction: Reduction
) -> Callable[[Image], Mapping[str, Float[ndarray, "_ _"]]]:
    return lambda image: _maps(backbones, image, options, reduction)


def _score_table(scores: Mapping[Reduction, Mapping[str, Any]], num_images: int, kind: str) -> Html:
    rows = [
        [f"{label}, {reduction}", *map(_cell, (numbers[measure] for measure in MEASURES))]
        for reduction, found in scores.items()
        for label, numbers in found["backbones"].items()
    ]
    yardsticks = scores["magnitude"]["yardsticks"]
    rows += [
        [f"yardstick: {name}", *map(_cell, map(yardsticks[each].get, MEASURES))] for each, name in YARDSTICKS.items()
    ]
    caption = f"Maps against the {kind} of {num_images} images, with 95% intervals by a bootstrap over them"
    return page.table(caption, ["Map", *MEASURES.values()], rows)


def _cell(estimate: Mapping[str, float]) -> Html:
    return page.fraction_bar(estimate["value"], (estimate["low"], estimate["high"]))


def _difference_told(scores: Mapping[str, Any]) -> Html:
    """What the intervals of the difference allow to say, which takes the same images of both."""
    sentences = []
    for difference in scores["differences"]:
        found = difference["overlap"]
        points = f"{100 * found['value']:+.1f} points ({100 * found['low']:+.1f} to {100 * found['high']:+.1f})"
        verdict = "" if found["low"] > 0 or found["high"] < 0 else ", which may be chance"
        sentences.append(
            f"{difference['of'].capitalize()} less {difference['less']}, best overlap of the mean magnitude: "
            f"{points}{verdict}."
        )
    return page.join(*map(page.paragraph, sentences))
