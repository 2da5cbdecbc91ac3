import json
import logging
from pathlib import Path

import numpy as np
import pytest

from orl import tables
from orl.pipeline import discovery_summary as module
from orl.pipeline.discovery_summary import (
    QUANTILES,
    StepRecord,
    discover_summary,
    format_summary,
    similarity_quantiles,
    summary_path,
)
from orl.rundir import RunDir


class Clock:
    """Clock that a test advances."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def make_rois(run: RunDir, clock: Clock, fingerprint: str, images: int, seconds: float) -> dict:
    with StepRecord(run, "rois", fingerprint) as record:
        clock.now += seconds
        record.update(images)
        record.num_rows = 3 * images
    return json.loads(summary_path(run).read_text())["rois"]


def test_seconds_and_images_add_up_over_calls_until_the_table_is_another(tmp_path: Path, clock: Clock) -> None:
    run = RunDir(tmp_path)
    assert make_rois(run, clock, "a", 4, 2.0) == {"fingerprint": "a", "images": 4, "seconds": 2.0, "rows": 12}
    assert make_rois(run, clock, "a", 6, 1.5) == {"fingerprint": "a", "images": 10, "seconds": 3.5, "rows": 18}
    assert make_rois(run, clock, "b", 5, 1.0) == {"fingerprint": "b", "images": 5, "seconds": 1.0, "rows": 15}


def test_a_failed_call_saves_its_seconds_and_a_killed_one_those_up_to_its_last_shard(
    tmp_path: Path, clock: Clock
) -> None:
    run = RunDir(tmp_path)

    def fail() -> None:
        with StepRecord(run, "rois", "a") as record:
            record.update(3)
            clock.now += 5
            raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        fail()
    assert json.loads(summary_path(run).read_text())["rois"]["seconds"] == 5.0
    killed = StepRecord(run, "rois", "a")
    clock.now += 31
    killed.update(2)
    clock.now += 9
    killed.update(4)
    found = json.loads(summary_path(run).read_text())["rois"]
    assert (found["images"], found["seconds"]) == (7, 45.0)


def test_processes_but_the_first_keep_no_times(tmp_path: Path, clock: Clock) -> None:
    with StepRecord(RunDir(tmp_path), "rois", "a", quiet=True) as record:
        record.update(3)
    assert not summary_path(RunDir(tmp_path)).exists()


def test_a_failed_save_of_the_times_is_logged_and_not_raised(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(module.files, "write_atomically", full)
    monkeypatch.setattr(logging.getLogger("orl"), "propagate", True)
    with caplog.at_level(logging.WARNING, "orl"):
        StepRecord(RunDir(tmp_path), "rois", "a").save()
    assert "times of rois are not saved: no space" in caplog.text


@pytest.mark.parametrize("shape", [(101,), (37, 5)])
def test_quantiles_by_shard_equal_those_of_the_complete_column(tmp_path: Path, shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    parts = [generator.uniform(-1, 1, shape).astype(np.float32), generator.uniform(0.5, 1, shape).astype(np.float32)]
    parts[0].flat[0], parts[1].flat[0] = 1.0000001, -1.0000001
    for index in tables.begin(tmp_path / "t", {}, 2):
        tables.write_shard(tmp_path / "t", index, {"similarity": parts[index]})
    expected = np.quantile(np.concatenate(parts), QUANTILES, method="lower")
    found = similarity_quantiles(tables.load(tmp_path / "t"), "similarity")
    np.testing.assert_allclose(found, expected, atol=1.5e-5)
    assert (found[0], found[-1]) == (-1, 1)


def test_a_table_without_rows_has_no_quantiles(tmp_path: Path) -> None:
    tables.begin(tmp_path / "t", {}, 1)
    tables.write_shard(tmp_path / "t", 0, {"similarity": np.zeros(0, np.float32)})
    assert similarity_quantiles(tables.load(tmp_path / "t"), "similarity") == []


def test_the_summary_has_the_recall_of_an_index(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    columns = {"neighbours": "similarities", "correspondences": "similarity"}
    for name in module.STEPS:
        tables.begin(run.table(name), {}, 1)
        tables.write_shard(run.table(name), 0, {columns.get(name, "value"): np.ones(2, np.float32)})
    assert "index" not in format_summary(discover_summary(run))
    (run.table("neighbours") / "recall.json").write_text(json.dumps({"recall": 0.987, "images": 256}))
    assert "the index finds 98.7% of the exact neighbours of 256 images" in format_summary(discover_summary(run))


def test_the_summary_counts_rows_and_leaves_out_times_of_other_tables(tmp_path: Path, clock: Clock) -> None:
    run = RunDir(tmp_path)
    rows = {"embeddings": 4, "neighbours": 4, "proposals": 90, "rois": 10, "roi_embeddings": 10, "correspondences": 6}
    for name, count in rows.items():
        tables.begin(run.table(name), {"made": name}, 1)
        column = {"neighbours": "similarities", "correspondences": "similarity"}.get(name, "value")
        tables.write_shard(run.table(name), 0, {column: np.linspace(0.5, 1, count, dtype=np.float32)})
    with StepRecord(run, "rois", tables.load(run.table("rois")).fingerprint) as record:
        clock.now += 8
        record.update(4)
    with StepRecord(run, "proposals", "of other images") as record:
        clock.now += 100
    found = discover_summary(run)
    assert {key: found[key] for key in ("images", "proposals", "rois", "rois_per_image", "pairs", "seconds")} == {
        "images": 4,
        "proposals": 90,
        "rois": 10,
        "rois_per_image": 2.5,
        "pairs": 6,
        "seconds": 8.0,
    }
    assert found["steps"] == {"rois": {"images": 4, "seconds": 8.0, "images_per_s": 0.5}}
    assert found["similarity_quantiles"]["neighbours"] == pytest.approx([0.5, 0.5, 2 / 3, 5 / 6, 1.0], abs=2e-5)
    text = format_summary(found)
    assert "4 images, 90 proposals, 10 RoIs (2.5 an image), 6 pairs of RoIs" in text
    assert ["rois", "4", "8.0", "0.5"] in [line.split() for line in text.splitlines()]
    assert ["neighbours", "0.500", "0.500", "0.667", "0.833", "1.000"] in [line.split() for line in text.splitlines()]
