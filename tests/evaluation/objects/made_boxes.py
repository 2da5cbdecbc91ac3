"""Made-up boxes with classes, for tests of the scores of boxes."""

from pathlib import Path

import numpy as np
from numpy import ndarray

from orl.evaluation.objects.object_dataset import BoxSplits, ObjectBoxes


def made_boxes(labels: list[list[int]], split: str = "test", classes: int = 3) -> ObjectBoxes:
    """Return a split with one image for each list of classes; all boxes count."""
    return ObjectBoxes(
        split=split,
        root=Path("."),
        names=tuple(f"{split}{row}.jpg" for row in range(len(labels))),
        classes=tuple("abcdefgh"[:classes]),
        boxes=tuple(np.tile(np.array([[0, 0, 20, 20]], np.float32), (len(own), 1)) for own in labels),
        box_classes=tuple(np.array(own, dtype=np.int64) for own in labels),
        scored=tuple(np.ones(len(own), dtype=bool) for own in labels),
    )


def random_splits(seed: int, images: int = 30, classes: int = 3) -> BoxSplits:
    """Return splits of random classes, one to four boxes an image."""
    generator = np.random.default_rng(seed)

    def labels() -> list[list[int]]:
        return [generator.integers(0, classes, generator.integers(1, 5)).tolist() for _ in range(images)]

    return BoxSplits(train=made_boxes(labels(), "train", classes), test=made_boxes(labels(), "test", classes))


def one_hot(labels: ndarray, classes: int = 3) -> ndarray:
    """Return perfect features: one direction for each class."""
    return np.eye(classes, dtype=np.float32)[labels]
