"""The record of a run: states and seconds of stages."""

import logging
from pathlib import Path

import pytest

from orl import files
from orl.pipeline.record import LogFile, forget_stage, record_run, record_stage
from orl.rundir import RunDir, read_record


def test_the_seconds_of_a_stage_add_up_over_its_parts(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    record_run(run, {"recipe": "quick", "seed": 3})
    record_stage(run, "stage1", "stopped", 2.5)
    record_stage(run, "stage1", "done", 4.0)
    record_stage(run, "discover", "failed", 1.0)
    record = read_record(run)
    assert record["stages"] == {
        "stage1": {"state": "done", "elapsed_s": 6.5},
        "discover": {"state": "failed", "elapsed_s": 1.0},
    }
    assert (record["recipe"], record["seed"]) == ("quick", 3)
    assert {"python", "torch", "numpy"} <= set(record["versions"])


def test_a_new_part_of_a_run_keeps_the_states_of_its_stages(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    record_stage(run, "stage1", "done", 4.0)
    record_run(run, {"seed": 1})
    assert read_record(run)["stages"]["stage1"]["state"] == "done"


def test_a_stage_from_scratch_has_no_time_and_no_scores(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    record_stage(run, "stage1", "done", 4.0)
    record_stage(run, "stage3", "done", 5.0)
    for task, stage in (("svm", "stage1"), ("svm", "stage3"), ("low-shot", "stage3")):
        files.write_atomically(run.evaluation(task, stage), "{}")
    forget_stage(run, "stage3")
    assert read_record(run)["stages"] == {"stage1": {"state": "done", "elapsed_s": 4.0}}
    assert [path.name for path in (tmp_path / "evaluation").iterdir()] == ["svm_stage1.json"]
    forget_stage(run, "stage3")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_log_that_cannot_be_written_is_named_once_and_the_run_goes_on(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, handler = logging.getLogger("orl"), LogFile("/dev/full")
    monkeypatch.setattr(package, "propagate", False)
    monkeypatch.setattr(package, "handlers", [caplog.handler, handler])
    for _ in range(2):
        package.warning("a line")
    assert [record.message for record in caplog.records].count("a line") == 2
    assert sum("the log is not written to /dev/full any more" in record.message for record in caplog.records) == 1
    assert "Logging error" not in capsys.readouterr().err
    assert handler not in package.handlers


@pytest.mark.parametrize("content", ["[]", "null", "{", '{"stages": []}', '{"stages": {"scan": 3}}'])
def test_a_damaged_record_is_refused(tmp_path: Path, content: str) -> None:
    RunDir(tmp_path).record.write_text(content)
    with pytest.raises(ValueError, match=r"run\.json"):
        read_record(RunDir(tmp_path))
