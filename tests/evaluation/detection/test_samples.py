from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.evaluation.detection.small import draw_images

from orl.datasets.decode import ImageError
from orl.evaluation.detection.datasets import DetectionDataset
from orl.evaluation.detection.samples import (
    DetectionTrainingImages,
    ResizeConfig,
    ResizedImages,
    collate_detection,
    read_image,
    resized_size,
    transform_boxes,
    transform_masks,
)
from orl.views.crops import resize

RESIZE = ResizeConfig(short_sides_px=(64, 72, 80), longest_px=120, masks=True)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    return draw_images(tmp_path_factory.mktemp("images"), 4)


@pytest.mark.parametrize(
    ("size_hw", "expected"),
    [((480, 640), (800, 1067)), ((640, 480), (1067, 800)), ((300, 640), (625, 1333)), ((800, 800), (800, 800))],
)
def test_test_sizes_equal_detectron2s(size_hw: tuple[int, int], expected: tuple[int, int]) -> None:
    assert resized_size(size_hw, 800, 1333) == expected


@given(
    size_hw=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    short_side=st.integers(1, 900),
    longest=st.integers(900, 2000),
)
@settings(max_examples=300, deadline=None)
def test_sizes_equal_detectron2s_loop(size_hw: tuple[int, int], short_side: int, longest: int) -> None:
    height, width = size_hw
    scale = short_side * 1.0 / min(height, width)
    new_height, new_width = (short_side, scale * width) if height < width else (scale * height, short_side)
    if max(new_height, new_width) > longest:
        scale = longest * 1.0 / max(new_height, new_width)
        new_height, new_width = new_height * scale, new_width * scale
    assert resized_size(size_hw, short_side, longest) == (int(new_height + 0.5), int(new_width + 0.5))


def test_boxes_are_resized_and_mirrored_with_the_image() -> None:
    old = np.array([[10, 20, 30, 50]], dtype=np.float32)
    assert transform_boxes(old, (100, 200), (200, 600), False).tolist() == [[30, 40, 90, 100]]
    assert transform_boxes(old, (100, 200), (200, 600), True).tolist() == [[510, 40, 570, 100]]


def test_boxes_are_clipped_to_the_image() -> None:
    old = np.array([[-5, 2, 30, 120]], dtype=np.float32)
    assert transform_boxes(old, (100, 20), (100, 20), False).tolist() == [[0, 2, 20, 100]]


def test_image_box_and_mask_stay_aligned() -> None:
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    image[8:20, 6:30] = 255
    mask = (image[None, ..., 0] == 255).repeat(2, axis=0)
    old = np.array([[6, 8, 30, 20]] * 2, dtype=np.float32)
    for mirrored in (False, True):
        moved, masks = transform_boxes(old, (40, 60), (80, 120), mirrored), transform_masks(mask, (80, 120), mirrored)
        seen = resize(image, (80, 120))
        seen = seen.flip(-1) if mirrored else seen
        left, top, right, bottom = (int(side) for side in moved[1])
        expected = np.zeros((80, 120), dtype=np.uint8)
        expected[top:bottom, left:right] = 1
        assert np.array_equal(masks[1], expected)
        assert np.array_equal(seen[0].numpy() > 127, expected == 1)


def test_no_objects_give_zero_masks_of_the_new_size() -> None:
    assert transform_masks(np.zeros((0, 40, 60), dtype=bool), (20, 30), True).shape == (0, 20, 30)


def test_resizing_equals_pillows(images: DetectionDataset) -> None:
    image = read_image(images, 0)
    for size_hw in ((51, 67), (130, 171)):
        pillow = np.array(Image.fromarray(image).resize(size_hw[::-1], Image.Resampling.BILINEAR)).astype(int)
        ours = resize(image, size_hw).permute(1, 2, 0).numpy().astype(int)
        assert np.abs(ours - pillow).max() <= 1  # both round, at different places


def test_boxes_of_a_sample_enclose_its_masks(images: DetectionDataset) -> None:
    samples, mirrored = DetectionTrainingImages(images, RESIZE, seed=0), set()
    for epoch in range(4):
        for row in range(len(images)):
            view = samples[(epoch, row)].views
            boxes, masks = view["target"]["boxes"], view["target"]["masks"]
            assert tuple(masks.shape[1:]) == tuple(view["image"].shape[1:])
            for box, mask in zip(boxes, masks):
                ys, xs = torch.nonzero(mask, as_tuple=True)
                around = torch.tensor([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], dtype=torch.float32)
                # A column that is one pixel wide may fall between two nearest pixels.
                torch.testing.assert_close(box, around, atol=1.5, rtol=0)
            complete = images.boxes[row][:, 0] * view["image"].shape[2] / 96
            mirrored.add(bool(np.abs(boxes[:, 0].numpy() - complete).max() > 1.5))
    assert mirrored == {True, False}


