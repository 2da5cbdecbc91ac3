"""Tables of stage 2 whose values are out of range: refused with the row."""

import re
from pathlib import Path

import numpy as np
import pytest

from orl import tables
from orl.datasets.discovery_tables import open_discovery_table
from orl.datasets.image_table import ImageTable

SIZE_WH = (40, 30)
IMAGES = ImageTable(root=Path(), names=("a", "b", "c"), sizes_wh=(SIZE_WH,) * 3, digests=("a", "b", "c"))
BOXES = np.array([[0, 0, 40, 30], [1, 2, 11, 12], [0, 0, 5, 5], [3.5, 4, 20, 30]], np.float32)
ROIS = {"image_id": np.array([0, 0, 1, 2], np.int32), "box": BOXES}
NEIGHBOURS = {
    "neighbour_ids": np.array([[1], [2], [0]], np.int32),
    "similarities": np.array([[0.9], [0.8], [np.nan]], np.float32),
}
CORRESPONDENCES = {
    "image_id": np.array([0, 0, 1, 2], np.int32),
    "neighbour_id": np.array([1, 1, 2, 0], np.int32),
    "roi": np.array([0, 1, 2, 3]),
    "neighbour_roi": np.array([2, 2, 3, 1]),
    "similarity": np.array([1, 0.5, np.nan, -1], np.float32),
}
TABLES = {"rois": ROIS, "proposals": ROIS, "neighbours": NEIGHBOURS, "correspondences": CORRESPONDENCES}


def write(folder: Path, name: str, columns: dict[str, np.ndarray]) -> None:
    """Write a table of two shards."""
    middle = len(next(iter(columns.values()))) - 2
    for index in tables.begin(folder / name, {"images": IMAGES.fingerprint}, 2):
        part = slice(middle, None) if index else slice(middle)
        tables.write_shard(folder / name, index, {key: values[part] for key, values in columns.items()})
    tables.finish_table(folder / name)


def changed(columns: dict[str, np.ndarray], name: str, row: int, value: object) -> dict[str, np.ndarray]:
    copied = {key: values.copy() for key, values in columns.items()}
    copied[name][row] = value
    return copied


@pytest.mark.parametrize("name", TABLES)
def test_good_tables_are_read_as_they_were_written(tmp_path: Path, name: str) -> None:
    for each, columns in TABLES.items():
        write(tmp_path, each, columns)
    for column, values in TABLES[name].items():
        np.testing.assert_array_equal(open_discovery_table(tmp_path / name, IMAGES).column(column), values)


