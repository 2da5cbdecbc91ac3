import json
from pathlib import Path

import pytest

from orl.rundir import RunDir, read_record, record_run, record_stage


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


def test_no_record_is_empty_and_a_torn_one_is_refused(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert read_record(run) == {}
    run.record.write_text(json.dumps({"stages": {}})[:-2])
    with pytest.raises(ValueError, match=r"run.json is not JSON"):
        read_record(run)
