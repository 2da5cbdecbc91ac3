import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tests.datasets.packs import draw_images, pack

from orl import provenance
from orl.config import DiscoverConfig, RunConfig
from orl.datasets import validation as images_scan
from orl.datasets.image_table import ImageTable, load_image_table, require_unchanged
from orl.datasets.packs import PackedImage, open_pack, shard_path
from orl.pipeline.preflight import preflight
from orl.pipeline.scan import scan as scan_inputs
from orl.provenance import StaleResultError
from orl.rundir import RunDir


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return draw_images(tmp_path / "images")


def scan(config: RunConfig) -> ImageTable:
    return scan_inputs(preflight(config))


def config(images: Path, out: Path) -> RunConfig:
    return RunConfig(images=images, out=out, workers=1, discover=DiscoverConfig(num_neighbours=4))


@pytest.fixture(params=["files", "pack"])
def source(request: pytest.FixtureRequest, images: Path, tmp_path: Path) -> Path:
    return images if request.param == "files" else pack(images, tmp_path / "pack", short_side=40)


def forbid_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("an image was read again")

    monkeypatch.setattr(images_scan, "_scan_image", fail)
    monkeypatch.setattr(images_scan, "check_pack", lambda *_, **__: fail())


def test_a_scan_is_taken_over_while_nothing_has_changed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_config = config(source, tmp_path / "run")
    images = scan(run_config)
    assert len(images) == 7
    with monkeypatch.context() as patch:
        forbid_reading(patch)
        assert scan(run_config) == images
        with pytest.raises(AssertionError, match="an image was read again"):
            scan(replace(run_config, overwrite=True))
    assert load_image_table(tmp_path / "run" / "images.parquet") == images


def test_a_pack_that_was_torn_since_is_noticed(images: Path, tmp_path: Path) -> None:
    folder = pack(images, tmp_path / "pack")
    run_config = config(folder, tmp_path / "run")
    assert isinstance(scan(run_config).path(0), PackedImage)
    path = shard_path(folder, 0, "pixels")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"00000.pixels is truncated"):
        scan(run_config)
    path.unlink()
    with pytest.raises(ValueError, match=r"lacks shard 00000.pixels"):
        scan(run_config)


def test_a_pack_altered_under_an_old_time_is_noticed_and_a_touched_one_is_not(images: Path, tmp_path: Path) -> None:
    packed = pack(images, tmp_path / "pack")
    run_config = config(packed, tmp_path / "run")
    table, shard = scan(run_config), shard_path(packed, 0, "pixels")
    shard.touch()
    require_unchanged(table)
    before, content = shard.stat(), bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.utime(tmp_path / "run" / "images.parquet", (4e9, 4e9))
    with pytest.raises(StaleResultError, match=r"1 images of .* were replaced since they were scanned"):
        require_unchanged(table)
    with pytest.raises(ValueError, match="was altered"):
        scan(run_config)


def test_a_run_of_other_pixels_is_refused_and_a_moved_pack_is_not(images: Path, tmp_path: Path) -> None:
    folders = [pack(images, tmp_path / f"pack{side}", short_side=side) for side in (40, 36)]
    table = scan(config(folders[0], tmp_path / "run"))
    for other in (folders[1], images):
        with pytest.raises(StaleResultError, match="have changed: 7 usable before, 7 now, 0 added or removed"):
            scan(config(other, tmp_path / "run"))
    moved = folders[0].rename(tmp_path / "moved")
    found = scan(config(moved, tmp_path / "run"))
    assert found.fingerprint == table.fingerprint
    assert found.root == moved
    assert open_pack(moved).names == found.names


def test_a_run_in_training_resumes_without_a_few_images_and_accepts_no_others(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = Path(shutil.copytree(images, tmp_path / "own"))
    run_config = config(root, tmp_path / "run")
    table = scan(run_config)
    complete = (root / table.names[2]).read_bytes()
    (root / table.names[2]).write_bytes(complete[:100])
    run_config = replace(run_config, scan=replace(run_config.scan, max_rejected_fraction=0.2))
    with pytest.raises(StaleResultError, match="have changed: 7 usable before, 6 now"):
        scan(run_config)
    provenance.claim(RunDir(run_config.out).stage("stage1"), {"images": table.fingerprint})
    assert scan(run_config) == table
    assert f"1 of the 7 images of this run are gone or unreadable, such as {table.names[2]}" in caplog.text
    moved = root.rename(tmp_path / "moved")
    assert scan(replace(run_config, images=moved)) == replace(table, root=moved)
    moved.rename(root)
    with pytest.raises(StaleResultError):
        scan(replace(run_config, scan=replace(run_config.scan, max_rejected_fraction=0.1)))
    (root / table.names[2]).write_bytes(complete)
    assert scan(run_config) == table
    shutil.copy(root / table.names[0], root / table.names[1])
    with pytest.raises(StaleResultError):
        scan(run_config)


def test_a_replaced_image_with_an_old_time_is_noticed(images: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(images, tmp_path / "own"))
    run_config = config(root, tmp_path / "run")
    table = scan(run_config)
    time.sleep(0.05)
    shutil.copy(root / table.names[0], tmp_path / "other")
    os.utime(tmp_path / "other", (1e9, 1e9))
    os.replace(tmp_path / "other", root / table.names[1])
    with pytest.raises(StaleResultError):
        scan(run_config)


def test_an_image_of_the_same_size_and_time_is_noticed_and_a_touched_one_is_not(images: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(images, tmp_path / "own"))
    run_config = config(root, tmp_path / "run")
    table = scan(run_config)
    path = root / table.names[1]
    before = path.stat()
    path.touch()
    assert scan(run_config) == table
    require_unchanged(table)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    # The table is newer than the change, as after a copy of the run.
    (tmp_path / "run" / "images.parquet").touch()
    assert path.stat().st_size == before.st_size
    with pytest.raises(StaleResultError, match=f"1 images of .* were replaced since they were scanned.*{path.name}"):
        require_unchanged(table)
    with pytest.raises(StaleResultError, match="have changed"):
        scan(run_config)


def test_a_link_to_an_older_image_is_noticed(images: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(images, tmp_path / "own"))
    first, second = (tmp_path / f"{name}.png" for name in ("old", "new"))
    for path, name in ((first, 0), (second, 1)):
        shutil.copy(sorted(root.iterdir())[name], path)
    link = root / "link.png"
    link.symlink_to(second)
    run_config = config(root, tmp_path / "run")
    assert "link.png" in scan(run_config).names
    link.unlink()
    link.symlink_to(first)
    (tmp_path / "run" / "images.parquet").touch()
    with pytest.raises(StaleResultError, match="have changed"):
        scan(run_config)
