import hashlib
import pickle
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tests.weights import foreign
from tests.weights.foreign import LAYOUTS, feature_map_of, known_resnet, trunk

from orl.config import DiscoverConfig
from orl.methods.orl import ORL
from orl.networks.backbones import build_backbone, read_backbone_file, save_backbone
from orl.networks.mlp import byol_mlp, load_projector
from orl.networks.online_target import Encoder
from orl.pipeline.feature_extractor import load_external_extractor
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


AVERAGES = [
    # Layout, network taken, network left, name that takes the other, whether its projector is in the file.
    ("published_orl", "online_net.0", "target_net.0", "target_net", True),
    ("published_orl_stage_1", "online_net.0", "target_net.0", "target_net.0", True),
    ("openselfsup_byol", "online_net.0", "target_net.0", "target_net", True),
    ("mmselfsup_byol", "backbone", "target_net.module.0", "target_net", True),
    ("densecl", "encoder_q.0", "encoder_k.0", "encoder_k", True),
    ("openselfsup_moco_v1", "encoder_q.0", "encoder_k.0", "encoder_k", True),
    ("moco_v1", "encoder_q", "encoder_k", "encoder_k", True),
    ("moco_v2", "encoder_q", "encoder_k", "encoder_k", True),
    ("moco_v3", "base_encoder", "momentum_encoder", "momentum_encoder", True),
    ("mmselfsup_moco", "backbone", "encoder_k.module.0", "encoder_k", True),
    ("lightly_byol", "backbone", "backbone_momentum", "backbone_momentum", True),
    ("solo_learn_byol", "backbone", "momentum_backbone", "momentum_backbone", True),
    ("old_solo_learn", "encoder", "momentum_encoder", "momentum_encoder", False),
    ("orl_checkpoint", "online.backbone", "target.backbone", "target", True),
    ("dino", "student.backbone", "teacher.backbone", "teacher", False),
    ("timm_with_average", "state_dict", "state_dict_ema", "state_dict_ema", False),
    ("torchvision_with_average", "model", "model_ema.module", "model_ema", False),
    ("student_and_teacher", "student", "teacher", "teacher", False),
]


@pytest.mark.parametrize(("layout", "taken", "left", "name", "has_projector"), AVERAGES)
def test_the_network_taken_and_the_one_left_are_named_and_the_other_is_taken_by_name(
    layout: str, taken: str, left: str, name: str, has_projector: bool, tmp_path: Path
) -> None:
    file = LAYOUTS[layout](known_resnet(), 512)
    path = save(file.content, tmp_path / "weights.pth")
    choice = "the network {} was taken, and {} left; 'orl import --network NAME' takes another"
    assert import_weights(path).choice == choice.format(taken, left)
    average = import_weights(path, network=name)
    assert average.choice.startswith(f"the network {left} was taken, and ")
    assert_same_weights(average.backbone, foreign.scaled(trunk(known_resnet()), 0.5))
    assert (average.projector is not None) == has_projector
    if average.projector is not None and file.projector is not None:
        halves = foreign.scaled(file.projector.state_dict(), 0.5)
        expected = {key: halves.get(key, value) for key, value in average.projector.state_dict().items()}
        assert_same_weights(average.projector, expected)
    assert average.predictor is None


def test_one_network_registered_twice_is_not_named_as_two(tmp_path: Path) -> None:
    for layout in ("openselfsup_simclr", "swav", "mmdet", "detectron2_detector", "torchvision_file"):
        path = save(LAYOUTS[layout](known_resnet(), 512).content, tmp_path / "weights.pth")
        assert import_weights(path).choice == "", layout


def test_a_network_that_the_file_does_not_have_is_refused_with_those_it_has(tmp_path: Path) -> None:
    path = save(LAYOUTS["published_orl"](known_resnet(), 512).content, tmp_path / "weights.pth")
    known = r"it has online_net\.0, target_net\.0, backbone"
    with pytest.raises(ValueError, match=rf"weights\.pth: --network teacher names 0 of its networks; {known}"):
        import_weights(path, network="teacher")


@torch.no_grad()
@pytest.mark.parametrize("layout", ["published_orl", "published_orl_stage_1", "openselfsup_byol"])
@pytest.mark.parametrize("is_imported", [True, False])
def test_discovery_embeds_with_a_published_checkpoint_as_the_published_code(
    layout: str, is_imported: bool, tmp_path: Path
) -> None:
    """Its extractor computes `neck(backbone(image))`; here from the checkpoint's own names, by functions of torch."""
    content = LAYOUTS[layout](known_resnet(), 512).content
    path = save(content, tmp_path / "epoch_800.pth")
    if is_imported:
        write_imported(import_weights(path), tmp_path / "imported", path)
        path = tmp_path / "imported"
    extractor = load_external_extractor(DiscoverConfig(feature_extractor=path))
    weights = content["state_dict"]
    resnet = known_resnet(seed=3)
    resnet.load_state_dict(
        {name.removeprefix("backbone."): value for name, value in weights.items() if name.startswith("backbone.")},
        strict=False,
    )
    pooled = feature_map_of(resnet, images()).mean(dim=(2, 3))
    fc0, bn0, fc1 = (
        {name.removeprefix(f"online_net.1.{part}."): value for name, value in weights.items() if f"t.1.{part}." in name}
        for part in (("mlp.0", "mlp.1", "mlp.3") if layout == "openselfsup_byol" else ("fc0", "bn0", "fc1"))
    )
    hidden = F.linear(pooled, fc0["weight"], fc0["bias"])
    hidden = F.batch_norm(hidden, bn0["running_mean"], bn0["running_var"], bn0["weight"], bn0["bias"]).relu()
    expected = F.linear(hidden, fc1["weight"], fc1.get("bias"))
    torch.testing.assert_close(extractor.encoder(images()), expected, rtol=1e-4, atol=1e-5)  # batch norms are fused


def test_left_out_weights_are_counted_in_the_notes(tmp_path: Path) -> None:
    path = save(LAYOUTS["densecl"](known_resnet(), 512).content, tmp_path / "weights.pth")
    notes = import_weights(path).notes
    assert "left out, with the number of weights: queue (1), queue2 (1), encoder_q (4), encoder_k (8)" in notes


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
