"""Synthetic scenes with boxes and masks, and the config of a detector that trains in seconds."""

from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from orl.evaluation.detection.config import DetectionConfig
from orl.evaluation.detection.datasets import DetectionDataset
from orl.synthetic.scenes import CLASSES, draw_scene

SIZE_WH = (96, 72)
SMALL_CONFIG = DetectionConfig(
    batch_size=4,
    iterations=3,
    warmup_iterations=1,
    short_sides_px=(64, 72, 80),
    test_short_side_px=72,
    longest_px=120,
    precise_bn_iterations=2,
    num_channels=16,
    num_box_features=32,
    anchor_sizes_px=(8, 16, 32, 64, 128),
)


def draw_images(root: Path, num_images: int, *, size_wh: tuple[int, int] = SIZE_WH, first: int = 0) -> DetectionDataset:
    """Write scenes to files and return them with their annotations."""
    root.mkdir(parents=True, exist_ok=True)
    scenes = [draw_scene(0, first + index, size_wh) for index in range(num_images)]
    names = tuple(f"{index:04d}.png" for index in range(num_images))
    for name, scene in zip(names, scenes):
        Image.fromarray(scene.image).save(root / name)
    return DetectionDataset(
        root=root,
        names=names,
        image_ids=tuple(range(100, 100 + num_images)),
        sizes_wh=(size_wh,) * num_images,
        classes=CLASSES,
        category_ids=tuple(range(1, len(CLASSES) + 1)),
        boxes=tuple(np.array([one.box for one in scene.objects], dtype=np.float32) for scene in scenes),
        box_classes=tuple(np.array([CLASSES.index(one.class_name) for one in scene.objects]) for scene in scenes),
        ignored=tuple(np.zeros(len(scene.objects), dtype=bool) for scene in scenes),
        segmentations=tuple(
            tuple(coco_mask.encode(np.asfortranarray(scene.mask == one.number, np.uint8)) for one in scene.objects)
            for scene in scenes
        ),
    )
