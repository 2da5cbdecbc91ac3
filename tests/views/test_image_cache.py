from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.datasets.packs import draw_images, pack
from torch.utils.data import DataLoader

from orl import memory
from orl.datasets.decode import ImageError, load_image
from orl.datasets.image_table import ImageTable
from orl.datasets.packs import open_pack
from orl.datasets.sources import find_images
from orl.datasets.validation import scan_images
from orl.views import image_cache
from orl.views.colour import ColourDistribution
from orl.views.crops import cut_boxes, round_to_pixels
from orl.views.image_cache import ImageCache, ViewBoxDataset, collate_view_boxes, load_into_memory, resize_weights
from orl.views.view_dataset import ViewDataset, collate_views
from orl.views.view_samplers import GlobalViewSampler, ObjectTable, ObjectViewSampler, ViewDistribution

CPU = torch.device("cpu")
DISTRIBUTION = ViewDistribution(
    size_px=32,
    area_range=(0.05, 1.0),
    aspect_ratio_range=(3 / 4, 4 / 3),
    colours=(ColourDistribution(), ColourDistribution()),
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageTable:
    root = tmp_path_factory.mktemp("set")
    folder = pack(draw_images(root / "images"), root / "pack", short_side=45)
    return scan_images(*find_images(folder), min_side_px=32, max_pixels=10**6, workers=1, quiet=True)[0]


@pytest.fixture(scope="module")
def cache(images: ImageTable) -> ImageCache:
    return ImageCache(images, CPU, workers=2, quiet=True)


def view_samplers(images: ImageTable) -> list[GlobalViewSampler | ObjectViewSampler]:
    """Return samplers of stage 1 and stage 3; one RoI an image corresponds with the RoI of the next image."""
    count = len(images)
    pairs = np.stack([np.arange(count), (np.arange(count) + 1) % count], axis=1)
    objects = ObjectTable(
        rois=np.tile(np.array([[3, 4, 30, 40]], np.float32), (count, 1)),
        roi_starts=np.arange(count + 1),
        roi_image_ids=np.arange(count),
        correspondences=pairs,
        neighbour_slices=[np.array([[index, index + 1]]) for index in range(count)],
    )
    return [GlobalViewSampler(images, DISTRIBUTION, 3), ObjectViewSampler(images, DISTRIBUTION, objects, 16, seed=3)]


def test_a_jpeg_pack_gives_the_same_views_from_disk_and_from_the_cache(tmp_path: Path) -> None:
    folder = pack(draw_images(tmp_path / "images"), tmp_path / "jpeg", format="jpeg")
    images = scan_images(*find_images(folder), min_side_px=32, max_pixels=10**6, workers=1, quiet=True)[0]
    # Views so small that images in files would be read at a fraction of their size.
    view_sampler = GlobalViewSampler(images, replace(DISTRIBUTION, size_px=8), 3)
    view_boxes = collate_view_boxes([ViewBoxDataset(view_sampler)[(0, image_id)] for image_id in range(7)])
    expected = collate_views([ViewDataset(view_sampler)[(0, image_id)] for image_id in range(7)])
    for name, view in ImageCache(images, CPU, quiet=True).cut(view_boxes).items():
        assert torch.equal(view.crop, expected.views[name].crop)


@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_cut_from_the_cache_equals_the_batch_that_workers_cut_from_disk(
    images: ImageTable, cache: ImageCache, stage: int, workers: int
) -> None:
    view_sampler = view_samplers(images)[stage]
    batches = [[(epoch, image_id) for image_id in (4, 0, 6)] for epoch in range(4)]
    from_disk = DataLoader(
        ViewDataset(view_sampler), batch_sampler=batches, collate_fn=collate_views, num_workers=workers
    )
    view_boxes = DataLoader(
        ViewBoxDataset(view_sampler), batch_sampler=batches, collate_fn=collate_view_boxes, num_workers=workers
    )
    for expected, boxes in zip(from_disk, view_boxes, strict=True):
        loaded = cache.load(boxes)
        assert loaded.files == expected.files
        assert loaded.unreadable == []
        assert loaded.views.keys() == expected.views.keys()
        for name, view in expected.views.items():
            assert torch.equal(loaded.views[name].crop, view.crop)
            for found, wanted in zip(loaded.views[name].colours, view.colours, strict=True):
                assert torch.equal(torch.as_tensor(found), torch.as_tensor(wanted))


def test_a_pack_in_memory_gives_the_samples_of_the_pack_on_disk(images: ImageTable) -> None:
    samples = ViewDataset(view_samplers(images)[1])
    open_pack.cache_clear()
    from_disk = [samples[(0, image_id)].views for image_id in range(len(samples))]
    load_into_memory(images)
    assert open_pack(images.root).is_in_memory
    for image_id, expected in enumerate(from_disk):
        for name, view in samples[(0, image_id)].views.items():
            assert torch.equal(view.crop, expected[name].crop)
    open_pack.cache_clear()


@pytest.mark.parametrize("size_px", [8, 32, 90])
def test_crops_cut_in_a_batch_equal_single_crops_up_to_a_few_grey_levels(
    images: ImageTable, cache: ImageCache, size_px: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    image_ids = generator.integers(len(images), size=40).tolist()
    boxes = []
    for image_id in image_ids:
        width, height = images.sizes_wh[image_id]
        sides = np.sort(generator.uniform(0, (width, height), (2, 2)), axis=0)
        boxes.append(round_to_pixels(sides.reshape(4).astype(np.float32), (width, height)))
    expected = torch.cat(
        [
            cut_boxes(load_image(images.path(image_id)), np.array([box], np.float32), size_px)
            for image_id, box in zip(image_ids, boxes)
        ]
    )
    for num_bytes in (2**28, 100_000):
        monkeypatch.setattr(image_cache, "MAX_CUT_BYTES", num_bytes)
        found = cache.cut_batch(torch.tensor(image_ids), torch.tensor(boxes), size_px)
        difference = (found.int() - expected.int()).abs()
        # Both round weights alike; sums of float32 are exact up to 24 bits, and a few need more.
        assert difference.max() <= 1
        assert (difference > 0).float().mean() < 1e-3


def test_noise_that_overshoots_is_cut_alike_in_a_batch_and_alone(tmp_path: Path) -> None:
    from PIL import Image

    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 2, (60, 70, 3), dtype=np.uint8) * 255
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    table = ImageTable(root=tmp_path, names=("noise.png",), sizes_wh=((70, 60),), digests=("",))
    image = ImageCache(table, CPU, quiet=True)
    for box in ([0, 0, 70, 60], [5, 7, 26, 50], [10, 10, 11, 11]):
        found = image.cut_batch(torch.tensor([0]), torch.tensor([box]), 24)
        expected = cut_boxes(pixels, np.array([box], np.float32), 24)
        assert (found.int() - expected.int()).abs().max() <= 1
    # The frame of a small box at the end of the last image reaches beyond all pixels.
    boxes = torch.tensor([[0, 0, 70, 60], [60, 50, 70, 60]])
    corner = image.cut_batch(torch.tensor([0, 0]), boxes, 24)[1]
    assert (corner.int() - cut_boxes(pixels, boxes[1:].float().numpy(), 24)[0].int()).abs().max() <= 1


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(0, 30), st.integers(1, 50))
def test_resize_weights_are_those_of_torchs_resizing(side: int, further: int, size_px: int) -> None:
    weights = resize_weights(torch.tensor([side]), side + further, size_px)[0]
    # Weights are rounded to 15 bits of the largest.
    unit = float(weights.max()) * 2**-14
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(size_px), atol=unit * (side + 1) / 2, rtol=0)
    assert not weights[:, side:].any()
    # Each pixel alone, as one row: its contribution to every output pixel.
    rows = torch.eye(side)[None, None]
    resized = torch.nn.functional.interpolate(rows, (side, size_px), mode="bilinear", antialias=True)[0, 0].T
    # torch computes the weights of floats in float32, from rounded positions.
    torch.testing.assert_close(weights[:, :side], resized, atol=unit / 2 + 2e-5, rtol=1e-4)


