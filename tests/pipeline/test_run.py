"""Preflight and scan: which inputs are refused, and when the config of a run is saved."""

import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from orl import provenance
from orl.config import NetworkConfig, RunConfig, TrainConfig, load_config
from orl.datasets.image_table import ImageTable
from orl.networks.backbones import build_backbone, save_backbone
from orl.pipeline import run as run_module
from orl.pipeline import run_report
from orl.pipeline.preflight import preflight
from orl.pipeline.run import run_demo
from orl.pipeline.scan import scan
from orl.processes import Processes
from orl.recipes import demo
from orl.rundir import RunDir, read_record
from orl.synthetic.scenes import draw_scenes


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """A run of a few images, named from the folder that they lie in."""
    draw_scenes(tmp_path / "scenes", num_trainval=4, num_test=1, size_wh=(64, 48), quiet=True)
    monkeypatch.chdir(tmp_path)
    config = replace(demo(Path("scenes"), Path("run")), workers=0)
    return replace(config, discover=replace(config.discover, num_neighbours=2))


def start(config: RunConfig, *stages: str) -> ImageTable:
    return scan(preflight(config, stages))


def test_images_are_found_again_from_any_folder(config: RunConfig, tmp_path: Path, monkeypatch) -> None:
    start(config)
    assert load_config(RunDir(config.out).config).images == tmp_path / "scenes"
    start(config)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    begun = load_config(tmp_path / "run" / "config.yaml")
    assert len(start(replace(begun, out=tmp_path / "run"))) == 4


