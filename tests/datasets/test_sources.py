import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orl.datasets.sources import find_images, read_labels


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 40)).save(path)
    return path


def test_a_folder_tree_gives_its_images_at_any_depth_and_nothing_else(tmp_path: Path) -> None:
    for name in ("b.JPG", "deep/er/a.png", "deep/c d.jpeg"):
        image(tmp_path / name)
    for name in ("notes.txt", "labels.json", ".hidden.jpg", ".cache/x.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert find_images(tmp_path) == (tmp_path, ["b.JPG", "deep/c d.jpeg", "deep/er/a.png"])
    assert read_labels(tmp_path) is None


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    image(tmp_path / "a" / "x.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    assert find_images(tmp_path)[1] == ["a/x.png"]


def test_a_list_file_names_images_relative_to_itself(tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere" / "y.png"
    (tmp_path / "lists").mkdir()
    listed = tmp_path / "lists" / "mine.txt"
    listed.write_text(f"# mine\n../a/x.png\n\n{outside}\n../a/x.png\n")
    root, names = find_images(listed)
    assert [root / name for name in names] == [tmp_path / "a" / "x.png", outside]


def coco(tmp_path: Path, **changes: object) -> Path:
    content = {
        "images": [{"id": 7, "file_name": "b.png"}, {"id": 3, "file_name": "a.png"}],
        "categories": [{"id": 9, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": [
            {"image_id": 7, "category_id": 9, "bbox": [1, 2, 10, 20], "iscrowd": 0},
            {"image_id": 7, "category_id": 2, "bbox": [0, 0, 5, 5], "iscrowd": 1},
        ],
    }
    path = tmp_path / "annotations" / "instances_train2017.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content | changes))
    for name in ("a.png", "b.png"):
        image(tmp_path / "train2017" / name)
    return path


def test_a_coco_json_finds_its_images_and_labels(tmp_path: Path) -> None:
    path = coco(tmp_path)
    assert find_images(path) == (tmp_path / "train2017", ["a.png", "b.png"])
    labels = read_labels(path)
    assert labels is not None
    assert labels.names == ("a.png", "b.png")
    assert labels.classes == ("cat", "dog")
    assert labels.labels.tolist() == [[-1, -1], [0, 1]]
    assert labels.boxes[1].tolist() == [[1, 2, 11, 22], [0, 0, 5, 5]]
    assert labels.box_classes[1].tolist() == [1, 0]
    assert labels.box_difficult[1].tolist() == [False, True]


def test_a_coco_json_without_annotations_is_a_source_without_labels(tmp_path: Path) -> None:
    path = coco(tmp_path, annotations=[])
    assert len(find_images(path)[1]) == 2
    assert read_labels(path) is None


VOC_XML = """<annotation><object><name>{name}</name><difficult>{difficult}</difficult>
<bndbox><xmin>3</xmin><ymin>1</ymin><xmax>12</xmax><ymax>20</ymax></bndbox></object></annotation>"""


def voc(tmp_path: Path, with_lists: bool = True) -> Path:
    folder = tmp_path / "VOCdevkit" / "VOC2007"
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (folder / "Annotations").mkdir()
    for name, class_name, difficult in (("000001", "cat", 0), ("000002", "train", 1), ("000003", "cat", 1)):
        image(folder / "JPEGImages" / f"{name}.jpg")
        (folder / "Annotations" / f"{name}.xml").write_text(VOC_XML.format(name=class_name, difficult=difficult))
    (lists / "trainval.txt").write_text("000001\n000002\n")
    (lists / "train.txt").write_text("000001\n")
    (lists / "test.txt").write_text("000003\n")
    if with_lists:
        (lists / "cat_trainval.txt").write_text("000001  1\n000002 -1\n")
        (lists / "train_trainval.txt").write_text("000001 -1\n000002  0\n")
        (lists / "cat_test.txt").write_text("000003  0\n")
        (lists / "train_test.txt").write_text("000003 -1\n")
    return folder


@pytest.mark.parametrize("above", [0, 1, 2])
def test_a_voc_devkit_is_found_from_above_and_gives_trainval(tmp_path: Path, above: int) -> None:
    folder = voc(tmp_path)
    source = [folder, folder.parent, folder.parent.parent][above]
    assert find_images(source) == (folder, ["JPEGImages/000001.jpg", "JPEGImages/000002.jpg"])
    assert find_images(source, "test")[1] == ["JPEGImages/000003.jpg"]
    assert find_images(source, "train")[1] == ["JPEGImages/000001.jpg"], "the split, not the class of that name"


@pytest.mark.parametrize("with_lists", [True, False])
def test_voc_labels_are_one_minus_one_and_zero_from_lists_or_annotations(tmp_path: Path, with_lists: bool) -> None:
    folder = voc(tmp_path, with_lists)
    labels = read_labels(folder)
    assert labels is not None
    assert labels.classes == ("cat", "train")
    assert labels.labels.tolist() == [[1, -1], [-1, 0]]
    assert labels.box_difficult[1].tolist() == [True]
    # XML counts from 1 and includes the last pixel.
    assert labels.boxes[0].tolist() == [[2, 0, 12, 20]]


def test_the_real_devkit_has_its_published_numbers(real_data: Path) -> None:
    devkit = real_data / "voc07-small" / "VOC2007"
    for split in ("trainval", "test"):
        labels = read_labels(devkit, split)
        assert labels is not None
        assert len(labels) == 2250
        assert len(labels.classes) == 20
        # A class is present exactly where an object of it is not 'difficult', and ignored where all of it are.
        for row in range(0, 2250, 25):
            for column in range(20):
                difficult = labels.box_difficult[row][labels.box_classes[row] == column]
                expected = -1 if not len(difficult) else 0 if difficult.all() else 1
                assert labels.labels[row, column] == expected


def test_the_real_coco_images_are_found_with_boxes_inside_them(real_data: Path) -> None:
    path = real_data / "coco-mini" / "annotations" / "instances_val2017.json"
    root, names = find_images(path)
    labels = read_labels(path)
    assert labels is not None
    assert len(names) == 60
    assert len(labels.classes) == 80
    for name, boxes in zip(labels.names, labels.boxes):
        with Image.open(root / name) as opened:
            assert (boxes[:, 2:] <= np.array(opened.size) + 0.5).all()


@pytest.mark.parametrize(
    ("make", "split", "complaint"),
    [
        (lambda root: root / "nothing", None, "no images at .*nothing"),
        (lambda root: root, None, "has no images, only 0 other files"),
        (lambda root: image(root / "x.png").parent, "test", "has no split 'test'"),
        (lambda root: voc(root), "trainvla", "no split 'trainvla'.*did you mean 'trainval'"),
        (lambda root: coco(root, images=[]), None, "lists no image"),
        (lambda root: image(root / "x.png"), None, "is not a source of images"),
    ],
)
def test_an_unknown_source_is_refused_with_the_way_out(
    tmp_path: Path, make: object, split: str | None, complaint: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=complaint):
        find_images(make(tmp_path), split)


def test_a_near_name_is_suggested_for_a_missing_folder(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(FileNotFoundError, match=r"did you mean .*/images\?"):
        find_images(tmp_path / "imgaes")


@pytest.mark.parametrize("text", ["{", "[]", '{"annotations": []}'])
def test_json_that_is_not_coco_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=r"x.json is not (a COCO )?JSON"):
        find_images(tmp_path / "x.json")


def test_an_empty_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("# nothing\n\n")
    with pytest.raises(ValueError, match="lists no image in its"):
        find_images(tmp_path / "x.txt")


def test_a_damaged_annotation_is_named(tmp_path: Path) -> None:
    folder = voc(tmp_path)
    (folder / "Annotations" / "000002.xml").write_text("<annotation><object>")
    with pytest.raises(ValueError, match=r"000002.xml is not a VOC annotation"):
        read_labels(folder)
