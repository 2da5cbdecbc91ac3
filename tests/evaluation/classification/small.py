"""Images with one flat colour per class, which any network separates after a few steps."""

from pathlib import Path

import numpy as np
from PIL import Image

from orl.datasets.classified import ClassifiedImages
from orl.evaluation.classification.class_data import ClassData

COLOURS = {"blue": (30, 30, 220), "green": (30, 200, 30), "red": (220, 30, 30)}


def flat_images(root: Path, split: str, num_each: int) -> ClassifiedImages:
    """Write a split of `num_each` images of every colour, with a little noise."""
    generator = np.random.default_rng(len(split))
    names, labels = [], []
    for label, (name, colour) in enumerate(COLOURS.items()):
        (root / split / name).mkdir(parents=True)
        for number in range(num_each):
            pixels = np.clip(colour + generator.integers(-20, 20, size=(40, 48, 3)), 0, 255).astype(np.uint8)
            names.append(f"{split}/{name}/{number}.png")
            Image.fromarray(pixels).save(root / names[-1])
            labels.append(label)
    return ClassifiedImages(
        root=root, split=split, classes=tuple(COLOURS), names=tuple(names), labels=np.array(labels, dtype=np.int64)
    )


def class_data(train: ClassifiedImages, val: ClassifiedImages) -> ClassData:
    """Return data options whose splits are the given ones."""
    data = ClassData(data=train.root)
    data._splits["folder"] = (train, val)
    return data
