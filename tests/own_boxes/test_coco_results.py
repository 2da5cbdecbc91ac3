"""Lists of results in COCO's results format (cocodataset.org/#format-results, as pycocotools' `loadRes` reads it)."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orl.datasets.image_table import ImageTable
from orl.own_boxes.box_file import read_box_file

Write = Callable[[str, object], Path]
IMAGES = ImageTable(
    root=Path("images"),
    names=("x/a.jpg", "x/b.jpg", "y/b.jpg", "y/c.png"),
    sizes_wh=((100, 80), (50, 60), (70, 90), (40, 40)),
    digests=("1", "2", "3", "4"),
)
IDS = {30: "y/b.jpg", 10: "x/a.jpg", 20: "x/b.jpg", 40: "y/c.png", 99: "rejected.jpg"}


def result(image_id: object, left: float, score: float = 0.5) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": 18, "bbox": [left, 2, 3, 4], "score": score}


def lefts(path: Path, folder: Path, source: Path = Path("images")) -> list[list[float]]:
    """The left edges of the boxes of each image, in two slices."""
    box_file = read_box_file(path, IMAGES, source, folder)
    found = [*box_file(slice(0, 3)), *box_file(slice(3, 4))]
    for each in found:
        assert (each.xyxy[:, 1:].tolist(), each.rles) == ([[2, left + 3, 6] for left in each.xyxy[:, 0]], None)
    return [each.xyxy[:, 0].tolist() for each in found]


def test_results_have_the_ids_of_the_coco_json_of_the_images(write: Write, tmp_path: Path) -> None:
    source = write("instances", {"images": [{"id": key, "file_name": name} for key, name in IDS.items()]})
    path = write("own", [result(20, 1), result(10, 2, 0.1), result(99, 3), result(10, 4, 0.9), result(10, 5, 0.1)])
    assert lefts(path, tmp_path, source) == [[4, 2, 5], [1], [], []]


@pytest.mark.parametrize("names", [("x/a.jpg", "y/b.jpg"), ("a.jpg", "y\\b.jpg"), ("a", "y/b"), ("other/a.jpg", "y/b")])
def test_results_have_the_names_of_images_or_their_stems(write: Write, tmp_path: Path, names: tuple[str, str]) -> None:
    """Ultralytics writes the stem of the file as image_id where it is no number."""
    path = write("own", [result(names[0], 1), result(names[1], 2), result("elsewhere.jpg", 3)])
    assert lefts(path, tmp_path) == [[1], [], [2], []]


def test_images_without_results_are_logged(write: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        lefts(write("own", [result("a", 1)]), tmp_path)
    assert "names 1 of the run's 4 images; the others have no box" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([result(139, 1)], r"entry 0 is of image 139, and the images of images have names but no ids: give their COCO"),
        ([result("a", 1), result("b.jpg", 1)], r"b\.jpg matches several images: x/b\.jpg, y/b\.jpg; make the names"),
        ([result("z.jpg", 1)], r"names 1 images \(z\.jpg\), of which none is among the 4 of the run \(x/a\.jpg"),
        ([], "is an empty list; give a file with boxes"),
        ([result("a", 1), 7], "entry 1 needs image_id and bbox, or segmentation in place of bbox, got 7"),
        ([{**result("a", 1), "bbox": [1, 2, 3]}], r"entry 0: \[1, 2, 3\] is not a list of 4"),
        ([{**result("a", 1), "score": None}, result("a", 1)], "1 of 2 boxes have a score; give it to all or none"),
        (json.dumps([result("a", 1)])[:-4], r"is truncated: it ends at byte \d+ in 'score' \(open brackets: 2\)"),
        ('[{"image_id": "a", "bbox": [1, 2, NaN, 4]}]', "is not JSON after 0 complete entries: .*NaN"),
    ],
)
def test_a_bad_list_is_refused_with_the_value(write: Write, tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lefts(write("own", content), tmp_path)


def test_results_of_other_images_are_refused(write: Write, tmp_path: Path) -> None:
    source = write("instances", {"images": [{"id": key, "file_name": name} for key, name in IDS.items()]})
    with pytest.raises(ValueError, match=r"entry 0 is of image 11, which .*instances\.json lacks"):
        lefts(write("own", [result(11, 1)]), tmp_path, source)
