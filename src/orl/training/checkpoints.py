"""Checkpoints: written atomically, the last few kept, resumed from the newest readable one."""

import io
import logging
import time
from pathlib import Path
from typing import Any

import torch

from orl import files
from orl.training.training_step import TrainingStep

logger = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one training."""

    def __init__(
        self, folder: Path, training_step: TrainingStep, *, minutes: float, num_kept: int, is_writer: bool
    ) -> None:
        """Start the clock of the first checkpoint.

        Args:
            folder: folder of the checkpoints; all processes must see it.
            training_step: its state is saved and loaded.
            minutes: time between two checkpoints.
            num_kept: number of checkpoints that are kept.
            is_writer: whether this process writes; the others only read.
        """
        self.folder, self.training_step = folder, training_step
        self.minutes, self.num_kept, self.is_writer = minutes, num_kept, is_writer
        self._saved_s = time.monotonic()

    def resume(self) -> int:
        """Load the newest readable checkpoint; return its step, or 0 if there is none.

        Raises:
            ValueError: if there are checkpoints, and all are damaged.
        """
        if self.is_writer and self.folder.exists():
            files.remove_stale_temporaries(self.folder)
        state, errors = load_newest(self.folder)
        for error in errors:
            logger.warning("%s; using the checkpoint before it", error)
        if state is None:
            return 0
        self.training_step.load_state(state)
        logger.info("resuming from step %d", state["step"])
        return int(state["step"])

    def save(self, step: int) -> None:
        """Write the state after a step, unless a step is half done."""
        if self.is_writer and self.training_step.is_complete:
            save_checkpoint(self.folder, step, self.training_step.state(), self.num_kept)
        self._saved_s = time.monotonic()

    def save_if_due(self, step: int) -> None:
        """Write the state if the last checkpoint is old enough."""
        if time.monotonic() - self._saved_s > 60 * self.minutes:
            self.save(step)


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], num_kept: int = 2) -> None:
    """Write the state after a step, then delete all but the newest checkpoints."""
    buffer = io.BytesIO()
    torch.save({"orl_checkpoint": 1, "step": step, **state}, buffer)
    files.write_atomically(folder / _name(step), buffer.getvalue())
    # A checkpoint of a later step exists only if it was damaged: it does not count.
    kept = [path for path in _by_step(folder) if path.name <= _name(step)]
    for old in kept[num_kept:]:
        old.unlink()


def load_newest(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """Load the newest readable checkpoint.

    Returns:
        The state, or None if there is no checkpoint; and an error message for each newer, damaged one.

    Raises:
        ValueError: if there are checkpoints, and all are damaged.
    """
    errors: list[str] = []
    for path in _by_step(folder):
        try:
            return load_checkpoint(path), errors
        except ValueError as error:
            errors.append(str(error))
    if errors:
        raise ValueError("; ".join(errors) + ". Delete them to start from scratch")
    return None, []


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read one checkpoint, without running code from it.

    Raises:
        ValueError: if the file is damaged or was not written by orl.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged zip file raises many kinds of errors
        raise ValueError(f"checkpoint {path} cannot be read ({type(error).__name__})") from error
    if not isinstance(state, dict) or state.get("orl_checkpoint") != 1:
        raise ValueError(f"{path} is not a checkpoint of orl")
    return state


def _name(step: int) -> str:
    return f"step_{step:08d}.ckpt"


def _by_step(folder: Path) -> list[Path]:
    return sorted(folder.glob("step_*.ckpt"), reverse=True)
