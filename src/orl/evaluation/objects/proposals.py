"""Quality of class-agnostic boxes, before and after the filter of stage 2: recall and overlap of labelled objects.

Only boxes on feature maps depend on the backbone: else every backbone of a scoreboard has the same rows. Boxes of
another source than selective search are scored beside those of selective search.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from orl import boxes as geometry
from orl.datasets.decode import load_image
from orl.datasets.threads import map_in_threads
from orl.discovery.proposal_filter import filter_proposals
from orl.evaluation.evaluated_backbone import EvaluatedBackbone
from orl.evaluation.objects.box_sources import BoxSourceConfig, Find, box_finder, source_inputs
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
SEARCH, CHANCE = "selective search", "random boxes"
"""Sources that are scored beside the given one."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ProposalsConfig(BoxSourceConfig):
    """Source of the boxes, and the filter of stage 2."""

    min_side: float = 0.2
    """Smallest side of an RoI over the short side of the image; the published 96 px are 0.2 of COCO's 480."""
    max_aspect_ratio: float = 3.0
    """Largest ratio of the sides of an RoI."""
    max_iou: float = 0.5
    """Largest IoU of two RoIs."""
    max_rois: int = 100
    """Most RoIs of an image."""


@dataclass(frozen=True)
class FoundBoxes:
    """Boxes of each image by one source."""

    proposals: list[Float[ndarray, "_ 4"]]
    rois: list[Float[ndarray, "_ 4"]]
    """Boxes after the filter."""
    seconds: list[float]
    """Time of each search, without reading the image."""


def check(data: ObjectDataset, config: ProposalsConfig) -> None:
    """Read the labels of both splits, and find the user's file or function of boxes."""
    source_inputs(config)
    _ = data.boxes


def run(
    backbone: EvaluatedBackbone, data: ObjectDataset, config: ProposalsConfig, output: EvaluationOutput, _: Processes
) -> Result:
    """Score the boxes of the images to score, and write the result; the backbone is for the source 'extractor'."""
    images = data.boxes.test
    options = {name: value for name, value in asdict(config).items() if name != "file"}
    inputs = {"boxes": images.fingerprint, **options, **source_inputs(config, backbone), "seed": output.seed}
    if (result := finished(output, inputs)) is not None:
        return result
    started = time.perf_counter()
    rows, num_boxes = proposal_rows(images, config, output, backbone)
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
            "backbone_used": config.source == "extractor",
            "chance": "random boxes, filtered alike for RoIs",
            **options,
            **({} if config.file is None else {"file": config.file}),
        },
    )
    return write_result(output, result, inputs)


def find_rois(
    images: ObjectBoxes, config: ProposalsConfig, output: EvaluationOutput, backbone: EvaluatedBackbone | None = None
) -> list[Float[ndarray, "_ 4"]]:
    """Return the RoIs of each image: proposals after the filter."""
    finders = {config.source: box_finder(config, images, output, backbone)}
    return _find_all(images, finders, config, output)[config.source].rois


def proposal_rows(
    images: ObjectBoxes, config: ProposalsConfig, output: EvaluationOutput, backbone: EvaluatedBackbone | None = None
) -> tuple[list[Row], dict[str, float]]:
    """Return the scores of the boxes before and after the filter, and the mean number of boxes of an image.

    The rows of selective search, where it is not the source, begin with its name.
    """
    sources = {"": config, CHANCE: BoxSourceConfig(source="random")}
    if config.source != BoxSourceConfig.source:
        sources[SEARCH] = BoxSourceConfig()
    finders = {name: box_finder(each, images, output, backbone) for name, each in sources.items()}
    found = _find_all(images, finders, config, output)
    rows: list[Row] = []
    counts: dict[str, float] = {}
    for source in [name for name in sources if name != CHANCE]:
        prefix = f"{source}: " if source else ""
        for name, own, chance in (
            ("proposals", found[source].proposals, found[CHANCE].proposals),
            ("RoIs", found[source].rois, found[CHANCE].rois),
        ):
            counts[f"{prefix}{name}"] = float(np.mean([len(each) for each in own]))
            rows += [
                row_of(
                    f"{prefix}{name}, {title}",
                    box_sums(images, own, measure),
                    seed=output.seed,
                    chance=box_sums(images, chance, measure).value,
                )
                for title, measure in MEASURES.items()
            ]
        # Boxes of a file were found elsewhere.
        if source or config.source != "file":
            times = _time_row(f"{prefix}seconds an image", images, found[source], found[CHANCE], output.seed)
            logger.info("%s: %.4f s an image", source or config.source, times.estimate.value)
            rows.append(times)
    return rows, counts


def _time_row(name: str, images: ObjectBoxes, own: FoundBoxes, chance: FoundBoxes, seed: int) -> Row:
    seconds = np.array(own.seconds)[None, :, None]
    sums = ImageSums(images=images.names, numerators=seconds, denominators=np.ones_like(seconds))
    row = row_of(name, sums, seed=seed, unit="number", chance=float(np.mean(chance.seconds)))
    return replace(row, higher_is_better=False)


def _find_all(
    images: ObjectBoxes, finders: Mapping[str, Find], config: ProposalsConfig, output: EvaluationOutput
) -> dict[str, FoundBoxes]:
    """Return the boxes of each image by each source, before and after the filter."""
    found = {name: FoundBoxes([], [], []) for name in finders}

    def find(row: int) -> list[tuple[Float[ndarray, "_ 4"], Float[ndarray, "_ 4"], float]]:
        image = load_image(images.paths[row])
        parts = []
        for finder in finders.values():
            started = time.perf_counter()
            boxes = finder(image, row)
            seconds = time.perf_counter() - started
            parts.append((boxes, _filtered(boxes, (image.shape[1], image.shape[0]), config), seconds))
        return parts

    with progress_bar(total=len(images), title="proposals", unit="images", quiet=output.quiet) as bar:

        def take(parts: list[tuple[Float[ndarray, "_ 4"], Float[ndarray, "_ 4"], float]]) -> None:
            for each, (boxes, rois, seconds) in zip(found.values(), parts):
                each.proposals.append(boxes)
                each.rois.append(rois)
                each.seconds.append(seconds)
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
