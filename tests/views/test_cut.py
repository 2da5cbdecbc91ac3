"""Views are cut from images that are read once, and no larger than the views need."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from orl.datasets.decode import ImageError, load_image
from orl.datasets.image_table import ImageTable
from orl.synthetic.scenes import draw_scene
from orl.views import cut as views_module
from orl.views.colour import ColourDistribution, sample_colours
from orl.views.crops import cut_boxes
from orl.views.cut import ViewBox, cut_views, largest_reduction

COLOURS = sample_colours(ColourDistribution(), np.random.default_rng(0))


def box_at(image_id: int, box: tuple[float, ...], size_px: int) -> ViewBox:
    return ViewBox(image_id, np.array(box, dtype=np.float32), size_px, COLOURS)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageTable:
    """Write a scene as JPEG, the same rotated and as PNG, and a smaller scene."""
    root = tmp_path_factory.mktemp("images")
    large, small = (Image.fromarray(draw_scene(3, 0, size_wh).image) for size_wh in ((643, 485), (150, 100)))
    exif = Image.Exif()
    exif[0x0112] = 6
    large.save(root / "0.jpg", quality=95)
    large.transpose(Image.Transpose.ROTATE_90).save(root / "1.jpg", quality=95, exif=exif)
    large.save(root / "2.png")
    small.save(root / "3.jpg", quality=95)
    names = ("0.jpg", "1.jpg", "2.png", "3.jpg")
    return ImageTable(root=root, names=names, sizes_wh=((643, 485),) * 3 + ((150, 100),), digests=names)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Record the names and reductions of the images that are read."""
    found: list[tuple[str, int]] = []

    def load(path: Path, max_pixels: None, reduction: int) -> np.ndarray:
        found.append((path.name, reduction))
        return load_image(path, reduction=reduction)

    monkeypatch.setattr(views_module, "load_image", load)
    return found


@pytest.mark.parametrize(
    ("sides", "size_px", "expected"),
    [
        ((447, 600), 224, 1),
        ((448, 600), 224, 2),
        ((600, 448), 224, 2),
        ((895, 2000), 224, 2),
        ((896, 896), 224, 4),
        ((1792, 1792), 224, 8),
        ((9000, 9000), 224, 8),
        ((100, 100), 224, 1),
        ((0.5, 300), 224, 1),
    ],
)
def test_the_largest_reduction_keeps_a_pixel_of_the_crop_for_each_of_the_view(
    sides: tuple[float, float], size_px: int, expected: int
) -> None:
    assert largest_reduction([box_at(0, (7, 3, 7 + sides[0], 3 + sides[1]), size_px)]) == expected


@given(st.lists(st.tuples(st.floats(1, 3000), st.floats(1, 3000), st.sampled_from([32, 96, 224])), min_size=1))
def test_the_smallest_crop_decides_the_reduction(rows: list[tuple[float, float, int]]) -> None:
    view_boxes = [box_at(0, (0, 0, width, height), size_px) for width, height, size_px in rows]
    assert largest_reduction(view_boxes) == min(largest_reduction([one]) for one in view_boxes)


def test_each_image_is_read_once_at_its_own_largest_reduction(images: ImageTable, reads: list[tuple[str, int]]) -> None:
    view_boxes = {
        "view_1": box_at(0, (0, 0, 400, 300), 64),
        "view_2": box_at(0, (100, 50, 228, 178), 64),
        "inter_1": box_at(0, (10, 10, 310, 310), 32),
        "inter_2": box_at(3, (0, 0, 60, 60), 32),
    }
    sample = cut_views(images, view_boxes)
    assert sorted(reads) == [("0.jpg", 2), ("3.jpg", 1)]
    assert list(sample) == list(view_boxes)
    assert [view.crop.shape for view in sample.values()] == [(3, 64, 64)] * 2 + [(3, 32, 32)] * 2
    assert all(view.crop.is_contiguous() and view.colours == COLOURS for view in sample.values())


def test_without_reduction_crops_are_those_of_the_full_size_image(
    images: ImageTable, reads: list[tuple[str, int]]
) -> None:
    view_boxes = {"a": box_at(0, (3.4, 8, 90, 70.6), 64), "b": box_at(0, (0, 0, 643, 485), 64)}
    sample = cut_views(images, view_boxes)
    assert reads == [("0.jpg", 1)]
    for name, view_box in view_boxes.items():
        expected = cut_boxes(load_image(images.path(0)), view_box.box[None], 64)[0]
        torch.testing.assert_close(sample[name].crop, expected, rtol=0, atol=0)


