import json
from pathlib import Path

import numpy as np
import pytest

from orl import tables


def columns(start: int, stop: int) -> dict[str, np.ndarray]:
    ids = np.arange(start, stop, dtype=np.int32)
    return {"image_id": ids, "embedding": np.outer(ids, np.ones(3)).astype(np.float16)}


def test_a_table_of_shards_reads_as_one(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    for index in tables.begin(folder, {"a": 1}, 3):
        tables.write_shard(folder, index, columns(index * 2, index * 2 + 2))
    table = tables.load(folder)
    assert table.num_rows == 6
    np.testing.assert_array_equal(table.column("image_id"), np.arange(6))
    np.testing.assert_array_equal(table.column("embedding")[:, 1], np.arange(6))
    assert table.column("embedding").dtype == np.float16


def test_only_missing_shards_are_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    tables.begin(folder, {"a": 1}, 3)
    tables.write_shard(folder, 1, columns(0, 1))
    assert tables.begin(folder, {"a": 1}, 3) == [0, 2]


def test_a_table_of_other_inputs_is_named_and_refused(tmp_path: Path) -> None:
    folder = tmp_path / "rois"
    tables.begin(folder, {"min_side": 96}, 1)
    tables.write_shard(folder, 0, columns(0, 1))
    with pytest.raises(tables.StaleTableError, match=r"rois .*min_side: was 96, now 48.*--overwrite"):
        tables.begin(folder, {"min_side": 48}, 1)
    assert tables.begin(folder, {"min_side": 96}, 1) == []
    assert tables.begin(folder, {"min_side": 48}, 1, overwrite=True) == [0]


def test_a_process_killed_while_it_overwrites_leaves_a_folder_that_is_still_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "rois"
    tables.begin(folder, {"min_side": 96}, 2)
    for index in range(2):
        tables.write_shard(folder, index, columns(0, 1))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tables, "write_atomically", killed)
        with pytest.raises(KeyboardInterrupt):
            tables.begin(folder, {"min_side": 48}, 2, overwrite=True)
    with pytest.raises(tables.StaleTableError):
        tables.begin(folder, {"min_side": 48}, 2)
    assert tables.begin(folder, {"min_side": 48}, 2, overwrite=True) == [0, 1]


def test_an_unfinished_table_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    tables.begin(folder, {}, 2)
    tables.write_shard(folder, 0, columns(0, 1))
    with pytest.raises(ValueError, match=r"lacks shard 00001.arrow"):
        tables.load(folder)
    assert tables.finished_fingerprint(folder) is None


def test_a_torn_shard_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    tables.begin(folder, {}, 1)
    tables.write_shard(folder, 0, columns(0, 100))
    shard = folder / "00000.arrow"
    shard.write_bytes(shard.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"00000.arrow cannot be read"):
        tables.load(folder)


def test_a_missing_table_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"orl discover"):
        tables.load(tmp_path / "nothing")


def test_another_version_is_refused(tmp_path: Path) -> None:
    tables.begin(tmp_path / "t", {}, 1)
    manifest = tmp_path / "t" / tables.MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"version": 99}))
    with pytest.raises(ValueError, match="version 99"):
        tables.load(tmp_path / "t")


def test_a_folder_of_foreign_files_is_never_deleted(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"holds files without"):
        tables.claim(tmp_path, {}, overwrite=True)
    assert (tmp_path / "holiday.jpg").exists()


def test_a_manifest_that_is_not_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / tables.MANIFEST).write_text("{")
    with pytest.raises(ValueError, match="not a table's manifest"):
        tables.claim(tmp_path, {})


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    tables.write_atomically(path, "old")

    class Unwritable(str):
        def encode(self, *arguments: object) -> bytes:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        tables.write_atomically(path, Unwritable("new"))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_row_starts_of_photos_with_and_without_rows() -> None:
    starts = tables.row_starts(np.array([0, 0, 2, 2, 2]), 4)
    np.testing.assert_array_equal(starts, [0, 2, 2, 5, 5])


def test_shards_cover_all_items_once() -> None:
    assert [list(range(10))[part] for part in tables.shard_slices(10, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert tables.shard_slices(0, 4) == [slice(0, 0)]