def test_resize_weights_for_half_the_size_are_those_computed_by_hand() -> None:
    # Pixel 0 of 2 lies at 1 of 4: distances 0.25, 0.25, 0.75 and 1.25 of a pixel of the result.
    expected = torch.tensor([0.75, 0.75, 0.25, 0]) / 1.75
    # The largest, 3/7, is below 2^15 in units of 2^-16.
    torch.testing.assert_close(resize_weights(torch.tensor([4]), 4, 2)[0, 0], (expected * 2**16).round() / 2**16)


def test_images_that_do_not_fit_are_refused_with_both_numbers(
    images: ImageTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 10_000)
    expected = r"the images need 0.00 GB and memory has 0.00 GB free: use --cache disk, or a pack of a smaller"
    with pytest.raises(ValueError, match=expected):
        ImageCache(images, CPU, quiet=True)
    with pytest.raises(ValueError, match=expected):
        load_into_memory(images)


def test_a_pack_in_memory_is_not_read_again(images: ImageTable, monkeypatch: pytest.MonkeyPatch) -> None:
    load_into_memory(images)
    pack = open_pack(images.root)
    monkeypatch.setattr(memory, "available_bytes", lambda: 10)
    load_into_memory(images)
    assert open_pack(images.root) is pack
    assert pack.is_in_memory
    # A pack that is not in memory yet does need the space.
    open_pack.cache_clear()
    with pytest.raises(ValueError, match="the images need"):
        load_into_memory(images)
    assert not open_pack(images.root).is_in_memory


def test_image_files_cannot_be_loaded_into_memory(tmp_path: Path) -> None:
    table = ImageTable(root=tmp_path, names=(), sizes_wh=(), digests=())
    with pytest.raises(ValueError, match=r"is not a pack: make one with 'orl data pack', or use --cache disk"):
        load_into_memory(table)


def test_an_image_of_another_size_is_refused(images: ImageTable) -> None:
    sizes = ((9, 9), *images.sizes_wh[1:])
    other = ImageTable(root=images.root, names=images.names, sizes_wh=sizes, digests=images.digests, packed="pixels")
    with pytest.raises(ImageError, match=r"has 56x45 px, and had 9x9 when"):
        ImageCache(other, CPU, quiet=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_cuts_within_a_grey_level(images: ImageTable, cache: ImageCache) -> None:
    on_gpu = ImageCache(images, torch.device("cuda"), quiet=True)
    batch = collate_view_boxes(
        [ViewBoxDataset(view_samplers(images)[1])[(0, image_id)] for image_id in range(len(images))]
    )
    expected = cache.cut(batch)
    for name, view in on_gpu.cut(batch).items():
        assert view.crop.device.type == "cuda"
        assert (view.crop.cpu().int() - expected[name].crop.int()).abs().max() <= 1
