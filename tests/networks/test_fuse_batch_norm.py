import pytest
import torch
from torch import nn
from torch.nn import functional

from orl.networks.backbones import BUILDERS, Backbone, build_backbone, pool
from orl.networks.fuse_batch_norm import fuse_batch_norm


def trained(name: str) -> Backbone:
    """A backbone whose normalisations have statistics and weights that matter."""
    torch.manual_seed(0)
    backbone = build_backbone(name)
    generator = torch.Generator().manual_seed(1)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            shape = (module.num_features,)
            module.weight.data = 0.5 + torch.rand(shape, generator=generator)
            module.bias.data = 0.2 * torch.randn(shape, generator=generator)
            # Momentum none gathers the plain mean: after this one batch, the statistics of this batch.
            module.momentum = None
    with torch.no_grad():
        backbone(torch.randn(4, 3, 64, 64, generator=generator))
    return backbone


@pytest.mark.parametrize("name", BUILDERS)
def test_a_fused_backbone_gives_the_same_feature_map(name: str) -> None:
    backbone = trained(name).double()
    views = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    folded = fuse_batch_norm(backbone)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.no_grad():
        expected = backbone.eval()(views)
        torch.testing.assert_close(folded(views), expected)
    assert expected.std() > 0.1


@pytest.mark.parametrize("name", BUILDERS)
def test_embeddings_of_a_fused_backbone_are_the_same_in_float32(name: str) -> None:
    backbone = trained(name)
    views = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        folded, expected = (
            functional.normalize(pool(network(views)), dim=1)
            for network in (fuse_batch_norm(backbone), backbone.eval())
        )
    # Up to a hundred layers of rounding; the test before shows the formula.
    torch.testing.assert_close(folded, expected, rtol=0, atol=1e-4)


def test_fusing_leaves_the_network_unchanged() -> None:
    backbone = trained("resnet10")
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    folded = fuse_batch_norm(backbone)
    assert backbone.training
    assert not folded.training
    assert folded.num_channels == backbone.num_channels
    with torch.no_grad():
        for weight in folded.parameters():
            weight.zero_()
    torch.testing.assert_close(backbone.state_dict(), before, rtol=0, atol=0)


def test_fusing_one_convolution_by_hand() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0.0)).double()
    convolution, normalisation = network
    convolution.weight.data.fill_(3.0)
    convolution.bias.data.fill_(1.0)
    normalisation.running_mean.fill_(5.0)
    normalisation.running_var.fill_(4.0)
    normalisation.weight.data.fill_(10.0)
    normalisation.bias.data.fill_(7.0)
    folded = fuse_batch_norm(network)
    # 10 (3 x + 1 - 5) / 2 + 7 = 15 x - 13
    assert folded[0].weight.item() == 15
    assert folded[0].bias.item() == -13


def test_a_network_without_normalisation_is_copied() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    torch.testing.assert_close(fuse_batch_norm(network).state_dict(), network.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)], "cannot fuse 0.0 .*it follows None"),
        ([nn.Conv2d(3, 3, 1), nn.ReLU(), nn.BatchNorm2d(3)], r"cannot fuse 0.2 .*it follows ReLU\(\)"),
        ([nn.Conv2d(3, 4, 1), nn.BatchNorm2d(3)], r"cannot fuse 0.1 \(BatchNorm2d\(3.*it follows Conv2d\(3, 4"),
    ],
)
def test_a_normalisation_without_a_convolution_before_it_is_refused(parts: list[nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fuse_batch_norm(nn.Sequential(nn.Sequential(*parts)))
