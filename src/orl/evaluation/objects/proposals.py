"""Quality of class-agnostic boxes, before and after the filter of stage 2: recall and overlap of labelled objects.

The boxes do not depend on a backbone: every backbone of a scoreboard has the same rows.
"""

import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from orl import boxes as geometry
from orl.config import check_numbers
from orl.datasets.decode import load_image
from orl.datasets.threads import map_in_threads
from orl.discovery.baseline_boxes import grid_boxes, random_boxes
from orl.discovery.proposal_filter import filter_proposals
from orl.discovery.selective_search import selective_search
from orl.evaluation.evaluated_backbone import EvaluatedBackbone
from orl.evaluation.objects.image_sums import ImageSums
from orl.evaluation.objects.object_dataset import ObjectBoxes, ObjectDataset
from orl.evaluation.objects.object_result import Row, object_entries, object_result, object_tables, row_of
from orl.evaluation.output import EvaluationOutput, finished, write_result
from orl.evaluation.protocol import Evaluation, Result
from orl.processes import Processes
from orl.progress import progress_bar

AVERAGE_RECALL_COUNTS = (10, 100, 1000)
"""Numbers of first boxes of each image, for average recall."""
IOU_THRESHOLDS = np.arange(50, 100, 5) / 100
"""Thresholds of COCO's average recall."""
RECALL_THRESHOLDS = (0.5, 0.7)
ProposalSource = Literal["selective-search", "grid", "random"]
Find = Callable[[UInt8[ndarray, "h w 3"], int], Float[ndarray, "_ 4"]]


@dataclass(frozen=True, kw_only=True)
class ProposalsConfig:
    """Source of the boxes, and the filter of stage 2."""

    source: ProposalSource = "selective-search"
    """Source of the boxes; random boxes are scored beside it."""
    min_side: float = 0.2
    """Smallest side of an RoI over the short side of the image; the published 96 px are 0.2 of COCO's 480."""
    max_aspect_ratio: float = 3.0
    """Largest ratio of the sides of an RoI."""
    max_iou: float = 0.5
    """Largest IoU of two RoIs."""
    max_rois: int = 100
    """Most RoIs of an image."""

    def __post_init__(self) -> None:
        check_numbers(self)


def check(data: ObjectDataset, config: ProposalsConfig) -> None:
    """Read the labels of both splits."""
    _ = data.boxes


def run(
    backbone: EvaluatedBackbone, data: ObjectDataset, config: ProposalsConfig, output: EvaluationOutput, _: Processes
) -> Result:
    """Score the boxes of the images to score, and write the result; the backbone is not used."""
    images = data.boxes.test
    inputs = {"boxes": images.fingerprint, **asdict(config), "seed": output.seed}
    if (result := finished(output, inputs)) is not None:
        return result
    started = time.perf_counter()
    rows, num_boxes = proposal_rows(images, config, output)
    result = object_result(
        "proposals",
        rows,
        backbone=backbone.label,
        data=str(data.data),
        protocol_deviations=[],
        elapsed_s=time.perf_counter() - started,
        about={
            "test_split": images.split,
            "num_test": len(images),
            "num_test_boxes": images.num_scored,
            "boxes_per_image": num_boxes,
            "backbone_used": False,
            "chance": "random boxes, filtered alike for RoIs",
            **asdict(config),
        },
    )
    return write_result(output, result, inputs)


def find_rois(images: ObjectBoxes, config: ProposalsConfig, output: EvaluationOutput) -> list[Float[ndarray, "_ 4"]]:
    """Return the RoIs of each image: proposals after the filter."""
    return [each[2] for each in _find_all(images, config, output)]


def proposal_rows(
    images: ObjectBoxes, config: ProposalsConfig, output: EvaluationOutput
) -> tuple[list[Row], dict[str, float]]:
    """Return the scores of the boxes before and after the filter, and the mean number of boxes of an image."""
    found = _find_all(images, config, output)
    rows: list[Row] = []
    counts: dict[str, float] = {}
    for name, column in (("proposals", 0), ("RoIs", 2)):
        own, chance = ([each[column + offset] for each in found] for offset in (0, 1))
        counts[name] = float(np.mean([len(each) for each in own]))
        for title, measure in MEASURES.items():
            rows.append(
                row_of(
                    f"{name}, {title}",
                    box_sums(images, own, measure),
                    seed=output.seed,
                    chance=box_sums(images, chance, measure).value,
                )
            )
    return rows, counts


