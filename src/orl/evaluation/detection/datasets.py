"""Images with boxes, classes and masks of their objects, from COCO's layout or from VOC devkits.

Annotations are checked here, before training; no image is opened.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from numpy import ndarray

from orl.datasets.class_lists import missing_images
from orl.datasets.coco import CocoContent, annotated_boxes, annotated_size, read_coco_content
from orl.datasets.labels import LabelledSplit, boxes_in_images
from orl.datasets.masks import compress_mask, decode_masks
from orl.datasets.voc import read_voc, read_voc_sizes

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DetectionDataset:
    """The images of one split with their annotated objects."""

    root: Path
    """Folder that the names start from."""
    names: tuple[str, ...]
    """Path of each image below the root, with forward slashes."""
    image_ids: tuple[int, ...]
    """Ids of the source; for VOC the row of the image."""
    sizes_wh: tuple[tuple[int, int], ...]
    """Annotated width and height of each image, pixels."""
    classes: tuple[str, ...]
    """Name of each class."""
    category_ids: tuple[int, ...]
    """Number of each class in the source; for VOC counted from 1."""
    boxes: tuple[Float32[ndarray, "_ 4"], ...]
    """The objects of each image as `xyxy`."""
    box_classes: tuple[Int64[ndarray, "_"], ...]
    """Class of each object, an index into `classes`."""
    ignored: tuple[Bool[ndarray, "_"], ...]
    """Whether an object is ignored in the score: COCO's crowds, VOC's difficult objects."""
    segmentations: tuple[tuple[Any, ...], ...] | None = None
    """Mask of each object as COCO's polygons or RLE; None if there are no masks or they were not read."""
    areas: tuple[Float64[ndarray, "_"], ...] | None = None
    """Area of each object in square pixels, which decides COCO's sizes; None for the area of the box."""

    def __len__(self) -> int:
        return len(self.names)

    def masks(self, row: int) -> Bool[ndarray, "m h w"]:
        """Decode the masks of the objects of an image.

        Raises:
            ValueError: if there are no masks.
        """
        if self.segmentations is None:
            raise ValueError(f"the images of {self.root} have no masks; image {self.names[row]} cannot give one")
        return decode_masks(self.segmentations[row], self.sizes_wh[row])


def read_coco_detection(data: Path, split: str, *, needs_masks: bool = True) -> DetectionDataset:
    """Read a split in COCO's layout, sorted by name; classes are in the order of the categories' ids.

    Objects without area are left out with a warning if they are few.

    Args:
        data: folder with `annotations/instances_<split>.json`, or that JSON file.
        split: name such as train2017.
        needs_masks: whether to read masks, as compressed RLE.

    Raises:
        ValueError: if there is no such split, the file is not COCO's JSON or has no annotations, an annotation's image
            or category is unknown, images are missing, more than a thousandth of the objects have no area in their
            image, or a needed mask is missing.
    """
    json_path = _json_path(data, split)
    content = read_coco_content(json_path)
    if not any(content.annotations):
        raise ValueError(
            f"{json_path} has no annotations: 0 objects in {len(content.names)} images; give another split"
        )
    _require_images(content.root, content.names)
    columns = content.columns
    sizes_wh = tuple(_size_wh(json_path, image) for image in content.images)
    found = DetectionDataset(
        root=content.root,
        names=content.names,
        image_ids=tuple(_integer_id(json_path, image["id"]) for image in content.images),
        sizes_wh=sizes_wh,
        classes=content.classes,
        category_ids=tuple(_integer_id(json_path, category["id"]) for category in content.categories),
        boxes=tuple(annotated_boxes(each) for each in content.annotations),
        box_classes=_column(content, lambda entry: columns[entry["category_id"]], np.int64),
        ignored=_column(content, lambda entry: entry.get("iscrowd", 0) == 1, bool),
        areas=_column(content, lambda entry: entry.get("area", entry["bbox"][2] * entry["bbox"][3]), np.float64),
        segmentations=_segmentations(json_path, content) if needs_masks else None,
    )
    found = _drop_empty(found, str(json_path))
    if found.segmentations is None:
        return found
    return replace(found, segmentations=_compressed(json_path, found.segmentations, found))


def read_voc_detection(data: Sequence[Path], split: str) -> DetectionDataset:
    """Read a split of one or several VOC devkits: VOC07+12 is VOC2007 and VOC2012 together.

    Args:
        data: devkits, or folders in which `orl.datasets.voc.voc_folder` finds one.
        split: name such as trainval.

    Raises:
        ValueError: if there is no devkit, one is given twice, two differ in classes, an image or its annotation is
            missing, or more than a thousandth of the objects have no area in their image.
    """
    parts = [read_voc(root, split) for root in data]
    if not parts:
        raise ValueError("0 VOC devkits are given; give one or more")
    _check_devkits(parts)
    root = Path(os.path.commonpath([part.root.resolve() for part in parts]))
    below = [part.root.resolve().relative_to(root).as_posix() for part in parts]
    names = tuple(str(PurePosixPath(folder) / name) for folder, part in zip(below, parts) for name in part.names)
    _require_images(root, names)
    found = DetectionDataset(
        root=root,
        names=names,
        image_ids=tuple(range(len(names))),
        sizes_wh=tuple(size_wh for part in parts for size_wh in read_voc_sizes(part)),
        classes=parts[0].classes,
        category_ids=tuple(range(1, len(parts[0].classes) + 1)),
        boxes=tuple(each for part in parts for each in part.boxes),
        box_classes=tuple(each for part in parts for each in part.box_classes),
        ignored=tuple(each for part in parts for each in part.box_difficult),
    )
    return _drop_empty(found, f"split {split!r} of {root}")


