import multiprocessing
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.images.packs import draw_photos, pack

from orl.embed import embed_photos
from orl.images import packed
from orl.images.colour import ColourDistribution
from orl.images.crops import cut_boxes
from orl.images.datasets import ImageViews, Samples, ViewRules
from orl.images.decode import PhotoError, load_photo
from orl.images.packed import Pack, PackedPhoto, check_pack, is_pack, open_pack, shard_path
from orl.images.scan import scan_photos
from orl.images.sources import find_photos, read_labels
from orl.images.table import ImageTable, load_images, require_own_sizes, save_images
from orl.networks.backbones import build_backbone

LIMITS = {"min_side_px": 32, "max_pixels": 1_000_000, "workers": 1, "quiet": True}
# Views of more than half a photo's side: no photo of these is read at half its size.
RULES = ViewRules(
    size_px=32,
    area_range=(0.2, 1.0),
    aspect_ratio_range=(3 / 4, 4 / 3),
    colours=(ColourDistribution(), ColourDistribution()),
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_photos(tmp_path_factory.mktemp("set") / "photos")


@pytest.fixture(scope="module")
def whole(photos: Path) -> Path:
    """The photos at their own size, as pixels, in several shards."""
    return pack(photos, photos.parent / "whole", shard_mb=1)


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    """A pack to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "copied"))


def table(source: Path) -> ImageTable:
    images, rejected = scan_photos(*find_photos(source), **LIMITS)
    assert rejected == []
    return images


def test_a_pack_is_a_source_of_the_photos_under_their_own_names(photos: Path, whole: Path) -> None:
    assert is_pack(whole)
    assert not is_pack(photos)
    assert find_photos(whole) == (whole, find_photos(photos)[1])
    assert "deep er/é 1.jpg" in find_photos(whole)[1]
    assert read_labels(whole) is None


def test_pixels_at_the_own_size_are_those_of_the_files(photos: Path, whole: Path) -> None:
    files, packed_photos = table(photos), table(whole)
    assert packed_photos.names == files.names
    assert packed_photos.sizes_wh == files.sizes_wh
    for index in range(len(files)):
        assert np.array_equal(load_photo(packed_photos.path(index)), load_photo(files.path(index)))


def test_samples_of_a_pack_are_those_of_the_files(photos: Path, whole: Path) -> None:
    of_files, of_pack = (Samples(ImageViews(table(source), RULES, seed=3)) for source in (photos, whole))
    for key in [(epoch, image_id) for epoch in range(3) for image_id in range(len(of_files))]:
        for name, view in of_files[key].views.items():
            assert torch.equal(of_pack[key].views[name].crop, view.crop)
            assert of_pack[key].views[name].colours == view.colours


def test_pixels_are_cut_from_the_whole_photo_where_a_file_is_read_reduced(photos: Path, whole: Path) -> None:
    small = ViewRules(size_px=8, area_range=(0.5, 1.0), aspect_ratio_range=(1, 1), colours=RULES.colours)
    placer = ImageViews(table(whole), small, seed=3)
    views = Samples(placer)[(0, 0)].views
    for name, placement in placer.place((0, 0)).items():
        expected = cut_boxes(load_photo(photos / "0.png"), placement.box[None], 8)[0]
        assert torch.equal(views[name].crop, expected)
        assert not torch.equal(views[name].crop, Samples(ImageViews(table(photos), small, 3))[(0, 0)].views[name].crop)


def test_embeddings_of_a_pack_are_those_of_the_files_by_any_number_of_workers(photos: Path, whole: Path) -> None:
    torch.manual_seed(0)
    backbone = build_backbone("resnet10")
    found = []
    for source, workers in ((photos, 0), (whole, 0), (whole, 2)):
        images = table(source)
        paths = [images.path(index) for index in range(len(images))]
        found.append(embed_photos(backbone, paths, size_px=32, workers=workers, quiet=True))
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def _shape(photo: PackedPhoto) -> tuple[int, ...]:
    return load_photo(photo).shape


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_packed_photo_travels_to_other_processes_by_name(whole: Path, method: str) -> None:
    photo = table(whole).path(0)
    assert isinstance(photo, PackedPhoto)
    assert str(photo) == f"{whole}/0.png"
    assert len(pickle.dumps(photo)) < 1000
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(_shape, (photo,)) == (48, 60, 3)


def test_what_is_changed_in_a_photo_does_not_reach_the_file(whole: Path) -> None:
    path = shard_path(whole, 0, "pixels")
    before = path.read_bytes()
    open_pack.cache_clear()
    load_photo(PackedPhoto(whole, "0.png"))[:] = 0
    open_pack.cache_clear()
    assert path.read_bytes() == before
    assert load_photo(PackedPhoto(whole, "0.png")).any()


def test_a_jpeg_pack_is_near_and_much_smaller(photos: Path, tmp_path: Path) -> None:
    folder = pack(photos, tmp_path / "jpeg", format="jpeg")
    files, images = table(photos), table(folder)
    assert images.packed == "jpeg"
    for index in range(len(files)):
        exact, near = (load_photo(images.path(index)).astype(int) for images in (files, images))
        assert np.abs(exact - near).mean() < 3
        assert load_photo(images.path(index), reduction=2).shape[0] == -(-exact.shape[0] // 2)
    assert open_pack(folder).num_bytes < 0.3 * sum(3 * width * height for width, height in files.sizes_wh)


def test_the_fingerprint_says_what_the_pixels_are(photos: Path, whole: Path, tmp_path: Path) -> None:
    packs = [pack(photos, tmp_path / f"{side}", short_side=side) for side in (40, 36)]
    again = pack(photos, tmp_path / "again", short_side=40)
    prints = [table(source).fingerprint for source in (photos, whole, *packs)]
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


def test_a_table_of_packed_photos_comes_back_from_its_file(whole: Path, tmp_path: Path) -> None:
    images = table(whole)
    save_images(images, tmp_path / "images.parquet")
    assert load_images(tmp_path / "images.parquet") == images
    assert isinstance(load_images(tmp_path / "images.parquet").path(0), PackedPhoto)


def test_the_scan_of_a_pack_rejects_by_size_as_that_of_files(photos: Path, whole: Path) -> None:
    limits = {"min_side_px": 50, "max_pixels": 90 * 52, "workers": 1, "quiet": True}
    of_files, of_pack = (scan_photos(*find_photos(source), **limits) for source in (photos, whole))
    assert of_pack[0].names == of_files[0].names
    reasons = [{one.name: one.reason.split(":")[0] for one in rejected} for _, rejected in (of_files, of_pack)]
    assert (
        reasons[0] == reasons[1] == {"0.png": "too small", "deep er/é 1.jpg": "too small", "6.png": "too many pixels"}
    )


def test_many_shards_are_mapped_a_few_at_a_time(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orl.stages.pack.MEGABYTE", 20_000)
    folder = pack(photos, tmp_path / "many", shard_mb=1)
    monkeypatch.setattr(packed, "MAX_OPEN_SHARDS", 2)
    found = open_pack(folder)
    assert found.num_shards > 2
    kept = [load_photo(PackedPhoto(folder, name)) for name in found.names]
    assert len(found._open) == 2
    for photo, name in zip(kept, found.names):
        assert np.array_equal(photo, load_photo(photos / name))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_flipped_bit_is_found_with_shard_and_photo(copied: Path) -> None:
    path, pack = shard_path(copied, 0, "pixels"), open_pack(copied)
    check_pack(pack, quiet=True)
    flip(path, int(pack.extents[2, 0]))
    expected = rf"00000.pixels was altered: 1 of its photos, such as {pack.names[2]}, .*delete .*00000.pixels and give"
    with pytest.raises(ValueError, match=expected):
        table(copied)


def test_every_byte_of_a_pack_is_checked(copied: Path) -> None:
    pack = open_pack(copied)
    path = shard_path(copied, 0, "pixels")
    assert path.stat().st_size == pack.num_bytes == (pack.extents[:, 1] - pack.extents[:, 0]).sum()
    for at in (0, pack.num_bytes - 1):
        flip(path, at)
        with pytest.raises(ValueError, match="was altered: 1 of its photos"):
            check_pack(pack, quiet=True)
        flip(path, at)
    check_pack(pack, quiet=True, workers=2)


def test_a_torn_shard_is_refused_at_the_scan_and_when_a_photo_is_read(copied: Path) -> None:
    path, names = shard_path(copied, 0, "pixels"), open_pack(copied).names
    path.write_bytes(path.read_bytes()[:-1])
    expected = rf"00000.pixels is torn: it has \d+ bytes, not \d+, and the first photo that is not whole is {names[-1]}"
    with pytest.raises(ValueError, match=expected):
        table(copied)
    with pytest.raises(PhotoError, match=expected):
        load_photo(PackedPhoto(copied, names[0]))


def test_a_missing_shard_is_refused(copied: Path) -> None:
    shard_path(copied, 0, "pixels").unlink()
    with pytest.raises(ValueError, match=r"lacks shard 00000.pixels; delete .* and give the 'orl data pack' command"):
        table(copied)


def test_an_unfinished_pack_is_refused(copied: Path) -> None:
    open_pack.cache_clear()
    (copied / "shards" / "00000.arrow").unlink()
    with pytest.raises(ValueError, match=r"is unfinished: 0 of 1 shards are there; give its 'orl data pack' command"):
        find_photos(copied)
    shutil.rmtree(copied / "shards")
    with pytest.raises(ValueError, match=r"is unfinished: 0 of \? shards"):
        find_photos(copied)


def test_what_is_no_pack_or_of_another_version_is_refused(photos: Path, copied: Path) -> None:
    with pytest.raises(ValueError, match="is not a pack"):
        open_pack(photos)
    (copied / "manifest.json").write_text((copied / "manifest.json").read_text().replace('version": 1', 'version": 9'))
    open_pack.cache_clear()
    with pytest.raises(ValueError, match="has version 9, this program reads 1"):
        open_pack(copied)


def test_an_unknown_photo_is_refused(whole: Path) -> None:
    with pytest.raises(PhotoError, match=r"holds no photo 'x.jpg', only 7 others"):
        load_photo(PackedPhoto(whole, "x.jpg"))


def test_a_damaged_jpeg_is_refused_when_it_is_read(photos: Path, tmp_path: Path) -> None:
    folder = pack(photos, tmp_path / "jpeg", format="jpeg")
    path = shard_path(folder, 0, "jpeg")
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(PhotoError, match=r"photo .*jpeg/0.png: "):
        load_photo(PackedPhoto(folder, "0.png"))


def test_a_pack_held_in_memory_is_read_there_also_by_forked_processes(copied: Path, photos: Path) -> None:
    open_pack.cache_clear()
    open_pack(copied).hold_in_memory()
    shutil.rmtree(copied)
    assert np.array_equal(load_photo(PackedPhoto(copied, "0.png")), np.asarray(Image.open(photos / "0.png")))
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(_shape, (PackedPhoto(copied, "0.png"),)) == (48, 60, 3)


def test_a_torn_pack_is_not_held(copied: Path) -> None:
    path = shard_path(copied, 0, "pixels")
    path.write_bytes(path.read_bytes()[:-1])
    open_pack.cache_clear()
    with pytest.raises(ValueError, match="is torn"):
        open_pack(copied).hold_in_memory()


def test_a_pack_knows_what_it_was_made_from(whole: Path, photos: Path) -> None:
    pack: Pack = open_pack(whole)
    assert pack.made_from["short_side"] is None
    assert pack.made_from["images"] == table(photos).fingerprint
    assert np.array_equal(pack.original_sizes_wh, pack.sizes_wh)


def test_boxes_from_a_file_need_photos_at_their_own_size(photos: Path, whole: Path, tmp_path: Path) -> None:
    require_own_sizes(table(photos))
    require_own_sizes(table(whole))
    require_own_sizes(table(pack(photos, tmp_path / "larger", short_side=500)))
    with pytest.raises(ValueError, match=r"pack .*reduced has reduced them: pack them with --short-side None"):
        require_own_sizes(table(pack(photos, tmp_path / "reduced", short_side=40)))
