"""Labelled images of a VOC devkit: listed, checked, and without unreadable files."""

from pathlib import Path

import pytest
from tests.evaluation.devkit import draw_devkit

from orl.evaluation.voc_dataset import VocDataset, list_labelled


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    return draw_devkit(tmp_path / "VOC2007")


def test_a_broken_image_is_left_out_with_its_label_and_recorded(devkit: Path) -> None:
    (devkit / "JPEGImages" / "test03.jpg").write_bytes(b"not an image")
    _, test = VocDataset(data=devkit).readable(quiet=True)
    assert [path.stem for path in test.paths] == [f"test{index:02}" for index in range(12) if index != 3]
    assert test.labels[:, test.classes.index("cat")].tolist() == [1, -1, 1, *[1, -1] * 4]
    assert [image.name for image in test.rejected] == ["JPEGImages/test03.jpg"]


def test_a_missing_split_is_refused(devkit: Path) -> None:
    with pytest.raises(ValueError, match="no split 'val'"):
        list_labelled(devkit, "val")


def test_missing_images_are_refused_by_name(devkit: Path) -> None:
    for number in (1, 4):
        (devkit / "JPEGImages" / f"test{number:02}.jpg").unlink()
    message = r"'test' of .* lists 12 images, of which 2 do not exist .* JPEGImages/test01\.jpg, JPEG.*test04"
    with pytest.raises(ValueError, match=message):
        list_labelled(devkit, "test")


def test_a_split_without_a_readable_image_is_refused(devkit: Path) -> None:
    for path in (devkit / "JPEGImages").glob("test*"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of the 12 images of split 'test' .* \(empty"):
        VocDataset(data=devkit).readable(quiet=True)


def test_splits_of_different_classes_are_refused(devkit: Path) -> None:
    (devkit / "ImageSets" / "Main" / "dog_test.txt").unlink()
    with pytest.raises(ValueError, match=r"'trainval' and 'test' .* \['dog'\]"):
        _ = VocDataset(data=devkit).listed


def test_images_are_opened_once(devkit: Path) -> None:
    data = VocDataset(data=devkit)
    first = data.readable(quiet=True)
    (devkit / "JPEGImages" / "test03.jpg").write_bytes(b"not an image")
    assert data.readable(quiet=True) is first
    assert data == VocDataset(data=devkit)
    assert hash(data) == hash(VocDataset(data=devkit))
