"""Published layouts of one label an image, drawn with empty files; every damage is told before anything is opened."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import ImageFolder

from orl.datasets.class_folders import ClassifiedDataset, read_classified, read_train_val
from orl.datasets.class_lists import missing_images


def touch(root: Path, names: Sequence[str]) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def write(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


TRAIN = ["train/n02/a.JPEG", "train/n01/b.JPEG", "train/n01/deep/c.JPEG"]


def places(root: Path, images: str = "data/vision/torralba/deeplearning/images256") -> None:
    lines = ["a/abbey/x.jpg 0", "b/basement/y.jpg 1"]
    write(root / "trainvalsplit_places205" / "train_places205.csv", lines)
    write(root / "trainvalsplit_places205" / "val_places205.csv", ["b/basement/z.jpg 1", "a/abbey/w.jpg 0"])
    touch(root / images, ["a/abbey/x.jpg", "b/basement/y.jpg", "b/basement/z.jpg", "a/abbey/w.jpg"])


def inaturalist(root: Path, **changes: object) -> dict[str, object]:
    names = ["train_val2018/Plantae/7/x.jpg", "train_val2018/Aves/9/y.jpg"]
    content = {
        "images": [{"id": 5, "file_name": names[0]}, {"id": 4, "file_name": names[1]}],
        "annotations": [{"image_id": 4, "category_id": 9}, {"image_id": 5, "category_id": 7}],
        "categories": [{"id": 9, "name": "bird"}, {"id": 7, "name": "plant"}],
    } | changes
    touch(root, names)
    (root / "train2018.json").write_text(json.dumps(content))
    return content


def test_class_folders_are_read_as_by_torchvision(tmp_path: Path) -> None:
    touch(tmp_path, [*TRAIN, "val/n01/d.JPEG", "val/n02/e.JPEG"])
    found = read_classified(tmp_path, "folder", "train")
    expected = ImageFolder(tmp_path / "train")
    assert list(found.classes) == expected.classes
    assert dict(zip(map(str, found.paths), found.labels.tolist())) == dict(expected.samples)
    train, val = read_train_val(tmp_path, "imagenet")
    assert train.names == found.names
    assert dict(zip(val.names, val.labels.tolist())) == {"n01/d.JPEG": 0, "n02/e.JPEG": 1}


def test_imagenet_lists_come_before_folders_and_val_may_be_flat(tmp_path: Path) -> None:
    # The numbers are not in the order of the folders' names: the list decides.
    write(tmp_path / "meta" / "train.txt", ["n02/a.JPEG 0", "n01/b.JPEG 1"])
    write(tmp_path / "meta" / "val.txt", ["v1.JPEG 1", "v2.JPEG 0"])
    touch(tmp_path, [*TRAIN, "val/v1.JPEG", "val/v2.JPEG"])
    train, val = read_train_val(tmp_path, "imagenet")
    assert train.classes == ("n02", "n01") == val.classes
    assert list(zip(train.names, train.labels.tolist())) == [("n02/a.JPEG", 0), ("n01/b.JPEG", 1)]
    assert list(zip(val.names, val.labels.tolist())) == [("v1.JPEG", 1), ("v2.JPEG", 0)]
    for name, folder in {"v1.JPEG": "n01", "v2.JPEG": "n02"}.items():
        (tmp_path / "val" / folder).mkdir()
        (tmp_path / "val" / name).rename(tmp_path / "val" / folder / name)
    moved = read_classified(tmp_path, "imagenet", "val")
    assert moved.names == ("n01/v1.JPEG", "n02/v2.JPEG")
    assert all(path.is_file() for path in moved.paths)


@pytest.mark.parametrize(
    "line", ["n0{0}/my {1}.JPEG\t{2}", "n0{0}/my {1}.JPEG,{2}", '"n0{0}/my {1}.JPEG" {2}', "n0{0}\\my {1}.JPEG {2}"]
)
def test_tabs_commas_quotes_and_backslashes_in_lists_are_recognised(tmp_path: Path, line: str) -> None:
    write(tmp_path / "meta" / "train.txt", [line.format(2, "a", 0), line.format(1, "b", 1)])
    touch(tmp_path, ["train/n02/my a.JPEG", "train/n01/my b.JPEG"])
    train = read_classified(tmp_path, "imagenet", "train")
    assert (train.names, train.labels.tolist()) == (("n02/my a.JPEG", "n01/my b.JPEG"), [0, 1])


def test_folders_of_thumbnails_are_no_classes(tmp_path: Path) -> None:
    touch(
        tmp_path, [*TRAIN, "train/@eaDir/a.JPEG/SYNOPHOTO_THUMB_M.jpg", "train/n01/@eaDir/b.JPEG/SYNOPHOTO_THUMB_M.jpg"]
    )
    train = read_classified(tmp_path, "folder", "train")
    assert (train.classes, len(train)) == (("n01", "n02"), 3)


def test_lists_of_openselfsup_are_recognised_by_their_names(tmp_path: Path) -> None:
    """Its train.txt has names alone; the labels are in train_labeled.txt."""
    write(tmp_path / "meta" / "train.txt", ["n02/a.JPEG", "n01/b.JPEG"])
    write(tmp_path / "meta" / "val.txt", ["v1.JPEG 1", "v2.JPEG 0"])
    touch(tmp_path, [*TRAIN, "val/v1.JPEG", "val/v2.JPEG"])
    by_folder, _ = read_train_val(tmp_path, "imagenet")
    assert by_folder.classes == ("n01", "n02")
    assert len(by_folder) == 3
    write(tmp_path / "meta" / "train_labeled.txt", ["n02/a.JPEG 0", "n01/b.JPEG 1"])
    train, val = read_train_val(tmp_path, "imagenet")
    assert train.classes == ("n02", "n01") == val.classes
    assert train.names == ("n02/a.JPEG", "n01/b.JPEG")


def test_the_fingerprint_depends_on_images_and_labels_not_on_the_folder(tmp_path: Path) -> None:
    found = []
    for folder in ("one", "two"):
        touch(tmp_path / folder, ["train/a/1.jpg", "train/a/2.jpg", "train/b/3.jpg"])
        found.append(read_classified(tmp_path / folder, "folder", "train"))
    assert found[0].fingerprint == found[1].fingerprint
    other_labels = replace(found[0], labels=np.array([0, 1, 1]))
    assert other_labels.fingerprint != found[0].fingerprint
    (tmp_path / "two/train/a/1.jpg").write_bytes(b"another image")
    assert read_classified(tmp_path / "two", "folder", "train").fingerprint != found[0].fingerprint


@pytest.mark.parametrize("images", ["data/vision/torralba/deeplearning/images256", "images256"])
def test_places205_is_read_from_its_lists(tmp_path: Path, images: str) -> None:
    places(tmp_path, images)
    train, val = read_train_val(tmp_path, "places205")
    assert train.classes == val.classes == ("a/abbey", "b/basement")
    assert train.labels.tolist() == [0, 1]
    assert list(zip(val.names, val.labels.tolist())) == [("b/basement/z.jpg", 1), ("a/abbey/w.jpg", 0)]
    assert all(path.is_file() for path in (*train.paths, *val.paths))


def test_inaturalist_is_read_from_its_json(tmp_path: Path) -> None:
    inaturalist(tmp_path)
    train = read_classified(tmp_path, "inat18", "train")
    assert train.classes == ("plant", "bird")
    assert {Path(name).name: train.classes[label] for name, label in zip(train.names, train.labels)} == {
        "x.jpg": "plant",
        "y.jpg": "bird",
    }


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["v1.JPEG 1", "v2.JPEG"], r"line 2: expected 'name class_number', got 'v2.JPEG'"),
        (["v1.JPEG 1", "v2.JPEG 7"], r"line 2: class of v2.JPEG must be from 0 to 1, got 7"),
        (["v1.JPEG 1", "../v2.JPEG 0"], r"line 2: '../v2.JPEG' leads out"),
        (["v1.JPEG 1", "/v2.JPEG 0"], r"line 2: '/v2.JPEG' leads out"),
        (["v1.JPEG 1", "v2.JPEG 0", "./v1.JPEG 1"], r"line 3: v1.JPEG is listed twice, also on line 1"),
        (
            ["v1.JPEG 1", "v3.JPEG 0", "v4.JPEG 0"],
            r"lists 3 images, of which 2 do not exist below .*val, such as v3.JPEG, v4.JPEG",
        ),
        (["v1.JPEG 1", "v2.JPEG 1"], r"one class only, 'n01'"),
        ([], r"has no image"),
        (["v1.JPEG 1", "n01/v2.JPEG 0"], r"line 2: n01/v2.JPEG has class 0, but class 0 is 'n02' in train"),
    ],
)
def test_damaged_lists_are_refused(tmp_path: Path, lines: list[str], message: str) -> None:
    write(tmp_path / "meta" / "train.txt", ["n02/a.JPEG 0", "n01/b.JPEG 1"])
    write(tmp_path / "meta" / "val.txt", lines)
    touch(tmp_path, [*TRAIN, "val/v1.JPEG", "val/v2.JPEG"])
    with pytest.raises(ValueError, match=message):
        read_classified(tmp_path, "imagenet", "val")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["a/abbey/x.jpg 0", "b/basement/y.jpg 0"],
            r"line 2: class 0 is 'b/basement' here, but 'a/abbey' in an earlier line",
        ),
        (["a/abbey/x.jpg 0", "a/abbey/y.jpg 1"], r"line 2: 'a/abbey' is class 1 here, but 0 in an earlier line"),
        (["a/abbey/x.jpg 0", "b/basement/y.jpg 2"], r"no image of 1 classes, such as 1 of 3"),
        (["a/abbey/x.jpg 0", "b/basement/y.jpg 999999999999"], r"no image of 999999999998 classes, such as 1 of"),
    ],
)
def test_lists_with_contradicting_classes_are_refused(tmp_path: Path, lines: list[str], message: str) -> None:
    places(tmp_path)
    write(tmp_path / "trainvalsplit_places205" / "train_places205.csv", lines)
    with pytest.raises(ValueError, match=message):
        read_classified(tmp_path, "places205", "train")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": [{"id": 5, "file_name": "../x.jpg"}]}, r"image 5: '../x.jpg' leads out"),
        ({"annotations": []}, r"image 5 .* has no annotation"),
        ({"annotations": [{"image_id": 4, "category_id": 1}]}, r"image 4 has category 1, which is not among"),
        (
            {"annotations": [{"image_id": 4, "category_id": 7}, {"image_id": 4, "category_id": 9}]},
            r"image 4 has more than one category, also 9",
        ),
        ({"categories": {}}, r"'categories' must be a list, got dict"),
        ({"images": [{"id": 1}]}, r"'images' needs id, file_name"),
        ({"images": [{"id": 5, "file_name": "x.jpg"}] * 2}, r"'images' has the id 5 twice, also of 'x\.jpg'"),
        ({"images": [{"id": [5], "file_name": "x.jpg"}]}, r"'images' needs integer ids"),
        ({"categories": [{"id": 7, "name": "a"}, {"id": 7, "name": "b"}]}, r"'categories' has the id 7 twice.*'b'"),
        ({"categories": [{"id": 7, "name": "a"}, {"id": "9", "name": "b"}]}, r"'categories' needs integer ids"),
        ({"annotations": [{"image_id": [4], "category_id": 7}]}, r"'annotations' needs integer ids"),
    ],
)
def test_damaged_json_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    inaturalist(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        read_classified(tmp_path, "inat18", "train")
    for text, message in (("{", "is not JSON"), ("[]", "needs a key 'images', got list")):
        (tmp_path / "train2018.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            read_classified(tmp_path, "inat18", "train")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train/a/1.jpg", "train/b/2.jpg", "train/3.jpg"], r"1 images are in .*/train itself .* 3.jpg"),
        (["train/a/1.jpg", "train/b/2.jpg", "train/c/none.txt"], r"1 class folders .* 'c'"),
        (["train/a/1.jpg"], r"one class only, 'a'"),
        (["train/a/none.txt"], r"has no images"),
        (["train/a/1.jpg", "train/b/2.jpg", "val/a/1.jpg", "val/c/2.jpg"], r"only in 'train' \['b'\].*'val' \['c'\]"),
    ],
)
def test_folders_that_cannot_train_a_classifier_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    touch(tmp_path, names)
    with pytest.raises(ValueError, match=message):
        read_train_val(tmp_path, "folder")


def test_an_image_in_both_splits_is_refused(tmp_path: Path) -> None:
    places(tmp_path)
    lines = ["b/basement/z.jpg 1", "a/abbey/x.jpg 0"]
    write(tmp_path / "trainvalsplit_places205" / "val_places205.csv", lines)
    with pytest.raises(ValueError, match=r"1 images are in 'train' and in 'val', such as a/abbey/x.jpg"):
        read_train_val(tmp_path, "places205")


@pytest.mark.parametrize("dataset", ["imagenet", "places205", "inat18", "folder"])
def test_a_missing_data_set_or_list_is_named(tmp_path: Path, dataset: ClassifiedDataset) -> None:
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        read_classified(tmp_path / "nowhere", dataset, "train")
    with pytest.raises(FileNotFoundError, match="train"):
        read_classified(tmp_path, dataset, "train")


def test_missing_images_are_found_by_listing_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{folder}/{file}.jpg" for folder in range(10) for file in range(200)]
    touch(tmp_path, names)
    (tmp_path / "3/7.jpg").unlink()
    listed, list_folder = [], os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(path) or list_folder(path))
    assert missing_images(tmp_path, [*names, "new/1.jpg", "top.jpg"]) == ["3/7.jpg", "new/1.jpg", "top.jpg"]
    assert len(listed) == 12
