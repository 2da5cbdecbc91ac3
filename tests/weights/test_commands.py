"""`orl import` and `orl export` as they are typed."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.weights.foreign import dino, known_resnet
from torchvision.models import mobilenet_v3_small

from orl import load_backbone
from orl.cli import main


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("published") / "resnet18-abc.pth"
    torch.save(known_resnet("resnet18").state_dict(), path)
    return path


def test_a_published_file_is_imported_exported_and_read_again(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, images = tmp_path / "in", torch.rand(2, 3, 64, 64)
    assert main(["import", str(published), "--out", str(folder)]) == 0
    assert "layout: torchvision or timm, resnet18" in capsys.readouterr().out
    assert (
        main(["export", str(folder / "backbone.safetensors"), "--to", "torchvision", "--out", str(tmp_path / "to")])
        == 0
    )
    files = [Path(line.removeprefix("file: ")) for line in capsys.readouterr().out.splitlines()]
    (weights,) = [file for file in files if file.suffix == ".pth"]
    assert torch.equal(load_backbone(weights)(images), load_backbone(published)(images))


def test_existing_files_are_replaced_only_with_overwrite(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["import", str(published), "--out", str(tmp_path)]
    assert main(given) == 0
    before = (tmp_path / "backbone.safetensors").read_bytes()
    (tmp_path / "backbone.safetensors").write_bytes(b"mine")
    assert main(given) == 1
    assert "exists already; give another folder, or replace it with --overwrite" in capsys.readouterr().err
    assert (tmp_path / "backbone.safetensors").read_bytes() == b"mine"
    assert main([*given, "--overwrite"]) == 0
    assert (tmp_path / "backbone.safetensors").read_bytes() == before


def test_of_several_networks_the_import_names_both_and_takes_another_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, folder = tmp_path / "dino.pth", tmp_path / "in"
    content = dino(known_resnet(), 512).content
    torch.save(content, path)
    assert main(["import", str(path), "--out", str(folder)]) == 0
    assert "note: the network student.backbone was taken, and teacher.backbone left; " in capsys.readouterr().out
    assert main(["import", str(path), "--out", str(folder), "--network", "teacher", "--overwrite"]) == 0
    assert "note: the network teacher.backbone was taken, and student.backbone left; " in capsys.readouterr().out
    weights = load_file(folder / "backbone.safetensors")
    assert torch.equal(weights["conv1.weight"], content["teacher"]["module.backbone.conv1.weight"])
    assert main(["import", str(path), "--out", str(folder), "--network", "other"]) == 1
    assert (
        "--network other names 0 of its networks; it has student.backbone, teacher.backbone" in capsys.readouterr().err
    )


def test_a_network_chosen_without_asking_is_named_when_it_is_loaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(dino(known_resnet(), 512).content, tmp_path / "dino.pth")
    # Earlier commands in this process may have stopped the propagation that caplog needs.
    monkeypatch.setattr(logging.getLogger("orl"), "propagate", True)
    with caplog.at_level(logging.INFO, "orl"):
        load_backbone(tmp_path / "dino.pth")
    assert "dino.pth: the network student.backbone was taken, and teacher.backbone left" in caplog.text
    weights = mobilenet_v3_small().state_dict()
    torch.save({"state_dict_ema": weights, "state_dict": weights}, tmp_path / "mobile.pth")
    with caplog.at_level(logging.INFO, "orl"):
        load_backbone(tmp_path / "mobile.pth", architecture="mobilenet_v3_small")
    assert "mobile.pth: the weights state_dict were taken, and state_dict_ema left" in caplog.text


def test_a_file_without_weights_is_one_line_of_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "notes.pth"
    path.write_text("tomorrow: buy milk")
    assert main(["import", str(path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("orl: ")
    assert "is a text file and not a file of weights" in line
