import errno
import gc
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orl import files, provenance, tables


def columns(start: int, stop: int) -> dict[str, np.ndarray]:
    ids = np.arange(start, stop, dtype=np.int32)
    return {"image_id": ids, "embedding": np.outer(ids, np.ones(3)).astype(np.float16)}


def table_of(folder: Path, counts: list[int], ids: list[int] | None = None) -> tables.Table:
    """A table of shards of so many rows, numbered through."""
    starts = np.concatenate([[0], np.cumsum(counts, dtype=int)])
    for index in tables.begin(folder, {}, len(counts)):
        made = columns(starts[index], starts[index + 1])
        if ids is not None:
            made["image_id"] = np.array(ids[starts[index] : starts[index + 1]], dtype=np.int32)
        tables.write_shard(folder, index, made)
    return tables.load(folder)


def resident_file_bytes() -> int:
    """Pages of mapped files in this process's memory."""
    return int(Path("/proc/self/statm").read_text().split()[2]) * resource.getpagesize()


@contextmanager
def limited(what: int, to: int) -> Iterator[None]:
    """One of the system's limits on this process, lowered for a while."""
    soft, hard = resource.getrlimit(what)
    resource.setrlimit(what, (to, hard))
    try:
        yield
    finally:
        resource.setrlimit(what, (soft, hard))


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
    with pytest.raises(provenance.StaleResultError, match=r"rois .*min_side: was 96, now 48.*--overwrite"):
        tables.begin(folder, {"min_side": 48}, 1)
    assert tables.begin(folder, {"min_side": 96}, 1) == []
    assert tables.begin(folder, {"min_side": 48}, 1, overwrite=True) == [0]


def test_a_process_killed_during_overwrite_leaves_a_stale_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "rois"
    tables.begin(folder, {"min_side": 96}, 2)
    for index in range(2):
        tables.write_shard(folder, index, columns(0, 1))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(provenance, "write_atomically", killed)
        with pytest.raises(KeyboardInterrupt):
            tables.begin(folder, {"min_side": 48}, 2, overwrite=True)
    with pytest.raises(provenance.StaleResultError):
        tables.begin(folder, {"min_side": 48}, 2)
    assert tables.begin(folder, {"min_side": 48}, 2, overwrite=True) == [0, 1]


def test_an_unfinished_table_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    tables.begin(folder, {}, 2)
    tables.write_shard(folder, 0, columns(0, 1))
    with pytest.raises(ValueError, match=r"lacks shard 00001.arrow"):
        tables.load(folder)
    assert tables.finished_fingerprint(folder) is None


@given(st.lists(st.integers(0, 4), min_size=1, max_size=5), st.data())
def test_any_rows_equal_those_of_the_complete_column(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], data: st.DataObject
) -> None:
    table = table_of(tmp_path_factory.mktemp("tables") / "t", counts)
    start = data.draw(st.integers(0, sum(counts)))
    stop = data.draw(st.integers(start, sum(counts)))
    assert table.shard_rows == tuple(counts)
    np.testing.assert_array_equal(table.rows("image_id", start, stop), np.arange(start, stop))
    np.testing.assert_array_equal(table.rows("embedding", start, stop), table.column("embedding")[start:stop])
    parts = list(table.parts("image_id"))
    assert [first for first, _ in parts] == table.shard_starts[:-1].tolist()
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in parts]), np.arange(sum(counts)))


def test_rows_inside_a_shard_are_a_view_of_its_file(tmp_path: Path) -> None:
    table = table_of(tmp_path / "t", [5, 5])
    inside, across = table.rows("embedding", 6, 9), table.rows("embedding", 4, 6)
    assert np.shares_memory(inside, table.shard_column(1, "embedding"))
    assert not inside.flags.writeable
    assert not any(np.shares_memory(across, table.shard_column(index, "embedding")) for index in range(2))


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (0, 11), (3, 2)])
def test_rows_that_are_not_there_are_refused(tmp_path: Path, start: int, stop: int) -> None:
    with pytest.raises(ValueError, match=rf"has 10 rows, not {start} to {stop}"):
        table_of(tmp_path / "t", [5, 5]).rows("image_id", start, stop)


