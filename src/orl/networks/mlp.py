"""The projector and the predictor: two linear layers with batch normalisation between them."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from orl import tables


def mlp(num_inputs: int, num_hidden: int, num_outputs: int) -> nn.Sequential:
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


def save_projector(projector: nn.Module, path: Path) -> None:
    """Write the weights as safetensors."""
    weights = {key: value.detach().cpu().contiguous() for key, value in projector.state_dict().items()}
    tables.write_atomically(path, save(weights, {"orl": "projector"}))


def load_projector(path: Path) -> nn.Sequential:
    """Read what `save_projector` wrote, in evaluation mode; the shapes say the sizes.

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
    with torch.random.fork_rng(devices=[]):
        projector = mlp(weights["0.weight"].shape[1], *reversed(weights["3.weight"].shape))
    projector.load_state_dict(weights)
    return projector.eval()
