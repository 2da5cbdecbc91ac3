from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from orl.datasets.image_table import ImageTable
from orl.views.colour import ColourDistribution
from orl.views.crops import cut_boxes
from orl.views.view_dataset import ViewDataset, collate_views
from orl.views.view_samplers import GlobalViewSampler, ObjectTable, ObjectViewSampler, ViewDistribution

PLAIN = ColourDistribution(flip_probability=0, jitter_probability=0, gray_probability=0, blur_probability=0)
DISTRIBUTION = ViewDistribution(
    size_px=16, area_range=(0.2, 1.0), aspect_ratio_range=(3 / 4, 4 / 3), colours=(PLAIN, PLAIN)
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageTable:
    """Four images: red and green encode the position of a pixel, blue the image."""
    root = tmp_path_factory.mktemp("images")
    for index in range(4):
        pixels = np.zeros((40, 60, 3), dtype=np.uint8)
        pixels[..., 0] = np.arange(60) * 4
        pixels[..., 1] = np.arange(40)[:, None] * 6
        pixels[..., 2] = index * 60
        Image.fromarray(pixels).save(root / f"{index}.png")
    names = tuple(f"{index}.png" for index in range(4))
    return ImageTable(root=root, names=names, sizes_wh=((60, 40),) * 4, digests=names)


@pytest.fixture(scope="module")
def objects() -> ObjectTable:
    """Build two RoIs per image; image i has one correspondence with image i + 1 and two with image i + 2."""
    rois = np.tile(np.array([[0, 0, 30, 40], [20, 0, 60, 30]], dtype=np.float32), (4, 1))
    pairs, groups = [], []
    for image in range(4):
        one, two = 2 * ((image + 1) % 4), 2 * ((image + 2) % 4)
        start = len(pairs)
        pairs += [[2 * image, one + 1], [2 * image + 1, two], [2 * image, two + 1]]
        groups.append(np.array([[start, start + 1], [start + 1, start + 3]]))
    return ObjectTable(
        rois=rois,
        roi_starts=np.arange(0, 9, 2),
        roi_image_ids=np.repeat(np.arange(4), 2),
        correspondences=np.array(pairs),
        neighbour_slices=groups,
    )


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[name][0], other[name][0]) and one[name][1] == other[name][1] for name in one
    )


def test_a_sample_depends_on_seed_epoch_and_image_alone(images: ImageTable, objects: ObjectTable) -> None:
    data, again = (ViewDataset(ObjectViewSampler(images, DISTRIBUTION, objects, 8, seed=3)) for _ in range(2))
    first = data[(5, 1)].views
    data[(0, 2)]
    assert same(data[(5, 1)].views, first)
    assert same(again[(5, 1)].views, first)
    assert not same(data[(6, 1)].views, first)
    assert not same(data[(5, 2)].views, first)
    assert not same(ViewDataset(ObjectViewSampler(images, DISTRIBUTION, objects, 8, seed=4))[(5, 1)].views, first)


def test_global_views_of_stage_3_are_those_of_stage_1(images: ImageTable, objects: ObjectTable) -> None:
    alone = ViewDataset(GlobalViewSampler(images, DISTRIBUTION, 3))[(1, 2)].views
    with_objects = ViewDataset(ObjectViewSampler(images, DISTRIBUTION, objects, 8, 3))[(1, 2)].views
    assert same(alone, {name: with_objects[name] for name in ("view_1", "view_2")})


def test_views_have_their_sizes(images: ImageTable, objects: ObjectTable) -> None:
    sample = ViewDataset(ObjectViewSampler(images, DISTRIBUTION, objects, 8, seed=0))[(0, 0)].views
    sides = {name: crop.shape for name, (crop, _) in sample.items()}
    assert sides == {f"view_{i}": (3, 16, 16) for i in (1, 2)} | {
        f"{pair}_{i}": (3, 8, 8) for pair in ("intra", "inter") for i in (1, 2)
    }


def cut(image: np.ndarray, roi: np.ndarray) -> np.ndarray:
    """Cut an RoI at 16 px, a size at which no image here is read at a reduced size."""
    return cut_boxes(image, roi[None], 16)[0].numpy()


