"""PASCAL VOC's average precision of boxes, as Detectron2 reports it.

The devkit counts pixels from 1, includes the last one and adds 1 to widths. Boxes here exclude their right edge, so
that the plain IoU gives the same number.
"""

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from orl import boxes
from orl.evaluation.detection.datasets import DetectionDataset
from orl.evaluation.detection.detections import Detections, check_detections

IOU_THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))


def voc_scores(images: DetectionDataset, detections: Detections, *, eleven_points: bool = True) -> dict[str, float]:
    """Compute the mean over classes of the average precision.

    Classes without an object that counts are left out. Detectron2 first rounds boxes to 0.1 px and scores to 0.001;
    this function does not.

    Args:
        images: images with their annotated objects; the difficult ones are ignored.
        detections: detections in these images.
        eleven_points: interpolate at recalls of 0, 0.1, ..., 1, as VOC2007; otherwise take the area under the curve.

    Returns:
        `AP`, the mean over IoU 0.50 to 0.95, `AP50` and `AP75`, in [0, 1].

    Raises:
        ValueError: if a detection has an unknown image or class, a score is not finite, or no object counts.

    Source:
        VOCevaldet.m of the devkit; Detectron2, `PascalVOCDetectionEvaluator`.
    """
    check_detections(detections, images.image_ids, len(images.classes))
    by_class = [_class_scores(images, detections, label, eleven_points) for label in range(len(images.classes))]
    scored = [each for each in by_class if each is not None]
    if not scored:
        raise ValueError(f"0 objects count in the {len(images)} images of {images.root}; give another split")
    means = np.mean(scored, axis=0)
    return {
        "AP": float(means.mean()),
        "AP50": float(means[IOU_THRESHOLDS.index(0.5)]),
        "AP75": float(means[IOU_THRESHOLDS.index(0.75)]),
    }


def voc_average_precision(is_correct: Bool[ndarray, "n"], num_objects: int, *, eleven_points: bool) -> float:
    """Compute the average precision of detections sorted by score.

    Args:
        is_correct: whether each detection matches an object that no earlier one matched.
        num_objects: number of objects that count.
        eleven_points: as in `voc_scores`.
    """
    num_correct = np.cumsum(is_correct)
    recall = num_correct / num_objects
    precision = num_correct / np.arange(1, len(is_correct) + 1)
    if eleven_points:
        # The points of Detectron2: the fourth is slightly above 0.3, so a recall of exactly 0.3 does not reach it.
        points = np.arange(0, 1.1, 0.1)
        return float(np.mean([precision[recall >= point].max(initial=0) for point in points]))
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0) * highest).sum())


def _class_scores(
    images: DetectionDataset, detections: Detections, label: int, eleven_points: bool
) -> list[float] | None:
    """Compute AP at each IoU; None for a class without an object that counts."""
    truth = {}
    for image_id, own, labels, ignored in zip(images.image_ids, images.boxes, images.box_classes, images.ignored):
        truth[image_id] = (own[labels == label], ignored[labels == label])
    num_objects = sum(int((~ignored).sum()) for _, ignored in truth.values())
    if not num_objects:
        return None
    chosen = np.flatnonzero(detections.classes == label)
    chosen = chosen[np.argsort(-detections.scores[chosen], kind="stable")]
    image_ids, nearest, overlaps = detections.image_ids[chosen].tolist(), [], []
    for image_id, box in zip(image_ids, detections.boxes[chosen]):
        overlap = boxes.iou(box[None], truth[image_id][0])[0]
        nearest.append(int(overlap.argmax()) if len(overlap) else -1)
        overlaps.append(float(overlap.max(initial=0)))
    ignored_of = {image_id: ignored for image_id, (_, ignored) in truth.items()}
    scores = []
    for threshold in IOU_THRESHOLDS:
        reached = np.array(overlaps) > threshold
        is_correct, counts = _match_detections(image_ids, nearest, reached, ignored_of)
        scores.append(voc_average_precision(is_correct[counts], num_objects, eleven_points=eleven_points))
    return scores


def _match_detections(
    image_ids: list[int], nearest: list[int], reached: Bool[ndarray, "n"], ignored_of: dict[int, ndarray]
) -> tuple[Bool[ndarray, "n"], Bool[ndarray, "n"]]:
    """Return whether each detection is correct, and whether it counts; a second detection of an object is wrong.

    A detection belongs to the object with the largest overlap, even if another sufficient one is still free.
    """
    found: set[tuple[int, int]] = set()
    is_correct, counts = np.zeros(len(image_ids), dtype=bool), np.ones(len(image_ids), dtype=bool)
    for index in np.flatnonzero(reached).tolist():
        image_id, number = image_ids[index], nearest[index]
        if ignored_of[image_id][number]:
            counts[index] = False
        else:
            is_correct[index] = (image_id, number) not in found
            found.add((image_id, number))
    return is_correct, counts
