"""Images without files, and detections that are the objects moved a little, for the metrics."""

from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from orl.evaluation.detection.datasets import DetectionDataset
from orl.evaluation.detection.detections import Detections

SIZE_WH = (400, 300)


def random_images(seed: int, num_images: int = 12, num_classes: int = 3) -> DetectionDataset:
    """Objects of all sizes, some ignored, some images empty; ids are neither rows nor in order."""
    generator = np.random.default_rng(seed)
    counts = [0, *generator.integers(1, 9, num_images - 1).tolist()]
    boxes = tuple(_random_boxes(generator, count) for count in counts)
    return DetectionDataset(
        root=Path("nowhere"),
        names=tuple(f"{row}.jpg" for row in range(num_images)),
        image_ids=tuple((generator.permutation(num_images) * 7 + 3).tolist()),
        sizes_wh=(SIZE_WH,) * num_images,
        classes=tuple("abcdefg"[:num_classes]),
        category_ids=tuple(range(5, 5 + 2 * num_classes, 2)),
        boxes=boxes,
        box_classes=tuple(generator.integers(0, num_classes, count) for count in counts),
        ignored=tuple(generator.random(count) < 0.15 for count in counts),
        segmentations=tuple(tuple(_ellipse(box) for box in own) for own in boxes),
        areas=tuple((each[:, 2] - each[:, 0]) * (each[:, 3] - each[:, 1]) * 0.7854 for each in map(_doubles, boxes)),
    )


def random_detections(images: DetectionDataset, seed: int) -> Detections:
    """Each object up to three times at another place, and false ones; many scores are ties."""
    generator = np.random.default_rng(seed)
    fractions = []
    for row, image_id in enumerate(images.image_ids):
        again = generator.integers(0, 4, len(images.boxes[row]))
        moved = np.repeat(images.boxes[row], again, axis=0)
        moved = moved + generator.normal(0, 4, moved.shape).round()
        false = _random_boxes(generator, 4)
        boxes = np.concatenate([moved, false]).astype(np.float32)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        classes = np.repeat(images.box_classes[row], again)
        classes = np.concatenate([classes, generator.integers(0, len(images.classes), 4)])
        wrong = generator.random(len(classes)) < 0.1
        classes[wrong] = 0
        fractions.append(
            Detections(
                image_ids=np.full(len(boxes), image_id),
                boxes=boxes,
                classes=classes,
                scores=(generator.random(len(boxes)).round(1)).astype(np.float32),
                masks=tuple(_ellipse(box) for box in boxes),
            )
        )
    return Detections.merge(fractions)


def _random_boxes(generator: np.random.Generator, count: int) -> np.ndarray:
    sides = generator.integers(6, 150, (count, 2))
    corners = (generator.random((count, 2)) * (np.array(SIZE_WH) - sides)).round()
    return np.concatenate([corners, corners + sides], axis=1).astype(np.float32)


def _doubles(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float64)


def _ellipse(box: np.ndarray) -> dict[str, object]:
    y, x = np.mgrid[: SIZE_WH[1], : SIZE_WH[0]] + 0.5
    across = (2 * x - box[0] - box[2]) / (box[2] - box[0])
    down = (2 * y - box[1] - box[3]) / (box[3] - box[1])
    return coco_mask.encode(np.asfortranarray((across**2 + down**2 <= 1).astype(np.uint8)))
