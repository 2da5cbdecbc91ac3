import math

import pytest
import torch
from torch import nn

from orl.networks.backbones import build_backbone, register_backbone
from orl.networks.initial_weights import initialise
from orl.networks.mlp import byol_mlp, conv1x1, moco_mlp


def test_fan_in_weights_have_the_published_standard_deviations() -> None:
    torch.manual_seed(0)
    backbone = build_backbone("resnet50", "fan-in")
    # sqrt(2 / fan-in) by hand: 7 x 7 of 3 channels; 3 x 3 of 64; 1 x 1 of 1,024, 512 and 2,048.
    expected = {
        "conv1.weight": 0.1166,
        "layer1.0.conv2.weight": 0.0589,
        "layer4.0.downsample.0.weight": 0.0442,
        "layer4.0.conv3.weight": 0.0625,
        "layer4.2.conv1.weight": 0.03125,
    }
    for name, std in expected.items():
        weight = backbone.get_parameter(name).detach()
        assert float(weight.std()) == pytest.approx(std, rel=5 / math.sqrt(2 * weight.numel()))
        assert abs(float(weight.mean())) < 5 * std / math.sqrt(weight.numel())


def test_fan_in_reaches_every_convolution_and_linear_layer() -> None:
    torch.manual_seed(0)
    dense = conv1x1(moco_mlp(300, 200, 100))
    for network in (
        build_backbone("resnet18", "fan-in"),
        *(initialise(each, "fan-in") for each in (dense, byol_mlp(300, 200, 100))),
    ):
        for part in network.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                std = math.sqrt(2 / part.weight[0].numel())
                assert float(part.weight.detach().std()) == pytest.approx(
                    std, rel=5 / math.sqrt(2 * part.weight.numel())
                )
                # A normal distribution has this kurtosis, and a uniform one 1.8.
                kurtosis = (part.weight.detach() / std).pow(4).mean()
                assert float(kurtosis) == pytest.approx(3, abs=5 * math.sqrt(96 / part.weight.numel()))
                assert part.bias is None or not part.bias.any()
            elif isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d):
                assert bool((part.weight == 1).all())
                assert not part.bias.any()


def test_torchvisions_weights_are_those_of_construction() -> None:
    torch.manual_seed(0)
    layers = byol_mlp(8, 16, 4)
    before = {name: value.clone() for name, value in layers.state_dict().items()}
    state = torch.get_rng_state()
    initialise(layers, "torchvision")
    assert all(torch.equal(value, before[name]) for name, value in layers.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    conv1 = build_backbone("resnet18").get_parameter("conv1.weight").detach()
    assert float(conv1.std()) == pytest.approx(math.sqrt(2 / (64 * 49)), rel=0.05)


def test_a_module_from_python_keeps_its_weights() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    found = build_backbone(register_backbone(module), "fan-in")
    assert torch.equal(found.get_parameter("body.0.weight"), module[0].weight)