def test_labels_start_at_one_and_masks_are_optional(images: DetectionDataset) -> None:
    target = DetectionTrainingImages(images, RESIZE, seed=0)[(0, 1)].views["target"]
    assert target["labels"].tolist() == (images.box_classes[1] + 1).tolist()
    boxes_only = DetectionTrainingImages(images, replace(RESIZE, masks=False), seed=0)[(0, 1)].views["target"]
    assert set(boxes_only) == {"boxes", "labels"}
    assert torch.equal(boxes_only["boxes"], target["boxes"])


def test_a_sample_depends_only_on_seed_epoch_and_image(images: DetectionDataset) -> None:
    def sample(seed: int, key: tuple[int, int]) -> torch.Tensor:
        return DetectionTrainingImages(images, RESIZE, seed)[key].views["image"]

    assert torch.equal(sample(0, (0, 2)), sample(0, (0, 2)))
    sizes = {tuple(sample(seed, (epoch, 2)).shape) for seed in range(3) for epoch in range(5)}
    assert sizes == {(3, 64, 85), (3, 72, 96), (3, 80, 107)}


def test_crowds_are_left_out(images: DetectionDataset) -> None:
    row = max(range(4), key=lambda row: len(images.boxes[row]))
    ignored = list(images.ignored)
    ignored[row] = np.arange(len(ignored[row])) == 0
    some = replace(images, ignored=tuple(ignored))
    labels = (images.box_classes[row] + 1).tolist()
    target = DetectionTrainingImages(some, RESIZE, seed=0)[(0, row)].views["target"]
    assert target["labels"].tolist() == labels[1:]
    assert len(target["masks"]) == len(target["boxes"]) == len(labels) - 1


def test_another_image_replaces_an_unreadable_one(tmp_path: Path) -> None:
    some = draw_images(tmp_path, 4)
    (tmp_path / "0001.png").write_bytes(b"no image")
    loaded = DetectionTrainingImages(some, RESIZE, seed=0)[(0, 1)]
    assert loaded.files[0] in ("0000.png", "0002.png", "0003.png")
    assert {(Path(file).name, reason.split(":")[0]) for file, reason in loaded.unreadable} == {
        ("0001.png", "not an image")
    }
    for row in (0, 2, 3):
        (tmp_path / f"000{row}.png").unlink()
    alone = DetectionTrainingImages(some, RESIZE, seed=0)[(0, 1)]
    assert (alone.views, alone.files, len(alone.unreadable)) == ({}, [], 11)
    good = DetectionTrainingImages(draw_images(tmp_path, 4), RESIZE, seed=0)[(0, 0)]
    assert collate_detection([good, alone]).views == {}
    assert len(collate_detection([good, alone]).unreadable) == 11


def test_an_image_of_another_size_than_annotated_is_refused(images: DetectionDataset) -> None:
    wrong = replace(images, sizes_wh=((96, 72), (95, 72), (96, 72), (96, 72)))
    with pytest.raises(ImageError, match="has 96x72 px, but its annotations are for 95x72 px"):
        read_image(wrong, 1)


def test_a_batch_is_a_list_of_images_of_different_sizes(images: DetectionDataset) -> None:
    samples = DetectionTrainingImages(images, RESIZE, seed=0)
    batch = collate_detection([samples[(0, row)] for row in range(3)])
    assert batch.files == ["0000.png", "0001.png", "0002.png"]
    assert [tuple(image.shape) for image in batch.views["images"]] == [
        tuple(samples[(0, row)].views["image"].shape) for row in range(3)
    ]
    assert torch.equal(batch.views["targets"][2]["boxes"], samples[(0, 2)].views["target"]["boxes"])


def test_test_images_are_resized_and_not_mirrored(images: DetectionDataset) -> None:
    resized = ResizedImages(images, [3, 1], 36, 100)
    row, image = resized[1]
    assert (len(resized), row, tuple(image.shape)) == (2, 1, (3, 36, 48))
    assert torch.equal(image, resize(read_image(images, 1), (36, 48)))
