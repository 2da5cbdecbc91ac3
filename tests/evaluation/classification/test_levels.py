"""The five feature levels: their place in the network, and their pooling."""

import pytest
import torch
from torchvision.models import resnet50

from orl.evaluation.classification.classifier import level_heads
from orl.evaluation.classification.levels import LevelHead, feature_levels, level_channels, pool_level
from orl.networks.backbones import build_backbone
from orl.weights.architectures import ImageNetInputBackbone, build_architecture


def test_the_levels_of_resnet_50_at_224_px_have_the_published_sizes() -> None:
    backbone = build_backbone("resnet50")
    with torch.no_grad():
        maps = feature_levels(backbone.eval(), torch.zeros(1, 3, 224, 224))
    pooled = {name: tuple(pool_level(found).shape[1:]) for name, found in maps.items()}
    assert pooled == {
        "conv1": (64, 12, 12),
        "res2": (256, 6, 6),
        "res3": (512, 4, 4),
        "res4": (1024, 3, 3),
        "res5": (2048, 2, 2),
    }


def test_the_levels_equal_torchvisions_feature_maps() -> None:
    torch.manual_seed(0)
    backbone, network = build_backbone("resnet50").eval(), resnet50().eval()
    network.load_state_dict(backbone.state_dict(), strict=False)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        maps = feature_levels(backbone, images)
        x = network.relu(network.bn1(network.conv1(images)))
        assert torch.equal(maps["conv1"], x)
        x = network.layer1(network.maxpool(x))
        assert torch.equal(maps["res2"], x)
        x = network.layer4(network.layer3(network.layer2(x)))
        assert torch.equal(maps["res5"], x)


def test_a_published_window_averages_its_pixels() -> None:
    feature_map = torch.rand(1, 2048, 7, 7, generator=torch.Generator().manual_seed(0))
    pooled = pool_level(feature_map)
    # Windows of 6 at a stride of 1: each corner leaves out one row and one column.
    torch.testing.assert_close(pooled[0, :, 0, 1], feature_map[0, :, :6, 1:].mean(dim=(1, 2)))


def test_other_sizes_are_pooled_to_about_9000_values_and_not_enlarged() -> None:
    for name, (channels, side) in level_channels(build_backbone("resnet18"), 96).items():
        shape = pool_level(torch.zeros(1, channels, side, side)).shape
        assert shape[2] <= side
        assert shape[1] * shape[2] ** 2 <= 10_000, name
        assert LevelHead(channels, side, 3)(torch.zeros(2, channels, side, side)).shape == (2, 3)


def test_levels_need_a_resnet() -> None:
    network = ImageNetInputBackbone(build_architecture("mobilenet_v3_small"))
    with pytest.raises(ValueError, match=r"--levels needs a ResNet of orl, got torchvision/mobilenet_v3_small"):
        level_heads(network, 3, 64)
