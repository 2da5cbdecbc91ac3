"""Drawn scenes in COCO's layout as well: the same images, with boxes and masks in a JSON for each split."""

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
    """Write annotations/instances_trainval.json and instances_test.json beside the images that `draw_scenes` drew.

    Masks are uncompressed RLE; a category is a class, counted from 1; difficult objects are objects like the others.
    A split without images gets no file. Calling it again writes the same files.

    Raises:
        ValueError: if the folder holds no drawn scenes, or not all that its annotations say.
    """
    if not (folder / FINISHED).is_file():
        raise ValueError(f"{folder} holds no finished drawing of scenes; draw them first, with draw_scenes")
    for split in FIRST_INDEX:
        if not (folder / "ImageSets" / "Main" / f"{split}.txt").read_text().split():
            continue
        content = _content(read_voc(folder, split))
        files.write_atomically(folder / "annotations" / f"instances_{split}.json", json.dumps(content))


def uncompressed(mask: Bool[ndarray, "h w"]) -> dict[str, Any]:
    """A bitmap as COCO's uncompressed RLE: lengths of the runs down the columns, of the background first."""
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
