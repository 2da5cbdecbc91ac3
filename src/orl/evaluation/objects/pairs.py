"""Correspondences that a backbone finds as feature extractor of stage 2: how often they join objects of one class."""

import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray

from orl import provenance
from orl.config import DiscoverConfig
from orl.datasets.decode import image_size
from orl.datasets.labels import COVERING_IOU, NO_OBJECT, LabelledSplit
from orl.discovery.matching import match_neighbours
from orl.discovery.nearest_neighbours import nearest_neighbours, row_blocks, unit_vectors
from orl.evaluation.correspondences import roi_classes
from orl.evaluation.evaluated_backbone import EvaluatedBackbone
from orl.evaluation.objects.box_sources import source_inputs
from orl.evaluation.objects.image_sums import ImageSums
from orl.evaluation.objects.object_dataset import ObjectBoxes, ObjectDataset, sampled_rows
from orl.evaluation.objects.object_features import ObjectFeatures, feature_inputs, open_object_features
from orl.evaluation.objects.object_result import object_entries, object_result, object_tables, row_of
from orl.evaluation.objects.proposals import ProposalsConfig, find_rois
from orl.evaluation.output import EvaluationOutput, finished, write_result
from orl.evaluation.pair_sizes import SIZE_GROUPS, area_fractions, size_groups, size_matched_outcomes
from orl.evaluation.protocol import Evaluation, Result
from orl.processes import Processes


@dataclass(frozen=True, kw_only=True)
class PairsConfig(ProposalsConfig):
    """Proposals and their filter as in `proposals`, and the matching of stage 2."""

    image_px: int = 224
    """Side of the square that images are resized to for neighbours, pixels."""
    roi_features: Literal["crops", "map"] = "crops"
    """Features of RoIs, as in stage 2: of the resized RoI, or cut from the feature map of the image."""
    roi_centred: bool = False
    """Subtract the features of the complete image, as stage 2 can."""
    roi_px: int = 224
    """Side of the square that RoIs are resized to, pixels; for crops."""
    roi_map_px: int = 480
    """Short side of the image whose feature map RoIs are cut from, pixels; for maps."""
    neighbours: int = 10
    """Neighbours of each image."""
    max_pair_images: int = 200
    """Images, a fixed sample; RoIs are many, and each passes the network."""


def check(data: ObjectDataset, config: PairsConfig) -> None:
    """Read the labels and check that there are more images than neighbours."""
    images = _images(data, config)
    if len(images) <= config.neighbours:
        raise ValueError(
            f"{config.neighbours} neighbours need at least {config.neighbours + 1} images with boxes, and split "
            f"{images.split!r} of {data.data} has {len(images)}; give more images or fewer --neighbours"
        )


def run(
    backbone: EvaluatedBackbone, data: ObjectDataset, config: PairsConfig, output: EvaluationOutput, _: Processes
) -> Result:
    """Find and score the correspondences of the images to score, and write the result."""
    check(data, config)
    images = _images(data, config)
    inputs = {
        **feature_inputs(backbone, output),
        "boxes": images.fingerprint,
        **asdict(config),
        **source_inputs(config),
        "seed": output.seed,
    }
    if (result := finished(output, inputs)) is not None:
        return result
    started = time.perf_counter()
    boxes = tuple(find_rois(images, config, output, backbone))
    # Boxes of another source, or filtered otherwise, have a cache of their own.
    split = f"{images.split}-rois-{provenance.fingerprint({'boxes': [own.tolist() for own in boxes]})[:6]}"
    rois = replace(images, split=split, boxes=boxes)
    rois = replace(
        rois,
        box_classes=tuple(np.zeros(len(own), dtype=np.int64) for own in rois.boxes),
        scored=tuple(np.ones(len(own), dtype=bool) for own in rois.boxes),
    )
    features = open_object_features(backbone, data, output)
    outcomes = pair_outcomes(features, images, rois, config)
    top, expected, matched = outcomes.top.sum(axis=1), outcomes.expected.sum(axis=1), outcomes.matched
    names = images.names
    same, random_same = _sums(names, top[:, 1:], top[:, :1]), expected[:, 1].sum() / top[:, 0].sum()
    rows = [
        row_of("one class, top pairs", same, seed=output.seed, chance=float(random_same)),
        row_of(
            "on objects, top pairs",
            _sums(names, top[:, 2:], top[:, :1]),
            seed=output.seed,
            chance=float(expected[:, 2].sum() / top[:, 0].sum()),
        ),
        row_of("lift", _sums(names, top[:, 1:2], expected[:, 1:2]), seed=output.seed, unit="number", chance=1.0),
    ]
    by_size = {f", {name}": (outcomes.top[:, group], matched[:, group]) for group, name in enumerate(SIZE_GROUPS)}
    for suffix, (found, expected_same) in {"": (top, matched.sum(axis=1)), **by_size}.items():
        # Where no pair of one class was expected, the ratio has no value: the row is left out.
        if expected_same.any():
            sums = _sums(names, found[:, 1:2], expected_same[:, None])
            rows.append(row_of(f"size-matched lift{suffix}", sums, seed=output.seed, unit="number", chance=1.0))
    result = object_result(
        "pairs",
        rows,
        backbone=backbone.label,
        data=str(data.data),
        protocol_deviations=backbone.training_deviations,
        elapsed_s=time.perf_counter() - started,
        about={
            "test_split": images.split,
            "num_test": len(images),
            "num_rois": sum(len(own) for own in rois.boxes),
            "iou_threshold": COVERING_IOU,
            "chance": "random pairs of RoIs of the same images; for size-matched rows, of about the same sizes too",
            **asdict(config),
        },
    )
    return write_result(output, result, inputs)


