"""Folders of YOLO text files.

Layout: docs.ultralytics.com/datasets/detect (labels/SPLIT/NAME.txt, `class x_center y_center width height`, normalised)
and the predictions of `save_txt=True save_conf=True`, which have the confidence as the sixth number.
"""

from pathlib import Path

import pytest

from orl.datasets.image_table import ImageTable
from orl.own_boxes.box_file import box_file_digest, detect_box_format, read_box_file

NAMES = ("train/a.jpg", "train/b.jpg", "val/c.png")
IMAGES = ImageTable(root=Path("images"), names=NAMES, sizes_wh=((100, 80), (50, 60), (70, 90)), digests=NAMES)


def folder_of(root: Path, texts: dict[str, str]) -> Path:
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def found(folder: Path) -> list[list[list[float]]]:
    box_file = read_box_file(folder, IMAGES, Path("images"), folder / "unused")
    parts = [*box_file(slice(0, 1)), *box_file(slice(1, 3))]
    assert all(part.rles is None for part in parts)
    return [part.xyxy.tolist() for part in parts]


@pytest.mark.parametrize("subfolders", [True, False])
def test_lines_are_fractions_of_the_image_around_a_centre(tmp_path: Path, subfolders: bool) -> None:
    texts = {"train/a.txt": "0 0.5 0.5 0.25 0.5\n\n7 0.125 0.25 0.25 0.25\n", "val/c.txt": "", "classes.txt": "cat\n"}
    if not subfolders:
        texts = {name.rpartition("/")[2]: text for name, text in texts.items()}
    folder = folder_of(tmp_path, texts)
    assert detect_box_format(folder).name == "YOLO"
    assert found(folder) == [[[37.5, 20, 62.5, 60], [0, 10, 25, 30]], [], []]


def test_boxes_are_ranked_by_the_score_in_the_sixth_column_and_clipped(tmp_path: Path) -> None:
    lines = ["0 0.5 0.5 0.5 0.5 0.25", "1 0.0 0.5 0.5 0.5 0.75", "0 0.5 0.5 1 1 0.25"]
    boxes = found(folder_of(tmp_path, {"b.txt": "\n".join(lines)}))
    assert boxes == [[], [[0, 15, 12.5, 45], [12.5, 15, 37.5, 45], [0, 0, 50, 60]], []]


def test_the_digest_follows_names_and_contents(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"a.txt": "0 0.5 0.5 0.5 0.5", "notes.md": "x"})
    first = box_file_digest(folder)
    folder_of(tmp_path, {"notes.md": "y"})
    assert box_file_digest(folder) == first
    folder_of(tmp_path, {"a.txt": "0 0.5 0.5 0.5 0.4"})
    second = box_file_digest(folder)
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    assert len({first, second, box_file_digest(folder)}) == 3


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"a.txt": "0 0.5 0.5 0.5"}, r"a\.txt, line 1 has 4 numbers; lines are class cx cy w h"),
        ({"a.txt": "\n0 0.5 0.5 0.5 0.5\n0 0.5 0.5 0.5 0.5 1"}, r"a\.txt, line 3 has 6 numbers; .*all with or"),
        ({"a.txt": "0 0.1 0.1 0.9 0.1 0.9 0.9"}, r"a\.txt, line 1 has 7 numbers"),
        ({"a.txt": "cat 0.5 0.5 0.5 0.5"}, r"line 1: cat 0\.5 0\.5 0\.5 0\.5 are not numbers"),
        ({"a.txt": "0 50 40 20 30"}, r"line 1: 0 50 40 20 30 is no box; .* fractions of the image"),
        ({"a.txt": "0 0.5 0.5 nan 0.5"}, r"line 1: 0 0\.5 0\.5 nan 0\.5 is no box"),
        ({"a.txt": "0 0.5 0.5 -0.5 0.5"}, r"line 1: 0 0\.5 0\.5 -0\.5 0\.5 is no box"),
        ({"a.txt": "", "train/a.txt": ""}, r"a\.txt and .*a\.txt are both of train/a\.jpg; give one file an image"),
        ({"z.txt": ""}, r"names 1 images \(z\), of which none is among the 3 of the run \(train/a\.jpg"),
        ({}, r"names 0 images \(\), of which none"),
    ],
)
def test_a_bad_folder_is_refused_with_the_value(tmp_path: Path, texts: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        found(folder_of(tmp_path, texts))


def test_a_file_for_two_images_of_one_name_is_refused(tmp_path: Path) -> None:
    names = ("train/a.jpg", "val/a.jpg")
    images = ImageTable(root=Path("images"), names=names, sizes_wh=((9, 9),) * 2, digests=names)
    with pytest.raises(ValueError, match=r"a matches several images: train/a\.jpg, val/a\.jpg"):
        read_box_file(folder_of(tmp_path, {"a.txt": ""}), images, Path("images"), tmp_path)
