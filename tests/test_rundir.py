import json
from pathlib import Path

import numpy as np
import pytest

from orl import tables
from orl.rundir import RunDir, read_discovery_score, read_record


def test_no_record_is_empty_and_a_torn_one_is_refused(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert read_record(run) == {}
    run.record.write_text(json.dumps({"stages": {}})[:-2])
    with pytest.raises(ValueError, match=r"run.json is not JSON"):
        read_record(run)


def test_the_score_of_earlier_correspondences_is_not_returned(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert read_discovery_score(run) is None
    tables.begin(run.table("correspondences"), {"made": "by hand"}, 1)
    tables.write_shard(run.table("correspondences"), 0, {"image_id": np.zeros(1, dtype=np.int32)})
    fingerprint = tables.load(run.table("correspondences")).fingerprint
    for scored, is_known in ((fingerprint, True), ("another", False)):
        run.discovery_score.write_text(json.dumps({"lift": 2.0, "correspondences": scored}))
        assert (read_discovery_score(run) is not None) is is_known
    run.discovery_score.write_text("{")
    with pytest.raises(ValueError, match=r"score\.json is not JSON"):
        read_discovery_score(run)