@dataclass(frozen=True, kw_only=True)
class PairOutcomes:
    """Sums over the pairs of each image, by the group of sizes of the pair."""

    top: Float[ndarray, "n g 3"]
    """Numbers of pairs, of those that cover objects of one class, and of those that cover objects."""
    expected: Float[ndarray, "n g 3"]
    """The same as expected of pairs of random RoIs of the same two images."""
    matched: Float[ndarray, "n g"]
    """Pairs that cover objects of one class, as expected of pairs of random RoIs of about the same sizes."""


def pair_outcomes(
    features: ObjectFeatures, images: ObjectBoxes, rois: ObjectBoxes, config: PairsConfig
) -> PairOutcomes:
    """Match each image with its neighbours, and count what the most similar pair with each neighbour covers."""
    units = unit_vectors(features.images(images, size_px=config.image_px))
    ids = torch.arange(len(units))
    neighbour_ids, _ = nearest_neighbours(units, ids, row_blocks(units), config.neighbours)
    options = DiscoverConfig(roi_features=config.roi_features, roi_embed_px=config.roi_px, roi_map_px=config.roi_map_px)
    roi_units = unit_vectors(features.stage2_rois(rois, options))
    starts = np.concatenate([[0], np.cumsum([len(own) for own in rois.boxes])])
    classes = _covered_classes(images, rois)
    sizes_wh = np.concatenate([np.tile(image_size(path), (len(own), 1)) for path, own in zip(images.paths, rois.boxes)])
    fractions = area_fractions(np.concatenate(rois.boxes), sizes_wh)
    by_image = [slice(*starts[row : row + 2].tolist()) for row in range(len(images))]
    top, expected = (np.zeros((len(images), len(SIZE_GROUPS), 3)) for _ in range(2))
    matched = np.zeros((len(images), len(SIZE_GROUPS)))
    for row, others in enumerate(neighbour_ids.tolist()):
        own = by_image[row]
        parts = [roi_units[by_image[other]] for other in others]
        matches = match_neighbours(roi_units[own], torch.cat(parts), [len(part) for part in parts])
        for other, (pairs, _) in zip(others, matches):
            theirs = by_image[other]
            first, second = (pairs[0] + torch.tensor([own.start, theirs.start])).tolist()
            group = int(size_groups(fractions[first : first + 1], fractions[second : second + 1])[0])
            top[row, group] += _outcome(classes[first : first + 1], classes[second : second + 1])
            expected[row, group] += _outcome(classes[own], classes[theirs])
            rows = np.array([[own.start, own.stop, theirs.start, theirs.stop]])
            matched[row, group] += size_matched_outcomes(np.array([[first, second]]), rows, classes, fractions)[0, 2]
    return PairOutcomes(top=top, expected=expected, matched=matched)


def _outcome(classes: Int[ndarray, "a"], others: Int[ndarray, "b"]) -> Float[ndarray, "3"]:
    """Return 1, and the fractions of all pairs of two lists of RoIs that cover one class, and that cover objects."""
    covers = (classes != NO_OBJECT)[:, None] & (others != NO_OBJECT)[None]
    same = covers & (classes[:, None] == others[None])
    return np.array([1.0, same.mean(), covers.mean()])


def _covered_classes(images: ObjectBoxes, rois: ObjectBoxes) -> Int[ndarray, "r"]:
    """Return the class of the labelled object that each RoI covers; difficult objects count."""
    split = LabelledSplit(
        root=images.root,
        names=images.names,
        classes=images.classes,
        labels=np.zeros((len(images), len(images.classes)), dtype=np.int8),
        boxes=images.boxes,
        box_classes=images.box_classes,
        box_difficult=tuple(~each for each in images.scored),
    )
    image_ids = np.repeat(np.arange(len(rois)), [len(own) for own in rois.boxes])
    columns = {"image_id": image_ids, "box": np.concatenate(rois.boxes)}
    classes, _ = roi_classes(split, images.names, columns, COVERING_IOU)
    return classes


def _sums(names: tuple[str, ...], numerators: Float[ndarray, "n _"], denominators: Float[ndarray, "n _"]) -> ImageSums:
    return ImageSums(
        images=names, numerators=numerators[None, :, :1].copy(), denominators=denominators[None, :, :1].copy()
    )


def _images(data: ObjectDataset, config: PairsConfig) -> ObjectBoxes:
    test = data.boxes.test
    return test.select(sampled_rows(len(test), config.max_pair_images))


PAIRS = Evaluation(
    name="pairs",
    label="Pairs",
    help="Correspondences that a backbone finds as feature extractor: the fraction that joins objects of one class.",
    data=ObjectDataset,
    config=PairsConfig,
    check=check,
    run=run,
    tables=object_tables,
    one_process=True,
    suite_entries=partial(object_entries, "pairs", check),
)
