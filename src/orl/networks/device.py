"""Where to compute."""

import torch


def compute_device(name: str) -> torch.device:
    """The device that a setting asks for: 'auto' takes a GPU when there is one.

    Raises:
        ValueError: if a GPU is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no GPU here; use --device cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
