"""Arrays of boxes: the same columns as .npz and as Parquet."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orl.datasets.image_table import ImageTable
from orl.datasets.masks import encode_masks
from orl.own_boxes import box_arrays
from orl.own_boxes.box_file import detect_box_format, read_box_file
from orl.own_boxes.image_boxes import ImageBoxes

NAMES = ("x/a.jpg", "x/b.jpg", "y/c.jpg")
IMAGES = ImageTable(root=Path("images"), names=NAMES, sizes_wh=((40, 30), (50, 60), (70, 90)), digests=NAMES)
MASK = np.arange(30 * 40).reshape(30, 40) % 7 == 0
RLE = encode_masks(MASK[None])[0]["counts"].decode()
COLUMNS: dict[str, Any] = {
    "name": ["b.jpg", "x/a.jpg", "b", "gone.jpg", "x/b.jpg", "a"],
    "xyxy": [[1, 2, 9, 9], [2, 2, 90, 9], [3, 2, 9, 9], [4, 2, 9, 9], [5, 2.5, 9, 9], [6, 6, 6, 9]],
    "score": [0.5, 0.1, 0.7, 1.0, 0.5, 0.9],
    "rle": ["", RLE, "", "", "", ""],
}
"""Boxes of two images and of one that is not in the run; the last box is empty."""


def written(path: Path, columns: dict[str, Any]) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **columns)
    else:
        pq.write_table(pa.table(columns), path, row_group_size=4)
    return path


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box_arrays, "BATCH_ROWS", 4)


def found(path: Path, folder: Path) -> list[ImageBoxes]:
    box_file = read_box_file(path, IMAGES, Path("images"), folder)
    return [*box_file(slice(0, 2)), *box_file(slice(2, 3))]


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
@pytest.mark.parametrize("names", [("name", "xyxy"), ("name", "xyxy", "score"), tuple(COLUMNS)])
def test_boxes_are_those_of_the_columns_ranked_by_score(tmp_path: Path, suffix: str, names: tuple[str, ...]) -> None:
    path = written(tmp_path / f"own{suffix}", {name: COLUMNS[name] for name in names})
    first, second, third = found(path, tmp_path)
    assert first.xyxy.tolist() == [[2, 2, 40, 9]]
    assert second.xyxy[:, 0].tolist() == ([3, 1, 5] if "score" in names else [1, 3, 5])
    assert third.xyxy.shape == (0, 4)
    assert (first.rles, second.rles) == (((RLE,), ("",) * 3) if "rle" in names else (None, None))
    assert detect_box_format(path).has_masks == ("rle" in names)


def test_parquet_may_have_lists_of_a_fixed_size_and_gaps_in_place_of_masks(tmp_path: Path) -> None:
    boxes = pa.array(COLUMNS["xyxy"], pa.list_(pa.float32(), 4))
    rles = [rle or None for rle in COLUMNS["rle"]]
    path = written(tmp_path / "own.parquet", {"name": COLUMNS["name"], "xyxy": boxes, "rle": rles})
    first, second, _ = found(path, tmp_path)
    assert (first.xyxy.tolist(), first.rles, second.rles) == ([[2, 2, 40, 9]], (RLE,), ("",) * 3)


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"xyxy": None}, r"lacks xyxy \(it has name, score, rle\); it needs name and xyxy"),
        ({"name": [1, 2, 3, 4, 5, 6]}, "name must be text, one a box, got int64"),
        ({"score": list("abcdef")}, r"score must be a number for each of .* boxes, got <U1"),
        ({"score": [0.5, np.nan, 0, 0, 0, 0]}, "row 1 has the score nan, which is not finite"),
        ({"xyxy": [[0, 0, 1, 1]] * 4 + [[5, 0, 1, 1]] * 2}, r"row 4 has the box \[5, 0, 1, 1\], which .*is reversed"),
        ({"xyxy": [[0, 0, 1, np.inf]] * 6}, r"row 0 has the box \[0\.0, 0\.0, 1\.0, inf\], which is not finite"),
        ({"name": ["u", "v"] * 3}, r"names 2 images \(u, v\), of which none is among the 3 of the run \(x/a\.jpg"),
        ({"rle": ["", "", "", "", RLE, ""]}, r"row 4, rle of x/b\.jpg: a mask must have the 3000 pixels .*, got 1200"),
    ],
)
def test_wrong_columns_are_refused_with_the_value(
    tmp_path: Path, suffix: str, changes: dict[str, Any], message: str
) -> None:
    columns = {name: value for name, value in (COLUMNS | changes).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        found(written(tmp_path / f"own{suffix}", columns), tmp_path)


def test_boxes_of_other_lengths_are_refused(tmp_path: Path) -> None:
    ragged = {"name": COLUMNS["name"], "xyxy": [*COLUMNS["xyxy"][:5], [1, 2, 3]]}
    with pytest.raises(ValueError, match=r"row 5 has the box \[1\.0, 2\.0, 3\.0\]; xyxy must be four numbers a box"):
        found(written(tmp_path / "own.parquet", ragged), tmp_path)
    with pytest.raises(ValueError, match=r"xyxy must be four numbers a box, for 6 boxes, got .* of shape \(3, 8\)"):
        found(written(tmp_path / "own.npz", COLUMNS | {"xyxy": np.ones((3, 8))}), tmp_path)
    with pytest.raises(ValueError, match=r"score must be a number for each of 6 boxes, got float64 of shape \(2,\)"):
        found(written(tmp_path / "own.npz", COLUMNS | {"score": [0.1, 0.2]}), tmp_path)


def test_files_that_are_damaged_or_empty_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    path.write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(ValueError, match=r"own\.npz is not an \.npz file"):
        found(path, tmp_path)
    np.savez(path, name=np.array(["a", None], dtype=object), xyxy=np.ones((2, 4)))
    with pytest.raises(ValueError, match=r"neither text nor numbers .*; write names as numpy\.array"):
        found(path, tmp_path)
    np.savez(path, name=np.array([], dtype=str), xyxy=np.ones((0, 4)))
    with pytest.raises(ValueError, match=r"own\.npz has no rows"):
        found(path, tmp_path)
    table = tmp_path / "own.parquet"
    table.write_bytes(b"PAR1 no table")
    with pytest.raises(ValueError, match=r"own\.parquet is not a Parquet file"):
        found(table, tmp_path)
