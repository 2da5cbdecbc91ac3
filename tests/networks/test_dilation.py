"""Dilated last stages: against torchvision's own, and by hand for basic blocks."""

import pytest
import torch
import torchvision
from torch import nn

from orl.networks.backbones import build_backbone
from orl.networks.dilation import dilate_last_stage


def test_a_bottleneck_resnet_equals_torchvisions_dilated_one() -> None:
    torch.manual_seed(0)
    ours = torchvision.models.resnet50(weights=None).eval()
    theirs = torchvision.models.resnet50(weights=None, replace_stride_with_dilation=[False, False, True]).eval()
    theirs.load_state_dict(ours.state_dict())
    dilated = dilate_last_stage(ours)
    assert dilated is not None
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(dilated(images), theirs(images))


@pytest.mark.parametrize("name", ["resnet10", "resnet18"])
def test_basic_blocks_have_twice_the_resolution_and_the_same_values_on_the_coarse_grid(name: str) -> None:
    network = build_backbone(name).eval()
    dilated = dilate_last_stage(network)
    assert dilated is not None
    images = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        coarse, fine = network(images), dilated(images)
    assert fine.shape[2:] == (6, 6)
    assert coarse.shape[2:] == (3, 3)
    # Only the first convolution of a stage sees other pixels; one block without padding effects is equal.
    if name == "resnet10":
        torch.testing.assert_close(fine[:, :, ::2, ::2], coarse)
    assert {key: value.shape for key, value in dilated.state_dict().items()} == {
        key: value.shape for key, value in network.state_dict().items()
    }
    assert network(images).shape == coarse.shape  # the given network is unchanged


def test_other_networks_are_not_dilated() -> None:
    assert dilate_last_stage(nn.Sequential(nn.Conv2d(3, 4, 3))) is None
