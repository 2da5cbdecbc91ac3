import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.reference.published import xyxy

from orl.datasets.image_table import ImageTable
from orl.published_files.box_file import read_box_file

Write = Callable[[str, object], Path]
SOURCE = ImageTable(
    root=Path("images"),
    names=("x/a.jpg", "x/b.jpg", "y/b.jpg", "y/c.jpg"),
    sizes_wh=((100, 80), (50, 60), (70, 90), (40, 40)),
    digests=("1", "2", "3", "4"),
)
IMAGES = [
    {"id": 30, "file_name": "y/b.jpg"},
    {"id": 10, "file_name": "a.jpg"},
    {"id": 20, "file_name": "x/b.jpg"},
    {"id": 99, "file_name": "elsewhere.jpg"},
]


def annotation(image_id: object, *box: float) -> dict:
    return {"image_id": image_id, "bbox": list(box), "category_id": 3, "iscrowd": 1, "segmentation": [[1, 2, 3]]}


def coco(*annotations: object) -> dict:
    return {"info": {}, "images": IMAGES, "annotations": list(annotations), "categories": []}


def found(path: Path, folder: Path, step: int = 4, source: Path = Path("images")) -> list[list[list[float]]]:
    boxes = read_box_file(path, SOURCE, source, folder)
    parts = [part for start in range(0, 4, step) for part in boxes(slice(start, min(4, start + step)))]
    assert all(part.dtype == np.float32 for part in parts)
    assert all(part.shape[1] == 4 for part in parts)
    return [part.tolist() for part in parts]


@pytest.mark.parametrize("step", [1, 3, 4])
def test_boxes_of_a_coco_json_are_found_by_the_names_of_images(write: Write, tmp_path: Path, step: int) -> None:
    content = coco(
        annotation(20, 1, 2, 3, 4), annotation(99, 0, 0, 9, 9), annotation(10, 5, 6, 7, 8.5), annotation(20, 0, 0, 2, 2)
    )
    expected = [[[5, 6, 12, 14.5]], [[1, 2, 4, 6], [0, 0, 2, 2]], [], []]
    assert found(write("own", content), tmp_path, step) == expected
    turned = {key: content[key] for key in reversed(content)}
    assert found(write("own", turned), tmp_path, step) == expected


@pytest.mark.parametrize("step", [1, 3, 4])
def test_boxes_of_a_proposal_file_are_those_of_the_images_in_turn(write: Write, tmp_path: Path, step: int) -> None:
    lists = [[[1, 2, 3, 4]], [], [[5, 5, 5, 5], [6, 6, 6, 6]], [7, 7, 7, 7]]
    expected = [[[1, 2, 4, 6]], [], [[5, 5, 10, 10], [6, 6, 12, 12]], [[7, 7, 14, 14]]]
    assert found(write("own", {"bbox": lists}), tmp_path, step) == expected


def test_a_proposal_file_follows_the_coco_json_of_the_images(write: Write, tmp_path: Path) -> None:
    order = [2, 0, 3, 1]
    source = write("instances", {"images": [{"id": row, "file_name": SOURCE.names[row]} for row in order]})
    path = write("own", {"bbox": [[[row, 0, 1, 1]] for row in order]})
    assert found(path, tmp_path, source=source) == [[[row, 0, row + 1, 1]] for row in range(4)]


def test_boxes_are_clipped_and_empty_ones_left_out_and_counted(
    write: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inside, across, beyond, flat = [10, 10, 20, 20], [-5, 60, 200, 50], [100, 0, 5, 5], [3, 3, 0, 9]
    lists = [[inside, across, beyond, flat], [], [inside], []]
    with caplog.at_level(logging.INFO):
        kept = found(write("own", {"bbox": lists}), tmp_path, step=2)
    assert kept == [[xyxy(inside), [0, 60, 100, 80]], [], [xyxy(inside)], []]
    assert "3 boxes, of which 1 were clipped to their image; 2 empty ones are left out" in caplog.text


def test_images_that_the_file_does_not_list_are_logged(
    write: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found(write("own", coco(annotation(10, 0, 0, 1, 1))), tmp_path)
    assert "lists 3 of the run's 4 images; the others have no box" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (coco({"image_id": 10}), r"entry 0 of 'annotations' needs image_id and bbox, got \{'image_id': 10\}"),
        (coco(annotation(10, 0, 0, 1, 1), 7), "entry 1 of 'annotations' needs image_id and bbox, got 7"),
        (coco(annotation(10, 0, 0, 1)), r"entry 0 of 'annotations': \[0, 0, 1\] is not a list of 4"),
        (coco(annotation(10, 0, 0, -1, 1)), "entry 0 of 'annotations': .* below 0"),
        (coco(annotation(10, 0, 0, 1e7, 1)), r"entry 0 .*: box \[0.0, 0.0, 10000000.0, 1.0\] lies far outside of"),
        (coco(annotation(10, 0, 0, 1, 1e300)), "entry 0 of 'annotations': .* lies far outside of every image"),
        (coco(annotation(11, 0, 0, 1, 1)), "entry 0 of 'annotations' is of image 11, which it lacks"),
        (
            {"images": [{"id": 1, "file_name": "z.jpg"}], "annotations": []},
            r"lists 1 images \(z\.jpg\), of which none is among the 4 of the run \(x/a\.jpg",
        ),
        (
            {"images": [{"id": 1, "file_name": "b.jpg"}], "annotations": []},
            r"b\.jpg matches several images: x/b\.jpg, y/b\.jpg; make the names unambiguous",
        ),
        (
            {"images": [{"id": 1, "file_name": "p/a.jpg"}, {"id": 2, "file_name": "q/a.jpg"}], "annotations": []},
            r"p/a\.jpg and q/a\.jpg all match x/a\.jpg; make the names unambiguous",
        ),
        (
            {"images": {"file_name": []}, "pseudo_annotations": {"knn_image_id": []}},
            "format 'knn_instance', where 'COCO'",
        ),
        ({"boxes": []}, "no known format, where 'COCO' or 'selective_search_proposal'"),
        ({"bbox": [[], []]}, "lists 2 images and the run has 4"),
        ({"bbox": [[], [], [[1, 2, 3]], []]}, r"image 2: \[1, 2, 3\] is not a list of 4"),
        (
            json.dumps(coco(annotation(10, 0, 0, 1, 1), annotation(20, 0, 0, 1, 1)))[:-120],
            r"is truncated: it ends at byte \d+ in 'segmentation' \(open brackets: 2\)",
        ),
        ('{"bbox": [[], [], [[1, 2', r"is truncated: it ends at byte 24 in 'bbox' \(open brackets: 4\)"),
    ],
)
def test_a_bad_file_is_refused_with_the_value(write: Write, tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        found(write("own", content), tmp_path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file at .*none\.json"):
        read_box_file(tmp_path / "none.json", SOURCE, Path("images"), tmp_path)
