import hashlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tests.export.exported import (
    random_backbone,
    real_images,
    run_card,
    synthetic_images,
    write_backbone,
    write_run,
)
from torch import nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.resnet import BasicBlock, ResNet

from orl.export.export import Format, export
from orl.networks import backbones

DETERMINISTIC: tuple[Format, ...] = ("timm", "detectron2", "safetensors", "hub-folder")


def torchvision_features(network: ResNet, images: torch.Tensor) -> torch.Tensor:
    """The last feature map, by torchvision's own extractor."""
    with torch.no_grad():
        return create_feature_extractor(network.eval(), {"layer4": "map"})(images)["map"]


def test_export_refuses_files_of_other_projects(tmp_path: Path) -> None:
    other = tmp_path / "moco.pth"
    other.write_bytes(b"x")
    with pytest.raises(ValueError, match=r"moco\.pth is not a complete safetensors file .*'orl import' converts"):
        export(other, "timm", tmp_path / "to")


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_torchvision_loads_its_file_strictly_and_gives_equal_features(tmp_path: Path, name: str) -> None:
    written = export(write_backbone(tmp_path / "from", name), "torchvision", tmp_path / "to")
    assert [path.name for path in written] == [f"{name}_torchvision.pth", f"{name}_torchvision.md"]
    network = getattr(models, name)()
    network.load_state_dict(torch.load(written[0], weights_only=True), strict=True)
    images = synthetic_images()
    expected = random_backbone(name)(images)
    assert torch.equal(torchvision_features(network, images), expected)
    assert expected.std() > 0.01
    assert torch.equal(network.eval()(images), torch.zeros(2, 1000))


def test_the_lines_on_the_card_load_the_torchvision_file_of_a_resnet10_too(tmp_path: Path) -> None:
    _, card = export(write_backbone(tmp_path / "from"), "torchvision", tmp_path / "to")
    network = run_card(card, {})["network"]
    assert isinstance(network, ResNet)
    assert isinstance(network.fc, nn.Identity)
    images = synthetic_images()
    torch.testing.assert_close(network.eval()(images), random_backbone("resnet10")(images).mean(dim=(2, 3)))
    assert "all zeros" in card.read_text()
    assert len(network.layer1) == len(ResNet(BasicBlock, [1, 1, 1, 1]).layer1)


@pytest.mark.parametrize("name", backbones.BUILDERS)
def test_names_and_shapes_equal_those_of_timms_model(name: str) -> None:
    from orl.export.timm import TIMM_MODELS

    model, arguments = TIMM_MODELS[name]
    with torch.device("meta"):
        theirs = timm.create_model(model, num_classes=0, **arguments).state_dict()
        ours = backbones.build_backbone(name).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}


def test_timm_loads_its_file_strictly_and_gives_equal_features(tmp_path: Path) -> None:
    written = export(write_backbone(tmp_path / "from", "resnet18"), "timm", tmp_path / "to")
    model = timm.create_model("resnet18", num_classes=0)
    model.load_state_dict(torch.load(written[0], weights_only=True), strict=True)
    images = synthetic_images()
    assert torch.equal(model.eval().forward_features(images), random_backbone("resnet18")(images))


@pytest.mark.parametrize("name", ["resnet10", "resnet18"])
def test_the_lines_on_the_card_load_the_timm_file_with_and_without_a_classifier(tmp_path: Path, name: str) -> None:
    _, card = export(write_backbone(tmp_path / "from", name), "timm", tmp_path / "to")
    images = synthetic_images()
    left = run_card(card, {"images": images})
    classifier = left["network"].eval()
    torch.testing.assert_close(classifier.forward_features(images), random_backbone(name)(images))
    assert classifier(images).shape == (2, 20)
    assert left["feature_map"].shape == (2, 512, 2, 3)


def test_safetensors_contain_all_weights_and_metadata(tmp_path: Path) -> None:
    source = write_backbone(tmp_path / "from")
    written = export(source, "safetensors", tmp_path / "to")
    expected = random_backbone("resnet10").state_dict()
    found = load_file(written[0])
    assert set(found) == set(expected)
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    with safe_open(written[0], framework="pt") as file:
        about = json.loads(file.metadata()["orl"])
    assert about["architecture"] == "resnet10"
    assert (about["mean"], about["std"]) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert about["source_digest"] == hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    assert backbones.read_backbone_file(written[0]).name == "resnet10"


def test_features_of_real_images_are_the_same_in_torchvision_and_timm(tmp_path: Path, real_data: Path) -> None:
    source = write_backbone(tmp_path / "from", "resnet18")
    theirs = models.resnet18()
    theirs.load_state_dict(torch.load(export(source, "torchvision", tmp_path)[0], weights_only=True), strict=True)
    timms = timm.create_model("resnet18", num_classes=0, checkpoint_path=export(source, "timm", tmp_path)[0])
    ours = random_backbone("resnet18")
    for image in real_images(real_data):
        expected = ours(image)
        assert torch.equal(torchvision_features(theirs, image), expected)
        assert torch.equal(timms.eval().forward_features(image), expected)


def test_equal_weights_give_equal_bytes_in_another_process_too(tmp_path: Path) -> None:
    source = write_backbone(tmp_path / "from", "resnet18")
    code = (
        "import sys; from pathlib import Path; from orl.export.export import export\n"
        "for to in sys.argv[3:]: export(Path(sys.argv[1]), to, Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "there"), *DETERMINISTIC]
    subprocess.run(command, check=True, timeout=120)
    written = [path for to in DETERMINISTIC for path in export(source, to, tmp_path / "here")]
    assert len(set(written)) == len(written) == 10  # several forms share a folder
    for path in written:
        assert path.read_bytes() == (tmp_path / "there" / path.name).read_bytes(), path.name


def test_files_are_replaced_only_with_overwrite_and_then_all_of_them(tmp_path: Path) -> None:
    source, out = write_backbone(tmp_path / "from"), tmp_path / "to"
    first = export(source, "timm", out)
    before = first[0].read_bytes()
    first[1].unlink()
    other = write_backbone(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match=r"already holds resnet10_timm\.pth; give another folder, or replace"):
        export(other, "timm", out)
    assert first[0].read_bytes() == before
    assert not first[1].exists()
    export(other, "timm", out, overwrite=True)
    assert first[0].read_bytes() != before
    assert sorted(path.name for path in out.iterdir()) == ["resnet10_timm.md", "resnet10_timm.pth"]


def test_the_given_stage_is_exported(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    weights = [
        torch.load(export(run.root, "timm", tmp_path / stage, stage=stage)[0], weights_only=True)["conv1.weight"]
        for stage in ("stage1", "stage3")
    ]
    assert torch.equal(weights[0], random_backbone("resnet10", 0).conv1.weight)
    assert torch.equal(weights[1], random_backbone("resnet10", 1).conv1.weight)


def test_an_unknown_format_and_a_file_as_the_folder_are_refused(tmp_path: Path) -> None:
    source = write_backbone(tmp_path / "from")
    without_type_check = inspect.unwrap(export)
    with pytest.raises(ValueError, match=r"no format is called 'caffe'; there are torchvision, timm, .*, hub-folder"):
        without_type_check(source, "caffe", tmp_path / "to")
    with pytest.raises(ValueError, match=r"backbone\.safetensors is a file; give a folder"):
        export(source, "timm", source)
