import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from orl.evaluation.detection.datasets import read_coco_detection, read_voc_detection, without_empty
from orl.synthetic.scenes import draw_scenes

Content = dict[str, Any]


def content() -> Content:
    """Three images of which one is empty; an object and a crowd in the first, named last."""
    square = [[10, 5, 30, 5, 30, 25, 10, 25]]
    crowd = {"size": [40, 60], "counts": [40 * 40, 40 * 20]}
    return {
        "images": [
            {"id": 4, "file_name": "c.jpg", "width": 60, "height": 40},
            {"id": 9, "file_name": "a.jpg", "width": 50, "height": 30},
            {"id": 2, "file_name": "b.jpg", "width": 60, "height": 40},
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [
            entry(1, 4, 7, [10, 5, 20, 20], square),
            entry(2, 4, 3, [40, 0, 20, 40], crowd, iscrowd=1),
            entry(3, 2, 3, [10, 5, 20, 20], square, area=123.5),
        ],
    }


def entry(number: int, image_id: int, category_id: int, box: list[float], mask: Any, **others: Any) -> Content:
    about = {"id": number, "image_id": image_id, "category_id": category_id, "bbox": box, "segmentation": mask}
    return {**about, "iscrowd": 0, **others}


def write(root: Path, what: Content, *, images: tuple[str, ...] = ("a.jpg", "b.jpg", "c.jpg")) -> Path:
    for name in images:
        (root / "val").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40)).save(root / "val" / name)
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_val.json").write_text(json.dumps(what))
    return root


def test_images_objects_and_masks_are_what_the_json_says(tmp_path: Path) -> None:
    images = read_coco_detection(write(tmp_path, content()), "val")
    assert images.root == tmp_path / "val"
    assert images.names == ("a.jpg", "b.jpg", "c.jpg")
    assert images.image_ids == (9, 2, 4)
    assert images.sizes_wh == ((50, 30), (60, 40), (60, 40))
    assert (images.classes, images.category_ids) == (("cat", "dog"), (3, 7))
    assert [each.tolist() for each in images.boxes] == [[], [[10, 5, 30, 25]], [[10, 5, 30, 25], [40, 0, 60, 40]]]
    assert [each.tolist() for each in images.box_classes] == [[], [0], [1, 0]]
    assert [each.tolist() for each in images.ignored] == [[], [False], [False, True]]
    assert images.areas is not None
    assert [each.tolist() for each in images.areas] == [[], [123.5], [400, 800]]
    expected = np.zeros((2, 40, 60), dtype=bool)
    expected[0, 5:25, 10:30] = True
    expected[1, :, 40:] = True
    np.testing.assert_array_equal(images.masks(2), expected)
    assert images.masks(0).shape == (0, 30, 50)


def test_the_json_itself_and_boxes_alone_can_be_read(tmp_path: Path) -> None:
    json_path = write(tmp_path, content()) / "annotations" / "instances_val.json"
    images = read_coco_detection(json_path, "val", needs_masks=False)
    assert images.segmentations is None
    with pytest.raises(ValueError, match=r"image b\.jpg cannot give one"):
        images.masks(1)
    with pytest.raises(ValueError, match="is not the JSON of split 'train'"):
        read_coco_detection(json_path, "train")


def test_training_images_have_an_object_that_is_no_crowd(tmp_path: Path) -> None:
    what = content()
    what["annotations"][2]["iscrowd"] = 1
    images = without_empty(read_coco_detection(write(tmp_path, what), "val"))
    assert (images.names, images.image_ids, images.sizes_wh) == (("c.jpg",), (4,), ((60, 40),))
    assert images.segmentations is not None
    assert images.areas is not None
    columns = (images.boxes, images.box_classes, images.ignored, images.segmentations, images.areas)
    assert [len(column[0]) for column in columns] == [2] * 5


def test_images_with_crowds_only_are_left_out(tmp_path: Path) -> None:
    what = content()
    for each in what["annotations"]:
        each["iscrowd"] = 1
    with pytest.raises(ValueError, match="0 of the 3 images"):
        without_empty(read_coco_detection(write(tmp_path, what), "val"))


