"""Semantic masks of every layout, and refusals of damaged ones."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orl.datasets.semantic_masks import VOID, SemanticMasks, read_semantic_masks
from orl.synthetic.scenes import CLASSES, draw_scene, draw_scenes


def write_image(path: Path, size_wh: tuple[int, int] = (8, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size_wh, (90, 120, 60)).save(path)


def write_mask(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)


def read(source: Path, split: str | None = None, *, train: bool = True, void: int | None = None) -> SemanticMasks:
    found = read_semantic_masks(source, split, train=train, void=void)
    assert found is not None
    return found


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Write class-index folders as CamVid's: two images of 8x6 px a split, void 11."""
    for split in ("train", "test"):
        for name in ("a", "b"):
            write_image(tmp_path / "images" / split / f"{name}.jpg")
            values = np.zeros((6, 8))
            values[2:4], values[5] = 3, 11
            write_mask(tmp_path / "masks" / split / f"{name}.png", values)
    return tmp_path


def test_class_index_folders_have_the_values_as_classes_and_void(folders: Path) -> None:
    masks = read(folders, void=11)
    assert masks.classes == ("0", "1", "2", "3")
    assert masks.names == ("a.jpg", "b.jpg")
    mask = masks.mask(0, (8, 6))
    assert mask[:, 0].tolist() == [0, 0, 3, 3, 0, VOID]
    assert read(folders, train=False, void=11).split == "test"
    masks.check(quiet=True)


def test_class_names_come_from_a_list(folders: Path) -> None:
    (folders / "classes.txt").write_text("sky\nroad\ncar\ntree\n")
    assert read(folders, void=11).classes == ("sky", "road", "car", "tree")


def test_voc_masks_have_21_classes_and_void(tmp_path: Path) -> None:
    # Layout of the devkit: SegmentationClass/<id>.png with a palette, ImageSets/Segmentation/<split>.txt.
    root = tmp_path / "VOC2012"
    write_image(root / "JPEGImages" / "2007_000032.jpg")
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation").mkdir()
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("2007_000032\n")
    image = Image.fromarray(np.full((6, 8), 15, np.uint8), mode="P")
    image.putpalette([value for value in range(256) for _ in range(3)])
    (root / "SegmentationClass").mkdir()
    image.save(root / "SegmentationClass" / "2007_000032.png")
    masks = read(tmp_path)
    assert (len(masks.classes), masks.classes[0], masks.classes[15]) == (21, "background", "person")
    assert np.unique(masks.mask(0, (8, 6))).tolist() == [15]
    with pytest.raises(ValueError, match=r"no list ImageSets/Segmentation/val.txt"):
        read(tmp_path, train=False)


def test_scenes_have_the_class_of_each_object(tmp_path: Path) -> None:
    draw_scenes(tmp_path / "s", num_trainval=6, num_test=4, size_wh=(64, 48), quiet=True)
    masks = read(tmp_path / "s")
    assert masks.classes == ("background", *CLASSES)
    for row in range(6):
        scene = draw_scene(0, row, (64, 48))
        expected = np.zeros((48, 64), np.uint8)
        for each in scene.objects:
            expected[scene.mask == each.number] = 1 + CLASSES.index(each.class_name)
        np.testing.assert_array_equal(masks.mask(row, (64, 48)), expected)


def coco(folder: Path, annotations: list[dict[str, object]]) -> Path:
    write_image(folder / "train2017" / "000000000009.jpg")
    content = {
        "images": [{"id": 9, "file_name": "000000000009.jpg", "width": 8, "height": 6}],
        "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
        "annotations": [{"id": index, "image_id": 9, **each} for index, each in enumerate(annotations)],
    }
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    return folder


def test_coco_draws_small_instances_over_large_ones_and_crowds_below(tmp_path: Path) -> None:
    def square(left: int, right: int, category: int, area: int, crowd: int = 0) -> dict[str, object]:
        polygon = [left, 0, right, 0, right, 6, left, 6]
        return {
            "category_id": category,
            "segmentation": [polygon],
            "bbox": [left, 0, right - left, 6],
            "area": area,
            "iscrowd": crowd,
        }

    masks = read(coco(tmp_path, [square(2, 4, 18, 12), square(0, 6, 1, 36), square(5, 8, 1, 18, crowd=1)]))
    assert masks.classes == ("background", "person", "dog")
    assert masks.mask(0, (8, 6))[3].tolist() == [1, 1, 2, 2, 1, 1, VOID, VOID]


def test_a_source_without_masks_has_none(tmp_path: Path) -> None:
    assert read_semantic_masks(tmp_path, None, train=True) is None
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        read_semantic_masks(tmp_path / "none", None, train=True)


def test_a_mask_of_another_size_is_refused(folders: Path) -> None:
    write_mask(folders / "masks/train/b.png", np.zeros((6, 9)))
    with pytest.raises(ValueError, match=r"mask of b.jpg must have the 8x6 px of the image, got 9x6"):
        read(folders, void=11).check(quiet=True)


def test_a_value_that_is_no_class_is_refused(folders: Path) -> None:
    (folders / "classes.txt").write_text("sky\nroad\n")
    with pytest.raises(ValueError, match=r"mask of a.jpg has the value 3, but there are 2 classes"):
        read(folders, void=11).check(quiet=True)


def test_masks_without_any_label_are_refused(folders: Path) -> None:
    (folders / "classes.txt").write_text("sky\nroad\n")
    for name in ("a", "b"):
        write_mask(folders / f"masks/train/{name}.png", np.full((6, 8), 255))
    with pytest.raises(ValueError, match="no pixel of the 2 masks of 'train' has a label"):
        read(folders).check(quiet=True)


@pytest.mark.parametrize("damage", ["missing", "colour", "deep", "text"])
def test_a_damaged_mask_is_named(folders: Path, damage: str) -> None:
    path = folders / "masks/train/b.png"
    path.unlink()
    if damage == "colour":
        Image.new("RGB", (8, 6)).save(path)
    elif damage == "deep":
        Image.fromarray(np.zeros((6, 8), np.uint16)).save(path)
    elif damage == "text":
        path.write_text("no picture")
    match = {"missing": "1 of 2 images .* have no mask", "text": "cannot be read"}.get(damage, "8-bit class indices")
    with pytest.raises(ValueError, match=match):
        read(folders, void=11).check(quiet=True)


def test_missing_masks_of_scenes_are_named(tmp_path: Path) -> None:
    draw_scenes(tmp_path / "s", num_trainval=3, num_test=2, size_wh=(64, 48), quiet=True)
    next((tmp_path / "s" / "SegmentationObject").glob("000001*")).unlink()
    with pytest.raises(ValueError, match=r"1 of 3 masks of 'trainval' are missing"):
        read(tmp_path / "s")


def test_another_void_and_other_images_are_another_fingerprint(folders: Path) -> None:
    masks = read(folders, void=11)
    assert masks.fingerprint == read(folders, void=11).fingerprint
    assert masks.select([0]).fingerprint != masks.fingerprint
    assert masks.select([1]).names == ("b.jpg",)
    shutil.copy(folders / "images/test/a.jpg", folders / "images/train/c.jpg")
    with pytest.raises(ValueError, match=r"1 of 3 images .* have no mask"):
        read(folders, void=11)


def test_void_without_folders_of_masks_is_an_error(tmp_path: Path) -> None:
    draw_scenes(tmp_path / "s", num_trainval=3, num_test=2, size_wh=(64, 48), quiet=True)
    with pytest.raises(ValueError, match="--void is for folders"):
        read(tmp_path / "s", void=3)
