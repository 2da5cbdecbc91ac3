"""The five feature levels: their place in the network, and their pooling."""

import pytest
import torch
from torchvision.models import resnet50

from orl.evaluation.classification.classifier import features_of_heads, normalised_heads
from orl.evaluation.classification.levels import FEATURE_LEVELS, feature_levels
from orl.evaluation.pooling import pool_level
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
    backbone = build_backbone("resnet18").eval()
    images = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        features = features_of_heads(backbone, images, FEATURE_LEVELS)
    # 9,216 numbers or fewer: 48x48x64, 24x24x64, 12x12x128, 6x6x256 and 3x3x512 positions and channels.
    assert {name: tuple(found.shape[1:]) for name, found in features.items()} == {
        "conv1": (64, 12, 12),
        "res2": (64, 12, 12),
        "res3": (128, 8, 8),
        "res4": (256, 6, 6),
        "res5": (512, 3, 3),
    }
    heads = normalised_heads(backbone, FEATURE_LEVELS, 3, 96)
    assert all(heads[name](found).shape == (2, 3) for name, found in features.items())


def test_every_level_is_normalised_without_scale_and_shift() -> None:
    """OpenSelfSup's MultiClsHead in ORL's configs: norm_cfg=dict(type='SyncBN', momentum=0.1, affine=False)."""
    for normalise, _, linear in normalised_heads(build_backbone("resnet10"), FEATURE_LEVELS, 3, 64).values():
        assert (normalise.affine, normalise.momentum, normalise.eps) == (False, 0.1, 1e-5)
        assert list(normalise.parameters()) == []
        assert linear.bias.eq(0).all()


def test_levels_need_a_resnet() -> None:
    network = ImageNetInputBackbone(build_architecture("mobilenet_v3_small"))
    with pytest.raises(ValueError, match=r"--levels needs a ResNet of orl, got torchvision/mobilenet_v3_small"):
        normalised_heads(network, FEATURE_LEVELS, 3, 64)
