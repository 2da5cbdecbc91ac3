"""Boxes from a COCO JSON: instances (images and annotations), or a list of results."""

import logging
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from orl.datasets.image_table import ImageTable
from orl.datasets.masks import box_of_mask, compress_mask
from orl.own_boxes.box_lists import BoxLists, ReadImages
from orl.own_boxes.image_rows import ImageRows
from orl.published_files import formats
from orl.published_files.json_stream import elements
from orl.published_files.listing import coco_images, match_names, rows_by_id

logger = logging.getLogger(__name__)


class _Entry(NamedTuple):
    """Box of one annotation or result."""

    xyxy: Float32[ndarray, "1 4"]
    score: float
    rle: str


def read_instances(path: Path, images: ImageTable, folder: Path, *, has_masks: bool) -> ReadImages:
    """Read the boxes of all annotations of a COCO JSON, including crowds; its images are matched by name.

    Raises:
        ValueError: if the file is damaged, or lists other images.
    """
    row_of = _instance_rows(path, images)
    lists = BoxLists(path, folder, has_masks=has_masks)
    for index, entry in enumerate(elements(path, "annotations", "entries")):
        where = f"{path}: entry {index} of 'annotations'"
        image_id = _image_id(entry, where)
        if image_id not in row_of:
            raise ValueError(f"{where} is of image {image_id!r}, which it lacks")
        _add(lists, entry, row_of[image_id], images, where)
    return lists.reader(len(images))


def read_results(path: Path, images: ImageTable, source: Path, folder: Path, *, has_masks: bool) -> ReadImages:
    """Read the boxes of a list of results, `[{"image_id", "bbox", "score"}, ...]`, with or without "segmentation".

    An `image_id` is an id of the COCO JSON that the run's images come from, or the name of an image.

    Raises:
        ValueError: if the file is damaged, or has the ids of other images.
    """
    row_of_id, row_of_name = rows_by_id(source, images), ImageRows(images, path)
    lists = BoxLists(path, folder, has_masks=has_masks)
    index = -1
    for index, entry in enumerate(elements(path, "", "entries")):
        where = f"{path}: entry {index}"
        image_id = _image_id(entry, where)
        if image_id in row_of_id:
            row = row_of_id[image_id]
        elif isinstance(image_id, str):
            row = row_of_name(image_id)
        elif row_of_id:
            raise ValueError(f"{where} is of image {image_id!r}, which {source} lacks; use the results of these images")
        else:
            raise ValueError(
                f"{where} is of image {image_id!r}, and the images of {source} have names but no ids: give their COCO "
                "JSON by --images, or write the name of each image as image_id"
            )
        _add(lists, entry, row, images, where)
    if not row_of_id:
        if index < 0:
            raise ValueError(f"{path} is an empty list; give a file with boxes")
        row_of_name.check()
    return lists.reader(len(images))


def _image_id(entry: Any, where: str) -> str | int:
    if not isinstance(entry, dict) or "image_id" not in entry or not (entry.get("bbox") or entry.get("segmentation")):
        raise ValueError(f"{where} needs image_id and bbox, or segmentation in place of bbox, got {str(entry)[:120]}")
    image_id = entry["image_id"]
    if type(image_id) not in (int, str):
        raise ValueError(f"{where}: image_id is a whole number or a name, not {image_id!r}")
    return image_id


def _add(lists: BoxLists, entry: dict[str, Any], row: int, images: ImageTable, where: str) -> None:
    """Add the box of an entry; that of an image that is not in the run, whose size is unknown, is left out."""
    if row < 0:
        return
    found = _parse(entry, images.sizes_wh[row], where)
    lists.add(np.array([row]), found.xyxy, np.array([found.score]), [found.rle])


def _parse(entry: dict[str, Any], size_wh: tuple[int, int], where: str) -> _Entry:
    """Read box, score and mask of an entry; without a bbox, the box is that of the mask."""
    score = entry.get("score")
    if score is not None and (type(score) not in (int, float) or not np.isfinite(score)):
        raise ValueError(f"{where}: score is a finite number, not {score!r}")
    mask = None
    if entry.get("segmentation"):
        try:
            mask = compress_mask(entry["segmentation"], size_wh)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    if entry.get("bbox"):
        xyxy = formats.parse_boxes([entry["bbox"]], where)
    else:
        assert mask is not None
        xyxy = box_of_mask(mask)[None]
    return _Entry(xyxy, np.nan if score is None else float(score), "" if mask is None else mask["counts"].decode())


def _instance_rows(path: Path, images: ImageTable) -> dict[Any, int]:
    """Return the row of each image id of a COCO JSON; -1 for an image that is not in the run."""
    entries = coco_images(path)
    names = [name for _, name in entries]
    row_of: dict[Any, int] = {}
    for (image_id, name), rows in zip(entries, match_names(names, images.names)):
        if len(rows) > 1:
            could_be = ", ".join(images.names[row] for row in rows[:3])
            raise ValueError(f"{path}: {name} matches several images: {could_be}; make the names unambiguous")
        row_of[image_id] = rows[0] if rows else -1
    counts = Counter(row for row in row_of.values() if row >= 0)
    twice = next((row for row, count in counts.items() if count > 1), None)
    if twice is not None:
        both = [name for image_id, name in entries if row_of[image_id] == twice]
        raise ValueError(
            f"{path}: {' and '.join(both[:3])} all match {images.names[twice]}; make the names unambiguous"
        )
    num_found = len(counts)
    if num_found == 0:
        raise ValueError(
            f"{path} lists {len(entries)} images ({', '.join(names[:3])}), of which none is among the {len(images)} "
            f"of the run ({', '.join(images.names[:3])}); images are matched by name"
        )
    if num_found < len(images):
        logger.warning("%s lists %d of the run's %d images; the others have no box", path, num_found, len(images))
    return row_of
