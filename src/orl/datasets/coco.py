"""Reader of COCO JSON files: images, categories and annotations."""

import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from orl import boxes, files
from orl.datasets.class_lists import missing_images
from orl.datasets.image_names import below_one_root, with_slashes
from orl.datasets.labels import ABSENT, IGNORED, PRESENT, LabelledSplit, without_odd_boxes

LARGEST_ID = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class CocoContent:
    """Content of a COCO JSON."""

    root: Path
    """Folder of the images."""
    names: tuple[str, ...]
    """Path of each image below the root, sorted."""
    images: tuple[dict[str, Any], ...]
    """Entry of each image in the file."""
    categories: tuple[dict[str, Any], ...]
    """Categories in the order of their ids."""
    annotations: tuple[list[dict[str, Any]], ...]
    """Annotations of each image, in the order of the file."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the name of each category."""
        return tuple(str(category["name"]) for category in self.categories)

    @property
    def columns(self) -> dict[Any, int]:
        """Return the index of each category by its id."""
        return {category["id"]: column for column, category in enumerate(self.categories)}


def coco_image_names(json_path: Path) -> tuple[Path, list[str]]:
    """Return the folder of the images, and their paths below it, sorted.

    The folder is the one of these with most of the images: the JSON's own, `../<split>`, `..`, `../images/<split>`,
    `../images`. The split is the end of the file name, as in instances_train2017.json.

    Raises:
        ValueError: if the file is not a COCO JSON, lists no image, or none of the folders has one.
    """
    root, names = _image_names(json_path, read_coco_json(json_path))
    return root, sorted(names.values())


def read_coco(json_path: Path) -> LabelledSplit:
    """Read the labels and boxes of a COCO JSON; classes are sorted by id, crowds are 'difficult'.

    Raises:
        ValueError: if the file is not a COCO JSON, has no categories, or none of its images exists.
    """
    content = read_coco_content(json_path)
    columns, by_image = content.columns, content.annotations
    box_classes = tuple(np.array([columns[a["category_id"]] for a in each], dtype=np.int64) for each in by_image)
    difficult = tuple(np.array([a.get("iscrowd", 0) == 1 for a in each], dtype=bool) for each in by_image)
    labels = np.full((len(content.images), len(columns)), ABSENT, dtype=np.int8)
    for row, (columns_of_row, difficult_of_row) in enumerate(zip(box_classes, difficult)):
        labels[row, columns_of_row] = IGNORED
        labels[row, columns_of_row[~difficult_of_row]] = PRESENT
    split = LabelledSplit(
        root=content.root,
        names=content.names,
        classes=content.classes,
        labels=labels,
        boxes=tuple(annotated_boxes(each) for each in by_image),
        box_classes=box_classes,
        box_difficult=difficult,
    )
    return without_odd_boxes(split, [annotated_size(image) for image in content.images], str(json_path))


def annotated_size(image: dict[str, Any]) -> tuple[int, int] | None:
    """Return width and height of an entry of 'images'; None if they are missing or no size."""
    width, height = image.get("width"), image.get("height")
    return (width, height) if type(width) is type(height) is int and min(width, height) > 0 else None


def read_coco_content(json_path: Path) -> CocoContent:
    """Read the images, categories and annotations of a COCO JSON.

    Raises:
        ValueError: if the file is not a COCO JSON, has no categories, or none of its images exists.
    """
    content = read_coco_json(json_path)
    root, names = _image_names(json_path, content)
    categories = json_entries(json_path, content, "categories", ("id", "name"))
    annotations = json_entries(json_path, content, "annotations", ("image_id", "category_id", "bbox"))
    if not categories:
        raise ValueError(f"{json_path} has no categories; give the instances_*.json of the split")
    category_ids = _unique(json_path, categories, "id")
    _unique(json_path, categories, "name")
    categories.sort(key=lambda category: category["id"])
    images = sorted(content["images"], key=lambda image: names[image["id"]])
    rows = {image["id"]: row for row, image in enumerate(images)}
    by_image: list[list[dict[str, Any]]] = [[] for _ in images]
    for annotation in annotations:
        _check_numbers(json_path, annotation)
        if annotation["image_id"] not in rows or annotation["category_id"] not in category_ids:
            raise ValueError(f"{json_path} has an annotation of an unknown image or category: {_short(annotation)}")
        by_image[rows[annotation["image_id"]]].append(annotation)
    _check_boxes(json_path, annotations)
    return CocoContent(
        root=root,
        names=tuple(names[image["id"]] for image in images),
        images=tuple(images),
        categories=tuple(categories),
        annotations=tuple(by_image),
    )


def has_labels(json_path: Path) -> bool:
    """Return True if the file lists annotations; the 'image_info' files of COCO's test images do not.

    Raises:
        ValueError: if the file is not a COCO JSON.
    """
    return bool(read_coco_json(json_path).get("annotations"))