def test_many_shards_take_few_file_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_OPEN_SHARDS", 4)
    gc.collect()
    used = len(os.listdir("/proc/self/fd"))
    with limited(resource.RLIMIT_NOFILE, used + 10):
        table = table_of(tmp_path / "t", [2] * 40)
        np.testing.assert_array_equal(table.column("image_id"), np.arange(80))
        for row in np.random.default_rng(0).integers(0, 80, 200).tolist():
            assert table.rows("image_id", row, row + 1) == row
        assert len(os.listdir("/proc/self/fd")) <= used + 4


def test_a_view_outlives_the_closing_of_its_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_OPEN_SHARDS", 1)
    table = table_of(tmp_path / "t", [3, 3, 3])
    view = table.rows("image_id", 0, 3)
    table.rows("image_id", 4, 5), table.rows("image_id", 7, 8)
    del table
    gc.collect()
    assert view.tolist() == [0, 1, 2]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_released_pages_leave_the_memory_and_come_back_when_they_are_read(tmp_path: Path) -> None:
    size = 2**25
    tables.begin(tmp_path / "t", {}, 1)
    tables.write_shard(tmp_path / "t", 0, {"value": np.arange(size // 8)})
    table = tables.load(tmp_path / "t")
    view, before = table.rows("value", 0, size // 8), resident_file_bytes()
    total = view.sum()
    assert resident_file_bytes() - before > 0.8 * size
    table.release()
    assert resident_file_bytes() - before < 0.2 * size
    assert view.sum() == total == sum(range(size // 8))


def test_row_starts_of_a_table_equal_those_of_its_column(tmp_path: Path) -> None:
    # Image 0 and the last one have no rows, image 2 has rows in three shards, one shard is empty.
    ids = [1, 2, 2, 2, 2, 4]
    table = table_of(tmp_path / "t", [2, 2, 0, 2], ids)
    assert table.row_starts(6).tolist() == [0, 0, 1, 5, 5, 6, 6]
    np.testing.assert_array_equal(table.row_starts(6), tables.row_starts(np.array(ids), 6))


def test_a_table_of_another_image_list_is_refused(tmp_path: Path) -> None:
    table = table_of(tmp_path / "rois", [2, 2], [0, 1, 1, 4])
    with pytest.raises(ValueError, match=r"rois has rows of image 4, but there are 4 images.*--overwrite"):
        table.row_starts(4)


@pytest.mark.parametrize("ids", [[0, 1, 3, 2], [0, 2, 1, 3]])
def test_rows_out_of_the_order_of_the_images_are_refused(tmp_path: Path, ids: list[int]) -> None:
    with pytest.raises(ValueError, match="not in the order of the images"):
        table_of(tmp_path / "t", [2, 2], ids).row_starts(4)


def test_a_torn_shard_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    tables.begin(folder, {}, 1)
    tables.write_shard(folder, 0, columns(0, 100))
    shard = folder / "00000.arrow"
    for num_bytes in (shard.stat().st_size - 1, 50, 0):
        shard.write_bytes(shard.read_bytes()[:num_bytes])
        with pytest.raises(ValueError, match=r"00000.arrow cannot be read .*; delete it and run again"):
            tables.load(folder)


def test_a_flipped_bit_anywhere_in_a_shard_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    words = np.array(["a", "bc", "def"], dtype=object)
    tables.begin(folder, {}, 1)
    tables.write_shard(folder, 0, columns(0, 3) | {"word": words, "number": np.arange(3, dtype=np.float64)})
    names = ("image_id", "embedding", "word", "number")
    complete = {name: tables.finish_table(folder).column(name).tolist() for name in names}
    shard = folder / "00000.arrow"
    intact = shard.read_bytes()
    for position in range(0, 8 * len(intact), 31):
        damaged = bytearray(intact)
        damaged[position // 8] ^= 1 << position % 8
        shard.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"00000\.arrow (was altered|cannot be read|is shard).* delete it and run"):
            tables.load(folder).column("image_id")
    shard.write_bytes(intact)
    assert {name: tables.load(folder).column(name).tolist() for name in names} == complete


@pytest.mark.parametrize("is_finished", [False, True])
def test_a_shard_of_another_table_or_another_place_is_refused(tmp_path: Path, is_finished: bool) -> None:
    for name in ("one", "other"):
        for index in tables.begin(tmp_path / name, {"made": name}, 2):
            tables.write_shard(tmp_path / name, index, columns(2 * index, 2 * index + 2))
        if is_finished:
            tables.finish_table(tmp_path / name)
    first, second = (tmp_path / "one" / f"0000{index}.arrow" for index in range(2))
    intact = first.read_bytes()
    for wrong in (tmp_path / "other" / first.name, second):
        first.write_bytes(wrong.read_bytes())
        with pytest.raises(ValueError, match=r"one/00000\.arrow is shard . of table .*copied from elsewhere; delete"):
            tables.load(tmp_path / "one").column("image_id")
    first.unlink()
    assert tables.begin(tmp_path / "one", {"made": "one"}, 2) == [0]
    first.write_bytes(intact)
    assert tables.finish_table(tmp_path / "one").column("image_id").tolist() == [0, 1, 2, 3]


def test_the_manifest_of_a_finished_table_lists_rows_bytes_and_checksum_of_each_shard(tmp_path: Path) -> None:
    table = table_of(tmp_path / "t", [3, 0, 2])
    assert tables.finish_table(tmp_path / "t").shards == table.shards
    listed = json.loads((tmp_path / "t" / provenance.MANIFEST).read_text())["shards"]
    assert [shard["rows"] for shard in listed] == [3, 0, 2]
    sizes = [(tmp_path / "t" / f"0000{index}.arrow").stat().st_size for index in range(3)]
    assert [shard["bytes"] for shard in listed] == sizes
    assert len({shard["checksum"] for shard in listed}) == 3
    assert tables.load(tmp_path / "t") == table


def test_a_rewritten_shard_of_a_finished_table_is_refused(tmp_path: Path) -> None:
    table_of(tmp_path / "t", [3])
    tables.finish_table(tmp_path / "t")
    tables.write_shard(tmp_path / "t", 0, columns(1, 4))
    with pytest.raises(ValueError, match="was altered or damaged"):
        tables.load(tmp_path / "t").column("image_id")


def test_a_table_without_checksums_is_refused_in_one_line(tmp_path: Path) -> None:
    table_of(tmp_path / "t", [3])
    manifest = tmp_path / "t" / provenance.MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"version": 2}))
    expected = r"t was written by another version of orl \(format 2, this version reads 3\); rebuild it with"
    with pytest.raises(ValueError, match=expected):
        tables.load(tmp_path / "t")
    with pytest.raises(provenance.StaleResultError, match=expected):
        tables.begin(tmp_path / "t", {}, 1)
    assert tables.begin(tmp_path / "t", {}, 1, overwrite=True) == [0]


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"t has no column 'box' but image_id, embedding; rebuild it"):
        table_of(tmp_path / "t", [3]).column("box")


def test_values_are_checked_once_before_they_are_used(tmp_path: Path) -> None:
    table_of(tmp_path / "t", [2, 3])
    seen = []
    table = tables.load(tmp_path / "t", lambda _, first, found: seen.append((first, found["image_id"].tolist())))
    assert not seen
    for _ in range(2):
        assert [rows.tolist() for _, rows in table.parts("image_id")] == [[0, 1], [2, 3, 4]]
    assert seen == [(0, [0, 1]), (2, [2, 3, 4])]


MANIFESTS = ["[]", "null", "7", "{", '{"version": 1}', '{"version": "3", "fingerprint": "a"}', "{}"]


@pytest.mark.parametrize("content", MANIFESTS)
def test_a_damaged_manifest_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    table_of(tmp_path / "t", [2])
    (tmp_path / "t" / provenance.MANIFEST).write_text(content)
    for read in (tables.load, provenance.read_inputs, lambda folder: tables.begin(folder, {}, 1, overwrite=True)):
        with pytest.raises(ValueError, match=r"^.*t/manifest\.json is not a manifest: .*$"):
            read(tmp_path / "t")


@pytest.mark.parametrize(
    "changes", [{"inputs": {"num_shards": 2}}, {"fingerprint": "0" * 16}, {"shards": []}, {"shards": [{"rows": 2}]}]
)
def test_an_altered_manifest_is_refused(tmp_path: Path, changes: dict) -> None:
    table_of(tmp_path / "t", [2])
    tables.finish_table(tmp_path / "t")
    manifest = tmp_path / "t" / provenance.MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | changes))
    with pytest.raises(ValueError, match="was altered"):
        tables.load(tmp_path / "t")


