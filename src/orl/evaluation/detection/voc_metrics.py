"""PASCAL VOC's average precision of boxes, as Detectron2 reports it.

The devkit counts pixels from 1 and includes the last, and adds 1 to widths; boxes here end before their right edge,
so that the plain overlap is the same number.
"""

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from orl import boxes
from orl.evaluation.detection.datasets import DetectionDataset
from orl.evaluation.detection.detections import Detections, require_of

IOU_THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))


def voc_scores(images: DetectionDataset, detections: Detections, *, eleven_points: bool = True) -> dict[str, float]:
    """How well objects were found: the mean over classes of the average precision.

    Classes without an object that counts are left out. Detectron2 rounds boxes to 0.1 px and scores to 0.001 before
    it scores; here they stay as they are.

    Args:
        images: with the objects that are there; the ignored ones are the difficult ones.
        detections: what was found; of these images alone.
        eleven_points: interpolate as VOC2007 does, at recalls of 0, 0.1, ..., 1; else take the area of the curve.

    Returns:
        In [0, 1]: `AP`, the mean over IoU 0.50 to 0.95, `AP50` and `AP75`.

    Raises:
        ValueError: if a detection is of an unknown image or class, a score is not finite, or no object counts.

    Source:
        VOCevaldet.m of the devkit; Detectron2, `PascalVOCDetectionEvaluator`.
    """
    require_of(detections, images.image_ids, len(images.classes))
    by_class = [_class_scores(images, detections, label, eleven_points) for label in range(len(images.classes))]
    scored = [each for each in by_class if each is not None]
    if not scored:
        raise ValueError(f"0 objects count in the {len(images)} images of {images.root}; take another split")
    means = np.mean(scored, axis=0)
    return {
        "AP": float(means.mean()),
        "AP50": float(means[IOU_THRESHOLDS.index(0.5)]),
        "AP75": float(means[IOU_THRESHOLDS.index(0.75)]),
    }


def voc_average_precision(is_right: Bool[ndarray, "n"], num_objects: int, *, eleven_points: bool) -> float:
    """Average precision of detections in the order of their scores.

    Args:
        is_right: whether each found an object that was not found before.
        num_objects: that could be found.
        eleven_points: as of `voc_scores`.
    """
    num_right = np.cumsum(is_right)
    recall = num_right / num_objects
    precision = num_right / np.arange(1, len(is_right) + 1)
    if eleven_points:
        # As Detectron2 has them: the fourth is a little above 0.3, and a recall of exactly 0.3 does not reach it.
        points = np.arange(0, 1.1, 0.1)
        return float(np.mean([precision[recall >= point].max(initial=0) for point in points]))
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0) * highest).sum())


def _class_scores(
    images: DetectionDataset, detections: Detections, label: int, eleven_points: bool
) -> list[float] | None:
    """AP at each IoU; none for a class without an object that counts."""
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
        is_right, counts = _verdicts(image_ids, nearest, reached, ignored_of)
        scores.append(voc_average_precision(is_right[counts], num_objects, eleven_points=eleven_points))
    return scores


def _verdicts(
    image_ids: list[int], nearest: list[int], reached: Bool[ndarray, "n"], ignored_of: dict[int, ndarray]
) -> tuple[Bool[ndarray, "n"], Bool[ndarray, "n"]]:
    """Whether each detection is right, and whether it counts; a second one of an object is wrong.

    The object is the one that overlaps most, even if another one that overlaps enough is still free.
    """
    found: set[tuple[int, int]] = set()
    is_right, counts = np.zeros(len(image_ids), dtype=bool), np.ones(len(image_ids), dtype=bool)
    for place in np.flatnonzero(reached).tolist():
        image_id, number = image_ids[place], nearest[place]
        if ignored_of[image_id][number]:
            counts[place] = False
        else:
            is_right[place] = (image_id, number) not in found
            found.add((image_id, number))
    return is_right, counts
