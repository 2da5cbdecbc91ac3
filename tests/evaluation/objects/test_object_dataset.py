"""Boxes and masks of a labelled data set: layouts, what counts, samples and refusals."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orl.evaluation.objects.object_dataset import ObjectDataset
from orl.synthetic.coco_layout import write_coco
from orl.synthetic.scenes import draw_scenes


def test_boxes_that_are_difficult_or_small_do_not_count(labelled_scenes: Path) -> None:
    boxes = ObjectDataset(data=labelled_scenes).boxes.train
    large = ObjectDataset(data=labelled_scenes, min_box_px=30).boxes.train
    assert boxes.num_scored > large.num_scored > 0
    for own, scored in zip(large.boxes, large.scored):
        sides = (own[:, 2:] - own[:, :2]).min(axis=1)
        assert not scored[sides < 30].any()
    assert sum(map(len, large.boxes)) == sum(map(len, boxes.boxes))  # the others are kept


def test_a_sample_is_the_same_again_and_for_boxes_and_masks_of_their_own(labelled_scenes: Path) -> None:
    first, again = (ObjectDataset(data=labelled_scenes, max_images=10) for _ in range(2))
    assert len(first.boxes.train) == len(first.masks.train) == 10
    assert first.boxes.train.names == again.boxes.train.names
    assert first.boxes.train.fingerprint == again.boxes.train.fingerprint
    assert first.boxes.train.fingerprint != ObjectDataset(data=labelled_scenes).boxes.train.fingerprint


def test_a_folder_of_crops_has_one_box_an_image(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            for number in range(2):
                path = tmp_path / split / name / f"{split}{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (20, 30)).save(path)
    boxes = ObjectDataset(data=tmp_path).boxes
    assert boxes.train.classes == ("cat", "dog")
    assert [own.shape for own in boxes.test.boxes] == [(1, 4)] * 4
    assert np.concatenate(boxes.test.box_classes).tolist() == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="has no masks"):
        _ = ObjectDataset(data=tmp_path).masks


def test_coco_has_boxes_and_masks(labelled_scenes: Path, tmp_path: Path) -> None:
    shutil.copytree(labelled_scenes, tmp_path / "both")
    write_coco(tmp_path / "both")
    (tmp_path / "coco").mkdir()
    shutil.copytree(tmp_path / "both" / "annotations", tmp_path / "coco" / "annotations")
    (tmp_path / "both" / "JPEGImages").rename(tmp_path / "coco" / "JPEGImages")
    devkit = ObjectDataset(data=labelled_scenes)
    coco = ObjectDataset(data=tmp_path / "coco", train_split="trainval", test_split="test")
    assert coco.boxes.test.classes == devkit.boxes.test.classes
    assert sum(map(len, coco.boxes.test.boxes)) == sum(map(len, devkit.boxes.test.boxes))
    mask = coco.masks.test.mask(0, (96, 72))
    assert (mask == devkit.masks.test.mask(0, (96, 72))).mean() > 0.97  # crowds and borders of polygons


def test_sets_without_labels_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (20, 30)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="has no labelled boxes"):
        _ = ObjectDataset(data=tmp_path).boxes
    with pytest.raises(FileNotFoundError, match="no data set at"):
        _ = ObjectDataset(data=tmp_path / "none").boxes


def test_splits_with_common_images_are_refused(labelled_scenes: Path) -> None:
    data = ObjectDataset(data=labelled_scenes, test_split="trainval")
    for read in ("boxes", "masks"):
        with pytest.raises(ValueError, match="26 images are in split 'trainval' and in 'trainval'"):
            getattr(data, read)


def test_a_set_of_small_boxes_only_is_refused(labelled_scenes: Path) -> None:
    with pytest.raises(ValueError, match="has no box of 500 px or more"):
        _ = ObjectDataset(data=labelled_scenes, min_box_px=500).boxes


@pytest.mark.parametrize(("option", "match"), [({"min_box_px": 0}, "min_box_px is 0"), ({"max_images": 1}, "is 1")])
def test_numbers_out_of_range_are_refused(option: dict[str, int], match: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=match):
        ObjectDataset(data=tmp_path, **option)


def test_a_split_without_a_box_is_refused(tmp_path: Path) -> None:
    draw_scenes(tmp_path / "s", num_trainval=3, num_test=2, size_wh=(64, 48), quiet=True)
    for path in (tmp_path / "s" / "Annotations").glob("5*.xml"):
        path.write_text("<annotation><size><width>64</width><height>48</height></size></annotation>")
    with pytest.raises(ValueError, match=r"split 'test' of .* has no labelled boxes"):
        _ = ObjectDataset(data=tmp_path / "s").boxes
