from pathlib import Path

import pytest
import torch
from tests.export.exported import write_backbone, write_run

from orl.export.export import export
from orl.weights.find import find_weights_file


def test_a_run_stands_for_its_last_finished_stage_unless_a_stage_is_given(tmp_path: Path) -> None:
    run = write_run(tmp_path / "both")
    assert find_weights_file(run.root) == run.backbone("stage3")
    assert find_weights_file(run.root, "stage1") == run.backbone("stage1")
    begun = write_run(tmp_path / "begun", stages=("stage1",))
    assert find_weights_file(begun.root) == begun.backbone("stage1")


def test_a_file_stands_for_itself(tmp_path: Path) -> None:
    path = write_backbone(tmp_path)
    assert find_weights_file(path) == path


def test_a_missing_stage_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "begun", stages=("stage1",))
    with pytest.raises(FileNotFoundError, match=r"no stage3/backbone\.safetensors: there is stage1"):
        find_weights_file(run.root, "stage3")
    with pytest.raises(FileNotFoundError, match=r"of any stage: finish it with 'orl run'"):
        find_weights_file(tmp_path)
    with pytest.raises(ValueError, match="no stage 'stage2' leaves a backbone; give stage1 or stage3"):
        find_weights_file(run.root, "stage2")
    with pytest.raises(FileNotFoundError, match=r"nothing at .*nowhere"):
        find_weights_file(tmp_path / "nowhere")


def test_a_hub_folder_with_pytorch_model_bin_stands_for_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    torch.save({}, tmp_path / "pytorch_model.bin")
    assert find_weights_file(tmp_path) == tmp_path / "pytorch_model.bin"


def test_a_hidden_file_of_macos_is_no_exported_backbone(tmp_path: Path) -> None:
    exported = write_backbone(tmp_path).rename(tmp_path / "mine.pth")
    (tmp_path / "._mine.pth").write_bytes(b"\x00\x05\x16\x07")
    assert find_weights_file(tmp_path) == exported


def test_a_stage_is_refused_for_anything_but_a_run(tmp_path: Path) -> None:
    path = write_backbone(tmp_path / "from")
    with pytest.raises(
        ValueError, match=r"is one backbone \(.*\.safetensors\) and has no 'stage1'; leave the stage out"
    ):
        find_weights_file(path, "stage1")
    export(path, "hub-folder", tmp_path / "hub")
    with pytest.raises(ValueError, match=r"is one backbone \(model\.safetensors\) and has no 'stage1'"):
        find_weights_file(tmp_path / "hub", "stage1")
