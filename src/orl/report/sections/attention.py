"""The section of attention: heat maps of the features of each backbone, with scores if objects are known."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
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
from orl.report.content import Cell, Figure, Fraction, Note, ScoreTable, Section
from orl.report.heat_maps import colour_scale, heat_map_figure
from orl.report.options import GalleryOptions
from orl.report.runs import NOT_SHARED, ReportedRun, ReportInputs, sample_indices
from orl.report.thumbnails import Thumbnails
from orl.weights.loading import load_eval_network

NUM_IMAGES = 5
MAX_SCORED_IMAGES = 60
"""Most images with known objects whose attention maps are scored."""
MEASURES = {"pointing": "Peak on an object (%)", "overlap": "Best overlap (%)", "inside": "Map inside objects (%)"}
BASELINE_NAMES = {"even": "an even map", "centre": "a map that falls off from the centre"}

Image = UInt8[ndarray, "h w 3"]
Backbones = Mapping[str, nn.Module]


@dataclass(frozen=True, kw_only=True)
class Attention(Section):
    """Heat maps of the backbones on some images, and their scores where objects are known."""

    template = "attention.html"
    images: Sequence[Figure | Note]
    threshold: float
    reductions: Mapping[str, str]
    """Name and meaning of each way to reduce a feature map, if the maps are scored."""
    scores: ScoreTable | None
    sentences: Sequence[str]
    colours: Sequence[str]


def attention_section(inputs: ReportInputs) -> Attention:
    """Gather attention maps: feature extractor and all stages of one run, or the last stage of each of several."""
    backbones: dict[str, nn.Module] = {}
    notes: list[Note] = []
    for run in inputs.runs:
        own, own_notes = _load_backbones(run, only_last=inputs.is_comparison)
        backbones |= own
        notes += own_notes
    sampled = inputs.sample_images(NUM_IMAGES) if backbones else []
    if inputs.is_comparison and not inputs.shared_images():
        notes.append(NOT_SHARED)
    scores: dict[Reduction, dict[str, Any]] = {}
    table = None
    if sampled:
        run, thumbnails = inputs.runs_with_images[0]
        regions = run.annotations.regions
        scored = [] if regions is None else _images_with_regions(thumbnails, regions, inputs.options.seed)
        if regions is not None and scored:
            try:
                scores = _scores(thumbnails, scored, regions, backbones, inputs.options)
                table = _score_table(scores, len(scored), regions.kind)
            except ValueError as error:
                notes.append(Note(f"The attention maps are not scored; {error}"))
    return Attention(
        title="Attention",
        notes=notes,
        images=[_image_figure(thumbnails, ids[0], backbones, inputs.options) for ids in sampled],
        threshold=THRESHOLD,
        reductions={name: REDUCTIONS[name] for name in scores},
        scores=table,
        sentences=_differences(scores["magnitude"]) if scores else [],
        colours=colour_scale(),
    )


def _load_backbones(run: ReportedRun, only_last: bool) -> tuple[dict[str, nn.Module], list[Note]]:
    """Load the backbones of a run by name, with notes about those that are missing."""
    backbones: dict[str, nn.Module] = {}
    notes = []
    extractor = None if run.config is None or only_last else run.config.discover.feature_extractor
    if run.config is not None and extractor is not None:
        try:
            backbones["feature extractor"] = load_eval_network(extractor, run.config.discover.architecture)
        except (OSError, ValueError, ImportError) as error:
            notes.append(Note(f"The feature extractor of stage 2 cannot be loaded: {error}"))
    stages = run.trained_stages
    if only_last:
        stages = {stage: name for stage, name in stages.items() if stage == (run.last_stage or "stage3")}
    for stage, name in stages.items():
        try:
            backbones[run.named(name)] = read_backbone_file(run.run.backbone(stage))
        except (FileNotFoundError, ValueError) as error:
            notes.append(run.note(f"{name.capitalize()} has written no backbone yet", error))
    return backbones, notes


def _image_figure(
    thumbnails: Thumbnails, image_id: int, backbones: Backbones, options: GalleryOptions
) -> Figure | Note:
    """Return an image and the map of each backbone, or a note if the image is missing."""
    name = thumbnails.images.names[image_id]
    try:
        thumbnail, image = thumbnails.get(image_id), load_image(thumbnails.images.path(image_id), None)
    except ImageError as error:
        return Note(f"{name} cannot be shown; {error}")
    return heat_map_figure(thumbnail, name, image, _maps(backbones, options, "magnitude", image))


def _maps(
    backbones: Backbones, options: GalleryOptions, reduction: Reduction, image: Image
) -> dict[str, Float[ndarray, "h w"]]:
    device = torch.device(options.device)
    return {
        label: attention_map(backbone, image, options.attention_side_px, device, reduction)
        for label, backbone in backbones.items()
    }


def _images_with_regions(thumbnails: Thumbnails, regions: ObjectRegions, seed: int) -> list[int]:
    images = thumbnails.images
    sampled = sample_indices(len(images), len(images), seed)
    return [each for each in sampled if images.names[each] in regions][:MAX_SCORED_IMAGES]


def _scores(
    thumbnails: Thumbnails,
    image_ids: Sequence[int],
    regions: ObjectRegions,
    backbones: Backbones,
    options: GalleryOptions,
) -> dict[Reduction, dict[str, Any]]:
    """Score the maps on the objects, by each way to reduce the features.

    Each way reads the images again: sixty camera images in memory would take gigabytes.
    """
    scores = {}
    for reduction in REDUCTIONS:
        maps_of: Callable[[Image], Mapping[str, Float[ndarray, "_ _"]]] = partial(_maps, backbones, options, reduction)
        scores[reduction] = score_backbones(maps_of, _with_regions(thumbnails, image_ids, regions), options.seed)
    return scores


def _with_regions(
    thumbnails: Thumbnails, image_ids: Sequence[int], regions: ObjectRegions
) -> Iterator[tuple[Image, UInt8[ndarray, "h w"]]]:
    images = thumbnails.images
    for image_id in image_ids:
        region = regions.region(images.names[image_id], images.sizes_wh[image_id])
        yield load_image(images.path(image_id), None), region


def _score_table(scores: Mapping[Reduction, Mapping[str, Any]], num_images: int, kind: str) -> ScoreTable:
    rows: list[list[Cell]] = [
        [f"{label}, {reduction}", *(_fraction(numbers[measure]) for measure in MEASURES)]
        for reduction, found in scores.items()
        for label, numbers in found["backbones"].items()
    ]
    baselines = scores["magnitude"]["baselines"]
    rows += [
        [f"baseline: {name}", *(_fraction(baselines[each][measure]) for measure in MEASURES)]
        for each, name in BASELINE_NAMES.items()
    ]
    caption = f"Maps against the {kind} of {num_images} images, with 95% intervals by a bootstrap over them"
    return ScoreTable(caption=caption, columns=["Map", *MEASURES.values()], rows=rows)


def _fraction(estimate: Mapping[str, float]) -> Fraction:
    return Fraction(estimate["value"], (estimate["low"], estimate["high"]))


def _differences(scores: Mapping[str, Any]) -> list[str]:
    """Return sentences about the differences; each bootstrap sample has the same images for both backbones."""
    sentences = []
    for difference in scores["differences"]:
        found = difference["overlap"]
        points = f"{100 * found['value']:+.1f} points ({100 * found['low']:+.1f} to {100 * found['high']:+.1f})"
        chance = "" if found["low"] > 0 or found["high"] < 0 else ", which may be chance"
        first = difference["of"][:1].upper() + difference["of"][1:]
        sentences.append(f"{first} less {difference['less']}, best overlap of the mean magnitude: {points}{chance}.")
    return sentences
