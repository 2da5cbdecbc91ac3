"""Boxes of users from a file or folder in place of proposals, in any of the formats below.

| format | content | masks |
| --- | --- | --- |
| COCO JSON | "images" and "annotations" with "bbox", or "segmentation" in place of it | yes |
| COCO results | list of {"image_id", "bbox" or "segmentation", "score"} | yes |
| .npz, Parquet | `name`, `xyxy`, optional `score`, optional `rle` | yes |
| folder of YOLO text files | lines `class cx cy w h`, optional score | no |
| published proposal file | {"bbox": [image][box][x, y, w, h]} | no |
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orl import boxes, files
from orl.datasets.image_table import ImageTable, require_original_sizes
from orl.own_boxes.box_arrays import npz_columns, parquet_columns, read_npz, read_parquet
from orl.own_boxes.box_lists import ReadImages
from orl.own_boxes.coco_boxes import read_instances, read_results
from orl.own_boxes.image_boxes import ImageBoxes
from orl.own_boxes.yolo_boxes import read_yolo, yolo_digest
from orl.published_files import formats
from orl.published_files.json_stream import elements, keys_in
from orl.published_files.listing import match_listing, source_listing
from orl.published_files.row_order import RowOrderedReader

logger = logging.getLogger(__name__)

RESULTS, NPZ, PARQUET, YOLO = "COCO results", "npz", "Parquet", "YOLO"
"""Formats beside those of `formats`."""
HEAD_BYTES = 4096


@dataclass(frozen=True)
class BoxFormat:
    """Format of a file of boxes, as detected from its content."""

    name: str
    has_masks: bool = False

    @property
    def in_pixels(self) -> bool:
        """True for boxes in pixels of the original images, False for fractions."""
        return self.name != YOLO


class BoxFile:
    """Boxes of a run's images from a file, read a slice of images at a time.

    Boxes are clipped to their image; empty boxes are left out and counted. An image without boxes in the file has none.
    """

    def __init__(self, read: ReadImages, images: ImageTable, path: Path, box_format: BoxFormat) -> None:
        self._read, self._images, self._path = read, images, path
        self.has_masks = box_format.has_masks
        self.num_boxes = self.num_clipped = self.num_dropped = 0

    def __call__(self, images: slice) -> list[ImageBoxes]:
        """Return the boxes of a slice of images, by falling score, or in the order of the file without scores.

        Raises:
            ValueError: if the file is damaged.
        """
        found = [
            self._inside(part, size_wh) for part, size_wh in zip(self._read(images), self._images.sizes_wh[images])
        ]
        if images.stop == len(self._images):
            logger.info(
                "%s: %d boxes, of which %d were clipped to their image; %d empty ones are left out",
                *(self._path, self.num_boxes, self.num_clipped, self.num_dropped),
            )
        return found

    def _inside(self, found: ImageBoxes, size_wh: tuple[int, int]) -> ImageBoxes:
        kept = found.clipped(size_wh)
        clipped = boxes.clip(found.xyxy, size_wh)
        self.num_boxes += len(kept.xyxy)
        self.num_dropped += len(found.xyxy) - len(kept.xyxy)
        self.num_clipped += int(((clipped != found.xyxy).any(axis=1) & (boxes.area(clipped) > 0)).sum())
        return kept


def detect_box_format(path: Path) -> BoxFormat:
    """Detect the format of a file of boxes from its content; a folder holds YOLO text files.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        ValueError: if the file has another format, or is damaged.
    """
    if path.is_dir():
        return BoxFormat(YOLO)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}; give the path of a file or folder of boxes")
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES).lstrip()
    if head.startswith(b"PK\x03\x04"):
        return BoxFormat(NPZ, "rle" in npz_columns(path))
    if head.startswith(b"PAR1"):
        return BoxFormat(PARQUET, "rle" in parquet_columns(path))
    keys = keys_in(path)
    if head.startswith(b"["):
        return BoxFormat(RESULTS, "segmentation" in keys)
    name = formats.format_of_keys(path, keys, [formats.COCO, formats.PROPOSALS])
    return BoxFormat(name, name == formats.COCO and "segmentation" in keys)


def box_file_digest(path: Path) -> str:
    """Return a digest of the content of a file or folder of boxes."""
    return yolo_digest(path) if path.is_dir() else files.file_digest(path)


def read_box_file(path: Path, images: ImageTable, source: Path, folder: Path) -> BoxFile:
    """Open a file or folder of boxes, which are then read by slices of images.

    Images are matched by name; ids of COCO results are those of the COCO JSON that the run's images come from. Boxes
    are kept in memory (some 60 bytes each), masks in a temporary file. YOLO files and a published proposal file are
    read as a stream. The images of a proposal file are in the order of the COCO JSON that the run's images come from,
    else in the order of the run.

    Args:
        path: file or folder of boxes.
        images: image table of the run.
        source: source of the run's images, as given with --images.
        folder: folder for a temporary file with all masks or, of a proposal file, all boxes (16 bytes each).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file has another format, is damaged, or lists other images; or boxes are in pixels of images
            that a pack has resized.
    """
    box_format = detect_box_format(path)
    if box_format.in_pixels:
        require_original_sizes(images)
    return BoxFile(_reader(path, images, source, folder, box_format), images, path, box_format)


def _reader(path: Path, images: ImageTable, source: Path, folder: Path, box_format: BoxFormat) -> ReadImages:
    if box_format.name == YOLO:
        return read_yolo(path, images)
    if box_format.name == NPZ:
        return read_npz(path, images, folder)
    if box_format.name == PARQUET:
        return read_parquet(path, images, folder)
    if box_format.name == RESULTS:
        return read_results(path, images, source, folder, has_masks=box_format.has_masks)
    if box_format.name == formats.COCO:
        return read_instances(path, images, folder, has_masks=box_format.has_masks)
    return _read_proposals(path, images, source, folder)


def _read_proposals(path: Path, images: ImageTable, source: Path, folder: Path) -> ReadImages:
    """Open a published proposal file."""
    rows = match_listing(source_listing(source, images), images, source)
    folder.mkdir(parents=True, exist_ok=True)
    parsed = (formats.parse_boxes(item, f"{path}: image {index}") for index, item in enumerate(elements(path, "bbox")))
    ordered = RowOrderedReader(parsed, rows, folder, str(path))
    return lambda images: [ImageBoxes(np.array(each, dtype=np.float32)) for each in ordered(images)]