@pytest.mark.parametrize("image", [0, 1, 2])
@pytest.mark.parametrize(("size_px", "reduction"), [(120, 2), (60, 4), (30, 8)])
def test_crops_of_a_reduced_image_lie_within_half_a_pixel_of_those_at_full_size(
    images: ImageTable, reads: list[tuple[str, int]], image: int, size_px: int, reduction: int
) -> None:
    boxes = [(0, 0, 643, 485), (101, 3, 350, 244), (402.3, 241.8, 643, 485)]
    sample = cut_views(images, {str(index): box_at(image, box, size_px) for index, box in enumerate(boxes)})
    assert reads == [(images.names[image], reduction)]
    full = load_image(images.path(image))
    for index, box in enumerate(boxes):
        expected = cut_boxes(full, np.array([box], dtype=np.float32), size_px)[0].float()
        difference = (sample[str(index)].crop.float() - expected).abs().mean()
        # A box is rounded to the larger pixels: its edges move by half of one, or by one where a remainder of the image
        # lies at its beginning, and one of them makes a pixel of the view or less. So the views differ by less than a
        # view does from itself moved by one pixel to the right and down.
        moved = (expected[:, 1:, 1:] - expected[:, :-1, :-1]).abs().mean()
        assert difference < moved


def test_positions_are_kept_when_an_image_is_reduced(tmp_path: Path) -> None:
    ramp = np.zeros((512, 640, 3), dtype=np.uint8)
    ramp[..., 0] = np.arange(640) * 255 // 639
    ramp[..., 1] = np.arange(512)[:, None] * 255 // 511
    Image.fromarray(ramp).save(tmp_path / "a.jpg", quality=100, subsampling=0)
    images = ImageTable(root=tmp_path, names=("a.jpg",), sizes_wh=((640, 512),), digests=("a",))
    for size_px in (256, 128, 64, 32):
        crop = cut_views(images, {"a": box_at(0, (128, 0, 640, 512), size_px)})["a"].crop.float()
        columns = 128 + 512 * (torch.arange(size_px) + 0.5) / size_px
        # Within a grey level or so of what lies there; at the edges the filter has nothing on one side.
        torch.testing.assert_close(crop[0].mean(0)[2:-2], (columns * 255 / 640)[2:-2], atol=2, rtol=0)
        torch.testing.assert_close(crop[1].mean(1)[2:-2], (columns - 128)[2:-2] * 255 / 512, atol=2, rtol=0)


def test_a_changed_size_is_found_in_a_reduced_image_too(images: ImageTable, tmp_path: Path) -> None:
    Image.new("RGB", (400, 300)).save(tmp_path / "0.jpg")
    changed = ImageTable(root=tmp_path, names=("0.jpg",), sizes_wh=((643, 485),), digests=("a",))
    for size_px in (224, 32):
        with pytest.raises(ImageError, match="has 400x300 px, and had 643x485 when the images were scanned"):
            cut_views(changed, {"a": box_at(0, (0, 0, 300, 300), size_px)})


def test_a_packed_image_is_read_at_full_size(images: ImageTable, monkeypatch: pytest.MonkeyPatch) -> None:
    full = load_image(images.path(0))
    reductions = []

    def load(path: object, max_pixels: None, reduction: int) -> np.ndarray:
        reductions.append(reduction)
        return full

    monkeypatch.setattr(views_module, "load_image", load)
    packed = ImageTable(root=images.root, names=("0.jpg",), sizes_wh=((643, 485),), digests=("a",), packed="pixels")
    cut_views(packed, {"a": box_at(0, (0, 0, 643, 485), 32)})
    assert reductions == [1]


def test_an_image_stored_sideways_has_its_upright_size(images: ImageTable) -> None:
    upright, turned = (cut_views(images, {"a": box_at(image, (0, 0, 640, 480), 60)})["a"].crop for image in (0, 1))
    # The same scene, coded by JPEG in one direction and in the other.
    assert (upright.float() - turned.float()).abs().mean() < 6