def without_empty(images: DetectionDataset) -> DetectionDataset:
    """Return the images with an object that is not ignored; a detector is not trained on the others.

    Raises:
        ValueError: if there is no such image.

    Source:
        Detectron2, `filter_images_with_only_crowd_annotations`.
    """
    rows = [row for row, ignored in enumerate(images.ignored) if not ignored.all()]
    if not rows:
        raise ValueError(
            f"0 of the {len(images)} images of {images.root} have an object to train on; give another split"
        )
    return replace(
        images,
        names=tuple(images.names[row] for row in rows),
        image_ids=tuple(images.image_ids[row] for row in rows),
        sizes_wh=tuple(images.sizes_wh[row] for row in rows),
        boxes=tuple(images.boxes[row] for row in rows),
        box_classes=tuple(images.box_classes[row] for row in rows),
        ignored=tuple(images.ignored[row] for row in rows),
        segmentations=images.segmentations and tuple(images.segmentations[row] for row in rows),
        areas=images.areas and tuple(images.areas[row] for row in rows),
    )


def _json_path(data: Path, split: str) -> Path:
    if data.is_file():
        if not data.stem.endswith(f"_{split}"):
            raise ValueError(f"{data} is not the JSON of split {split!r}; give the folder that holds 'annotations'")
        return data
    path = data / "annotations" / f"instances_{split}.json"
    if not path.is_file():
        splits = sorted(found.stem.removeprefix("instances_") for found in path.parent.glob("instances_*.json"))
        raise ValueError(
            f"{data} has no split {split!r}: {path} is missing; its splits are {', '.join(splits) or 'none'}"
        )
    return path


def _require_images(root: Path, names: Sequence[str]) -> None:
    missing = missing_images(root, names)
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(names)} images are missing in {root}, such as {missing[0]}; complete the images, "
            "or take them out of the annotations"
        )


def _column(content: CocoContent, value: Callable[[dict[str, Any]], Any], dtype: type) -> tuple[ndarray, ...]:
    return tuple(np.array([value(entry) for entry in each], dtype=dtype) for each in content.annotations)


def _size_wh(json_path: Path, image: dict[str, Any]) -> tuple[int, int]:
    size_wh = annotated_size(image)
    if size_wh is None:
        sides = (image.get("width"), image.get("height"))
        raise ValueError(f"{json_path} has width and height {sides} for image {image['file_name']}; write its size")
    return size_wh


def _integer_id(json_path: Path, number: object) -> int:
    if not isinstance(number, int):
        raise ValueError(f"ids of images and categories must be integers, got {number!r} in {json_path}")
    return number


def _segmentations(json_path: Path, content: CocoContent) -> tuple[tuple[Any, ...], ...]:
    without = [
        name for name, each in zip(content.names, content.annotations) for one in each if not one.get("segmentation")
    ]
    if without:
        count = sum(len(each) for each in content.annotations)
        raise ValueError(
            f"{json_path} has no mask for {len(without)} of {count} objects, the first in {without[0]}; add masks, or "
            "detect boxes alone with --no-masks"
        )
    return tuple(tuple(one["segmentation"] for one in each) for each in content.annotations)


def _compressed(
    json_path: Path, segmentations: tuple[tuple[Any, ...], ...], images: DetectionDataset
) -> tuple[tuple[Any, ...], ...]:
    """Encode masks as RLE: a tenth of the memory of polygons, and damaged ones are found here."""
    encoded = []
    for name, size_wh, each in zip(images.names, images.sizes_wh, segmentations):
        try:
            encoded.append(tuple(compress_mask(one, size_wh) for one in each))
        except ValueError as error:
            raise ValueError(f"{json_path} has a damaged mask in image {name}: {error}") from error
    return tuple(encoded)


def _drop_empty(images: DetectionDataset, source: str) -> DetectionDataset:
    """Leave out objects without area within their image; see `boxes_in_images`.

    Raises:
        ValueError: if they are many.
    """
    kept = boxes_in_images(images.boxes, images.sizes_wh, images.names, source)
    if kept is None:
        return images
    lists = images.segmentations
    return replace(
        images,
        boxes=tuple(each[keep] for each, keep in zip(images.boxes, kept)),
        box_classes=tuple(each[keep] for each, keep in zip(images.box_classes, kept)),
        ignored=tuple(each[keep] for each, keep in zip(images.ignored, kept)),
        segmentations=lists
        and tuple(tuple(mask for mask, is_kept in zip(each, keep) if is_kept) for each, keep in zip(lists, kept)),
        areas=images.areas and tuple(each[keep] for each, keep in zip(images.areas, kept)),
    )


def _check_devkits(parts: Sequence[LabelledSplit]) -> None:
    root, times = Counter(part.root.resolve() for part in parts).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{root} is given {times} times; give each VOC devkit once")
    for part in parts[1:]:
        if part.classes != parts[0].classes:
            differing = ", ".join(sorted({*part.classes} ^ {*parts[0].classes}))
            raise ValueError(f"the classes of {part.root} and {parts[0].root} differ: {differing}")
