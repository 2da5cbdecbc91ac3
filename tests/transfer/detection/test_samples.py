from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.transfer.detection.small import draw_photos

from orl.images.decode import PhotoError
from orl.transfer.detection.photos import DetectionPhotos
from orl.transfer.detection.samples import (
    ResizedPhotos,
    TrainingRules,
    TrainingSamples,
    collate_detection,
    move_boxes,
    move_masks,
    read_photo,
    resize_photo,
    resized_size,
)

RULES = TrainingRules(short_sides_px=(64, 72, 80), longest_px=120, masks=True)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> DetectionPhotos:
    return draw_photos(tmp_path_factory.mktemp("photos"), 4)


@pytest.mark.parametrize(
    ("size_hw", "expected"),
    [((480, 640), (800, 1067)), ((640, 480), (1067, 800)), ((300, 640), (625, 1333)), ((800, 800), (800, 800))],
)
def test_sizes_of_the_test_are_detectron2s(size_hw: tuple[int, int], expected: tuple[int, int]) -> None:
    assert resized_size(size_hw, 800, 1333) == expected


@given(
    size_hw=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    short_side=st.integers(1, 900),
    longest=st.integers(900, 2000),
)
@settings(max_examples=300, deadline=None)
def test_sizes_are_those_of_detectron2s_loop(size_hw: tuple[int, int], short_side: int, longest: int) -> None:
    height, width = size_hw
    scale = short_side * 1.0 / min(height, width)
    new_height, new_width = (short_side, scale * width) if height < width else (scale * height, short_side)
    if max(new_height, new_width) > longest:
        scale = longest * 1.0 / max(new_height, new_width)
        new_height, new_width = new_height * scale, new_width * scale
    assert resized_size(size_hw, short_side, longest) == (int(new_height + 0.5), int(new_width + 0.5))


def test_a_box_moves_with_the_photo_and_its_mirror_image() -> None:
    old = np.array([[10, 20, 30, 50]], dtype=np.float32)
    assert move_boxes(old, (100, 200), (200, 600), False).tolist() == [[30, 40, 90, 100]]
    assert move_boxes(old, (100, 200), (200, 600), True).tolist() == [[510, 40, 570, 100]]


def test_a_box_that_reaches_over_the_edge_ends_there() -> None:
    old = np.array([[-5, 2, 30, 120]], dtype=np.float32)
    assert move_boxes(old, (100, 20), (100, 20), False).tolist() == [[0, 2, 20, 100]]


def test_photo_box_and_mask_move_together() -> None:
    photo = np.zeros((40, 60, 3), dtype=np.uint8)
    photo[8:20, 6:30] = 255
    mask = (photo[None, ..., 0] == 255).repeat(2, axis=0)
    old = np.array([[6, 8, 30, 20]] * 2, dtype=np.float32)
    for mirrored in (False, True):
        moved, masks = move_boxes(old, (40, 60), (80, 120), mirrored), move_masks(mask, (80, 120), mirrored)
        seen = resize_photo(photo, (80, 120))
        seen = seen.flip(-1) if mirrored else seen
        left, top, right, bottom = (int(side) for side in moved[1])
        expected = np.zeros((80, 120), dtype=np.uint8)
        expected[top:bottom, left:right] = 1
        assert np.array_equal(masks[1], expected)
        assert np.array_equal(seen[0].numpy() > 127, expected == 1)


def test_masks_of_no_object_are_none_of_the_new_size() -> None:
    assert move_masks(np.zeros((0, 40, 60), dtype=bool), (20, 30), True).shape == (0, 20, 30)


def test_resizing_is_pillows(photos: DetectionPhotos) -> None:
    photo = read_photo(photos, 0)
    for size_hw in ((51, 67), (130, 171)):
        pillow = np.array(Image.fromarray(photo).resize(size_hw[::-1], Image.Resampling.BILINEAR)).astype(int)
        ours = resize_photo(photo, size_hw).permute(1, 2, 0).numpy().astype(int)
        assert np.abs(ours - pillow).max() <= 1  # both round, at different places


def test_boxes_of_a_sample_lie_around_its_masks(photos: DetectionPhotos) -> None:
    samples, mirrored = TrainingSamples(photos, RULES, seed=0), set()
    for epoch in range(4):
        for row in range(len(photos)):
            view = samples[(epoch, row)].views
            boxes, masks = view["target"]["boxes"], view["target"]["masks"]
            assert tuple(masks.shape[1:]) == tuple(view["photo"].shape[1:])
            for box, mask in zip(boxes, masks):
                ys, xs = torch.nonzero(mask, as_tuple=True)
                around = torch.tensor([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], dtype=torch.float32)
                # A column that is one pixel wide may fall between two nearest pixels.
                torch.testing.assert_close(box, around, atol=1.5, rtol=0)
            whole = photos.boxes[row][:, 0] * view["photo"].shape[2] / 96
            mirrored.add(bool(np.abs(boxes[:, 0].numpy() - whole).max() > 1.5))
    assert mirrored == {True, False}


