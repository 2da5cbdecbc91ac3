"""Training state on disk: written whole, the last few kept, the newest readable one taken."""

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
    """The checkpoints of one training: when they are due, and which process writes them."""

    def __init__(
        self, folder: Path, training_step: TrainingStep, *, minutes: float, num_kept: int, is_writer: bool
    ) -> None:
        """Begin to count the time.

        Args:
            folder: of the checkpoints; all processes must see it.
            trainee: whose state is saved and loaded.
            minutes: time between two checkpoints.
            num_kept: how many stay.
            is_writer: whether this process writes; the others only read.
        """
        self.folder, self.training_step = folder, training_step
        self.minutes, self.num_kept, self.is_writer = minutes, num_kept, is_writer
        self._saved_s = time.monotonic()

    def resume(self) -> int:
        """Load the newest state that can be read; returns its step, 0 if there is none.

        Raises:
            ValueError: if there are checkpoints and none can be read.
        """
        if self.is_writer and self.folder.exists():
            files.remove_stale_temporaries(self.folder)
        state, complaints = load_newest(self.folder)
        for complaint in complaints:
            logger.warning("%s; taking the one before", complaint)
        if state is None:
            return 0
        self.training_step.load_state(state)
        logger.info("going on from step %d", state["step"])
        return int(state["step"])

    def save(self, step: int) -> None:
        """Write the state after a step, unless one is half done."""
        if self.is_writer and self.training_step.is_complete:
            save_checkpoint(self.folder, step, self.training_step.state(), self.num_kept)
        self._saved_s = time.monotonic()

    def save_if_due(self, step: int) -> None:
        """Write the state if the last one is old enough."""
        if time.monotonic() - self._saved_s > 60 * self.minutes:
            self.save(step)


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], num_kept: int = 2) -> None:
    """Write the state after a step, then delete all but the newest few."""
    buffer = io.BytesIO()
    torch.save({"orl_checkpoint": 1, "step": step, **state}, buffer)
    files.write_atomically(folder / _name(step), buffer.getvalue())
    # A later one is there only if it could not be read: it is none of the newest few.
    kept = [path for path in _by_step(folder) if path.name <= _name(step)]
    for old in kept[num_kept:]:
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


def _name(step: int) -> str:
    return f"step_{step:08d}.ckpt"


def _by_step(folder: Path) -> list[Path]:
    return sorted(folder.glob("step_*.ckpt"), reverse=True)
