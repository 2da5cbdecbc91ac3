"""COCO's average precision of boxes or masks, by faster-coco-eval."""

import contextlib
import io
import logging
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from orl import boxes
from orl.images.masks import compressed
from orl.transfer.detection.detections import Detections, require_of
from orl.transfer.detection.photos import DetectionPhotos

SCORES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
"""The library's first six figures, in its order."""
AR100_PLACE = 8
"""Place of the average recall at 100 detections a photo among the library's figures."""
LOG = logging.getLogger(__name__)

Score = float | None


def coco_scores(
    photos: DetectionPhotos, detections: Detections, kind: Literal["bbox", "segm"]
) -> tuple[dict[str, Score], dict[str, Score]]:
    """How well objects were found, over IoU 0.50 to 0.95 and classes; the best 100 detections of a photo count.

    Args:
        photos: with the objects that are there.
        detections: what was found; of these photos alone.
        kind: compare boxes or masks.

    Returns:
        `AP`, `AP50`, `AP75`, `APs`, `APm`, `APl`, `AR100` in [0, 1], and the AP of each class; none where there is no
        such object, such as no small one.

    Raises:
        ValueError: if a detection is of an unknown photo or class, a score is not finite, or masks are compared and
            one side has none.

    Source:
        COCO's evaluation (arXiv 1405.0312) as in pycocotools.
    """
    _check(photos, detections, kind)
    from faster_coco_eval.core.coco import COCO
    from faster_coco_eval.core.faster_eval_api import COCOeval_faster

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        truth = COCO(_truth(photos, kind), print_function=LOG.debug)
        found = truth.loadRes(_found(photos, detections, kind))
        evaluation = COCOeval_faster(truth, found, iouType=kind, print_function=LOG.debug, extra_calc=False)
        evaluation.run()
    LOG.debug("%s", printed.getvalue())
    figures = [float(figure) for figure in evaluation.stats]
    scores = {name: _score(figure) for name, figure in zip(SCORES, figures)}
    # IoU thresholds, recalls, classes, sizes (all first), detections a photo (100 last).
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    in_order = np.argsort(photos.category_ids)
    per_class = {photos.classes[label]: _mean(precision[:, :, column]) for column, label in enumerate(in_order)}
    return {**scores, "AR100": _score(figures[AR100_PLACE])}, per_class


def _check(photos: DetectionPhotos, detections: Detections, kind: str) -> None:
    if kind == "segm" and photos.segmentations is None:
        raise ValueError(f"masks cannot be scored: the photos of {photos.root} have none; score boxes")
    if kind == "segm" and len(detections) and detections.masks is None:
        raise ValueError(f"masks cannot be scored: {len(detections)} detections have none; score boxes")
    require_of(detections, photos.photo_ids, len(photos.classes))


def _truth(photos: DetectionPhotos, kind: str) -> dict[str, Any]:
    entries: list[dict[str, Any]] = []
    for row, photo_id in enumerate(photos.photo_ids):
        boxes_xywh = boxes.to_xywh(photos.boxes[row].astype(np.float64))
        areas = boxes.area(photos.boxes[row]) if photos.areas is None else photos.areas[row]
        for number, label in enumerate(photos.box_classes[row].tolist()):
            entry = {
                "id": len(entries) + 1,
                "image_id": photo_id,
                "category_id": photos.category_ids[label],
                "bbox": boxes_xywh[number].tolist(),
                "area": float(areas[number]),
                "iscrowd": int(photos.ignored[row][number]),
            }
            if kind == "segm" and photos.segmentations is not None:
                entry["segmentation"] = compressed(photos.segmentations[row][number], photos.sizes_wh[row])
            entries.append(entry)
    images = [
        {"id": photo_id, "width": width, "height": height}
        for photo_id, (width, height) in zip(photos.photo_ids, photos.sizes_wh)
    ]
    categories = [{"id": number, "name": name} for number, name in zip(photos.category_ids, photos.classes)]
    return {"images": images, "categories": categories, "annotations": entries}


def _found(photos: DetectionPhotos, detections: Detections, kind: str) -> list[dict[str, Any]]:
    """Without boxes where masks are compared: the size of a detection is then that of its mask, as in Detectron2."""
    boxes_xywh = boxes.to_xywh(detections.boxes.astype(np.float64)).tolist()
    sides = [{"bbox": box} for box in boxes_xywh] if kind == "bbox" else _masks(detections)
    columns = zip(detections.photo_ids.tolist(), detections.classes.tolist(), detections.scores.tolist(), sides)
    return [
        {"image_id": photo_id, "category_id": photos.category_ids[label], "score": score, **side}
        for photo_id, label, score, side in columns
    ]


def _masks(detections: Detections) -> list[dict[str, Any]]:
    return [{"segmentation": mask} for mask in detections.masks or ()]


def _score(figure: float) -> Score:
    """The library says -1 where there is no object to find."""
    return None if figure < 0 else figure


def _mean(precision: Float[ndarray, "*n"]) -> Score:
    known = precision[precision > -1]
    return float(known.mean()) if len(known) else None
