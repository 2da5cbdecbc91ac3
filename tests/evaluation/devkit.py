"""A VOC devkit of a few flat images, on which classes are easy to separate."""

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"cat": (220, 30, 30), "dog": (30, 30, 220)}


def draw_devkit(root: Path, num_images: int = 12) -> Path:
    """Draw images of one flat colour with a little noise: red ones show a cat, blue ones a dog."""
    lists = root / "ImageSets" / "Main"
    for folder in (lists, root / "JPEGImages", root / "Annotations"):
        folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for split in ("trainval", "test"):
        names = [f"{split}{index:02}" for index in range(num_images)]
        (lists / f"{split}.txt").write_text("\n".join(names))
        for name, shown in zip(names, [*COLOURS] * num_images):
            pixels = np.clip(COLOURS[shown] + generator.integers(-20, 20, size=(40, 48, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(root / "JPEGImages" / f"{name}.jpg")
        for label in COLOURS:
            signs = [1 if shown == label else -1 for shown in [*COLOURS] * num_images]
            (lists / f"{label}_{split}.txt").write_text("\n".join(f"{n} {s}" for n, s in zip(names, signs)))
    return root
