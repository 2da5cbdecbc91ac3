"""Box files of users in place of proposals: a COCO JSON or a published proposal file."""

import logging
from array import array
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from orl import boxes
from orl.datasets.image_table import ImageTable
from orl.published_files import formats
from orl.published_files.json_stream import elements
from orl.published_files.listing import coco_images, match_listing, match_names, source_listing
from orl.published_files.row_order import RowOrderedReader

logger = logging.getLogger(__name__)

ImageBoxes = Float32[ndarray, "_ 4"]


class BoxFile:
    """Boxes of a run's images from a file, read a slice of images at a time.

    Boxes are clipped to their image; empty boxes are left out and counted. An image without boxes in the file has none.
    """

    def __init__(self, lists: Callable[[slice], list[ImageBoxes]], images: ImageTable, path: Path) -> None:
        self._lists, self._images, self._path = lists, images, path
        self.num_boxes = self.num_clipped = self.num_dropped = 0

    def __call__(self, images: slice) -> list[ImageBoxes]:
        """Return the boxes `xyxy` of a slice of images, in the order of the file.

        Raises:
            ValueError: if the file is damaged.
        """
        found = [
            self._inside(part, size_wh) for part, size_wh in zip(self._lists(images), self._images.sizes_wh[images])
        ]
        if images.stop == len(self._images):
            logger.info(
                "%s: %d boxes, of which %d were clipped to their image; %d empty ones are left out",
                *(self._path, self.num_boxes, self.num_clipped, self.num_dropped),
            )
        return found

    def _inside(self, found: ImageBoxes, size_wh: tuple[int, int]) -> ImageBoxes:
        clipped = boxes.clip(found, size_wh)
        kept = boxes.area(clipped) > 0
        self.num_boxes += int(kept.sum())
        self.num_dropped += int((~kept).sum())
        self.num_clipped += int((clipped != found).any(axis=1)[kept].sum())
        return clipped[kept]


def read_box_file(path: Path, images: ImageTable, source: Path, folder: Path) -> BoxFile:
    """Open a file of boxes, which are then read by slices of images.

    All boxes of a COCO JSON are used, including crowds. Images are matched by name, and the boxes are kept
    in memory (about 100 bytes each). A published proposal file is read as a stream. Its images are in the order of the
    COCO JSON that the run's images come from, else in the order of the run.

    Args:
        path: file of boxes.
        images: image table of the run.
        source: source of the run's images, as given with --images.
        folder: folder for a temporary file with all boxes (16 bytes each).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file has another format, is damaged, or lists other images.
    """
    if formats.detect_format(path, [formats.COCO, formats.PROPOSALS]) == formats.COCO:
        return BoxFile(_coco_boxes(path, images), images, path)
    rows = match_listing(source_listing(source, images), images, source)
    folder.mkdir(parents=True, exist_ok=True)
    parsed = (formats.parse_boxes(item, f"{path}: image {index}") for index, item in enumerate(elements(path, "bbox")))
    return BoxFile(RowOrderedReader(parsed, rows, folder, str(path)), images, path)


def _coco_boxes(path: Path, images: ImageTable) -> Callable[[slice], list[ImageBoxes]]:
    row_of = _coco_rows(path, images)
    rows, values = array("q"), array("d")
    for entry in elements(path, "annotations", "entries"):
        image_id, box = _annotation(entry, path, len(rows))
        if image_id not in row_of:
            raise ValueError(f"{path}: entry {len(rows)} of 'annotations' is of image {image_id!r}, which it lacks")
        rows.append(row_of[image_id])
        values.extend(box[0])
    image_ids = np.array(rows, dtype=np.int64)
    order = np.argsort(image_ids, kind="stable")
    found = np.array(values, dtype=np.float32).reshape(-1, 4)[order]
    # Images that are not in the run have row -1, which sorts before the first start.
    starts = np.searchsorted(image_ids[order], np.arange(len(images) + 1))

    def lists(rows: slice) -> list[ImageBoxes]:
        return [found[starts[row] : starts[row + 1]] for row in range(rows.start, rows.stop)]

    return lists


def _coco_rows(path: Path, images: ImageTable) -> dict[Any, int]:
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


def _annotation(entry: Any, path: Path, index: int) -> tuple[Any, ndarray]:
    where = f"{path}: entry {index} of 'annotations'"
    if not isinstance(entry, dict) or "image_id" not in entry or "bbox" not in entry:
        raise ValueError(f"{where} needs image_id and bbox, got {str(entry)[:120]}")
    return entry["image_id"], formats.parse_boxes([entry["bbox"]], where)
