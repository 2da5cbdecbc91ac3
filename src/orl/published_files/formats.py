"""Formats of the published files: their keys, and the conversion of an image's lists to arrays and back.

| format | content |
| --- | --- |
| selective_search_proposal | {"bbox": [image][box][x, y, w, h]} |
| knn_instance | {"info": {"knn_image_num"}, "images": {"file_name": [], "id": []}, "pseudo_annotations": {"image_id": [], "knn_image_id": [image][neighbour]}} |
| correspondence | the same, with more in "info" and in "pseudo_annotations": "bbox": [image][RoI][x, y, w, h], "knn_bbox_pair": [image][neighbour][pair][x, y, w, h, x, y, w, h] |

`knn_image_id` has indices into the list of images, not ids. The keys may be in any order.
"""  # noqa: E501

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64
from numpy import ndarray

from orl import boxes
from orl.published_files.json_stream import keys_in

PROPOSALS, NEIGHBOURS, CORRESPONDENCES, COCO = "selective_search_proposal", "knn_instance", "correspondence", "COCO"
NEEDED_KEYS = {
    CORRESPONDENCES: ("images", "file_name", "pseudo_annotations", "bbox", "knn_image_id", "knn_bbox_pair"),
    NEIGHBOURS: ("images", "file_name", "pseudo_annotations", "knn_image_id"),
    COCO: ("images", "file_name", "annotations"),
    PROPOSALS: ("bbox",),
}
"""Keys that identify a format; a file has the first format whose keys are all present."""
MAX_DECIMALS = 3


def detect_format(path: Path, expected: Sequence[str]) -> str:
    """Detect the format of a file, and check that it is one of the expected formats.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file has another format, is truncated, or continues after its end.
    """
    return format_of_keys(path, keys_in(path), expected)


def format_of_keys(path: Path, found: Sequence[str], expected: Sequence[str]) -> str:
    """Return the format of a file with these keys, as `detect_format` does."""
    known = next((name for name, keys in NEEDED_KEYS.items() if set(keys) <= set(found)), None)
    if known in expected:
        return str(known)
    keys = ", ".join(found[:12]) or "none"
    wanted = " or ".join(f"{name!r}" for name in expected)
    if known is not None:
        raise ValueError(f"{path} is a file of format {known!r}, where {wanted} is needed (its keys: {keys})")
    near, missing = _nearest(found)
    raise ValueError(
        f"{path} has no known format, where {wanted} is needed (its keys: {keys}); the nearest is {near!r}, which "
        f"also needs {', '.join(missing)}"
    )


def parse_boxes(item: Any, where: str) -> Float32[ndarray, "n 4"]:
    """Convert the boxes of one image from lists of x, y, w, h to `xyxy`.

    The published program writes a single box as four numbers without a list around them.

    Args:
        item: value of the image in the file.
        where: file and image, for error messages.

    Raises:
        ValueError: if the item is not a list of four numbers per box, a width or height is below 0, or a box
            lies a million pixels outside.
    """
    return _checked_xyxy(_numbers(item, 4, where), where)


def parse_pairs(item: Any, where: str) -> Float32[ndarray, "n 9"]:
    """Convert the box pairs of one image: rank of the neighbour, box of the image and box of the neighbour (`xyxy`).

    Raises:
        ValueError: if the item is not a list of eight numbers per pair for each neighbour, or a side is below 0.
    """
    if not isinstance(item, list) or not all(isinstance(pairs, list) for pairs in item):
        raise ValueError(f"{where}: pairs come as a list for each neighbour, not {_short(item)}")
    parts = [_numbers(pairs, 8, f"{where}, neighbour {rank}") for rank, pairs in enumerate(item)]
    ranks = np.repeat(np.arange(len(parts), dtype=np.float32), [len(part) for part in parts])
    values = np.concatenate([np.empty((0, 8)), *parts])
    return np.concatenate(
        [ranks[:, None], _checked_xyxy(values[:, :4], where), _checked_xyxy(values[:, 4:], where)], axis=1
    )


