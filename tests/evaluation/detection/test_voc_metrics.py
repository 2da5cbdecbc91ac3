from dataclasses import replace

import numpy as np
import pytest
from tests.evaluation.detection.found import random_detections, random_images
from tests.reference.voc_detection import voc_ap

from orl.evaluation.detection.datasets import DetectionDataset
from orl.evaluation.detection.detections import Detections
from orl.evaluation.detection.voc_metrics import voc_average_precision, voc_scores


def devkit_box(box: np.ndarray) -> tuple[float, float, float, float]:
    left, top, right, bottom = box.tolist()
    return left + 1, top + 1, right, bottom


def reference(images: DetectionDataset, detections: Detections, min_overlap: float, eleven_points: bool) -> float:
    scores = []
    for label in range(len(images.classes)):
        objects = {
            image_id: [
                (devkit_box(box), bool(ignored))
                for box, own, ignored in zip(images.boxes[row], images.box_classes[row], images.ignored[row])
                if own == label
            ]
            for row, image_id in enumerate(images.image_ids)
        }
        found = [
            (int(image_id), float(score), devkit_box(box))
            for image_id, score, box, own in zip(
                detections.image_ids, detections.scores, detections.boxes, detections.classes
            )
            if own == label
        ]
        scores.append(voc_ap(objects, found, min_overlap, eleven_points))
    return sum(scores) / len(scores)


@pytest.mark.parametrize("eleven_points", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_scores_equal_the_devkits_loop(seed: int, eleven_points: bool) -> None:
    images = random_images(seed)
    detections = random_detections(images, seed + 100)
    scores = voc_scores(images, detections, eleven_points=eleven_points)
    by_overlap = [reference(images, detections, percent / 100, eleven_points) for percent in range(50, 100, 5)]
    assert 0.05 < scores["AP"] < scores["AP50"] < 0.95
    assert scores["AP50"] == pytest.approx(by_overlap[0], abs=1e-12)
    assert scores["AP75"] == pytest.approx(by_overlap[5], abs=1e-12)
    assert scores["AP"] == pytest.approx(sum(by_overlap) / 10, abs=1e-12)


def test_average_precision_of_three_detections_by_hand() -> None:
    # Right, wrong, right of two objects: precision 1 up to recall 1/2, then 2/3.
    is_right = np.array([True, False, True])
    assert voc_average_precision(is_right, 2, eleven_points=False) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert voc_average_precision(is_right, 2, eleven_points=True) == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)


def one_image(ignored: list[bool]) -> DetectionDataset:
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10]], dtype=np.float32)[: len(ignored)]
    return replace(
        random_images(0, 1, 1),
        image_ids=(1,),
        boxes=(boxes,),
        box_classes=(np.zeros(len(ignored), dtype=np.int64),),
        ignored=(np.array(ignored),),
        segmentations=None,
        areas=None,
    )


def detections_of(boxes: list[list[float]], scores: list[float]) -> Detections:
    return Detections(
        image_ids=np.ones(len(boxes), dtype=np.int64),
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        classes=np.zeros(len(boxes), dtype=np.int64),
        scores=np.array(scores, dtype=np.float32),
    )


def test_an_iou_of_one_half_is_not_enough() -> None:
    images = one_image([False])
    assert voc_scores(images, detections_of([[0, 0, 10, 5]], [1]))["AP50"] == 0
    assert voc_scores(images, detections_of([[0, 0, 10, 5.1]], [1]))["AP50"] == 1


def test_a_difficult_object_counts_neither_as_missed_nor_as_wrong() -> None:
    images = one_image([False, True])
    found = detections_of([[5, 0, 15, 10], [0, 0, 10, 10]], [0.9, 0.8])
    assert voc_scores(images, found)["AP"] == 1


def test_a_second_detection_of_an_object_is_wrong() -> None:
    images = one_image([False])
    # The weaker one comes after full recall; as the stronger one it would halve the precision.
    assert voc_scores(images, detections_of([[0, 0, 10, 10]] * 2, [0.9, 0.8]))["AP"] == 1
    twice = one_image([False, False])
    found = detections_of([[0, 0, 10, 10], [0, 0, 10, 10], [5, 0, 15, 10]], [0.9, 0.8, 0.7])
    assert voc_scores(twice, found, eleven_points=False)["AP"] == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_no_detections_score_zero() -> None:
    assert voc_scores(one_image([False]), detections_of([], [])) == {"AP": 0, "AP50": 0, "AP75": 0}


def test_no_object_that_counts_is_refused() -> None:
    with pytest.raises(ValueError, match="0 objects count in the 1 images"):
        voc_scores(one_image([True]), detections_of([], []))