FAULTS: list[tuple[Callable[[Content], Any], str]] = [
    (lambda c: c["annotations"][2].pop("segmentation"), r"no mask for 1 of 3 objects, the first in b\.jpg.*--no-masks"),
    (lambda c: c["annotations"][2].update(segmentation=[]), "no mask for 1 of 3 objects"),
    (lambda c: c["annotations"][2].update(segmentation=[[1, 2]]), r"damaged mask in image b\.jpg: a polygon needs"),
    (
        lambda c: c["annotations"][2].update(bbox=[5, 5, 9, 0]),
        r"1 of 3 boxes of .* no area .*first b\.jpg \[5\.0, 5\.0",
    ),
    (lambda c: c["annotations"][2].update(bbox=[60, 5, 9, 9]), "1 of 3 boxes of .* no area within their image"),
    (lambda c: c["annotations"][2].update(image_id=5), "unknown image or category"),
    (lambda c: c["annotations"][2].update(category_id=5), "unknown image or category"),
    (lambda c: c["annotations"].clear(), "0 objects in 3 images"),
    (
        lambda c: c["images"].append({**c["images"][0], "id": 77, "file_name": "d.jpg"}),
        r"1 of 4 images .*such as d\.jpg",
    ),
    (lambda c: c["images"][0].pop("width"), r"width and height \(None, 40\) for image c\.jpg"),
    (
        lambda c: c["categories"][0].update(id=7.5),
        r"'id' must be integers of 64 bits, or all text, got \[7\.5\]",
    ),
    (lambda c: c["categories"][0].update(id="7"), r"'id' must be integers .*got \[\"7\"\]"),
    (lambda c: c["categories"].append({**c["categories"][0], "name": "new"}), r"has the id \d+ twice"),
    (lambda c: c["categories"].append({**c["categories"][0], "id": 999}), r"has the name '\w+' twice"),
    (lambda c: c["images"][0].update(id=2**63), "'id' must be integers of 64 bits"),
    (lambda c: c["images"][0].update(id=c["images"][1]["id"]), r"has the id \d+ twice"),
    (lambda c: c["annotations"][2].update(image_id=[1]), "unknown image or category"),
    (lambda c: c["annotations"][2].update(bbox=[1, 2, 3]), "'bbox' must be four numbers x, y, w, h"),
    (lambda c: c["annotations"][2].update(bbox=[1, 2, 3, float("nan")]), "'bbox' must be four numbers x, y, w, h"),
    (lambda c: c["annotations"][2].update(bbox="1 2 3 4"), "'bbox' must be four numbers x, y, w, h"),
    (lambda c: c["annotations"][2].update(area="large"), "'area' must be a number"),
    (lambda c: c["annotations"][2].update(bbox=[1, 2, -3, 4]), "1 annotations with a width or height below 0"),
    (lambda c: c["annotations"][2].update(bbox=[1, 2, 3, 1e9]), "a box far outside of every image"),
    (lambda c: c["annotations"][2].update(bbox=[10, 5, 500, 20]), "1 of 3 boxes of .* reach far beyond it"),
    (lambda c: c["annotations"][2].update(area=None), "'area' must be a number"),
    (lambda c: c["annotations"][2].update(bbox=[0, 5, 1e-6, 9]), "1 of 3 boxes of .* no area within their image"),
]


@pytest.mark.parametrize(("damage", "message"), FAULTS)
def test_faulty_annotations_are_refused(tmp_path: Path, damage: Callable[[Content], Any], message: str) -> None:
    what = content()
    damage(what)
    with pytest.raises(ValueError, match=message):
        read_coco_detection(write(tmp_path, what), "val")


def test_an_unknown_split_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no split 'train2017'.*its splits are val"):
        read_coco_detection(write(tmp_path, content()), "train2017")


def test_few_boxes_of_no_area_are_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    what = content()
    last = what["annotations"][2]
    what["annotations"] = [{**last, "id": number} for number in range(999)]
    what["annotations"].append(entry(1000, 2, 7, [5, 5, 0, 9], [[1, 1, 2, 2, 3, 3]]))
    with caplog.at_level(logging.WARNING):
        images = read_coco_detection(write(tmp_path, what), "val")
    assert "1 of 1000 boxes" in caplog.text
    assert images.segmentations is not None
    assert images.areas is not None
    columns = (images.boxes, images.box_classes, images.ignored, images.segmentations, images.areas)
    assert [len(column[1]) for column in columns] == [999] * 5
    assert not images.box_classes[1].any()


