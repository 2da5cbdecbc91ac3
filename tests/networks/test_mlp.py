"""A projector read back is the projector that was saved, whatever its form."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

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
