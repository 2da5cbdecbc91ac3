"""The packing of images, from the command line and as a job: exact, resumable, and plain about what is wrong."""

import csv
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.datasets.packs import draw_images, pack, shards_of

from orl import provenance
from orl.cli import main
from orl.config import ScanConfig
from orl.datasets.decode import load_image
from orl.datasets.packs import PackedImage, open_pack, shard_path
from orl.pipeline import pack as job
from orl.pipeline.pack import pack_image, packed_size, plan_shards
from orl.pipeline.pack_options import PackOptions


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_images(tmp_path_factory.mktemp("set") / "images")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of 20 kB for each 'megabyte': two images each."""
    monkeypatch.setattr(job, "MEGABYTE", 20_000)


def test_an_image_keeps_its_shape_and_is_never_enlarged() -> None:
    assert packed_size((640, 480), 256) == (341, 256)
    assert packed_size((480, 640), 256) == (256, 341)
    assert packed_size((300, 200), 256) == (300, 200)
    assert packed_size((640, 480), None) == (640, 480)
    assert packed_size((1, 9999), 1) == (1, 9999)


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), min_size=1), st.integers(1, 20_000))
def test_shards_hold_all_images_in_order_and_as_many_bytes_as_fit(sizes: list[tuple[int, int]], limit: int) -> None:
    slices = plan_shards(sizes, limit)
    assert [row for each in slices for row in range(len(sizes))[each]] == list(range(len(sizes)))
    num_bytes = [[3 * width * height for width, height in sizes[each]] for each in slices]
    assert all(len(one) == 1 or sum(one) <= limit for one in num_bytes)
    assert all(sum(one) + after[0] > limit for one, after in pairwise(num_bytes))


def test_a_shard_may_be_filled_to_the_last_byte_and_one_image_may_be_larger() -> None:
    assert plan_shards([(10, 10), (10, 10), (10, 10)], 600) == [slice(0, 2), slice(2, 3)]
    assert plan_shards([(10, 10), (10, 10)], 599) == [slice(0, 1), slice(1, 2)]
    assert plan_shards([(90, 90), (1, 1), (1, 1)], 6) == [slice(0, 1), slice(1, 3)]


def test_images_are_reduced_by_pillows_antialiased_bicubic_filter(images: Path, tmp_path: Path) -> None:
    folder = pack(images, tmp_path / "pack", short_side=40)
    assert [min(size_wh) for size_wh in open_pack(folder).sizes_wh.tolist()] == [40] * 7
    found = load_image(PackedImage(folder, "6.png"))
    with Image.open(images / "6.png") as image:
        assert np.array_equal(found, np.asarray(image.resize((67, 40), Image.Resampling.BICUBIC)))
        assert open_pack(folder).original_sizes_wh[open_pack(folder).rows["6.png"]].tolist() == list(image.size)


def test_a_uniform_image_stays_uniform() -> None:
    gray = np.full((50, 70, 3), 93, np.uint8)
    assert pack_image(gray, (33, 24), "pixels") == bytes([93]) * (3 * 33 * 24)


@pytest.mark.parametrize("format", ["pixels", "jpeg"])
def test_two_packs_are_equal_byte_for_byte_for_any_number_of_workers(images: Path, tmp_path: Path, format: str) -> None:
    one, other = (
        pack(images, tmp_path / str(workers), short_side=40, format=format, shard_mb=1, workers=workers)
        for workers in (1, 3)
    )
    assert len(shards_of(one)) > 5
    assert shards_of(one) == shards_of(other)
    for name in ("manifest.json", "rejected.csv", "images.parquet"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


def test_the_same_command_again_changes_nothing(images: Path, tmp_path: Path) -> None:
    folder = pack(images, tmp_path / "pack", shard_mb=1)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    pack(images, tmp_path / "pack", shard_mb=1)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_training_on_a_pack_at_the_own_size_ends_with_the_weights_of_the_files(images: Path, tmp_path: Path) -> None:
    folder = pack(images, tmp_path / "pack")
    # No crop is twice as large as its view, so that no file is read at half its size.
    config = [
        "--stage1.views.size-px",
        "32",
        "--stage3.views.size-px",
        "32",
        "--stage1.epochs",
        "2",
        "--stage1.batch-size",
        "4",
        "--workers",
        "1",
    ]
    config += [
        "--stage1.hidden-features",
        "32",
        "--stage3.hidden-features",
        "32",
        "--discover.num-neighbours",
        "4",
        "--device",
        "cpu",
    ]
    for source, out in ((images, "files"), (folder, "packed")):
        assert main(["pretrain", "demo", "--images", str(source), "--out", str(tmp_path / out), *config]) == 0
    one, other = (tmp_path / out / "stage1" / "backbone.safetensors" for out in ("files", "packed"))
    assert one.read_bytes() == other.read_bytes()


PROGRAM = """
import sys, time
from pathlib import Path
from orl.pipeline import pack
pack.MEGABYTE = 20_000
write = pack.files.write_atomically
def slowly(path, data):
    write(path, data)
    print(path.name, flush=True)
    time.sleep(0.1)
