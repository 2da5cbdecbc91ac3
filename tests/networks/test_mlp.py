"""A projector read back is the projector that was saved, whatever its form."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from orl.networks.backbones import build_backbone, read_backbone_file, save_backbone
from orl.networks.mlp import (
    build_mlp,
    byol_mlp,
    conv1x1,
    load_projector,
    moco_mlp,
    save_projector,
    simclr_mlp,
)

FORMS = [byol_mlp, moco_mlp, simclr_mlp]


@pytest.mark.parametrize("form", FORMS)
def test_a_projector_is_rebuilt_from_its_weights(form: Callable[..., nn.Sequential], tmp_path: Path) -> None:
    projector = form(6, 5, 4)
    inputs = torch.randn(7, 6, generator=torch.Generator().manual_seed(0))
    projector(inputs)  # moves the running statistics
    save_projector(projector, tmp_path / "projector.safetensors")
    again = load_projector(tmp_path / "projector.safetensors")
    assert [type(layer) for layer in again] == [type(layer) for layer in projector]
    assert torch.equal(again(inputs), projector.eval()(inputs))


VALUES = [("weight", torch.nan, "NaN or infinity"), ("running_var", -0.5, r"the negative variance -0\.5")]


@pytest.mark.parametrize(("entry", "value", "message"), VALUES)
def test_a_saved_network_with_values_that_cannot_be_is_refused(
    entry: str, value: float, message: str, tmp_path: Path
) -> None:
    projector, backbone = byol_mlp(6, 5, 4), build_backbone("resnet10")
    with torch.no_grad():
        projector[1].state_dict()[entry][0] = value
        backbone.bn1.state_dict()[entry][0] = value
    save_projector(projector, tmp_path / "projector.safetensors")
    with pytest.raises(ValueError, match=rf"projector\.safetensors: 1\.{entry} holds {message}"):
        load_projector(tmp_path / "projector.safetensors")
    save_backbone(backbone, tmp_path / "backbone.safetensors")
    with pytest.raises(ValueError, match=rf"backbone\.safetensors: bn1\.{entry} holds {message}"):
        read_backbone_file(tmp_path / "backbone.safetensors")


@pytest.mark.parametrize("form", FORMS)
def test_conv1x1_equals_the_linear_layers_at_every_position(form: Callable[..., nn.Sequential]) -> None:
    layers = form(6, 5, 4).double()
    maps = conv1x1(layers).double()
    maps.load_state_dict(
        {name: value.reshape(maps.state_dict()[name].shape) for name, value in layers.state_dict().items()}
    )
    inputs = torch.randn(3, 6, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = layers(inputs.permute(0, 2, 3, 1).reshape(-1, 6))
    torch.testing.assert_close(maps(inputs), rows.reshape(3, 2, 4, 4).permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    "weights",
    [
        {"fc.weight": torch.ones(2, 2)},
        {"0.weight": torch.ones(2, 2, 1, 1)},
        {"0.weight": torch.ones(2, 2), "0.scale": torch.ones(2)},
    ],
)
def test_weights_of_something_else_are_refused(weights: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match=next(iter(weights))):
        build_mlp(weights)