def _find_all(
    images: ObjectBoxes, config: ProposalsConfig, output: EvaluationOutput
) -> list[list[Float[ndarray, "_ 4"]]]:
    """Return the proposals of each image, random boxes, and both after the filter."""

    def find(row: int) -> list[Float[ndarray, "_ 4"]]:
        image = load_image(images.paths[row])
        size_wh = (image.shape[1], image.shape[0])
        seed = zlib.crc32(f"{output.seed} {images.names[row]}".encode())
        found = [FINDERS[config.source](image, seed), _random(image, seed)]
        return [*found, *(_filtered(each, size_wh, config) for each in found)]

    with progress_bar(total=len(images), title="proposals", unit="images", quiet=output.quiet) as bar:
        found: list[list[Float[ndarray, "_ 4"]]] = []

        def take(boxes: list[Float[ndarray, "_ 4"]]) -> None:
            found.append(boxes)
            bar.update()

        map_in_threads(find, range(len(images)), output.workers, take)
    return found


def average_recall(overlaps: Float[ndarray, "g n"], num_boxes: int) -> Float[ndarray, "g"]:
    """Return for each object the fraction of COCO's thresholds that its best of the first boxes reaches.

    Other than COCO's, one box may cover two objects; they would have to overlap as much as the threshold.

    Args:
        overlaps: IoU of each object with each box, in the order of the boxes' rank.
        num_boxes: number of first boxes.
    """
    best = overlaps[:, :num_boxes].max(axis=1, initial=0.0)
    return (best[:, None] >= IOU_THRESHOLDS).mean(axis=1)


def recall_at(overlaps: Float[ndarray, "g n"], threshold: float) -> Float[ndarray, "g"]:
    """Return for each object 1 if a box reaches an IoU, else 0."""
    return (overlaps.max(axis=1, initial=0.0) >= threshold).astype(np.float64)


def best_overlap(overlaps: Float[ndarray, "g n"]) -> Float[ndarray, "g"]:
    """Return for each object the highest IoU of a box."""
    return overlaps.max(axis=1, initial=0.0).astype(np.float64)


Measure = Callable[[Float[ndarray, "g n"]], Float[ndarray, "g"]]
MEASURES: dict[str, Measure] = {
    **{f"AR@{count}": partial(average_recall, num_boxes=count) for count in AVERAGE_RECALL_COUNTS},
    **{f"recall at {threshold}": partial(recall_at, threshold=threshold) for threshold in RECALL_THRESHOLDS},
    "mean best overlap": best_overlap,
}
"""Function from the IoUs of objects and boxes to a score of each object, by the title of the row."""


def box_sums(images: ObjectBoxes, found: list[Float[ndarray, "_ 4"]], measure: Measure) -> ImageSums:
    """Sum the scores of the objects that count by image."""
    sums = np.zeros((2, 1, len(images), 1))
    for row, (own, scored, boxes) in enumerate(zip(images.boxes, images.scored, found, strict=True)):
        if scored.any():
            sums[:, 0, row, 0] = measure(geometry.iou(own[scored], boxes)).sum(), scored.sum()
    return ImageSums(images=images.names, numerators=sums[0], denominators=sums[1])


def _filtered(boxes: Float[ndarray, "_ 4"], size_wh: tuple[int, int], config: ProposalsConfig) -> Float[ndarray, "_ 4"]:
    return filter_proposals(
        boxes,
        size_wh,
        min_side_px=config.min_side * min(size_wh),
        max_aspect_ratio=config.max_aspect_ratio,
        max_iou=config.max_iou,
        max_rois=config.max_rois,
    )


def _search(image: UInt8[ndarray, "h w 3"], seed: int) -> Float[ndarray, "_ 4"]:
    return selective_search(image, seed % 2**31)


def _grid(image: UInt8[ndarray, "h w 3"], _: int) -> Float[ndarray, "_ 4"]:
    return grid_boxes((image.shape[1], image.shape[0]))


def _random(image: UInt8[ndarray, "h w 3"], seed: int) -> Float[ndarray, "_ 4"]:
    return random_boxes((image.shape[1], image.shape[0]), np.random.default_rng(seed))


FINDERS: dict[ProposalSource, Find] = {"selective-search": _search, "grid": _grid, "random": _random}
"""Function from an image and a seed to its boxes, the best ranked first."""

PROPOSALS = Evaluation(
    name="proposals",
    label="Proposals",
    help="Recall and overlap of labelled objects by class-agnostic boxes, before and after the filter; no backbone.",
    data=ObjectDataset,
    config=ProposalsConfig,
    check=check,
    run=run,
    tables=object_tables,
    one_process=True,
    suite_entries=partial(object_entries, "proposals", check),
)
