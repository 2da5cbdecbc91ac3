"""Boxes from a folder of YOLO text files: one file for each image, one line `class cx cy w h [score]` for each box."""

from pathlib import Path

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from orl import boxes, files, provenance
from orl.datasets.image_table import ImageTable
from orl.own_boxes.box_lists import ReadImages
from orl.own_boxes.image_boxes import ImageBoxes
from orl.own_boxes.image_rows import ImageRows

NUM_COLUMNS = (5, 6)
"""Numbers on a line without and with a score."""


def read_yolo(folder: Path, images: ImageTable) -> ReadImages:
    """Open a folder of text files, named as the images; a file is read when the boxes of its image are.

    Centre, width and height are fractions of the image's width and height. An image without a file has no box.

    Raises:
        ValueError: if no file is named as an image, or two files are of one image; when a file is read, if it is
            damaged.

    Source:
        Ultralytics, "Train custom data" (labels) and `save_txt` with `save_conf` (predictions, with a sixth column).
    """
    row_of, path_of = ImageRows(images, folder), dict[int, Path]()
    for path in _text_files(folder):
        row = row_of(path.relative_to(folder).with_suffix("").as_posix())
        if row in path_of:
            raise ValueError(f"{path_of[row]} and {path} are both of {images.names[row]}; give one file an image")
        if row >= 0:
            path_of[row] = path
    row_of.check()

    def read(rows: slice) -> list[ImageBoxes]:
        return [
            _parse(path_of[row], images.sizes_wh[row]) if row in path_of else ImageBoxes(np.empty((0, 4), np.float32))
            for row in range(rows.start, rows.stop)
        ]

    return read


def yolo_digest(folder: Path) -> str:
    """Return a digest of the names and contents of all text files of a folder."""
    return provenance.fingerprint(
        {str(path.relative_to(folder)): files.file_digest(path) for path in _text_files(folder)}
    )


def _text_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.txt") if path.is_file())


def _parse(path: Path, size_wh: tuple[int, int]) -> ImageBoxes:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text ({error}); lines are class cx cy w h") from error
    return _parse_lines(lines, str(path), size_wh)


def _parse_lines(lines: list[str], where: str, size_wh: tuple[int, int]) -> ImageBoxes:
    numbered = [(number, line.split()) for number, line in enumerate(lines, start=1) if line.strip()]
    values = np.empty((0, NUM_COLUMNS[0]))
    if numbered:
        values = np.stack(
            [_numbers(words, len(numbered[0][1]), f"{where}, line {number}") for number, words in numbered]
        )
    centre, sides = values[:, 1:3], values[:, 3:5]
    xyxy = np.concatenate([centre - sides / 2, centre + sides / 2], axis=1) * [*size_wh, *size_wh]
    faulty = boxes.is_faulty(xyxy)
    if faulty.any():
        number, words = numbered[int(faulty.argmax())]
        raise ValueError(f"{where}, line {number}: {' '.join(words)} is no box; lines are class cx cy w h, from 0 to 1")
    found = ImageBoxes(xyxy.astype(np.float32))
    return found.select(np.argsort(-values[:, 5], kind="stable")) if values.shape[1] == NUM_COLUMNS[1] else found


def _numbers(words: list[str], num_columns: int, where: str) -> Float64[ndarray, "w"]:
    """Convert the words of one line."""
    if len(words) not in NUM_COLUMNS or len(words) != num_columns:
        raise ValueError(
            f"{where} has {len(words)} numbers; lines are class cx cy w h, all with or all without a score at the end"
        )
    try:
        found = np.array([float(word) for word in words])
    except ValueError as error:
        raise ValueError(f"{where}: {' '.join(words)} are not numbers; lines are class cx cy w h") from error
    if not np.isfinite(found).all() or (found[1:5] > 2).any():
        raise ValueError(
            f"{where}: {' '.join(words)} is no box; cx, cy, w and h are fractions of the image, from 0 to 1"
        )
    return found
