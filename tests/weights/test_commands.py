"""`orl import` and `orl export` as they are typed."""

from pathlib import Path

import pytest
import torch
from tests.weights.foreign import known_resnet

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


def test_a_file_without_weights_is_one_line_of_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "notes.pth"
    path.write_text("tomorrow: buy milk")
    assert main(["import", str(path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("orl: ")
    assert "is a text file and not a file of weights" in line