@pytest.mark.parametrize(("split", "count"), [("train2017", 120), ("val2017", 60)])
def test_real_images_and_masks_are_those_that_pycocotools_reads(real_data: Path, split: str, count: int) -> None:
    images = read_coco_detection(real_data / "coco-mini", split)
    truth = COCO(str(real_data / "coco-mini" / "annotations" / f"instances_{split}.json"))
    assert len(images) == count
    assert len(images.classes) == 80
    for row, image_id in enumerate(images.image_ids):
        entries = truth.imgToAnns[image_id]
        expected = [truth.annToMask(one).astype(bool) for one in entries]
        assert [images.category_ids[label] for label in images.box_classes[row]] == [
            one["category_id"] for one in entries
        ]
        np.testing.assert_array_equal(images.masks(row), expected or np.zeros((0, *images.sizes_wh[row][::-1]), bool))


def devkits(root: Path) -> tuple[Path, Path]:
    for seed, year in enumerate(("VOC2007", "VOC2012")):
        draw_scenes(root / year, num_trainval=12, num_test=2, size_wh=(64, 48), seed=seed, quiet=True)
    return root / "VOC2007", root / "VOC2012"


def test_two_devkits_are_one_set(tmp_path: Path) -> None:
    both = devkits(tmp_path)
    images, first, second = (read_voc_detection(data, "trainval") for data in (both, both[:1], both[1:]))
    assert len(images) == 24
    assert images.names == tuple(
        f"{data.name}/{name}" for data, part in zip(both, (first, second)) for name in part.names
    )
    assert all((images.root / name).is_file() for name in images.names)
    assert images.image_ids == tuple(range(24))
    assert images.segmentations is None
    assert set(images.sizes_wh) == {(64, 48)}
    for row, part, own in [(3, first, 3), (15, second, 3)]:
        np.testing.assert_array_equal(images.boxes[row], part.boxes[own])
        np.testing.assert_array_equal(images.box_classes[row], part.box_classes[own])
        np.testing.assert_array_equal(images.ignored[row], part.ignored[own])


def test_faulty_devkits_are_refused(tmp_path: Path) -> None:
    first, second = devkits(tmp_path)
    with pytest.raises(ValueError, match="VOC2007 is given 2 times"):
        read_voc_detection((first, first), "trainval")
    with pytest.raises(ValueError, match="0 VOC devkits"):
        read_voc_detection((), "trainval")
    image = sorted((second / "JPEGImages").iterdir())[0]
    image.unlink()
    with pytest.raises(ValueError, match=f"1 of 24 images are missing.*{image.name}"):
        read_voc_detection((first, second), "trainval")
    annotation = sorted((first / "Annotations").iterdir())[0]
    complete = annotation.read_text()
    annotation.write_text(complete.replace("<width>64</width>", "<width>0</width>"))
    with pytest.raises(ValueError, match=r"has no valid image size: its size is 0x\d+ px; repair"):
        read_voc_detection((first,), "trainval")
    annotation.write_text(complete.replace("<width>64</width>", ""))
    with pytest.raises(ValueError, match="has no valid image size: <annotation> lacks <size/width>"):
        read_voc_detection((first,), "trainval")
    annotation.unlink()
    with pytest.raises(ValueError, match=r"000000\.xml is missing"):
        read_voc_detection((first,), "trainval")
    lists = second / "ImageSets" / "Main"
    (lists / "zebra_test.txt").write_text((lists / "test.txt").read_text().replace("\n", " -1\n"))
    with pytest.raises(ValueError, match=r"the classes of .* differ: zebra"):
        read_voc_detection((first, second), "test")


def test_real_devkit_is_read(real_data: Path) -> None:
    images = read_voc_detection((real_data / "voc07-small" / "VOC2007",), "test")
    assert (len(images), len(images.classes)) == (2250, 20)
    row = next(row for row, ignored in enumerate(images.ignored) if ignored.any() and not ignored.all())
    with Image.open(images.root / images.names[row]) as image:
        assert image.size == images.sizes_wh[row]
