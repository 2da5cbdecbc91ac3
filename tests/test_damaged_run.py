"""Arbitrary contents in the files of a run: every reader refuses them with one line, or reads them."""

import json
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from orl import provenance, tables
from orl.config import load_config
from orl.datasets.image_table import load_image_table
from orl.pipeline.discovery_summary import StepRecord
from orl.rundir import RunDir, read_discovery_score, read_record
from orl.training.checkpoints import load_newest

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
KEYS = st.sampled_from(["version", "fingerprint", "inputs", "stages", "shards", "seed", "rois"]) | st.text(max_size=3)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=8
)


def arrow(values: Sequence[int], name: str, parquet: bool) -> bytes:
    table, sink = pa.table({name: np.array(values, np.int64)}), pa.BufferOutputStream()
    if parquet:
        pq.write_table(table, sink)
    else:
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    return sink.getvalue().to_pybytes()


CONTENTS = st.one_of(
    st.sampled_from([b"[]", b"null", b"", b'{"version": 1}', b"{"]),
    VALUES.map(lambda value: json.dumps(value).encode()),
    VALUES.map(lambda value: yaml.safe_dump(value).encode()),
    st.binary(max_size=80),
    st.builds(arrow, st.lists(st.integers(-9, 9), max_size=3), st.sampled_from(["name", "box"]), st.booleans()),
)
READERS: dict[str, Callable[[RunDir], object]] = {
    "config.yaml": lambda run: load_config(run.config),
    "run.json": read_record,
    "images.parquet": lambda run: load_image_table(run.images),
    "discover/score.json": read_discovery_score,
    "discover/summary.json": lambda run: StepRecord(run, "rois", "a").save(),
    "discover/rois/manifest.json": lambda run: tables.load(run.table("rois")).verify(),
    "discover/rois/00000.arrow": lambda run: tables.load(run.table("rois")).verify(),
    "stage1/manifest.json": lambda run: provenance.read_inputs(run.stage("stage1")),
    "stage1/checkpoints/step_00000001.ckpt": lambda run: load_newest(run.stage("stage1") / "checkpoints", "a"),
}


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=25)
@given(content=CONTENTS)
def test_any_content_of_a_file_is_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, name: str, content: bytes
) -> None:
    run = RunDir(tmp_path_factory.mktemp("run"))
    tables.begin(run.table("rois"), {}, 1)
    tables.write_shard(run.table("rois"), 0, {"image_id": np.zeros(2, np.int32)})
    path = run.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    try:
        READERS[name](run)
    except (ValueError, OSError) as error:
        message = str(error)
    else:
        message = "read"
    assert message
    assert "\n" not in message