def test_a_missing_table_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"orl discover"):
        tables.load(tmp_path / "nothing")


def test_another_version_is_refused(tmp_path: Path) -> None:
    tables.begin(tmp_path / "t", {}, 1)
    manifest = tmp_path / "t" / provenance.MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"version": 99}))
    with pytest.raises(ValueError, match=r"was written by another version of orl .format 99.*--overwrite"):
        tables.load(tmp_path / "t")


def test_a_folder_of_foreign_files_is_never_deleted(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"holds files without"):
        provenance.claim(tmp_path, {}, overwrite=True)
    assert (tmp_path / "holiday.jpg").exists()


def test_a_manifest_that_is_not_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / provenance.MANIFEST).write_text("{")
    with pytest.raises(ValueError, match="not a manifest"):
        provenance.claim(tmp_path, {})


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write_atomically(path, "old")

    class Unwritable(str):
        def encode(self, *arguments: object) -> bytes:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        files.write_atomically(path, Unwritable("new"))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_keeps_finished_shards_and_the_error_names_the_way_out(tmp_path: Path) -> None:
    folder = tmp_path / "rois"
    tables.begin(folder, {}, 2)
    tables.write_shard(folder, 0, columns(0, 10))
    # The system writes the first 8 kB, then refuses: as a disk does that is full, with another number of the error.
    expected = r"disk is full: no space to write .*rois/00001.arrow \(0.1 MB\).*make space and give the same command"
    with limited(resource.RLIMIT_FSIZE, 8192), pytest.raises(OSError, match=expected) as caught:
        tables.write_shard(folder, 1, columns(0, 10_000))
    assert caught.value.errno == errno.EFBIG
    assert sorted(path.name for path in folder.iterdir()) == ["00000.arrow", provenance.MANIFEST]
    assert tables.begin(folder, {}, 2) == [1]
    tables.write_shard(folder, 1, columns(0, 10_000))
    assert tables.load(folder).shard_rows == (10, 10_000)


def test_another_failure_to_write_is_raised_unchanged(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(IsADirectoryError):
        files.write_atomically(tmp_path / "file", "text")


def test_only_temporary_files_of_dead_processes_are_removed(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    folder = tmp_path / "rois"
    tables.begin(folder, {}, 1)
    stale, writing = folder / f".00000.arrow.{dead.pid}.tmp", folder / f".00000.arrow.{os.getppid()}.tmp"
    foreign = [folder / f"00000.arrow.{dead.pid}.tmp", folder / ".notes.tmp", folder / f".00000.{10**30}.tmp"]
    for path in (stale, writing, *foreign):
        path.write_bytes(b"half")
    assert tables.begin(folder, {}, 1) == [0]
    assert not stale.exists()
    assert all(path.exists() for path in (writing, *foreign))


def test_row_starts_of_images_with_and_without_rows() -> None:
    starts = tables.row_starts(np.array([0, 0, 2, 2, 2]), 4)
    np.testing.assert_array_equal(starts, [0, 2, 2, 5, 5])


def test_shards_cover_all_items_once() -> None:
    assert [list(range(10))[part] for part in tables.shard_slices(10, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert tables.shard_slices(0, 4) == [slice(0, 0)]
