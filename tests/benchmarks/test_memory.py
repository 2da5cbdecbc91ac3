import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from orl import tables

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SMALL = ["--num-images", "40", "--rois", "4", "--embedding-dims", "8", "--roi-dims", "8", "--neighbours", "3"]
SHARDS = ["--shard-size", "6", "--neighbour-shards", "2", "--matching-shards", "3"]


@pytest.fixture(scope="module")
def memory() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        spec = importlib.util.spec_from_file_location("memory", BENCHMARKS / "memory.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def test_peaks_are_recorded_and_the_steps_find_what_they_should(
    memory: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = subprocess.run

    def run_here(command: list[str], **options: Any) -> object:
        if command[0] != sys.executable:
            return run(command, **options)
        capsys.readouterr()
        memory.main(command[2:])
        return type("Done", (), {"stdout": capsys.readouterr().out})

    monkeypatch.setattr(memory.subprocess, "run", run_here)
    memory.main([*SMALL, *SHARDS, "--folder", str(tmp_path), "--json", str(tmp_path / "memory.json")])
    neighbours, matching = json.loads((tmp_path / "memory.json").read_text())
    assert neighbours["agreement"] == {"same_neighbours_of_image_0": True}
    assert matching["agreement"] == {"same_pairs_of_image_0_and_its_first_neighbour": True}
    assert (neighbours["shards_run"], neighbours["images_run"], neighbours["shards_of_the_table"]) == (2, 10, 7)
    assert matching["shards_run"] == 3
    for result in (neighbours, matching):
        assert 0 < result["resident_before_gib"] <= result["peak_resident_gib"]
        assert result["seconds"] >= 0
    assert [path.name for path in tmp_path.iterdir()] == ["memory.json"]


def test_a_wrong_neighbour_is_reported(memory: ModuleType, tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float16)
    for name, columns in (
        ("embeddings", {"embedding": vectors}),
        ("found_neighbours", {"neighbour_ids": np.array([[0]], np.int32)}),
    ):
        tables.begin(tmp_path / name, {}, 1)
        tables.write_shard(tmp_path / name, 0, columns)
    assert memory.check(tmp_path, "neighbours") == {"same_neighbours_of_image_0": False}


def test_tables_that_do_not_fit_on_the_disk_are_refused(
    memory: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 2**30}))
    with pytest.raises(SystemExit, match="too little disk: give fewer --num-images"):
        memory.main(["--folder", str(tmp_path)])
    assert "the tables take 10.67 GiB of disk" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
