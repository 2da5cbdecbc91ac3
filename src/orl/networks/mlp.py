"""Projectors and predictors: MLPs of two layers, one function for each paper's form."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from orl import files
from orl.networks.backbones import check_weights, cpu_weights

Weights = dict[str, Tensor]


def byol_mlp(num_inputs: int, num_hidden: int, num_outputs: int) -> nn.Sequential:
    """Build Linear, BN, ReLU, Linear; the last layer has no bias and no BN after it.

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
    """Build Linear, ReLU, Linear, both with a bias.

    Source:
        MoCo v2 (arXiv 2003.04297), Section 3.
    """
    return nn.Sequential(nn.Linear(num_inputs, num_hidden), nn.ReLU(inplace=True), nn.Linear(num_hidden, num_outputs))


def simclr_mlp(num_inputs: int, num_hidden: int, num_outputs: int) -> nn.Sequential:
    """Build Linear, BN, ReLU, Linear, BN; no linear layer has a bias, since BN has one.

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
    """Build the same layers for feature maps `(N, C, h, w)`, with new 1 x 1 convolutions in place of linear layers."""
    return nn.Sequential(*(_conv1x1_layer(layer) for layer in layers))


def _conv1x1_layer(layer: nn.Module) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return nn.Conv2d(layer.in_features, layer.out_features, 1, bias=layer.bias is not None)
    return nn.BatchNorm2d(layer.num_features) if isinstance(layer, nn.BatchNorm1d) else nn.ReLU(inplace=True)


def build_mlp(weights: Weights) -> nn.Sequential:
    """Build the MLP that has these weights, and load them.

    Args:
        weights: weights of one of the forms above, under the names '0.weight' and so on. A weight of two dimensions
            is a linear layer, running statistics are a BN, and a missing number is a ReLU.

    Raises:
        ValueError: if the weights have another form.
    """
    try:
        numbers = {int(name.partition(".")[0]) for name in weights}
        with torch.random.fork_rng(devices=[]):
            layers = nn.Sequential(*(_layer(weights, number) for number in range(max(numbers, default=-1) + 1)))
        layers.load_state_dict(weights)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"the weights {', '.join(list(weights)[:6])} are not those of linear layers and BN: {error}"
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
    """Read the file that `save_projector` wrote; return the projector in evaluation mode.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if the file is damaged, comes from another program, or has values that cannot be.
    """
    if not path.exists():
        raise FileNotFoundError(f"no projector at {path}; stage 1 writes it beside its backbone")
    try:
        with safe_open(files.regular_file(path), framework="pt") as file:
            if (file.metadata() or {}).get("orl") != "projector":
                raise ValueError(f"{path} was not written by orl as a projector")
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a complete safetensors file: {error}") from error
    try:
        check_weights(weights)
        return build_mlp(weights).eval()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
