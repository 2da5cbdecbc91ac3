"""Correspondences that a backbone finds as feature extractor of stage 2: how often they join objects of one class."""

import time
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray

from orl.datasets.labels import COVERING_IOU, NO_OBJECT, LabelledSplit
from orl.discovery.matching import match_neighbours
from orl.discovery.nearest_neighbours import nearest_neighbours, row_blocks, unit_vectors
from orl.evaluation.correspondences import roi_classes
from orl.evaluation.evaluated_backbone import EvaluatedBackbone
from orl.evaluation.objects.image_sums import ImageSums
from orl.evaluation.objects.object_dataset import ObjectBoxes, ObjectDataset, sampled_rows
from orl.evaluation.objects.object_features import ObjectFeatures, feature_inputs, open_object_features
from orl.evaluation.objects.object_result import object_entries, object_result, object_tables, row_of
from orl.evaluation.objects.proposals import ProposalsConfig, find_rois
from orl.evaluation.output import EvaluationOutput, finished, write_result
from orl.evaluation.protocol import Evaluation, Result
from orl.processes import Processes


@dataclass(frozen=True, kw_only=True)
class PairsConfig(ProposalsConfig):
    """Proposals and their filter as in `proposals`, and the matching of stage 2."""

    image_px: int = 224
    """Side of the square that images are resized to for neighbours, pixels."""
    roi_px: int = 224
    """Side of the square that RoIs are resized to, pixels."""
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
    inputs = {**feature_inputs(backbone, output), "boxes": images.fingerprint, **asdict(config), "seed": output.seed}
    if (result := finished(output, inputs)) is not None:
        return result
    started = time.perf_counter()
    rois = replace(images, split=f"{images.split}-rois", boxes=tuple(find_rois(images, config, output)))
    rois = replace(
        rois,
        box_classes=tuple(np.zeros(len(own), dtype=np.int64) for own in rois.boxes),
        scored=tuple(np.ones(len(own), dtype=bool) for own in rois.boxes),
    )
    features = open_object_features(backbone, data, output)
    top, expected = pair_outcomes(features, images, rois, config)
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
            "chance": "random pairs of RoIs of the same images",
            **asdict(config),
        },
    )
    return write_result(output, result, inputs)


def pair_outcomes(
    features: ObjectFeatures, images: ObjectBoxes, rois: ObjectBoxes, config: PairsConfig
) -> tuple[Float[ndarray, "n 3"], Float[ndarray, "n 3"]]:
    """Match each image with its neighbours, and count what the most similar pair with each neighbour covers.

    Returns:
        For each image the number of pairs, of those that cover objects of one class, and of those that cover objects;
        and the same as expected of pairs of random RoIs of the same two images.
    """
    units = unit_vectors(features.images(images, size_px=config.image_px))
    ids = torch.arange(len(units))
    neighbour_ids, _ = nearest_neighbours(units, ids, row_blocks(units), config.neighbours)
    roi_units = unit_vectors(features.rois(rois, cut="crop", size_px=config.roi_px))
    starts = np.concatenate([[0], np.cumsum([len(own) for own in rois.boxes])])
    classes = _covered_classes(images, rois)
    by_image = [slice(*starts[row : row + 2].tolist()) for row in range(len(images))]
    top, expected = np.zeros((len(images), 3)), np.zeros((len(images), 3))
    for row, others in enumerate(neighbour_ids.tolist()):
        own = by_image[row]
        parts = [roi_units[by_image[other]] for other in others]
        matches = match_neighbours(roi_units[own], torch.cat(parts), [len(part) for part in parts])
        for other, (pairs, _) in zip(others, matches):
            theirs = classes[by_image[other]]
            first, second = pairs[0].tolist()
            top[row] += _outcome(classes[own][first : first + 1], theirs[second : second + 1])
            expected[row] += _outcome(classes[own], theirs)
    return top, expected


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
