"""What every command does to a run's folder before it begins, and how a run is looked at elsewhere."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from orl import run as run_module
from orl.config import RunConfig, load_config
from orl.images.scenes import draw_scenes
from orl.recipes import demo
from orl.run import prepare
from orl.rundir import RunDir, read_record


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """A run of a few photos, named from the folder that they lie in."""
    draw_scenes(tmp_path / "scenes", num_trainval=4, num_test=1, size_wh=(64, 48), quiet=True)
    monkeypatch.chdir(tmp_path)
    config = replace(demo(Path("scenes"), Path("run")), workers=0)
    return replace(config, discover=replace(config.discover, num_neighbours=2))


def test_photos_are_found_again_from_any_folder(config: RunConfig, tmp_path: Path, monkeypatch) -> None:
    prepare(config)
    assert load_config(RunDir(config.out).config).images == tmp_path / "scenes"
    prepare(config)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    begun = load_config(tmp_path / "run" / "config.yaml")
    assert len(prepare(replace(begun, out=tmp_path / "run"))) == 4


def test_a_command_that_was_started_as_a_module_is_told_as_it_is_typed(config: RunConfig, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/orl/__main__.py", "run", "demo", "--out", "a b"])
    prepare(config)
    assert read_record(RunDir(config.out))["command"] == "orl run demo --out 'a b'"


@pytest.mark.parametrize(
    ("asked", "has_gpu", "used"),
    [("cuda", False, "cpu"), ("cuda", True, "cuda"), ("auto", True, "cuda"), ("cpu", True, "cpu")],
)
def test_the_report_of_a_gpus_run_is_written_where_there_is_none(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, asked: str, has_gpu: bool, used: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert run_module._gallery_options(replace(config, device=asked)).device == used
