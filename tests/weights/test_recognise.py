from collections.abc import Callable

import pytest
import torch
from tests.weights.foreign import LAYOUTS, Weights, below, head, known_resnet, trunk
from torch import nn
from torchvision.models import resnet152, resnext50_32x4d

from orl.weights.convert import ImportedWeights, convert, infer_architecture, numbered_layers, shapes_of
from orl.weights.layouts import from_sequential
from orl.weights.opening import OpenedFile
from orl.weights.recognise import recognise


def imported(weights: Weights, expected: str | None = None) -> ImportedWeights:
    return convert(recognise(OpenedFile(weights, ())), expected)


def without(weights: Weights, *starts: str) -> Weights:
    return {name: value for name, value in weights.items() if not name.startswith(starts)}


def meta(build: Callable[[], nn.Module]) -> Weights:
    with torch.device("meta"):
        return dict(build().state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda weights: without(weights, "layer3.1."),
            r"2, 2, 1, 2 basic blocks.*From resnet18 it differs in 10 weights: it lacks layer3\.1\.conv1\.weight",
        ),
        (lambda weights: without(weights, "layer4."), r"2, 2, 2 basic blocks.*it lacks layer4\.0\.conv1\.weight"),
        (lambda weights: without(weights, "bn1.bias"), r"differs in 1 weights: it lacks bn1\.bias"),
        (lambda weights: weights | {"layer5.0.conv1.weight": torch.ones(1)}, r"it has layer5\.0\.conv1\.weight"),
        (lambda weights: weights | {"layer1.0.se.weight": torch.ones(1)}, r"it has layer1\.0\.se\.weight"),
        (lambda weights: weights | {"extra.weight": torch.ones(1)}, r"differs in 1 weights: it has extra\.weight"),
        (
            lambda weights: weights | {"conv1.weight": torch.ones(64, 3, 3, 3)},
            r"conv1\.weight is 64 x 3 x 3 x 3 and not 64 x 3 x 7 x 7",
        ),
        (lambda weights: weights | {"bn1.bias": torch.full((64,), torch.nan)}, r"bn1\.bias holds NaN or infinity"),
        (lambda weights: weights | {"bn1.bias": torch.full((64,), torch.inf)}, r"bn1\.bias holds NaN or infinity"),
        (
            lambda weights: weights | {"bn1.running_var": torch.linspace(-0.5, 1, 64)},
            r"bn1\.running_var holds the negative variance -0\.5; the file is damaged",
        ),
        # Finite in double precision, and not in single.
        (lambda weights: weights | {"bn1.bias": torch.full((64,), 1e300, dtype=torch.float64)}, r"NaN or infinity"),
        (lambda weights: weights | {"bn1.bias": torch.ones(64).int()}, r"bn1\.bias has dtype int32; weights must"),
        (lambda weights: weights | {"bn1.bias": torch.ones(64) * 1j}, r"bn1\.bias has dtype complex64; weights must"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module.encoder_q."])
def test_a_damaged_resnet_is_refused(change: Callable[[Weights], Weights], message: str, prefix: str) -> None:
    weights = change(trunk(known_resnet("resnet18")))
    with pytest.raises(ValueError, match=message):
        imported(below(prefix, weights))


def test_an_extra_layer_under_detectron2s_names_is_refused() -> None:
    weights = {
        name: torch.from_numpy(x) for name, x in LAYOUTS["detectron2"](known_resnet(), 512).content["model"].items()
    }
    with pytest.raises(ValueError, match=r"it has res6\.0\.conv1\.weight"):
        imported(weights | {"res6.0.conv1.weight": torch.ones(1)})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (resnet152, r"torchvision's resnet152 \(3, 8, 36, 3 bottleneck blocks\).*--architecture resnet152"),
        (resnext50_32x4d, r"torchvision's resnext50_32x4d \(3, 4, 6, 3 bottleneck blocks\)"),
    ],
)
def test_a_torchvision_resnet_that_orl_cannot_train_is_named(build: Callable[[], nn.Module], message: str) -> None:
    shapes = shapes_of(without(meta(build), "fc."))
    with pytest.raises(ValueError, match=message):
        infer_architecture(shapes)


def test_misshapen_and_stray_batch_counts_are_ignored() -> None:
    weights = trunk(known_resnet())
    weights |= {"bn1.num_batches_tracked": torch.tensor([5]), "layer1.0.bn1.num_batches_tracked": torch.ones(2)}
    found = imported(weights | {"layer9.0.bn1.num_batches_tracked": torch.tensor(3)}).backbone.state_dict()
    assert found["bn1.num_batches_tracked"].item() == 5
    assert found["layer1.0.bn1.num_batches_tracked"].item() == 0
    assert found["layer1.0.bn2.num_batches_tracked"].item() == 7


def test_an_unknown_depth_is_described() -> None:
    weights = trunk(known_resnet())
    deeper = {name.replace("layer1.0", "layer1.1"): value for name, value in weights.items() if "layer1.0" in name}
    with pytest.raises(ValueError, match=r"has 2, 1, 1, 1 basic blocks, and is none of resnet10, resnet18"):
        imported(weights | deeper)


