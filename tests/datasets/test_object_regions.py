import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orl.datasets.object_regions import BACKGROUND, OBJECT, UNKNOWN, box_region, read_object_regions
from orl.synthetic.coco_layout import write_coco
from orl.synthetic.scenes import draw_scene, draw_scenes

SIZE_WH = (64, 48)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    draw_scenes(folder, num_trainval=4, num_test=1, size_wh=SIZE_WH, quiet=True)
    write_coco(folder)
    return folder


def test_masks_of_synthetic_scenes_cover_their_objects(scenes: Path):
    regions = read_object_regions(scenes)
    assert regions is not None
    assert regions.kind == "masks"
    assert list(regions.readers) == [f"JPEGImages/{index:06d}.jpg" for index in range(4)]
    for index, name in enumerate(regions.readers):
        scene_folder = draw_scene(0, index, SIZE_WH)
        assert np.array_equal(regions.region(name, SIZE_WH), np.where(scene_folder.mask > 0, OBJECT, BACKGROUND))
    assert "JPEGImages/500000.jpg" not in regions
    assert "JPEGImages/500000.jpg" in (read_object_regions(scenes, "test") or ())


def test_coco_json_and_devkit_have_the_same_masks(scenes: Path):
    from_coco = read_object_regions(scenes / "annotations" / "instances_trainval.json")
    from_devkit = read_object_regions(scenes)
    assert from_coco is not None
    assert from_devkit is not None
    for name, other in zip(from_coco.readers, from_devkit.readers, strict=True):
        assert np.array_equal(from_coco.region(name, SIZE_WH), from_devkit.region(other, SIZE_WH))


def test_boxes_are_used_if_they_are_asked_for(scenes: Path):
    regions = read_object_regions(scenes, kind="boxes")
    assert regions is not None
    assert regions.kind == "boxes"
    name = next(iter(regions.readers))
    scene_folder = draw_scene(0, 0, SIZE_WH)
    expected = np.zeros(SIZE_WH[::-1], dtype=np.uint8)
    for left, top, right, bottom in (each.box for each in scene_folder.objects):
        expected[top:bottom, left:right] = OBJECT
    assert np.array_equal(regions.region(name, SIZE_WH), expected)


def test_a_devkit_without_masks_has_boxes_and_one_with_some_has_those_images_only(tmp_path: Path):
    draw_scenes(tmp_path, num_trainval=3, num_test=0, size_wh=SIZE_WH, quiet=True)
    masks = sorted((tmp_path / "SegmentationObject").glob("*.png"))
    masks[0].unlink()
    regions = read_object_regions(tmp_path)
    assert regions is not None
    assert (regions.kind, len(regions.readers)) == ("masks", 2)
    for mask in masks[1:]:
        mask.unlink()
    regions = read_object_regions(tmp_path)
    assert regions is not None
    assert (regions.kind, len(regions.readers)) == ("boxes", 3)
    assert read_object_regions(tmp_path, kind="masks") is None


def test_the_borders_in_the_masks_of_voc_are_unknown(tmp_path: Path):
    draw_scenes(tmp_path, num_trainval=1, num_test=0, size_wh=SIZE_WH, quiet=True)
    numbers = np.zeros(SIZE_WH[::-1], dtype=np.uint8)
    numbers[10:20, 10:20], numbers[12:18, 12:18] = 255, 3
    mask = Image.fromarray(numbers)
    mask.putpalette(list(range(256)) * 3)
    mask.save(tmp_path / "SegmentationObject" / "000000.png")
    regions = read_object_regions(tmp_path)
    assert regions is not None
    region = regions.region("JPEGImages/000000.jpg", SIZE_WH)
    assert [int((region == value).sum()) for value in (OBJECT, UNKNOWN)] == [36, 64]


def test_box_regions_are_rounded_and_clipped():
    region = box_region(np.array([[0.4, 0.6, 1.6, 2.4], [-3, -3, 1, 1], [3, 3, 99, 99]]), (4, 4))
    assert region.tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]


def test_a_source_without_labels_has_no_regions(tmp_path: Path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert read_object_regions(tmp_path) is None
    assert read_object_regions(tmp_path, kind="boxes") is None
    bare = {"images": [{"id": 1, "file_name": "a.png", "width": 4, "height": 4}], "annotations": [], "categories": []}
    (tmp_path / "image_info.json").write_text(json.dumps(bare))
    assert read_object_regions(tmp_path / "image_info.json") is None


def test_an_image_of_coco_with_an_object_without_a_mask_is_left_out(tmp_path: Path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "b.png")
    box = {"bbox": [0, 0, 2, 2], "category_id": 1, "segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]]}
    content = {
        "images": [{"id": i, "file_name": f"{name}.png", "width": 4, "height": 4} for i, name in enumerate("ab")],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {**box, "id": 1, "image_id": 0},
            {**box, "id": 2, "image_id": 1},
            {**box, "id": 3, "image_id": 1, "segmentation": []},
        ],
    }
    (tmp_path / "some.json").write_text(json.dumps(content))
    regions = read_object_regions(tmp_path / "some.json")
    assert regions is not None
    assert (regions.kind, list(regions.readers)) == ("masks", ["a.png"])
    assert regions.region("a.png", (4, 4))[:2, :2].all()
    assert regions.region("a.png", (4, 4)).sum() == 4


def test_masks_that_do_not_fit_their_image_are_refused(tmp_path: Path):
    draw_scenes(tmp_path, num_trainval=2, num_test=0, size_wh=SIZE_WH, quiet=True)
    regions = read_object_regions(tmp_path)
    assert regions is not None
    with pytest.raises(
        ValueError, match=r"masks of JPEGImages/000000\.jpg must have the 48x64 px of the image, got 64x48 px"
    ):
        regions.region("JPEGImages/000000.jpg", (48, 64))
    with pytest.raises(KeyError, match="nowhere"):
        regions.region("nowhere.jpg", SIZE_WH)
    Image.new("RGB", SIZE_WH).save(tmp_path / "SegmentationObject" / "000000.png")
    with pytest.raises(ValueError, match=r"000000\.png must have 8-bit object numbers, got mode RGB"):
        regions.region("JPEGImages/000000.jpg", SIZE_WH)
    (tmp_path / "SegmentationObject" / "000001.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"000001\.png cannot be read"):
        regions.region("JPEGImages/000001.jpg", SIZE_WH)
    Image.new("1", (20_000, 20_000)).save(tmp_path / "SegmentationObject" / "000001.png")
    with pytest.raises(ValueError, match=r"000001\.png cannot be read: too many pixels: 20000x20000 px"):
        regions.region("JPEGImages/000001.jpg", SIZE_WH)
