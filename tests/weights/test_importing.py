import hashlib
import pickle
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from tests.weights import foreign
from tests.weights.foreign import LAYOUTS, feature_map_of, known_resnet, trunk

from orl.methods.orl import ORL
from orl.networks.backbones import build_backbone, read_backbone_file, save_backbone
from orl.networks.mlp import byol_mlp, load_projector
from orl.networks.online_target import Encoder
from orl.weights.importing import import_weights, write_imported


def images(count: int = 2, side: int = 64) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def rows(width: int, count: int = 3) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(0))


def save(content: object, path: Path) -> Path:
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    return path


def assert_same_weights(found: torch.nn.Module, expected: dict[str, torch.Tensor]) -> None:
    weights = found.state_dict()
    names = {name for name in weights if not name.endswith("num_batches_tracked")}
    assert names == {name for name in expected if not name.endswith("num_batches_tracked")}
    assert all(torch.equal(weights[name], expected[name]) for name in names)


CASES = [
    *((layout, "resnet10") for layout in LAYOUTS),
    ("moco_v2", "resnet50"),
    ("detectron2", "resnet50"),
    ("lightly_byol", "resnet18"),
]


@pytest.mark.parametrize(("layout", "name"), CASES)
@torch.no_grad()
def test_every_layout_gives_the_network_that_was_written(layout: str, name: str, tmp_path: Path) -> None:
    resnet, width = known_resnet(name), foreign.WIDTH[name]
    file = LAYOUTS[layout](resnet, width)
    path = save(file.content, tmp_path / ("weights.pkl" if layout == "detectron2" else "weights.pth"))
    imported = import_weights(path)
    assert (imported.layout, imported.backbone.name, imported.backbone.num_channels) == (file.layout, name, width)
    assert_same_weights(imported.backbone, trunk(resnet))
    assert torch.equal(imported.backbone(images()), feature_map_of(resnet, images()))
    for found, expected in ((imported.projector, file.projector), (imported.predictor, file.predictor)):
        assert (found is None) == (expected is None)
        if found is not None and expected is not None:
            num_inputs = next(iter(expected.parameters())).shape[1]
            assert torch.equal(found(rows(num_inputs)), expected(rows(num_inputs)))


@torch.no_grad()
def test_weights_of_timm_give_timms_feature_map(tmp_path: Path) -> None:
    network = timm.create_model("resnet18").eval()
    foreign.randomise_statistics(network)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    imported = import_weights(tmp_path / "model.safetensors")
    assert imported.backbone.name == "resnet18"
    assert torch.equal(imported.backbone(images()), network.forward_features(images()))
    assert any("fc (2)" in note for note in imported.notes)


def test_an_orl_backbone_is_imported_unchanged(tmp_path: Path) -> None:
    backbone = build_backbone("resnet10")
    save_backbone(backbone, tmp_path / "backbone.safetensors")
    imported = import_weights(tmp_path / "backbone.safetensors")
    assert_same_weights(imported.backbone, backbone.state_dict())
    assert imported.notes == ()


def test_orl_checkpoints_are_imported(tmp_path: Path) -> None:
    predictors = {term: byol_mlp(8, 16, 8) for term in ("global", "intra", "inter")}
    method = ORL(Encoder(build_backbone("resnet10"), byol_mlp(512, 16, 8)), predictors, dict.fromkeys(predictors, 1.0))
    method.target.backbone.conv1.weight.zero_()
    path = save({"orl_checkpoint": 1, "step": 3, "method": method.state_dict(), "precision": {}}, tmp_path / "a.ckpt")
    imported = import_weights(path)
    assert imported.layout == "orl checkpoint"
    assert_same_weights(imported.backbone, method.online.backbone.state_dict())
    assert imported.projector is not None
    assert imported.predictor is not None
    assert_same_weights(imported.projector, method.online.projector.state_dict())
    assert_same_weights(imported.predictor, predictors["global"].state_dict())


def test_missing_facts_of_detectron2_files_are_noted(tmp_path: Path) -> None:
    path = save(LAYOUTS["detectron2"](known_resnet(), 512).content, tmp_path / "weights.pkl")
    notes = import_weights(path).notes
    assert any("STRIDE_IN_1X1 False, on RGB images" in note for note in notes)


def test_the_trained_network_is_used_and_the_average_noted(tmp_path: Path) -> None:
    for layout in ("published_orl", "moco_v2", "openselfsup_byol", "lightly_byol", "solo_learn_byol", "orl_checkpoint"):
        path = save(LAYOUTS[layout](known_resnet(), 512).content, tmp_path / "weights.pth")
        assert any("moving average left out" in note for note in import_weights(path).notes), layout


