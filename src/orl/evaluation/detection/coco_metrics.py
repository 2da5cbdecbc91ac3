"""COCO's average precision of boxes or masks, by faster-coco-eval."""

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
from orl.evaluation.detection.detections import Detections, require_of

SCORES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
"""The library's first six figures, in its order."""
AR100_PLACE = 8
"""Place of the average recall at 100 detections an image among the library's figures."""
LOG = logging.getLogger(__name__)

Score = float | None


def coco_scores(
    images: DetectionDataset, detections: Detections, kind: Literal["bbox", "segm"]
) -> tuple[dict[str, Score], dict[str, Score]]:
    """How well objects were found, over IoU 0.50 to 0.95 and classes; the best 100 detections of an image count.

    Args:
        images: with the objects that are there.
        detections: what was found; of these images alone.
        kind: compare boxes or masks.

    Returns:
        `AP`, `AP50`, `AP75`, `APs`, `APm`, `APl`, `AR100` in [0, 1], and the AP of each class; none where there is no
        such object, such as no small one.

    Raises:
        ValueError: if a detection is of an unknown image or class, a score is not finite, or masks are compared and
            one side has none.

    Source:
        COCO's evaluation (arXiv 1405.0312) as in pycocotools.
    """
    _check(images, detections, kind)
    from faster_coco_eval.core.coco import COCO
    from faster_coco_eval.core.faster_eval_api import COCOeval_faster

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        truth = COCO(_truth(images, kind), print_function=LOG.debug)
        found = truth.loadRes(_found(images, detections, kind))
        evaluation = COCOeval_faster(truth, found, iouType=kind, print_function=LOG.debug, extra_calc=False)
        evaluation.run()
    LOG.debug("%s", printed.getvalue())
    figures = [float(figure) for figure in evaluation.stats]
    scores = {name: _score(figure) for name, figure in zip(SCORES, figures)}
    # IoU thresholds, recalls, classes, sizes (all first), detections an image (100 last).
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    in_order = np.argsort(images.category_ids)
    per_class = {images.classes[label]: _mean(precision[:, :, column]) for column, label in enumerate(in_order)}
    return {**scores, "AR100": _score(figures[AR100_PLACE])}, per_class


def _check(images: DetectionDataset, detections: Detections, kind: str) -> None:
    if kind == "segm" and images.segmentations is None:
        raise ValueError(f"masks cannot be scored: the images of {images.root} have none; score boxes")
    if kind == "segm" and len(detections) and detections.masks is None:
        raise ValueError(f"masks cannot be scored: {len(detections)} detections have none; score boxes")
    require_of(detections, images.image_ids, len(images.classes))


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
    """Without boxes where masks are compared: the size of a detection is then that of its mask, as in Detectron2."""
    boxes_xywh = boxes.to_xywh(detections.boxes.astype(np.float64)).tolist()
    sides = [{"bbox": box} for box in boxes_xywh] if kind == "bbox" else _masks(detections)
    columns = zip(detections.image_ids.tolist(), detections.classes.tolist(), detections.scores.tolist(), sides)
    return [
        {"image_id": image_id, "category_id": images.category_ids[label], "score": score, **side}
        for image_id, label, score, side in columns
    ]


def _masks(detections: Detections) -> list[dict[str, Any]]:
    return [{"segmentation": mask} for mask in detections.masks or ()]


def _score(figure: float) -> Score:
    """The library says -1 where there is no object to find."""
    return None if figure < 0 else figure


def _mean(precision: Float[ndarray, "*n"]) -> Score:
    known = precision[precision > -1]
    return float(known.mean()) if len(known) else None