def test_intra_pair_is_an_roi_and_a_jittered_copy(images: ImageTable, objects: ObjectTable) -> None:
    data = ViewDataset(ObjectViewSampler(images, DISTRIBUTION, objects, 16, seed=0))
    image = np.asarray(Image.open(images.path(1)))
    cuts = [cut(image, roi) for roi in objects.rois[2:4]]
    taken, num_moved = set(), 0
    for epoch in range(20):
        sample = data[(epoch, 1)].views
        matches = [index for index, crop in enumerate(cuts) if np.array_equal(sample["intra_1"][0].numpy(), crop)]
        assert len(matches) == 1
        taken |= set(matches)
        assert (sample["intra_2"][0][2] == 60).all(), "the copy is of the same image"
        num_moved += not torch.equal(sample["intra_1"][0], sample["intra_2"][0])
    assert taken == {0, 1}
    # A box at the image's edge may have no copy that fits; most have one.
    assert num_moved > 10


def test_inter_pair_joins_the_two_boxes_of_a_correspondence(images: ImageTable, objects: ObjectTable) -> None:
    data = ViewDataset(ObjectViewSampler(images, DISTRIBUTION, objects, 16, seed=0))
    rows = [np.asarray(Image.open(images.path(index))) for index in range(4)]
    expected = {}
    for number in range(3):
        own, other = objects.correspondences[number]
        expected[number] = [cut(rows[objects.roi_image_ids[roi]], objects.rois[roi]) for roi in (own, other)]
    counts = dict.fromkeys(expected, 0)
    for epoch in range(200):
        sample = data[(epoch, 0)].views
        found = [
            number
            for number, (own, other) in expected.items()
            if np.array_equal(sample["inter_1"][0].numpy(), own) and np.array_equal(sample["inter_2"][0].numpy(), other)
        ]
        assert len(found) == 1
        counts[found[0]] += 1
    # First a neighbour at random, then one of its correspondences: 1/2, 1/4, 1/4.
    assert counts[0] == pytest.approx(100, abs=25)
    assert counts[1] == pytest.approx(50, abs=22)
    assert counts[2] == pytest.approx(50, abs=22)


def copy_images(images: ImageTable, folder: Path, unreadable: list[int]) -> ImageTable:
    """Copy the images to a folder, some of them as empty files."""
    for index in range(len(images)):
        content = b"" if index in unreadable else images.path(index).read_bytes()
        (folder / images.names[index]).write_bytes(content)
    return ImageTable(root=folder, names=images.names, sizes_wh=images.sizes_wh, digests=images.digests)


def test_another_image_replaces_an_unreadable_one_and_both_are_reported(images: ImageTable, tmp_path: Path) -> None:
    data = ViewDataset(GlobalViewSampler(copy_images(images, tmp_path, unreadable=[2]), DISTRIBUTION, seed=0))
    found, again = data[(7, 2)], data[(7, 2)]
    assert (str(tmp_path / "2.png"), "empty: 0 bytes") in found.unreadable
    assert same(found.views, again.views)
    assert any(same(found.views, data[(7, other)].views) for other in (0, 1, 3))
    batch = collate_views([data[(7, 2)], data[(7, 0)]])
    assert batch.views["view_1"].crop.shape == (2, 3, 16, 16)
    assert batch.unreadable == found.unreadable
    assert batch.files == [found.files[0], "0.png"]
    assert found.files[0] != "2.png"


def test_without_a_readable_image_a_sample_has_reasons_and_no_views(images: ImageTable, tmp_path: Path) -> None:
    data = ViewDataset(GlobalViewSampler(copy_images(images, tmp_path, unreadable=[0, 1, 2, 3]), DISTRIBUTION, seed=0))
    found = data[(0, 0)]
    assert found.views == {}
    assert {reason for _, reason in found.unreadable} == {"empty: 0 bytes"}
    assert collate_views([found]).views == {}


def test_an_image_that_changed_its_size_is_unreadable(images: ImageTable, tmp_path: Path) -> None:
    changed = copy_images(images, tmp_path, unreadable=[])
    Image.new("RGB", (20, 30)).save(tmp_path / "1.png")
    found = ViewDataset(GlobalViewSampler(changed, DISTRIBUTION, seed=0))[(0, 1)]
    assert "has 20x30 px, and had 60x40 when the images were scanned" in found.unreadable[0][1]