def test_left_out_weights_are_counted_in_the_notes(tmp_path: Path) -> None:
    path = save(LAYOUTS["densecl"](known_resnet(), 512).content, tmp_path / "weights.pth")
    notes = import_weights(path).notes
    assert "left out, with the number of weights: queue (1), queue2 (1), encoder_q (4)" in notes


def test_batch_counts_are_kept_and_zero_where_missing(tmp_path: Path) -> None:
    for layout, expected in (("moco_v2", 7), ("detectron2_detector", 0)):
        path = save(LAYOUTS[layout](known_resnet(), 512).content, tmp_path / "weights.pth")
        assert import_weights(path).backbone.state_dict()["bn1.num_batches_tracked"].item() == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_converted_to_float32_and_noted(dtype: torch.dtype, tmp_path: Path) -> None:
    weights = {
        name: value.to(dtype) if value.is_floating_point() else value for name, value in half_of_resnet().items()
    }
    imported = import_weights(save(weights, tmp_path / "weights.pth"))
    assert imported.backbone.conv1.weight.dtype == torch.float32
    assert torch.equal(imported.backbone.conv1.weight, weights["conv1.weight"].float())
    assert f"its weights were converted from {str(dtype)[6:]} to float32" in imported.notes


def half_of_resnet() -> dict[str, torch.Tensor]:
    return trunk(known_resnet())


def test_importing_leaves_the_random_state_unchanged(tmp_path: Path) -> None:
    path = save(LAYOUTS["moco_v2"](known_resnet(), 512).content, tmp_path / "weights.pth")
    state = torch.get_rng_state()
    import_weights(path)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_head_that_orl_cannot_build_is_left_out_and_noted(tmp_path: Path) -> None:
    weights = LAYOUTS["moco_v2"](known_resnet(), 512).content["state_dict"]
    weights["module.encoder_q.fc.0.weight"] = torch.randn(32, 100)
    imported = import_weights(save(weights, tmp_path / "weights.pth"))
    assert imported.projector is None
    assert any("its projector was left out: layer 0 expects 100 inputs, got 512" in x for x in imported.notes)


def test_imported_networks_are_written_and_read_back(tmp_path: Path) -> None:
    file = LAYOUTS["published_orl"](known_resnet(), 512)
    source = save(file.content, tmp_path / "published.pth")
    imported = import_weights(source)
    written = write_imported(imported, tmp_path / "out", source)
    assert [path.name for path in written] == ["backbone.safetensors", "projector.safetensors", "predictor.safetensors"]
    assert_same_weights(read_backbone_file(written[0]), trunk(known_resnet()))
    for path, head in zip(written[1:], (file.projector, file.predictor), strict=True):
        assert_same_weights(load_projector(path), head.state_dict())


def test_the_written_backbone_notes_its_source(tmp_path: Path) -> None:
    source = save(LAYOUTS["torchvision_file"](known_resnet(), 512).content, tmp_path / "theirs.pth")
    written = write_imported(import_weights(source), tmp_path / "out", source)
    assert [path.name for path in written] == ["backbone.safetensors"]
    header = written[0].read_bytes()[:4096]
    for text in ("torchvision or timm", "theirs.pth", hashlib.sha256(source.read_bytes()).hexdigest()):
        assert text.encode() in header


def test_existing_files_are_replaced_only_with_overwrite(tmp_path: Path) -> None:
    source = save(LAYOUTS["published_orl"](known_resnet(), 512).content, tmp_path / "published.pth")
    other = save(LAYOUTS["torchvision_file"](known_resnet(seed=1), 512).content, tmp_path / "theirs.pth")
    write_imported(import_weights(source), tmp_path / "out", source)
    with pytest.raises(ValueError, match=r"backbone\.safetensors exists already.*--overwrite"):
        write_imported(import_weights(other), tmp_path / "out", other)
    assert_same_weights(read_backbone_file(tmp_path / "out" / "backbone.safetensors"), trunk(known_resnet()))
    write_imported(import_weights(other), tmp_path / "out", other, overwrite=True)
    # The heads of the backbone that was replaced are gone with it.
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["backbone.safetensors"]
    assert_same_weights(read_backbone_file(tmp_path / "out" / "backbone.safetensors"), trunk(known_resnet(seed=1)))


def test_the_path_is_in_the_message(tmp_path: Path) -> None:
    path = save({"a": torch.zeros(1)}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"weights\.pth: its layout is unknown"):
        import_weights(path)


def test_an_expected_backbone_is_checked(tmp_path: Path) -> None:
    path = save(LAYOUTS["moco_v2"](known_resnet(), 512).content, tmp_path / "weights.pth")
    assert import_weights(path, "resnet10").backbone.name == "resnet10"
    with pytest.raises(ValueError, match=r"a resnet10 \(1, 1, 1, 1 basic blocks\), not a resnet50"):
        import_weights(path, "resnet50")