def read_coco_json(json_path: Path) -> dict[str, Any]:
    """Read a JSON object with a key 'images'.

    Raises:
        ValueError: if the file has another content.
    """
    files.regular_file(json_path)
    try:
        content = files.parse_json(json_path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{json_path} is not JSON: {error}") from error
    if not isinstance(content, dict) or "images" not in content:
        found = ", ".join(list(content)[:5]) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{json_path} is not a COCO JSON: it needs a key 'images', got {found or 'nothing'}")
    return content


def json_entries(json_path: Path, content: dict[str, Any], key: str, fields: Sequence[str]) -> list[dict[str, Any]]:
    """Return the entries of a list in the JSON after checking that each has the fields.

    Raises:
        ValueError: if the value is not a list, or an entry lacks a field.
    """
    entries = content.get(key, [])
    if not isinstance(entries, list):
        raise ValueError(f"{json_path} is not a COCO JSON: {key!r} must be a list, got {type(entries).__name__}")
    for entry in entries:
        if not isinstance(entry, dict) or any(field not in entry for field in fields):
            raise ValueError(f"{json_path} is not a COCO JSON: {key!r} needs {', '.join(fields)}, got {_short(entry)}")
    return entries


def _image_names(json_path: Path, content: dict[str, Any]) -> tuple[Path, dict[Any, str]]:
    """Return the folder of the images, and the name of each image id below it.

    An image listed twice would become its own neighbour.
    """
    entries = json_entries(json_path, content, "images", ("id", "file_name"))
    _unique(json_path, entries, "id")
    if not entries:
        raise ValueError(f"{json_path} lists no image: 'images' is empty")
    listed = with_slashes([str(entry["file_name"]) for entry in entries], json_path)
    folder = _image_folder(json_path, [name for name in listed if not os.path.isabs(name)] or listed)
    root, names = below_one_root(folder, listed) if any(map(os.path.isabs, listed)) else (folder, listed)
    if len(set(names)) < len(entries):
        raise ValueError(f"{json_path} lists an image twice: {len(entries)} entries, {len(set(names))} file names")
    return root, {entry["id"]: name for entry, name in zip(entries, names)}


def _unique(json_path: Path, entries: Sequence[dict[str, Any]], key: str) -> set[Any]:
    """Return all values of a field after checking that they are unique, and either all integers or all text."""
    values = [entry[key] for entry in entries]
    kinds = {type(value) for value in values}
    if not (kinds <= {int} or kinds <= {str}) or (int in kinds and max(map(abs, values)) > LARGEST_ID):
        raise ValueError(
            f"{json_path} is not a COCO JSON: {key!r} must be integers of 64 bits, or all text, got "
            f"{_short([value for value in values if type(value) is not int or abs(value) > LARGEST_ID])}"
        )
    if len(set(values)) < len(values):
        (twice, _), *_ = Counter(values).most_common(1)
        raise ValueError(f"{json_path} has the {key} {twice!r} twice, such as {_short(entries[values.index(twice)])}")
    return set(values)


def _check_numbers(json_path: Path, annotation: dict[str, Any]) -> None:
    box, area = annotation["bbox"], annotation.get("area", 0)
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise ValueError(f"{json_path}: 'bbox' must be four numbers x, y, w, h, got {_short(annotation)}")
    if not _is_number(area) or area < 0:
        raise ValueError(f"{json_path}: 'area' must be a number of 0 or more, got {_short(annotation)}")
    if isinstance(annotation["image_id"], list | dict) or isinstance(annotation["category_id"], list | dict):
        raise ValueError(f"{json_path} has an annotation of an unknown image or category: {_short(annotation)}")


def _is_number(value: object) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:  # an integer of more than 300 digits
        return False


def _check_boxes(json_path: Path, annotations: Sequence[dict[str, Any]]) -> None:
    boxes_xywh = np.array([annotation["bbox"] for annotation in annotations], dtype=np.float64).reshape(-1, 4)
    faulty = np.flatnonzero(boxes.is_faulty(boxes.from_xywh(boxes_xywh, np.float64)))
    if len(faulty):
        raise ValueError(
            f"{json_path} has {len(faulty)} annotations with a width or height below 0, or a box far outside of every "
            f"image; 'bbox' is x, y, w, h in pixels. Repair or delete them, such as {_short(annotations[faulty[0]])}"
        )


def _image_folder(json_path: Path, names: Sequence[str]) -> Path:
    split = json_path.stem.rsplit("_", 1)[-1]
    above = json_path.parent.parent
    folders = [json_path.parent, above / split, above, above / "images" / split, above / "images"]
    num_missing = [len(missing_images(folder, names)) for folder in folders]
    if min(num_missing) < len(names):
        return folders[num_missing.index(min(num_missing))]
    tried = ", ".join(str(folder) for folder in folders)
    raise ValueError(f"none of the {len(names)} images of {json_path}, such as {names[0]}, is in {tried}")


def annotated_boxes(annotations: Sequence[dict[str, Any]]) -> Float32[ndarray, "n 4"]:
    """Convert the boxes of annotations to `xyxy`."""
    return boxes.from_xywh(np.array([a["bbox"] for a in annotations], dtype=np.float32).reshape(-1, 4))


def _short(entry: object) -> str:
    return json.dumps(entry)[:120]
