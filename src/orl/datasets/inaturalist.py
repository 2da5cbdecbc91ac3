"""iNaturalist 2018: a JSON a split, with COCO's images, annotations and categories, and no boxes."""

import json
from pathlib import Path
from typing import Any

from orl.datasets.class_lists import Entry, listed_images, plain_name
from orl.datasets.classified import ClassifiedImages

YEAR = 2018


def read_inaturalist(root: Path, split: str) -> ClassifiedImages:
    """The images of `<split>2018.json`, whose names start from the JSON's own folder: 'train_val2018/Plantae/...'.

    Raises:
        FileNotFoundError: if there is no such JSON.
        ValueError: if it is damaged, an image has no label or two, or as `listed_images`.
    """
    path = root / f"{split}{YEAR}.json"
    content = _read_json(path)
    categories = sorted(_numbered(path, content, "categories", "name"), key=lambda category: category["id"])
    columns = {category["id"]: column for column, category in enumerate(categories)}
    labels: dict[Any, int] = {}
    for annotation in _entries(path, content, "annotations", ("image_id", "category_id")):
        image_id, category = annotation["image_id"], annotation["category_id"]
        if not isinstance(image_id, int) or not isinstance(category, int):
            raise ValueError(f"{path}: 'annotations' needs numbers, found {json.dumps(annotation)[:120]}")
        if category not in columns:
            raise ValueError(f"{path}: image {image_id} is of category {category!r}, which is not among {len(columns)}")
        if labels.setdefault(image_id, columns[category]) != columns[category]:
            raise ValueError(
                f"{path}: image {image_id} has two categories, also {category!r}; one label an image is needed"
            )
    entries = []
    for image in _numbered(path, content, "images", "file_name"):
        if image["id"] not in labels:
            raise ValueError(f"{path}: image {image['id']} ({image['file_name']}) has no annotation")
        where = f"image {image['id']}"
        entries.append(Entry(where, plain_name(str(image["file_name"]), where, path), labels[image["id"]]))
    return listed_images(root, split, _class_names(categories), entries, path)


def _class_names(categories: list[dict[str, Any]]) -> tuple[str, ...]:
    """The names, with the number before them where a name is not the only one of its kind."""
    names = [str(category["name"]) for category in categories]
    if len(set(names)) == len(names):
        return tuple(names)
    return tuple(f"{category['id']} {name}" for category, name in zip(categories, names))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no {path}; iNaturalist {YEAR} has train{YEAR}.json and val{YEAR}.json") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is a {type(content).__name__}, not iNaturalist's JSON")
    return content


def _numbered(path: Path, content: dict[str, Any], key: str, field: str) -> list[dict[str, Any]]:
    """Entries that have each a number of its own."""
    entries = _entries(path, content, key, ("id", field))
    seen: set[int] = set()
    for entry in entries:
        if not isinstance(entry["id"], int):
            raise ValueError(f"{path}: {key!r} needs numbers as id, found {json.dumps(entry)[:120]}")
        if entry["id"] in seen:
            raise ValueError(f"{path}: {key!r} has the id {entry['id']} twice, also of {str(entry[field])[:80]!r}")
        seen.add(entry["id"])
    return entries


def _entries(path: Path, content: dict[str, Any], key: str, fields: tuple[str, ...]) -> list[dict[str, Any]]:
    entries = content.get(key)
    if not isinstance(entries, list):
        raise ValueError(f"{path} is not iNaturalist's JSON: {key!r} is {type(entries).__name__}, not a list")
    for entry in entries:
        if not isinstance(entry, dict) or any(field not in entry for field in fields):
            raise ValueError(f"{path}: {key!r} needs {', '.join(fields)}, found {json.dumps(entry)[:120]}")
    return entries
