"""Reader of iNaturalist 2018: one JSON per split with images, annotations and categories, without boxes."""

import json
from pathlib import Path
from typing import Any

from orl.datasets.class_lists import Entry, listed_images, plain_name
from orl.datasets.classified import ClassifiedImages
from orl.datasets.coco import json_entries, read_coco_json
from orl.datasets.image_names import with_slashes

YEAR = 2018


def read_inaturalist(root: Path, split: str) -> ClassifiedImages:
    """Read `<split>2018.json`; names are relative to the JSON's folder, such as 'train_val2018/Plantae/...'.

    Raises:
        FileNotFoundError: if there is no such JSON.
        ValueError: if the JSON is damaged, an image does not have exactly one label, or an image file is missing.
    """
    path = root / f"{split}{YEAR}.json"
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; iNaturalist {YEAR} has train{YEAR}.json and val{YEAR}.json")
    content = read_coco_json(path)
    categories = sorted(_numbered(path, content, "categories", "name"), key=lambda category: category["id"])
    columns = {category["id"]: column for column, category in enumerate(categories)}
    labels: dict[Any, int] = {}
    for annotation in json_entries(path, content, "annotations", ("image_id", "category_id")):
        image_id, category = annotation["image_id"], annotation["category_id"]
        if not isinstance(image_id, int) or not isinstance(category, int):
            raise ValueError(f"{path}: 'annotations' needs integer ids, got {json.dumps(annotation)[:120]}")
        if category not in columns:
            raise ValueError(
                f"{path}: image {image_id} has category {category!r}, which is not among the {len(columns)} categories"
            )
        if labels.setdefault(image_id, columns[category]) != columns[category]:
            raise ValueError(
                f"{path}: image {image_id} has more than one category, also {category!r}; each image needs one label"
            )
    entries = []
    images = _numbered(path, content, "images", "file_name")
    names = with_slashes([str(image["file_name"]) for image in images], path)
    for image, name in zip(images, names):
        if image["id"] not in labels:
            raise ValueError(f"{path}: image {image['id']} ({image['file_name']}) has no annotation")
        where = f"image {image['id']}"
        entries.append(Entry(where, plain_name(name, where, path), labels[image["id"]]))
    return listed_images(root, split, _class_names(categories), entries, path)


def _class_names(categories: list[dict[str, Any]]) -> tuple[str, ...]:
    """Return the category names, with their ids in front if names are not unique."""
    names = [str(category["name"]) for category in categories]
    if len(set(names)) == len(names):
        return tuple(names)
    return tuple(f"{category['id']} {name}" for category, name in zip(categories, names))


def _numbered(path: Path, content: dict[str, Any], key: str, field: str) -> list[dict[str, Any]]:
    """Return entries after checking that their ids are unique integers."""
    entries = json_entries(path, content, key, ("id", field))
    seen: set[int] = set()
    for entry in entries:
        if not isinstance(entry["id"], int):
            raise ValueError(f"{path}: {key!r} needs integer ids, got {json.dumps(entry)[:120]}")
        if entry["id"] in seen:
            raise ValueError(f"{path}: {key!r} has the id {entry['id']} twice, also of {str(entry[field])[:80]!r}")
        seen.add(entry["id"])
    return entries