pack.files.write_atomically = pack.tables.write_atomically = slowly
if __name__ == "__main__":
    options = pack.PackOptions(images=Path(sys.argv[1]), to=Path(sys.argv[2]), short_side=40, shard_mb=1, workers=1)
    pack.pack_images(options)
"""


def test_a_packing_killed_again_and_again_ends_as_one_that_went_through(images: Path, tmp_path: Path) -> None:
    undisturbed = shards_of(pack(images, tmp_path / "undisturbed", short_side=40, shard_mb=1))
    program, folder = tmp_path / "program.py", tmp_path / "killed"
    program.write_text(PROGRAM)
    # After the scan, after the images of a shard but before its part of the table, and after a complete shard.
    for last in ("images.parquet", "00000.pixels", "00001.arrow"):
        process = subprocess.Popen([sys.executable, program, images, folder], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert any(line.strip() == last for line in process.stdout)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
    done = {path.name: path.stat().st_mtime_ns for path in (folder / "shards").glob("0000[01].arrow")}
    assert len(done) == 2
    pack(images, folder, short_side=40, shard_mb=1)
    assert shards_of(folder) == undisturbed
    assert {name: (folder / "shards" / name).stat().st_mtime_ns for name in done} == done, "finished shards are kept"


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"torn")])
def test_a_shard_that_is_missing_or_torn_is_made_again(images: Path, tmp_path: Path, damage: object) -> None:
    folder = pack(images, tmp_path / "pack", short_side=40, shard_mb=1)
    complete = shards_of(folder)
    damage(shard_path(folder, 1, "pixels"))
    pack(images, folder, short_side=40, shard_mb=1)
    assert shards_of(folder) == complete


@contextmanager
def limited_file_size(num_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_keeps_finished_shards_and_the_error_names_the_way_out(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "MEGABYTE", 1)  # an image a shard
    complete = shards_of(pack(images, tmp_path / "complete", shard_mb=1))
    sizes = [len(data) for name, data in complete.items() if name.endswith(".pixels")]
    first_larger = sizes.index(max(sizes))
    assert first_larger > 0
    expected = rf"disk is full: no space to write .*{first_larger:05d}.pixels .*make space and give the same command"
    with limited_file_size(max(sizes) - 1), pytest.raises(OSError, match=expected):
        pack(images, tmp_path / "pack", shard_mb=1)
    kept = shards_of(tmp_path / "pack")
    assert {name for name in kept if name.endswith(".arrow")} == {f"{index:05d}.arrow" for index in range(first_larger)}
    assert shards_of(pack(images, tmp_path / "pack", shard_mb=1)) == complete


def rejected(folder: Path) -> dict[str, str]:
    with open(folder / "rejected.csv", newline="") as file:
        return {row["name"]: row["reason"] for row in csv.DictReader(file)}


def test_unusable_images_are_left_out_and_recorded_as_in_a_run(images: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(images, tmp_path / "images"))
    (source / "empty.jpg").write_bytes(b"")
    folder = pack(source, tmp_path / "pack", scan=ScanConfig(max_rejected_fraction=0.2))
    assert rejected(folder) == {"empty.jpg": "empty: 0 bytes"}
    assert len(open_pack(folder).names) == 7
    with pytest.raises(ValueError, match=r"too many images are rejected, 12.5% where 5.0% are allowed"):
        pack(source, tmp_path / "strict", scan=ScanConfig(max_rejected_fraction=0.05))


def test_images_that_turn_unreadable_after_the_scan_are_recorded(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(shutil.copytree(images, tmp_path / "images"))
    scan_into = job.scan_into

    def scan_then_damage(*arguments: object, **options: object) -> object:
        table = scan_into(*arguments, **options)
        (source / "0.png").write_bytes(b"no image")
        Image.new("RGB", (80, 52)).save(source / "4.png")
        return table

    monkeypatch.setattr(job, "scan_into", scan_then_damage)
    folder = pack(source, tmp_path / "pack", shard_mb=1)
    assert {name: reason.split(":")[0] for name, reason in rejected(folder).items()} == {
        "0.png": "not an image",
        "4.png": "changed",
    }
    assert open_pack(folder).names == ("2.png", "3.jpg", "5.jpg", "6.png", "deep er/é 1.jpg")
    assert np.array_equal(load_image(PackedImage(folder, "2.png")), load_image(images / "2.png"))


def test_images_that_are_gone_after_the_scan_stop_the_packing(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(shutil.copytree(images, tmp_path / "images"))
    scan_into = job.scan_into
    monkeypatch.setattr(job, "scan_into", lambda *a, **o: (scan_into(*a, **o), shutil.rmtree(source))[0])
    expected = r"7 of 7 images have become unreadable since the scan, such as 0.png \(missing: .*check that"
    with pytest.raises(RuntimeError, match=expected):
        pack(source, tmp_path / "pack", shard_mb=100)
    assert not list((tmp_path / "pack" / "shards").glob("0*"))


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"short_side": 30}, "short_side: was 40, now 30"),
        ({"format": "jpeg"}, "format: was 'pixels', now 'jpeg'"),
        ({"shard_mb": 2}, "shard_mb: was 1, now 2"),
        ({"scan": ScanConfig(min_side_px=16)}, "min_side_px: was 32, now 16"),
    ],
)
def test_a_pack_of_other_options_is_refused_with_the_difference(
    images: Path, tmp_path: Path, changed: dict[str, object], difference: str
) -> None:
    config = {"short_side": 40, "format": "pixels", "shard_mb": 1}
    pack(images, tmp_path / "pack", **config)
    with pytest.raises(
        provenance.StaleResultError, match=rf"{difference}\). Rebuild it with --overwrite, or use another"
    ):
        pack(images, tmp_path / "pack", **config | changed)
    rebuilt = pack(images, tmp_path / "pack", **config | changed, overwrite=True)
    assert shards_of(rebuilt) == shards_of(pack(images, tmp_path / "new", **config | changed))


def test_other_images_are_refused(images: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(images, tmp_path / "images"))
    folder = pack(source, tmp_path / "pack")
    with Image.open(source / "0.png") as image:
        changed = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    time.sleep(0.02)
    changed.save(source / "0.png")
    with pytest.raises(provenance.StaleResultError, match="have changed: 7 usable before, 7 now"):
        pack(source, folder)
    changed.save(source / "new.png")
    with pytest.raises(provenance.StaleResultError, match="images: was 7, now 8"):
        pack(source, folder)
    assert len(open_pack(pack(source, folder, overwrite=True)).names) == 8


def test_a_folder_that_is_not_ours_is_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the folder of the images, where figures would become images"):
        pack(images, images)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds files without a manifest.json, which orl did not write"):
        pack(images, tmp_path / "mine")
    folder = pack(images, tmp_path / "pack")
    with pytest.raises(ValueError, match="is already a pack; pack the images that it was made from"):
        pack(folder, tmp_path / "again")


@pytest.mark.parametrize("wrong", [{"short_side": 0}, {"shard_mb": 0}])
def test_options_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1, not 0"):
        PackOptions(images=Path("images"), to=Path("pack"), **wrong)


def test_the_command_packs_and_checks(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, folder = Path(shutil.copytree(images, tmp_path / "images")), tmp_path / "pack"
    (source / "empty.jpg").write_bytes(b"")
    assert main(["data", "check", str(source), "--workers", "1"]) == 0
    message = capsys.readouterr().out
    assert f"7 of 8 images of {source} can be used\nrejected: 1 empty\n  empty.jpg: empty: 0 bytes\n" in message
    assert "short side 48 to 54 px, median 51" in message
    options = ["--short-side", "40", "--shard-mb", "1", "--max-rejected-fraction", "0.5"]
    assert main(["data", "pack", "--images", str(source), "--to", str(folder), *options]) == 0
    assert f"pack: {folder}" in capsys.readouterr().out
    assert main(["data", "check", str(folder)]) == 0
    message = capsys.readouterr().out
    assert f"7 of 7 images of {folder} can be used" in message
    assert "short side 40 to 40 px, median 40" in message
    assert "format pixels, images reduced to a short side of 40 px\nall checksums are correct" in message
    path = shard_path(folder, 1, "pixels")
    path.write_bytes(bytes(path.stat().st_size))
    assert main(["data", "check", str(folder)]) == 1
    assert "00001.pixels was altered" in capsys.readouterr().err


def test_many_rejected_images_are_counted_and_a_few_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index in range(25):
        (tmp_path / f"{index:02d}.jpg").write_bytes(b"" if index else b"text")
    assert main(["data", "check", str(tmp_path), "--workers", "1"]) == 1
    output = capsys.readouterr()
    assert f"no image of {tmp_path} can be used" in output.err
    message = output.out.splitlines()
    assert message[:2] == [f"0 of 25 images of {tmp_path} can be used", "rejected: 24 empty, 1 not an image"]
    assert message[-1] == "  and 5 more"
    assert len(message) == 2 + 20 + 1


def test_only_one_user_reads_a_pack_that_another_wrote(images: Path, tmp_path: Path) -> None:
    folder = pack(images, tmp_path / "pack")
    for path in [folder, *folder.rglob("*")]:
        os.chmod(path, 0o555 if path.is_dir() else 0o444)
    open_pack.cache_clear()
    assert load_image(PackedImage(folder, "0.png")).shape == (48, 60, 3)
