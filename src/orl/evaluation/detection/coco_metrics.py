"""COCO's average precision of boxes or masks, computed by faster-coco-eval."""

import contextlib
import io
import logging
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from orl import boxes
from orl.datasets.masks import compress_mask
from orl.evaluation.detection.datasets import DetectionDataset
from orl.evaluation.detection.detections import Detections, check_detections

COCO_SCORES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
"""The first six figures of the library, in its order."""
AR100_INDEX = 8
"""Index of the average recall at 100 detections per image among the figures of the library."""
logger = logging.getLogger(__name__)

CocoScore = float | None
"""A score in [0, 1]; None where there is no object to find."""


def coco_scores(
    images: DetectionDataset, detections: Detections, kind: Literal["bbox", "segm"]
) -> tuple[dict[str, CocoScore], dict[str, CocoScore]]:
    """Compute average precision over IoU 0.50 to 0.95 and classes, from the best 100 detections of each image.

    Args:
        images: images with their annotated objects.
        detections: detections in these images.
        kind: whether to compare boxes or masks.

    Returns:
        `AP`, `AP50`, `AP75`, `APs`, `APm`, `APl`, `AR100` in [0, 1], and the AP of each class; None where there is no
        such object, for example no small one.

    Raises:
        ValueError: if a detection has an unknown image or class, a score is not finite, or masks are compared but
            missing.

    Source:
        COCO's evaluation (arXiv 1405.0312) as implemented in pycocotools.
    """
    _check(images, detections, kind)
    from faster_coco_eval.core.coco import COCO
    from faster_coco_eval.core.faster_eval_api import COCOeval_faster

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        truth = COCO(_truth(images, kind), print_function=logger.debug)
        found = truth.loadRes(_found(images, detections, kind))
        evaluation = COCOeval_faster(truth, found, iouType=kind, print_function=logger.debug, extra_calc=False)
        evaluation.run()
    logger.debug("%s", printed.getvalue())
    figures = [float(figure) for figure in evaluation.stats]
    scores = {name: _score(figure) for name, figure in zip(COCO_SCORES, figures)}
    # IoU thresholds, recalls, classes, sizes (all first), detections per image (100 last).
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    in_order = np.argsort(images.category_ids)
    per_class = {images.classes[label]: _mean(precision[:, :, column]) for column, label in enumerate(in_order)}
    return {**scores, "AR100": _score(figures[AR100_INDEX])}, per_class


def _check(images: DetectionDataset, detections: Detections, kind: str) -> None:
    if kind == "segm" and images.segmentations is None:
        raise ValueError(f"the images of {images.root} have no masks to score; score boxes")
    if kind == "segm" and len(detections) and detections.masks is None:
        raise ValueError(f"{len(detections)} detections have no masks to score; score boxes")
    check_detections(detections, images.image_ids, len(images.classes))


def _truth(images: DetectionDataset, kind: str) -> dict[str, Any]:
    entries: list[dict[str, Any]] = []
    for row, image_id in enumerate(images.image_ids):
        boxes_xywh = boxes.to_xywh(images.boxes[row].astype(np.float64))
        areas = boxes.area(images.boxes[row]) if images.areas is None else images.areas[row]
        for number, label in enumerate(images.box_classes[row].tolist()):
            entry = {
                "id": len(entries) + 1,
                "image_id": image_id,
                "category_id": images.category_ids[label],
                "bbox": boxes_xywh[number].tolist(),
                "area": float(areas[number]),
                "iscrowd": int(images.ignored[row][number]),
            }
            if kind == "segm" and images.segmentations is not None:
                entry["segmentation"] = compress_mask(images.segmentations[row][number], images.sizes_wh[row])
            entries.append(entry)
    image_entries = [
        {"id": image_id, "width": width, "height": height}
        for image_id, (width, height) in zip(images.image_ids, images.sizes_wh)
    ]
    categories = [{"id": number, "name": name} for number, name in zip(images.category_ids, images.classes)]
    return {"images": image_entries, "categories": categories, "annotations": entries}


def _found(images: DetectionDataset, detections: Detections, kind: str) -> list[dict[str, Any]]:
    """Return the detections; without boxes if masks are compared, so that a mask decides the size, as in Detectron2."""
    boxes_xywh = boxes.to_xywh(detections.boxes.astype(np.float64)).tolist()
    sides = [{"bbox": box} for box in boxes_xywh] if kind == "bbox" else _masks(detections)
    columns = zip(detections.image_ids.tolist(), detections.classes.tolist(), detections.scores.tolist(), sides)
    return [
        {"image_id": image_id, "category_id": images.category_ids[label], "score": score, **side}
        for image_id, label, score, side in columns
    ]


def _masks(detections: Detections) -> list[dict[str, Any]]:
    return [{"segmentation": mask} for mask in detections.masks or ()]


def _score(figure: float) -> CocoScore:
    """Convert the library's -1, which stands for no object to find, to None."""
    return None if figure < 0 else figure


def _mean(precision: Float[ndarray, "*n"]) -> CocoScore:
    known = precision[precision > -1]
    return float(known.mean()) if len(known) else None
