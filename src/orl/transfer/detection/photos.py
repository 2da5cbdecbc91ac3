"""Photos with the boxes, classes and masks of their objects, from COCO's layout or from VOC devkits.

All that can be refused without opening a photo is refused here, before the long part.
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

from orl import boxes
from orl.images.class_lists import missing_photos
from orl.images.coco import CocoContent, annotated_boxes, read_coco_content
from orl.images.labels import LabelledSplit
from orl.images.masks import compressed, decode_masks
from orl.images.voc import read_voc, read_voc_sizes

MAX_EMPTY_SHARE = 0.001
"""Of the objects, which may have no area and are left out: two of COCO's train2017 have none."""
MIN_SIDE_PX = 0.01
"""Of an object: a thinner one may have no width when its photo is resized and mirrored, in float32."""
LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DetectionPhotos:
    """The photos of one split and the objects in them."""

    root: Path
    """Folder that the names start from."""
    names: tuple[str, ...]
    """Path of each photo below the root, with forward slashes."""
    photo_ids: tuple[int, ...]
    """Of the source; a VOC photo's is its row."""
    sizes_wh: tuple[tuple[int, int], ...]
    """Width and height of each photo, pixels, as the annotations say."""
    classes: tuple[str, ...]
    """Name of each class."""
    category_ids: tuple[int, ...]
    """The source's number of each class; in VOC its place from 1."""
    boxes: tuple[Float32[ndarray, "_ 4"], ...]
    """The objects of each photo as `xyxy`."""
    box_classes: tuple[Int64[ndarray, "_"], ...]
    """The class of each object, an index into `classes`."""
    ignored: tuple[Bool[ndarray, "_"], ...]
    """Whether it makes no difference to the score if an object is found: COCO's crowds, VOC's difficult objects."""
    segmentations: tuple[tuple[Any, ...], ...] | None = None
    """The mask of each object as COCO's polygons or RLE; none where masks are not known or not asked for."""
    areas: tuple[Float64[ndarray, "_"], ...] | None = None
    """Of each object in square pixels, by which COCO calls it small, medium or large; that of its box if none."""

    def __len__(self) -> int:
        return len(self.names)

    def masks(self, row: int) -> Bool[ndarray, "m h w"]:
        """The objects of a photo as bitmaps.

        Raises:
            ValueError: if the set has no masks.
        """
        if self.segmentations is None:
            raise ValueError(f"the photos of {self.root} have no masks, photo {self.names[row]} neither")
        return decode_masks(self.segmentations[row], self.sizes_wh[row])


def read_coco_detection(data: Path, split: str, *, needs_masks: bool = True) -> DetectionPhotos:
    """The photos of a split in COCO's layout, sorted by name; classes in the order of the categories' ids.

    Objects of no area are left out with a warning where they are few.

    Args:
        data: folder with `annotations/instances_<split>.json`, or that JSON.
        split: such as train2017.
        needs_masks: read masks too, as compressed RLE.

    Raises:
        ValueError: if there is no such split, it is not COCO's JSON, it has no annotations, an annotation's photo or
            category is unknown, photos are missing, more than a thousandth of the objects have no area in their
            photo, or masks are asked for and an object has none.
    """
    json_path = _json_path(data, split)
    content = read_coco_content(json_path)
    if not any(content.annotations):
        raise ValueError(
            f"{json_path} has no annotations: 0 objects in {len(content.names)} photos; take another split"
        )
    _require_photos(content.root, content.names)
    columns = content.columns
    sizes_wh = tuple(_size_wh(json_path, photo) for photo in content.photos)
    found = DetectionPhotos(
        root=content.root,
        names=content.names,
        photo_ids=tuple(_whole(json_path, photo["id"]) for photo in content.photos),
        sizes_wh=sizes_wh,
        classes=content.classes,
        category_ids=tuple(_whole(json_path, category["id"]) for category in content.categories),
        boxes=tuple(annotated_boxes(each) for each in content.annotations),
        box_classes=_column(content, lambda entry: columns[entry["category_id"]], np.int64),
        ignored=_column(content, lambda entry: entry.get("iscrowd", 0) == 1, bool),
        areas=_column(content, lambda entry: entry.get("area", entry["bbox"][2] * entry["bbox"][3]), np.float64),
        segmentations=_segmentations(json_path, content) if needs_masks else None,
    )
    found = _without_areas_of_none(found, str(json_path))
    if found.segmentations is None:
        return found
    return replace(found, segmentations=_compressed(json_path, found.segmentations, found))


def read_voc_detection(data: Sequence[Path], split: str) -> DetectionPhotos:
    """The photos of a split of one or several VOC devkits: VOC07+12 is VOC2007 and VOC2012 together.

    Args:
        data: devkits, as `orl.images.voc.voc_folder` finds them.
        split: such as trainval.

    Raises:
        ValueError: if there is no devkit, two of them are one or differ in classes, a photo or its annotation is
            missing, or more than a thousandth of the objects have no area in their photo.
    """
    parts = [read_voc(root, split) for root in data]
    if not parts:
        raise ValueError("0 VOC devkits are given; give one or more")
    _check_devkits(parts)
    root = Path(os.path.commonpath([part.root.resolve() for part in parts]))
    below = [part.root.resolve().relative_to(root).as_posix() for part in parts]
    names = tuple(str(PurePosixPath(folder) / name) for folder, part in zip(below, parts) for name in part.names)
    _require_photos(root, names)
    found = DetectionPhotos(
        root=root,
        names=names,
        photo_ids=tuple(range(len(names))),
        sizes_wh=tuple(size_wh for part in parts for size_wh in read_voc_sizes(part)),
        classes=parts[0].classes,
        category_ids=tuple(range(1, len(parts[0].classes) + 1)),
        boxes=tuple(each for part in parts for each in part.boxes),
        box_classes=tuple(each for part in parts for each in part.box_classes),
        ignored=tuple(each for part in parts for each in part.box_difficult),
    )
    return _without_areas_of_none(found, f"split {split!r} of {root}")


