"""Projectors and predictors: two layers each, in the forms that the methods' papers give them."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from orl import files
from orl.networks.backbones import cpu_weights

Weights = dict[str, Tensor]


def byol_mlp(num_inputs: int, num_hidden: int, num_outputs: int) -> nn.Sequential:
    """Linear, BN, ReLU, Linear; the last layer has no bias and no BN after it.

    Source:
        BYOL's projector and predictor in the published ORL configuration.
    """
    return nn.Sequential(
        nn.Linear(num_inputs, num_hidden),
        nn.BatchNorm1d(num_hidden),
        nn.ReLU(inplace=True),
        nn.Linear(num_hidden, num_outputs, bias=False),
    )


def moco_mlp(num_inputs: int, num_hidden: int, num_outputs: int) -> nn.Sequential:
    """Linear, ReLU, Linear, both with a bias.

    Source:
        MoCo v2 (arXiv 2003.04297), Section 3.
    """
    return nn.Sequential(nn.Linear(num_inputs, num_hidden), nn.ReLU(inplace=True), nn.Linear(num_hidden, num_outputs))


def simclr_mlp(num_inputs: int, num_hidden: int, num_outputs: int) -> nn.Sequential:
    """Linear, BN, ReLU, Linear, BN; no layer has a bias, since BN has one.

    Source:
        SimCLR's projection head in its published code.
    """
    return nn.Sequential(
        nn.Linear(num_inputs, num_hidden, bias=False),
        nn.BatchNorm1d(num_hidden),
        nn.ReLU(inplace=True),
        nn.Linear(num_hidden, num_outputs, bias=False),
        nn.BatchNorm1d(num_outputs),
    )


def conv1x1(layers: nn.Sequential) -> nn.Sequential:
    """The same layers for feature maps `(N, C, h, w)`: 1 x 1 convolutions in place of linear layers, weights new."""
    return nn.Sequential(*(_for_every_position(layer) for layer in layers))


def _for_every_position(layer: nn.Module) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return nn.Conv2d(layer.in_features, layer.out_features, 1, bias=layer.bias is not None)
    return nn.BatchNorm2d(layer.num_features) if isinstance(layer, nn.BatchNorm1d) else nn.ReLU(inplace=True)


def build_mlp(weights: Weights) -> nn.Sequential:
    """The layers that these weights are of, with them.

    Args:
        weights: of one of the forms above, under their names: '0.weight' and so on. Two dimensions are a linear
            layer, running statistics a BN, and a number that is left out is a ReLU.

    Raises:
        ValueError: if they are not of such a form.
    """
    try:
        numbers = {int(name.partition(".")[0]) for name in weights}
        with torch.random.fork_rng(devices=[]):
            layers = nn.Sequential(*(_layer(weights, number) for number in range(max(numbers, default=-1) + 1)))
        layers.load_state_dict(weights)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"the weights {', '.join(list(weights)[:6])} are not of linear layers and BN: {error}"
        ) from error
    return layers


def _layer(weights: Weights, number: int) -> nn.Module:
    weight = weights.get(f"{number}.weight")
    if weight is None:
        return nn.ReLU(inplace=True)
    if f"{number}.running_mean" in weights:
        return nn.BatchNorm1d(len(weight))
    if weight.ndim != 2:
        raise ValueError(f"{number}.weight has {weight.ndim} dimensions")
    return nn.Linear(weight.shape[1], weight.shape[0], bias=f"{number}.bias" in weights)


def save_projector(projector: nn.Module, path: Path) -> None:
    """Write the weights as safetensors."""
    files.write_atomically(path, save(cpu_weights(projector), {"orl": "projector"}))


def load_projector(path: Path) -> nn.Sequential:
    """Read what `save_projector` wrote, in evaluation mode; the weights say the form and the sizes.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if it is torn or foreign.
    """
    if not path.exists():
        raise FileNotFoundError(f"no projector at {path}; it is written beside stage 1's backbone")
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("orl") != "projector":
                raise ValueError(f"{path} was not written by orl as a projector")
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
    try:
        return build_mlp(weights).eval()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