def test_labels_begin_at_one_and_masks_come_only_if_they_are_learnt(photos: DetectionPhotos) -> None:
    target = TrainingSamples(photos, RULES, seed=0)[(0, 1)].views["target"]
    assert target["labels"].tolist() == (photos.box_classes[1] + 1).tolist()
    boxes_only = TrainingSamples(photos, replace(RULES, masks=False), seed=0)[(0, 1)].views["target"]
    assert set(boxes_only) == {"boxes", "labels"}
    assert torch.equal(boxes_only["boxes"], target["boxes"])


def test_a_sample_depends_on_seed_epoch_and_photo_alone(photos: DetectionPhotos) -> None:
    def drawn(seed: int, key: tuple[int, int]) -> torch.Tensor:
        return TrainingSamples(photos, RULES, seed)[key].views["photo"]

    assert torch.equal(drawn(0, (0, 2)), drawn(0, (0, 2)))
    sizes = {tuple(drawn(seed, (epoch, 2)).shape) for seed in range(3) for epoch in range(5)}
    assert sizes == {(3, 64, 85), (3, 72, 96), (3, 80, 107)}


def test_crowds_are_left_out(photos: DetectionPhotos) -> None:
    row = max(range(4), key=lambda row: len(photos.boxes[row]))
    ignored = list(photos.ignored)
    ignored[row] = np.arange(len(ignored[row])) == 0
    some = replace(photos, ignored=tuple(ignored))
    labels = (photos.box_classes[row] + 1).tolist()
    target = TrainingSamples(some, RULES, seed=0)[(0, row)].views["target"]
    assert target["labels"].tolist() == labels[1:]
    assert len(target["masks"]) == len(target["boxes"]) == len(labels) - 1


def test_another_photo_takes_the_place_of_an_unreadable_one(tmp_path: Path) -> None:
    some = draw_photos(tmp_path, 4)
    (tmp_path / "0001.png").write_bytes(b"no photo")
    loaded = TrainingSamples(some, RULES, seed=0)[(0, 1)]
    assert loaded.files[0] in ("0000.png", "0002.png", "0003.png")
    assert {(Path(file).name, reason.split(":")[0]) for file, reason in loaded.unreadable} == {
        ("0001.png", "not an image")
    }
    for row in (0, 2, 3):
        (tmp_path / f"000{row}.png").unlink()
    alone = TrainingSamples(some, RULES, seed=0)[(0, 1)]
    assert (alone.views, alone.files, len(alone.unreadable)) == ({}, [], 11)
    good = TrainingSamples(draw_photos(tmp_path, 4), RULES, seed=0)[(0, 0)]
    assert collate_detection([good, alone]).views == {}
    assert len(collate_detection([good, alone]).unreadable) == 11


def test_a_photo_of_another_size_than_its_annotations_is_refused(photos: DetectionPhotos) -> None:
    wrong = replace(photos, sizes_wh=((96, 72), (95, 72), (96, 72), (96, 72)))
    with pytest.raises(PhotoError, match="has 96x72 px, and its annotations are for 95x72 px"):
        read_photo(wrong, 1)


def test_a_batch_keeps_photos_of_different_sizes_apart(photos: DetectionPhotos) -> None:
    samples = TrainingSamples(photos, RULES, seed=0)
    batch = collate_detection([samples[(0, row)] for row in range(3)])
    assert batch.files == ["0000.png", "0001.png", "0002.png"]
    assert [tuple(photo.shape) for photo in batch.views["photos"]] == [
        tuple(samples[(0, row)].views["photo"].shape) for row in range(3)
    ]
    assert torch.equal(batch.views["targets"][2]["boxes"], samples[(0, 2)].views["target"]["boxes"])


def test_photos_of_the_test_are_resized_and_never_mirrored(photos: DetectionPhotos) -> None:
    resized = ResizedPhotos(photos, [3, 1], 36, 100)
    row, photo = resized[1]
    assert (len(resized), row, tuple(photo.shape)) == (2, 1, (3, 36, 48))
    assert torch.equal(photo, resize_photo(read_photo(photos, 1), (36, 48)))