@pytest.mark.parametrize(
    ("table", "column", "row", "value", "reason"),
    [
        ("rois", "box", 3, (-2, 0, 5, 5), "box is outside its image"),
        ("rois", "box", 3, (0, 0, 42, 5), "box is outside its image"),
        ("rois", "box", 3, (9, 0, 5, 5), "box is empty or reversed"),
        ("rois", "box", 3, (5, 0, 5, 5), "box is empty or reversed"),
        ("rois", "box", 3, (np.nan, 0, 5, 5), "box is not finite"),
        ("rois", "box", 3, (0, 0, np.inf, 5), "box is not finite"),
        ("rois", "image_id", 3, 3, "image_id is not one of the 3 images"),
        ("rois", "image_id", 3, -1, "image_id is not one of the 3 images"),
        ("proposals", "box", 3, (9, 0, 5, 5), "box is empty or reversed"),
        ("neighbours", "neighbour_ids", 2, 3, "neighbour_ids has an id that is not one of 3 images"),
        ("neighbours", "neighbour_ids", 2, -1, "neighbour_ids has an id that is not one of 3 images"),
        ("neighbours", "neighbour_ids", 2, 2, "neighbour_ids has the image itself"),
        ("neighbours", "similarities", 2, 1.5, "similarities is not in [-1, 1]"),
        ("correspondences", "image_id", 3, 7, "image_id is not one of the 3 images"),
        ("correspondences", "neighbour_id", 3, -1, "neighbour_id is not one of the 3 images"),
        ("correspondences", "roi", 3, -1, "roi is not an RoI of the image in image_id"),
        ("correspondences", "roi", 3, 4, "roi is not an RoI of the image in image_id"),
        ("correspondences", "roi", 3, 2, "roi is not an RoI of the image in image_id"),
        ("correspondences", "neighbour_roi", 3, -1, "neighbour_roi is not an RoI of the image in neighbour_id"),
        ("correspondences", "neighbour_id", 3, 1, "neighbour_roi is not an RoI of the image in neighbour_id"),
        ("correspondences", "similarity", 3, np.inf, "similarity is not in [-1, 1]"),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_row(
    tmp_path: Path, table: str, column: str, row: int, value: object, reason: str
) -> None:
    for name, columns in TABLES.items():
        write(tmp_path, name, changed(columns, column, row, value) if name == table else columns)
    with pytest.raises(ValueError, match=rf"row {row} of .*/{table}: {re.escape(reason)} \(.*; delete .*orl disc"):
        open_discovery_table(tmp_path / table, IMAGES).column(column)


def test_a_pair_with_an_image_that_is_no_neighbour_is_refused(tmp_path: Path) -> None:
    for name, columns in TABLES.items():
        write(tmp_path, name, columns)
    other = changed(changed(CORRESPONDENCES, "neighbour_id", 3, 1), "neighbour_roi", 3, 2)
    tables.begin(tmp_path / "correspondences", {"made": "elsewhere"}, 1, overwrite=True)
    tables.write_shard(tmp_path / "correspondences", 0, other)
    with pytest.raises(ValueError, match=r"row 3 .*neighbour_id is not a neighbour of its image"):
        open_discovery_table(tmp_path / "correspondences", IMAGES).column("roi")


def test_a_proposal_without_area_is_left_to_the_filter(tmp_path: Path) -> None:
    write(tmp_path, "proposals", changed(ROIS, "box", 3, (5, 0, 5, 5)))
    assert open_discovery_table(tmp_path / "proposals", IMAGES).column("box")[3].tolist() == [5, 0, 5, 5]


def test_other_columns_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "rois", {"image_id": ROIS["image_id"], "box": ROIS["box"].astype(np.int64)})
    with pytest.raises(ValueError, match=r"rois has the columns .*'box': \('i', 2\).*, not .*'box': \('f', 2\)"):
        open_discovery_table(tmp_path / "rois", IMAGES).column("box")


def test_a_neighbour_twice_is_refused(tmp_path: Path) -> None:
    ids = np.array([[1, 2], [2, 0], [0, 0]], np.int32)
    write(tmp_path, "neighbours", {"neighbour_ids": ids, "similarities": np.ones((3, 2), np.float32)})
    with pytest.raises(ValueError, match=r"row 2 .*neighbour_ids has an image twice"):
        open_discovery_table(tmp_path / "neighbours", IMAGES).column("neighbour_ids")


@pytest.mark.parametrize("name", ["rois", "proposals"])
def test_masks_of_boxes_are_an_optional_column_of_text_even_where_a_shard_is_empty(tmp_path: Path, name: str) -> None:
    rles = np.array(["", "", "0:7", "x"], dtype=object)
    write(tmp_path, name, {**ROIS, "rle": rles})
    assert open_discovery_table(tmp_path / name, IMAGES).column("rle").tolist() == rles.tolist()
    for index in tables.begin(tmp_path / "empty" / name, {"images": IMAGES.fingerprint}, 2):
        part = slice(4 * index, None)
        columns = {key: values[part] for key, values in {**ROIS, "rle": rles}.items()}
        tables.write_shard(tmp_path / "empty" / name, index, columns)
    assert open_discovery_table(tmp_path / "empty" / name, IMAGES).column("rle").tolist() == rles.tolist()
    write(tmp_path / "wrong", name, {**ROIS, "rle": np.arange(4)})
    with pytest.raises(ValueError, match=r"'rle': \('i', 1\)"):
        open_discovery_table(tmp_path / "wrong" / name, IMAGES).column("box")