def parse_neighbours(item: Any, num_images: int, where: str) -> Int64[ndarray, "k"]:
    """Convert the neighbours of one image to indices into the file's list of images.

    Raises:
        ValueError: if the item is not a list of integers from 0 to below the number of images.
    """
    if not isinstance(item, list) or not item or any(type(index) is not int for index in item):
        raise ValueError(f"{where}: neighbours are a list of integers, not {_short(item)}")
    outside = next((index for index in item if not 0 <= index < num_images), None)
    if outside is not None:
        raise ValueError(f"{where}: neighbour {outside} is none of the {num_images} images, which count from 0")
    return np.array(item, dtype=np.int64)


def _checked_xyxy(boxes_xywh: Float64[ndarray, "n 4"], where: str) -> Float32[ndarray, "n 4"]:
    """Convert boxes to `xyxy`; sums are in double precision, which `boxes_to_json` needs for an exact inverse.

    Raises:
        ValueError: if a width or height is below 0, or a box lies a million pixels outside.
    """
    corners = boxes.from_xywh(boxes_xywh, np.float64)
    faulty = boxes.is_faulty(corners)
    if faulty.any():
        box = boxes_xywh[faulty][0].tolist()
        problem = "has a width or height below 0" if min(box[2:]) < 0 else "lies far outside of every image"
        raise ValueError(f"{where}: box {box} {problem}; boxes are x, y, w, h in pixels")
    return corners.astype(np.float32)


def boxes_to_json(boxes_xyxy: Float32[ndarray, "n 4"]) -> list[list[int | float]]:
    """Convert boxes to x, y, w, h with the fewest decimals, up to three, that restore the same box; else with all.

    `parse_boxes` restores these boxes bit for bit. Boxes from a file with at most three decimals, in images of up to
    8,000 px, are written as they were. Integers are written without a point.
    """
    exact = boxes_xyxy.astype(np.float64)
    exact = np.concatenate([exact[:, :2], exact[:, 2:] - exact[:, :2]], axis=1)
    integers = np.round(exact)
    if np.array_equal(_to_xyxy(integers), boxes_xyxy):
        return integers.astype(np.int64).tolist()
    written = exact.copy()
    for decimals in range(MAX_DECIMALS, -1, -1):
        rounded = np.round(exact, decimals)
        enough = (_to_xyxy(rounded) == boxes_xyxy).all(axis=1)
        written[enough] = rounded[enough]
    return [[int(value) if value.is_integer() else value for value in row] for row in written.tolist()]


def _to_xyxy(boxes_xywh: Float64[ndarray, "n 4"]) -> Float32[ndarray, "n 4"]:
    return boxes.from_xywh(boxes_xywh, np.float64).astype(np.float32)


def _numbers(item: Any, width: int, where: str) -> Float64[ndarray, "n w"]:
    """Convert a list of lists of `width` numbers to one array."""
    try:
        values = np.array(item)
    except (ValueError, OverflowError):  # lists of unequal length, or numbers beyond any type
        values = np.array("refused")
    if isinstance(item, list) and not item:
        return np.empty((0, width))
    if values.shape == (width,):
        values = values[None]
    if values.dtype.kind not in "iuf" or values.ndim != 2 or values.shape[1] != width:
        raise ValueError(f"{where}: {_first_wrong(item, width)} is not a list of {width} numbers")
    return values.astype(np.float64)


def _first_wrong(item: Any, width: int) -> str:
    def is_right(row: Any) -> bool:
        return isinstance(row, list) and len(row) == width and all(type(value) in (int, float) for value in row)

    return _short(next((row for row in item if not is_right(row)), item) if isinstance(item, list) else item)


def _nearest(found: Sequence[str]) -> tuple[str, list[str]]:
    """Return the format with the most similar keys, and the keys that the file lacks."""

    def fraction(name: str) -> float:
        hinted = [key for key in NEEDED_KEYS[name] if difflib.get_close_matches(key, found, n=1)]
        return len(hinted) / len(NEEDED_KEYS[name])

    nearest = max(NEEDED_KEYS, key=fraction)
    return nearest, [key for key in NEEDED_KEYS[nearest] if key not in found]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
