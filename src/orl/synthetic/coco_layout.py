"""Synthetic scenes in COCO's layout: a JSON with boxes and masks for each split, beside the VOC devkit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from PIL import Image

from orl import boxes, files
from orl.datasets.labels import LabelledSplit
from orl.datasets.voc import read_voc
from orl.synthetic.scenes import FINISHED, FIRST_INDEX


def write_coco(folder: Path) -> None:
    """Write annotations/instances_trainval.json and instances_test.json into a folder of `draw_scenes`.

    Masks are uncompressed RLE, category ids are class indices from 1, and difficult objects are ordinary objects. A
    split without images gets no file. A second call writes the same files.

    Raises:
        ValueError: if the folder has no finished scenes, or a mask lacks an object of its annotation.
    """
    if not (folder / FINISHED).is_file():
        raise ValueError(f"{folder} has no finished synthetic scenes; make them first with draw_scenes")
    for split in FIRST_INDEX:
        if not (folder / "ImageSets" / "Main" / f"{split}.txt").read_text().split():
            continue
        content = _content(read_voc(folder, split))
        files.write_atomically(folder / "annotations" / f"instances_{split}.json", json.dumps(content))


def uncompressed(mask: Bool[ndarray, "h w"]) -> dict[str, Any]:
    """Encode a bitmap as COCO's uncompressed RLE: lengths of the runs down the columns, background first."""
    pixels = np.concatenate([[False], mask.ravel(order="F")])
    starts = np.flatnonzero(np.diff(pixels)).tolist()
    edges = [0, *starts, mask.size]
    return {"size": list(mask.shape), "counts": np.diff(edges).tolist()}


def _content(split: LabelledSplit) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for row, name in enumerate(split.names):
        path = split.root / "SegmentationObject" / f"{Path(name).stem}.png"
        with Image.open(path) as image:
            numbers = np.asarray(image)
        seen = [int(number) for number in np.unique(numbers) if number]
        if len(seen) != len(split.boxes[row]):
            raise ValueError(f"{path} shows {len(seen)} objects, and the annotation {len(split.boxes[row])}")
        image_id = int(Path(name).stem)
        images.append({"id": image_id, "file_name": name, "width": numbers.shape[1], "height": numbers.shape[0]})
        boxes_xywh = boxes.to_xywh(split.boxes[row]).tolist()
        for number, box_xywh, label in zip(seen, boxes_xywh, split.box_classes[row].tolist()):
            mask = numbers == number
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": label + 1,
                    "bbox": box_xywh,
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                    "segmentation": uncompressed(mask),
                }
            )
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(split.classes)]
    return {"images": images, "categories": categories, "annotations": annotations}
