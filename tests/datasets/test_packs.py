import multiprocessing
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.datasets.packs import draw_images, pack

from orl.datasets import packs as packed
from orl.datasets.decode import ImageError, load_image
from orl.datasets.image_table import ImageTable, load_image_table, require_original_sizes, save_image_table
from orl.datasets.packs import Pack, PackedImage, check_pack, is_pack, open_pack, shard_path
from orl.datasets.sources import find_images, read_labels
from orl.datasets.validation import scan_images
from orl.embed import embed_images
from orl.networks.backbones import build_backbone
from orl.views.colour import ColourDistribution
from orl.views.crops import cut_boxes
from orl.views.view_dataset import ViewDataset
from orl.views.view_samplers import GlobalViewSampler, ViewDistribution

LIMITS = {"min_side_px": 32, "max_pixels": 1_000_000, "workers": 1, "quiet": True}
# Views of more than half an image's side: no image of these is read at half its size.
RULES = ViewDistribution(
    size_px=32,
    area_range=(0.2, 1.0),
    aspect_ratio_range=(3 / 4, 4 / 3),
    colours=(ColourDistribution(), ColourDistribution()),
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_images(tmp_path_factory.mktemp("set") / "images")


@pytest.fixture(scope="module")
def full_size(images: Path) -> Path:
    """Pack the images at their original size, as pixels, in several shards."""
    return pack(images, images.parent / "whole", shard_mb=1)


@pytest.fixture
def copied(full_size: Path, tmp_path: Path) -> Path:
    """Copy a pack, to be damaged."""
    return Path(shutil.copytree(full_size, tmp_path / "copied"))


def table(source: Path) -> ImageTable:
    images, rejected = scan_images(*find_images(source), **LIMITS)
    assert rejected == []
    return images


def test_a_pack_is_a_source_of_the_images_under_their_own_names(images: Path, full_size: Path) -> None:
    assert is_pack(full_size)
    assert not is_pack(images)
    assert find_images(full_size) == (full_size, find_images(images)[1])
    assert "deep er/é 1.jpg" in find_images(full_size)[1]
    assert read_labels(full_size) is None


def test_packed_pixels_at_the_original_size_equal_the_files(images: Path, full_size: Path) -> None:
    files, packed_images = table(images), table(full_size)
    assert packed_images.names == files.names
    assert packed_images.sizes_wh == files.sizes_wh
    for index in range(len(files)):
        assert np.array_equal(load_image(packed_images.path(index)), load_image(files.path(index)))


def test_samples_of_a_pack_equal_those_of_the_files(images: Path, full_size: Path) -> None:
    of_files, of_pack = (ViewDataset(GlobalViewSampler(table(source), RULES, seed=3)) for source in (images, full_size))
    for key in [(epoch, image_id) for epoch in range(3) for image_id in range(len(of_files))]:
        for name, view in of_files[key].views.items():
            assert torch.equal(of_pack[key].views[name].crop, view.crop)
            assert of_pack[key].views[name].colours == view.colours


def test_packed_images_are_read_at_full_size_where_files_are_reduced(images: Path, full_size: Path) -> None:
    small = ViewDistribution(size_px=8, area_range=(0.5, 1.0), aspect_ratio_range=(1, 1), colours=RULES.colours)
    view_sampler = GlobalViewSampler(table(full_size), small, seed=3)
    views = ViewDataset(view_sampler)[(0, 0)].views
    for name, view_box in view_sampler.sample_boxes((0, 0)).items():
        expected = cut_boxes(load_image(images / "0.png"), view_box.box[None], 8)[0]
        assert torch.equal(views[name].crop, expected)
        assert not torch.equal(
            views[name].crop, ViewDataset(GlobalViewSampler(table(images), small, 3))[(0, 0)].views[name].crop
        )


def test_embeddings_of_a_pack_are_those_of_the_files_by_any_number_of_workers(images: Path, full_size: Path) -> None:
    torch.manual_seed(0)
    backbone = build_backbone("resnet10")
    found = []
    for source, workers in ((images, 0), (full_size, 0), (full_size, 2)):
        listed = table(source)
        paths = [listed.path(index) for index in range(len(listed))]
        found.append(embed_images(backbone, paths, size_px=32, workers=workers, quiet=True))
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def _shape(image: PackedImage) -> tuple[int, ...]:
    return load_image(image).shape


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_packed_image_travels_to_other_processes_by_name(full_size: Path, method: str) -> None:
    image = table(full_size).path(0)
    assert isinstance(image, PackedImage)
    assert str(image) == f"{full_size}/0.png"
    assert len(pickle.dumps(image)) < 1000
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(_shape, (image,)) == (48, 60, 3)


def test_changing_a_packed_image_does_not_change_the_file(full_size: Path) -> None:
    path = shard_path(full_size, 0, "pixels")
    before = path.read_bytes()
    open_pack.cache_clear()
    load_image(PackedImage(full_size, "0.png"))[:] = 0
    open_pack.cache_clear()
    assert path.read_bytes() == before
    assert load_image(PackedImage(full_size, "0.png")).any()


def test_a_jpeg_pack_is_near_and_much_smaller(images: Path, tmp_path: Path) -> None:
    folder = pack(images, tmp_path / "jpeg", format="jpeg")
    files, packed = table(images), table(folder)
    assert packed.packed == "jpeg"
    for index in range(len(files)):
        exact, near = (load_image(each.path(index)).astype(int) for each in (files, packed))
        assert np.abs(exact - near).mean() < 3
        assert load_image(packed.path(index), reduction=2).shape[0] == -(-exact.shape[0] // 2)
    assert open_pack(folder).num_bytes < 0.3 * sum(3 * width * height for width, height in files.sizes_wh)


def test_the_fingerprint_of_a_pack_depends_on_its_pixels(images: Path, full_size: Path, tmp_path: Path) -> None:
    packs = [pack(images, tmp_path / f"{side}", short_side=side) for side in (40, 36)]
    again = pack(images, tmp_path / "again", short_side=40)
    prints = [table(source).fingerprint for source in (images, full_size, *packs)]
    assert len(set(prints)) == 4
    assert table(again).fingerprint == prints[2]


def test_the_digest_covers_name_shape_and_bytes() -> None:
    digests = {
        packed.pack_digest("a.jpg", (2, 3), bytes(18)),
        packed.pack_digest("b.jpg", (2, 3), bytes(18)),
        packed.pack_digest("a.jpg", (3, 2), bytes(18)),
        packed.pack_digest("a.jpg", (2, 3), bytes([*bytes(17), 1])),
    }
    assert len(digests) == 4


def test_a_table_of_packed_images_comes_back_from_its_file(full_size: Path, tmp_path: Path) -> None:
    images = table(full_size)
    save_image_table(images, tmp_path / "images.parquet")
    assert load_image_table(tmp_path / "images.parquet") == images
    assert isinstance(load_image_table(tmp_path / "images.parquet").path(0), PackedImage)


def test_the_scan_of_a_pack_rejects_by_size_as_that_of_files(images: Path, full_size: Path) -> None:
    limits = {"min_side_px": 50, "max_pixels": 90 * 52, "workers": 1, "quiet": True}
    of_files, of_pack = (scan_images(*find_images(source), **limits) for source in (images, full_size))
    assert of_pack[0].names == of_files[0].names
    reasons = [{one.name: one.reason.split(":")[0] for one in rejected} for _, rejected in (of_files, of_pack)]
    assert (
        reasons[0] == reasons[1] == {"0.png": "too small", "deep er/é 1.jpg": "too small", "6.png": "too many pixels"}
    )


def test_many_shards_are_mapped_a_few_at_a_time(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orl.pipeline.pack.MEGABYTE", 20_000)
    folder = pack(images, tmp_path / "many", shard_mb=1)
    monkeypatch.setattr(packed, "MAX_MAPPED_SHARDS", 2)
    found = open_pack(folder)
    assert found.num_shards > 2
    kept = [load_image(PackedImage(folder, name)) for name in found.names]
    assert len(found._open) == 2
    for image, name in zip(kept, found.names):
        assert np.array_equal(image, load_image(images / name))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_flipped_bit_is_found_with_shard_and_image(copied: Path) -> None:
    path, pack = shard_path(copied, 0, "pixels"), open_pack(copied)
    check_pack(pack, quiet=True)
    flip(path, int(pack.extents[2, 0]))
    expected = rf"00000.pixels was altered: 1 of its images, such as {pack.names[2]}, .*delete .*00000.pixels and run"
    with pytest.raises(ValueError, match=expected):
        table(copied)


def test_every_byte_of_a_pack_is_checked(copied: Path) -> None:
    pack = open_pack(copied)
    path = shard_path(copied, 0, "pixels")
    assert path.stat().st_size == pack.num_bytes == (pack.extents[:, 1] - pack.extents[:, 0]).sum()
    for at in (0, pack.num_bytes - 1):
        flip(path, at)
        with pytest.raises(ValueError, match="was altered: 1 of its images"):
            check_pack(pack, quiet=True)
        flip(path, at)
    check_pack(pack, quiet=True, workers=2)


def test_a_truncated_shard_is_refused_by_the_scan_and_by_reading(copied: Path) -> None:
    path, names = shard_path(copied, 0, "pixels"), open_pack(copied).names
    path.write_bytes(path.read_bytes()[:-1])
    expected = rf"00000.pixels is truncated: it has \d+ bytes, not \d+; the first damaged image is {names[-1]}"
    with pytest.raises(ValueError, match=expected):
        table(copied)
    with pytest.raises(ImageError, match=expected):
        load_image(PackedImage(copied, names[0]))


def test_a_missing_shard_is_refused(copied: Path) -> None:
    shard_path(copied, 0, "pixels").unlink()
    with pytest.raises(ValueError, match=r"lacks shard 00000.pixels; delete .* and run its 'orl data pack' command"):
        table(copied)


def test_an_unfinished_pack_is_refused(copied: Path) -> None:
    open_pack.cache_clear()
    (copied / "shards" / "00000.arrow").unlink()
    with pytest.raises(ValueError, match=r"is unfinished: 0 of 1 shards exist; run its 'orl data pack' command"):
        find_images(copied)
    shutil.rmtree(copied / "shards")
    with pytest.raises(ValueError, match=r"is unfinished: 0 of \? shards"):
        find_images(copied)


def test_a_folder_that_is_no_pack_or_of_another_version_is_refused(images: Path, copied: Path) -> None:
    with pytest.raises(ValueError, match="is not a pack"):
        open_pack(images)
    (copied / "manifest.json").write_text((copied / "manifest.json").read_text().replace('version": 1', 'version": 9'))
    open_pack.cache_clear()
    with pytest.raises(ValueError, match="has version 9, this program reads 1"):
        open_pack(copied)


def test_an_unknown_image_is_refused(full_size: Path) -> None:
    with pytest.raises(ImageError, match=r"has no image 'x.jpg' among its 7 images"):
        load_image(PackedImage(full_size, "x.jpg"))


def test_a_damaged_jpeg_is_refused_when_it_is_read(images: Path, tmp_path: Path) -> None:
    folder = pack(images, tmp_path / "jpeg", format="jpeg")
    path = shard_path(folder, 0, "jpeg")
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(ImageError, match=r"image .*jpeg/0.png: "):
        load_image(PackedImage(folder, "0.png"))


def test_forked_processes_read_a_pack_from_memory(copied: Path, images: Path) -> None:
    open_pack.cache_clear()
    open_pack(copied).load_into_memory()
    shutil.rmtree(copied)
    assert np.array_equal(load_image(PackedImage(copied, "0.png")), np.asarray(Image.open(images / "0.png")))
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(_shape, (PackedImage(copied, "0.png"),)) == (48, 60, 3)


def test_a_truncated_pack_cannot_be_loaded_into_memory(copied: Path) -> None:
    path = shard_path(copied, 0, "pixels")
    path.write_bytes(path.read_bytes()[:-1])
    open_pack.cache_clear()
    with pytest.raises(ValueError, match="is truncated"):
        open_pack(copied).load_into_memory()


def test_a_pack_records_its_inputs(full_size: Path, images: Path) -> None:
    pack: Pack = open_pack(full_size)
    assert pack.inputs["short_side"] is None
    assert pack.inputs["images"] == table(images).fingerprint
    assert np.array_equal(pack.original_sizes_wh, pack.sizes_wh)


def test_boxes_from_a_file_need_images_of_the_original_size(images: Path, full_size: Path, tmp_path: Path) -> None:
    require_original_sizes(table(images))
    require_original_sizes(table(full_size))
    require_original_sizes(table(pack(images, tmp_path / "larger", short_side=500)))
    with pytest.raises(ValueError, match=r"pack .*reduced has resized them: pack them with --short-side None"):
        require_original_sizes(table(pack(images, tmp_path / "reduced", short_side=40)))
