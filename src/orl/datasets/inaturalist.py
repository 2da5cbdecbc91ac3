"""Reader of iNaturalist 2018: one JSON per split with images, annotations and categories, without boxes."""

import json
from pathlib import Path
from typing import Any

from orl.datasets.class_lists import Entry, listed_images, plain_name
from orl.datasets.classified import ClassifiedImages

YEAR = 2018


def read_inaturalist(root: Path, split: str) -> ClassifiedImages:
    """Read `<split>2018.json`; names are relative to the JSON's folder, such as 'train_val2018/Plantae/...'.

    Raises:
        FileNotFoundError: if there is no such JSON.
        ValueError: if the JSON is damaged, an image does not have exactly one label, or an image file is missing.
    """
    path = root / f"{split}{YEAR}.json"
    content = _read_json(path)
    categories = sorted(_numbered(path, content, "categories", "name"), key=lambda category: category["id"])
    columns = {category["id"]: column for column, category in enumerate(categories)}
    labels: dict[Any, int] = {}
    for annotation in _entries(path, content, "annotations", ("image_id", "category_id")):
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
    for image in _numbered(path, content, "images", "file_name"):
        if image["id"] not in labels:
            raise ValueError(f"{path}: image {image['id']} ({image['file_name']}) has no annotation")
        where = f"image {image['id']}"
        entries.append(Entry(where, plain_name(str(image["file_name"]), where, path), labels[image["id"]]))
    return listed_images(root, split, _class_names(categories), entries, path)


def _class_names(categories: list[dict[str, Any]]) -> tuple[str, ...]:
    """Return the category names, with their ids in front if names are not unique."""
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
    """Return entries after checking that their ids are unique integers."""
    entries = _entries(path, content, key, ("id", field))
    seen: set[int] = set()
    for entry in entries:
        if not isinstance(entry["id"], int):
            raise ValueError(f"{path}: {key!r} needs integer ids, got {json.dumps(entry)[:120]}")
        if entry["id"] in seen:
            raise ValueError(f"{path}: {key!r} has the id {entry['id']} twice, also of {str(entry[field])[:80]!r}")
        seen.add(entry["id"])
    return entries


def _entries(path: Path, content: dict[str, Any], key: str, fields: tuple[str, ...]) -> list[dict[str, Any]]:
    entries = content.get(key)
    if not isinstance(entries, list):
        raise ValueError(f"{path} is not iNaturalist's JSON: {key!r} must be a list, got {type(entries).__name__}")
    for entry in entries:
        if not isinstance(entry, dict) or any(field not in entry for field in fields):
            raise ValueError(f"{path}: {key!r} needs {', '.join(fields)}, got {json.dumps(entry)[:120]}")
    return entries