def test_a_command_started_as_a_module_is_recorded_as_it_is_typed(config: RunConfig, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/orl/__main__.py", "run", "demo", "--out", "a b"])
    start(config)
    assert read_record(RunDir(config.out))["command"] == "orl run demo --out 'a b'"


@pytest.mark.parametrize(
    ("asked", "has_gpu", "used"),
    [("cuda", False, "cpu"), ("cuda", True, "cuda"), ("auto", True, "cuda"), ("cpu", True, "cpu")],
)
def test_the_report_of_a_run_on_a_gpu_is_written_on_a_machine_without_one(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, asked: str, has_gpu: bool, used: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert run_report._gallery_options(replace(config, device=asked)).device == used


def test_options_of_a_stage_that_has_not_begun_may_change(config: RunConfig) -> None:
    start(config)
    provenance.claim(RunDir(config.out).stage("stage1"), {"seed": 0})
    changed = replace(config, stage3=replace(config.stage3, batch_size=2, epochs=3))
    start(changed)
    assert load_config(RunDir(config.out).config).stage3 == changed.stage3
    with pytest.raises(ValueError, match=r"stage1\.epochs: was 20, now 3"):
        start(replace(changed, stage1=replace(config.stage1, epochs=3)))
    with pytest.raises(ValueError, match="seed: was 0, now 1"):
        start(replace(changed, seed=1))


def test_a_refused_config_is_not_saved(config: RunConfig) -> None:
    start(config)
    provenance.claim(RunDir(config.out).table("embeddings"), {"seed": 0})
    kept = RunDir(config.out).config.read_bytes()
    with pytest.raises(ValueError, match=r"discover\.max_similarity: was None, now 0\.95"):
        start(replace(config, discover=replace(config.discover, max_similarity=0.95)))
    assert RunDir(config.out).config.read_bytes() == kept
    start(config)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"network": NetworkConfig(backbone="module/Net@0")}, "module/Net@0 is a module that was given from Python"),
        ({"init_from": Path("no.pth")}, r"nothing at no\.pth"),
        ({"cache": "ram"}, "--cache ram takes packed images only"),
        ({"eval_data": Path("no-devkit")}, "no-devkit"),
        ({"precision": "16-mixed"}, "16-mixed needs a GPU"),
        ({"stage3": TrainConfig(batch_size=5)}, "a batch of 5 needs as many images, and there are 4: set --stage3"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_refused_command_saves_no_config_and_the_corrected_one_is_accepted(
    config: RunConfig, changes: dict, error: str
) -> None:
    train = TrainConfig(batch_size=4)
    config = replace(config, stage1=train, stage3=train, device="cpu")
    with pytest.raises((ValueError, FileNotFoundError), match=error):
        start(replace(config, **changes), "stage1", "discover", "stage3")
    assert not RunDir(config.out).root.exists(), "a check wrote something"
    assert len(start(config, "stage1", "discover", "stage3")) == 4


def test_too_few_usable_images_for_a_batch_are_refused_by_the_scan_and_save_no_config(config: RunConfig) -> None:
    train = TrainConfig(batch_size=4)
    config = replace(config, stage1=train, stage3=train, scan=replace(config.scan, max_rejected_fraction=0.5))
    names = Path("scenes/ImageSets/Main/trainval.txt").read_text().split()
    next(Path("scenes/JPEGImages").glob(f"{names[0]}.*")).write_bytes(b"")
    with pytest.raises(ValueError, match="only 3 usable images, but at least 4 are needed"):
        start(config, "stage1")
    assert not RunDir(config.out).config.exists()


def test_evaluations_may_be_added_and_more_rejected_images_allowed_later(config: RunConfig) -> None:
    start(config)
    shots = replace(config.evaluation, shots=(1, 2))
    start(replace(config, evaluation=shots, scan=replace(config.scan, max_rejected_fraction=0.5)))
    with pytest.raises(ValueError, match=r"evaluation\.shots: was \[1, 2\], now \[4\]"):
        start(replace(config, evaluation=replace(config.evaluation, shots=(4,))))


def test_init_from_is_refused_when_a_run_is_resumed(config: RunConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_backbone(build_backbone("resnet10"), tmp_path / "given.safetensors")
    start(config)
    provenance.claim(RunDir(config.out).stage("stage1"), {"seed": 0})
    kept = RunDir(config.out).config.read_bytes()
    with pytest.raises(ValueError, match=r"stage 1 of run started from random weights, and --init-from is given"):
        start(replace(config, init_from=Path("given.safetensors")))
    assert RunDir(config.out).config.read_bytes() == kept


@pytest.mark.parametrize("proposals", ["opencv", "file", "faiss"])
def test_missing_packages_and_files_of_stage_2_are_refused_before_stage_1(
    config: RunConfig, monkeypatch, proposals: str
) -> None:
    for name in ("cv2", "faiss"):
        monkeypatch.setitem(sys.modules, name, None)
    changes: dict = {
        "opencv": {"proposals": "opencv"},
        "file": {"proposals": "file", "proposals_file": Path("typo.json")},
        "faiss": {"neighbour_search": "faiss"},
    }[proposals]
    asked = replace(config, discover=replace(config.discover, **changes))
    message = {"opencv": "orl\\[opencv", "file": r"no file of boxes at typo\.json", "faiss": "FAISS is not installed"}
    with pytest.raises((ImportError, FileNotFoundError), match=message[proposals]):
        start(asked, "stage1", "discover")
    assert not RunDir(config.out).config.exists()


def test_a_moved_file_of_boxes_is_accepted(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "boxes.json").write_text("{}")
    own = replace(config.discover, proposals="file", proposals_file=Path("boxes.json"))
    start(replace(config, discover=own))
    provenance.claim(RunDir(config.out).table("proposals"), {"seed": 0})
    (tmp_path / "boxes.json").rename(tmp_path / "moved.json")
    start(replace(config, discover=replace(own, proposals_file=Path("moved.json"))))
    with pytest.raises(ValueError, match=r"discover\.proposals: was file, now grid"):
        start(replace(config, discover=replace(config.discover, proposals="grid")))


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_process_alone_draws_the_demo(config: RunConfig, monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    drawn: list[Path] = []
    monkeypatch.setattr(run_module, "draw_scenes", lambda folder, **_: drawn.append(folder))
    monkeypatch.setattr(run_module, "joined_processes", lambda device: nullcontext(Processes(rank=rank)))
    with pytest.raises(FileNotFoundError, match="no images at"):
        run_demo(replace(config, images=Path("nothing")))
    assert drawn == [Path("nothing")] * (rank == 0)
