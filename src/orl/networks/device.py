"""Choice of the device to compute on."""

import torch


def compute_device(name: str) -> torch.device:
    """Return the device of an option; 'auto' is a GPU if there is one.

    Raises:
        ValueError: if the option is 'cuda' and torch finds no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no GPU here; use --device cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
