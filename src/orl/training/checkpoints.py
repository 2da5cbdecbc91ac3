"""Training state on disk: written whole, the last two kept, the newest readable one taken."""

import io
from pathlib import Path
from typing import Any

import torch

from orl import tables

NUM_KEPT = 2


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write the state after a step and delete all but the newest two."""
    buffer = io.BytesIO()
    torch.save({"orl_checkpoint": 1, "step": step, **state}, buffer)
    tables.write_atomically(folder / f"step_{step:08d}.ckpt", buffer.getvalue())
    for old in _by_step(folder)[NUM_KEPT:]:
        old.unlink()


def load_newest(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest state that can be read.

    Returns:
        The state, or None when there is no checkpoint; and a sentence for each newer one that had to be passed over.

    Raises:
        ValueError: if there are checkpoints and none of them can be read.
    """
    complaints: list[str] = []
    for path in _by_step(folder):
        try:
            return load_checkpoint(path), complaints
        except ValueError as error:
            complaints.append(str(error))
    if complaints:
        raise ValueError("; ".join(complaints) + ". Delete them to begin anew")
    return None, []


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read one checkpoint, without running code from it.

    Raises:
        ValueError: if it is torn or was not written by orl.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a torn zip file fails in many ways
        raise ValueError(f"checkpoint {path} cannot be read ({type(error).__name__})") from error
    if not isinstance(state, dict) or state.get("orl_checkpoint") != 1:
        raise ValueError(f"{path} is not a checkpoint of orl")
    return state


def _by_step(folder: Path) -> list[Path]:
    return sorted(folder.glob("step_*.ckpt"), reverse=True)
