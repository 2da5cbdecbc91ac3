import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from tests.reference.published import xyxy

from orl.datasets.image_table import ImageTable
from orl.datasets.masks import decode_masks
from orl.own_boxes.box_file import box_file_digest, detect_box_format, read_box_file

Write = Callable[[str, object], Path]
TRIANGLE = [[1, 1, 5, 1, 1, 5]]
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
    return {"image_id": image_id, "bbox": list(box), "category_id": 3, "iscrowd": 1, "segmentation": TRIANGLE}


def coco(*annotations: object) -> dict:
    return {"info": {}, "images": IMAGES, "annotations": list(annotations), "categories": []}


def found(path: Path, folder: Path, step: int = 4, source: Path = Path("images")) -> list[list[list[float]]]:
    boxes = read_box_file(path, SOURCE, source, folder)
    parts = [part.xyxy for start in range(0, 4, step) for part in boxes(slice(start, min(4, start + step)))]
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
        (coco({"image_id": 10}), r"entry 0 of 'annotations' needs image_id and bbox, .*got \{'image_id': 10\}"),
        (coco(annotation(10, 0, 0, 1, 1), 7), "entry 1 of 'annotations' needs image_id and bbox, .*got 7"),
        (coco({"image_id": None, "bbox": [0, 0, 1, 1]}), "image_id is a whole number or a name, not None"),
        (coco({**annotation(10, 0, 0, 1, 1), "score": "high"}), "score is a finite number, not 'high'"),
        (coco({**annotation(10, 0, 0, 1, 1), "score": 1}, annotation(10, 0, 0, 1, 1)), "1 of 2 boxes have a score"),
        (
            coco({"image_id": 10, "segmentation": [[1, 2, 3]]}),
            r"entry 0 .*: a polygon needs x and y of at least three corners, got \[1, 2, 3\]",
        ),
        (
            coco({"image_id": 10, "segmentation": {"size": [80, 90], "counts": [7200]}}),
            r"entry 0 .*: a mask must have the height and width \[80, 100\] of its image, got \[80, 90\]",
        ),
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
            json.dumps(coco(annotation(10, 0, 0, 1, 1), annotation(20, 0, 0, 1, 1)))[:-25],
            r"is truncated: it ends at byte \d+ in 'segmentation' \(open brackets: 5\)",
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


def test_the_box_of_a_mask_stands_in_for_a_missing_one_and_masks_are_kept(write: Write, tmp_path: Path) -> None:
    """Annotations of images.cocodataset.org/#format-data: polygons, or an RLE with the counts as a list or as text."""
    masks = np.zeros((2, 80, 100), dtype=bool)
    masks[0, 30:50, 20:61] = True
    masks[1, [5, 70], [90, 3]] = True
    rles = [{"size": [80, 100], "counts": coco_mask.encode(np.asfortranarray(m))["counts"].decode()} for m in masks]
    rectangle = {"image_id": 10, "segmentation": [[20, 30, 61, 30, 61, 50, 20, 50]]}
    uncompressed = {"size": [80, 100], "counts": [10, 5, 7985]}  # rows 10 to 14 of the first column
    entries = [rectangle, {"image_id": 10, "segmentation": rles[1]}, {"image_id": 10, "segmentation": uncompressed}]
    both = {"image_id": 20, "bbox": [1, 2, 3, 4], "segmentation": [[0, 0, 9, 0, 9, 9]]}
    path = write("own", coco(*entries, both, {"image_id": 10, "bbox": [5, 5, 9, 9], "segmentation": []}))
    box_file = read_box_file(path, SOURCE, Path("images"), tmp_path)
    first, second, third, _ = box_file(slice(0, 4))
    expected = [[20, 30, 61, 50], [3, 5, 91, 71], [0, 10, 1, 15], [5, 5, 14, 14]]
    assert box_file.has_masks
    assert first.xyxy.tolist() == expected
    assert first.rles is not None
    assert first.rles[:2] == tuple(rle["counts"] for rle in rles)
    assert first.rles[3] == ""
    assert second.xyxy.tolist() == [[1, 2, 4, 6]]
    assert third.rles == ()


def test_masks_stay_with_their_boxes_when_boxes_are_ranked_and_left_out(write: Write, tmp_path: Path) -> None:
    entries = [
        {"image_id": 10, "bbox": [column, 0, width, 9], "segmentation": [[column, 0, 50, 0, 50, 9]], "score": score}
        for column, width, score in ((1, 9, 0.1), (2, 0, 0.9), (3, 9, 0.5), (4, 9, 0.5))
    ]
    (first, *_) = read_box_file(write("own", coco(*entries)), SOURCE, Path("images"), tmp_path)(slice(0, 4))
    assert first.xyxy[:, 0].tolist() == [3, 4, 1]
    assert first.rles is not None
    found = decode_masks([{"size": [80, 100], "counts": rle} for rle in first.rles], (100, 80))
    polygons = coco_mask.frPyObjects([[column, 0, 50, 0, 50, 9] for column in (3, 4, 1)], 80, 100)
    np.testing.assert_array_equal(found, coco_mask.decode(polygons).transpose(2, 0, 1).astype(bool))


def test_formats_are_detected_by_content_and_their_digest_follows_it(write: Write, tmp_path: Path) -> None:
    plain, masked = coco({"image_id": 10, "bbox": [0, 0, 1, 1]}), coco(annotation(10, 0, 0, 1, 1))
    found = [detect_box_format(write(name, each)) for name, each in (("plain", plain), ("masked", masked))]
    assert [(each.name, each.has_masks) for each in found] == [("COCO", False), ("COCO", True)]
    found = [detect_box_format(write("results", list(each["annotations"]))) for each in (plain, masked)]
    assert [(each.name, each.has_masks) for each in found] == [("COCO results", False), ("COCO results", True)]
    assert detect_box_format(write("bbox", {"bbox": []})).name == "selective_search_proposal"
    assert box_file_digest(tmp_path / "plain.json") != box_file_digest(tmp_path / "masked.json")