def without_empty(photos: DetectionPhotos) -> DetectionPhotos:
    """The photos with an object that is not ignored; a detector is not trained on the others.

    Raises:
        ValueError: if there is none.

    Source:
        Detectron2, `filter_images_with_only_crowd_annotations`.
    """
    rows = [row for row, ignored in enumerate(photos.ignored) if not ignored.all()]
    if not rows:
        raise ValueError(f"0 of the {len(photos)} photos of {photos.root} have an object to learn; take another split")
    return replace(
        photos,
        names=tuple(photos.names[row] for row in rows),
        photo_ids=tuple(photos.photo_ids[row] for row in rows),
        sizes_wh=tuple(photos.sizes_wh[row] for row in rows),
        boxes=tuple(photos.boxes[row] for row in rows),
        box_classes=tuple(photos.box_classes[row] for row in rows),
        ignored=tuple(photos.ignored[row] for row in rows),
        segmentations=photos.segmentations and tuple(photos.segmentations[row] for row in rows),
        areas=photos.areas and tuple(photos.areas[row] for row in rows),
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


def _require_photos(root: Path, names: Sequence[str]) -> None:
    missing = missing_photos(root, names)
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(names)} photos are missing in {root}, such as {missing[0]}; complete the photos, "
            "or take them out of the annotations"
        )


def _column(content: CocoContent, value: Callable[[dict[str, Any]], Any], dtype: type) -> tuple[ndarray, ...]:
    return tuple(np.array([value(entry) for entry in each], dtype=dtype) for each in content.annotations)


def _size_wh(json_path: Path, photo: dict[str, Any]) -> tuple[int, int]:
    sides = (photo.get("width"), photo.get("height"))
    if not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"{json_path} says of photo {photo['file_name']} width and height {sides}; write its size")
    return sides  # type: ignore[return-value]


def _whole(json_path: Path, number: object) -> int:
    if not isinstance(number, int):
        raise ValueError(f"{json_path} has the id {number!r} of a photo or category; ids must be whole numbers")
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
    json_path: Path, segmentations: tuple[tuple[Any, ...], ...], photos: DetectionPhotos
) -> tuple[tuple[Any, ...], ...]:
    """A tenth of the memory of polygons as lists, and damage is found now."""
    encoded = []
    for name, size_wh, each in zip(photos.names, photos.sizes_wh, segmentations):
        try:
            encoded.append(tuple(compressed(one, size_wh) for one in each))
        except ValueError as error:
            raise ValueError(f"{json_path} has a damaged mask in photo {name}: {error}") from error
    return tuple(encoded)


def _without_areas_of_none(photos: DetectionPhotos, source: str) -> DetectionPhotos:
    """Leave out objects that have no area within their photo, or refuse them where they are many."""
    inside = [boxes.clip(own, size_wh) for own, size_wh in zip(photos.boxes, photos.sizes_wh)]
    kept = [(own[:, 2:] - own[:, :2] > MIN_SIDE_PX).all(axis=1) for own in inside]
    count = sum(len(each) for each in kept)
    num_empty = count - sum(int(each.sum()) for each in kept)
    if not num_empty:
        return photos
    first = next(row for row, each in enumerate(kept) if not each.all())
    box = photos.boxes[first][~kept[first]][0].tolist()
    told = (
        f"{num_empty} of {count} boxes of {source} have no area within their photo: first {photos.names[first]} {box}"
    )
    if num_empty > MAX_EMPTY_SHARE * count:
        raise ValueError(f"{told}; repair or delete them")
    LOG.warning("%s; they are left out", told)
    lists = photos.segmentations
    return replace(
        photos,
        boxes=tuple(each[keep] for each, keep in zip(photos.boxes, kept)),
        box_classes=tuple(each[keep] for each, keep in zip(photos.box_classes, kept)),
        ignored=tuple(each[keep] for each, keep in zip(photos.ignored, kept)),
        segmentations=lists
        and tuple(tuple(mask for mask, is_kept in zip(each, keep) if is_kept) for each, keep in zip(lists, kept)),
        areas=photos.areas and tuple(each[keep] for each, keep in zip(photos.areas, kept)),
    )


def _check_devkits(parts: Sequence[LabelledSplit]) -> None:
    root, times = Counter(part.root.resolve() for part in parts).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{root} is given {times} times; give each VOC devkit once")
    for part in parts[1:]:
        if part.classes != parts[0].classes:
            differing = ", ".join(sorted({*part.classes} ^ {*parts[0].classes}))
            raise ValueError(f"the classes of {part.root} and {parts[0].root} differ: {differing}")