def test_a_wrong_depth_is_refused_when_another_is_expected() -> None:
    with pytest.raises(ValueError, match=r"a resnet10 \(1, 1, 1, 1 basic blocks\), not a resnet18"):
        imported(trunk(known_resnet()), "resnet18")
    with pytest.raises(ValueError, match="no backbone is called 'resnet9'; there are resnet10"):
        imported(trunk(known_resnet()), "resnet9")
    with pytest.raises(ValueError, match=r"From resnet18 it differs in .* weights: it lacks bn1\.bias"):
        imported(without(trunk(known_resnet()), "bn1.bias"), "resnet18")


@pytest.mark.parametrize("layout", ["moco_v2", "lightly_byol", "published_orl"])
def test_the_nearest_layout_is_named_when_none_fits(layout: str) -> None:
    file = LAYOUTS[layout](known_resnet(), 512)
    weights = {
        name: value for name, value in file.content["state_dict"].items() if "conv1" not in name and ".0.0." not in name
    }
    first = ", ".join(name.removeprefix("module.") for name in list(weights)[:2])
    with pytest.raises(
        ValueError, match=rf"the nearest is {file.layout.replace('(', '.').replace(')', '.')}, .*names are {first}"
    ):
        imported(weights)


def test_no_layout_is_near_a_transformer() -> None:
    weights = {"cls_token": torch.zeros(1), "blocks.0.attn.qkv.weight": torch.zeros(3, 1), "norm.bias": torch.zeros(1)}
    with pytest.raises(
        ValueError, match=r"no known layout is near\. Its first names are cls_token, blocks\.0\.attn\.qkv\.weight"
    ):
        imported(weights)


def test_two_networks_without_a_known_layout_are_refused() -> None:
    weights = below("left.", trunk(known_resnet())) | below("right.", trunk(known_resnet(seed=1)))
    with pytest.raises(
        ValueError, match="its layout is unknown, and it has the networks left, right; give one of them"
    ):
        imported(weights)
    right = convert(recognise(OpenedFile(weights, ()), "right"))
    assert torch.equal(right.backbone.conv1.weight, weights["right.conv1.weight"])


def test_wrapper_prefixes_are_removed_in_either_order() -> None:
    for prefix in ("module._orig_mod.", "_orig_mod.module."):
        assert imported(below(prefix, trunk(known_resnet()))).layout == "torchvision or timm"


def test_part_numbers_written_out_by_hand() -> None:
    assert from_sequential("0.weight") == "conv1.weight"
    assert from_sequential("1.running_var") == "bn1.running_var"
    assert from_sequential("4.0.conv1.weight") == "layer1.0.conv1.weight"
    assert from_sequential("7.1.bn2.bias") == "layer4.1.bn2.bias"
    with pytest.raises(ValueError, match=r"'9\.weight' is not a weight"):
        from_sequential("9.weight")


def test_layer_numbers_written_out_by_hand() -> None:
    one = torch.ones(1)
    assert list(numbered_layers({"weight": one, "bias": one})) == ["0.weight", "0.bias"]
    names = {"fc0.weight": one, "bn0.bias": one, "fc1.weight": one, "bn1.running_mean": one}
    assert list(numbered_layers(names)) == ["0.weight", "1.bias", "3.weight", "4.running_mean"]
    assert list(numbered_layers({"0.weight": one, "2.bias": one})) == ["0.weight", "2.bias"]


def test_a_normalisation_without_affine_weights_gets_ones_and_zeros() -> None:
    projector = imported(LAYOUTS["simsiam"](known_resnet(), 512).content["state_dict"]).projector
    assert projector is not None
    assert projector[7].weight.tolist() == [1.0] * 16
    assert projector[7].bias.tolist() == [0.0] * 16


@pytest.mark.parametrize(("entry", "value"), [("1.running_var", -1.0), ("0.weight", torch.nan), ("3.bias", torch.inf)])
def test_a_head_with_values_that_cannot_be_is_refused_and_not_left_out(entry: str, value: float) -> None:
    projector = head(512, 32, 16, norms="x.", biases="xx").state_dict()
    projector[entry] = torch.full_like(projector[entry], value)
    with pytest.raises(ValueError, match=rf"^{entry[0]}\.{entry[2:]} holds (NaN or infinity|the negative variance -1)"):
        imported(below("backbone.", trunk(known_resnet())) | below("projector.", projector))


def test_heads_are_returned_in_float32() -> None:
    weights = below("backbone.", trunk(known_resnet()))
    weights |= {
        name: value.half()
        for name, value in below("projector.", head(512, 8, norms=".", biases="x").state_dict()).items()
    }
    found = imported(weights)
    assert found.projector is not None
    assert found.projector[0].weight.dtype == torch.float32
    assert "its weights were converted from float16 to float32" in found.notes
