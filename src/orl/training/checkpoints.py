"""Checkpoints: written atomically with a checksum, the last few kept, resumed from the newest intact one.

A checkpoint is a zip archive of torch. Its comment is the SHA-256 of the archive without the comment and its length.
"""

import hashlib
import io
import logging
import time
from pathlib import Path
from typing import Any

import torch

from orl import files, provenance
from orl.training.training_step import TrainingStep

logger = logging.getLogger(__name__)

VERSION = 2
"""Format of checkpoints; version 1 has no fingerprint and no checksum."""
COMMENT_LENGTH = (64).to_bytes(2, "little")
"""Length of 64 hexadecimal digits, as a zip archive stores it before its comment."""
NUM_COMMENT_BYTES = 66
"""Bytes of the comment and of its length, at the end of the file."""


class Checkpoints:
    """The checkpoints of one training."""

    def __init__(
        self,
        folder: Path,
        training_step: TrainingStep,
        *,
        fingerprint: str | None,
        minutes: float,
        num_kept: int,
        is_writer: bool,
    ) -> None:
        """Start the clock of the first checkpoint.

        Args:
            folder: folder of the checkpoints; all processes must see it.
            training_step: its state is saved and loaded.
            fingerprint: fingerprint of all inputs that determine the weights.
            minutes: time between two checkpoints.
            num_kept: number of checkpoints that are kept.
            is_writer: whether this process writes; the others only read.
        """
        self.folder, self.training_step, self.fingerprint = folder, training_step, fingerprint
        self.minutes, self.num_kept, self.is_writer = minutes, num_kept, is_writer
        self._saved_s = time.monotonic()

    def resume(self) -> int:
        """Load the newest readable checkpoint; return its step, or 0 if there is none.

        Raises:
            ValueError: if there are checkpoints, and all are damaged, or one belongs to another training.
        """
        if self.is_writer and self.folder.exists():
            files.remove_stale_temporaries(self.folder)
        state, errors = load_newest(self.folder, self.fingerprint)
        for error in errors:
            logger.warning("%s; using the checkpoint before it", error)
        if state is None:
            return 0
        try:
            self.training_step.load_state(state)
        except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise ValueError(
                f"the checkpoint of step {state['step']} in {self.folder} does not fit this training ({reason}); "
                "delete it to go on from the one before it"
            ) from error
        logger.info("resuming from step %d", state["step"])
        return int(state["step"])

    def save(self, step: int) -> None:
        """Write the state after a step, unless a step is half done."""
        if self.is_writer and self.training_step.is_complete:
            save_checkpoint(self.folder, step, self.training_step.state(), self.num_kept, self.fingerprint)
        self._saved_s = time.monotonic()

    def save_if_due(self, step: int) -> None:
        """Write the state if the last checkpoint is old enough."""
        if time.monotonic() - self._saved_s > 60 * self.minutes:
            self.save(step)


def save_checkpoint(
    folder: Path, step: int, state: dict[str, Any], num_kept: int = 2, fingerprint: str | None = None
) -> None:
    """Write the state after a step, then delete all but the newest checkpoints."""
    buffer = io.BytesIO()
    torch.save({"orl_checkpoint": VERSION, "step": step, "fingerprint": fingerprint, **state}, buffer)
    buffer.seek(-len(COMMENT_LENGTH), io.SEEK_END)
    buffer.truncate()
    checksum = hashlib.sha256(buffer.getbuffer()).hexdigest().encode()
    buffer.write(COMMENT_LENGTH + checksum)
    files.write_atomically(folder / _name(step), buffer.getbuffer())
    # A checkpoint of a later step exists only if it was damaged: it does not count.
    kept = [path for path in _by_step(folder) if path.name <= _name(step)]
    for old in kept[num_kept:]:
        old.unlink()


def load_newest(folder: Path, fingerprint: str | None = None) -> tuple[dict[str, Any] | None, list[str]]:
    """Load the newest readable checkpoint.

    Args:
        folder: folder of the checkpoints.
        fingerprint: fingerprint of the training that resumes.

    Returns:
        The state, or None if there is no checkpoint; and an error message for each newer, damaged one.

    Raises:
        StaleResultError: if it belongs to another training.
        ValueError: if there are checkpoints, and all are damaged.
    """
    errors: list[str] = []
    for path in _by_step(folder):
        try:
            state = load_checkpoint(path)
            if state["fingerprint"] != fingerprint:
                raise provenance.StaleResultError(
                    f"{path} belongs to another training, with fingerprint {state['fingerprint']}, and this one has "
                    f"{fingerprint}; move it away, or delete {folder} to start from scratch"
                )
            return state, errors
        except provenance.StaleResultError:
            raise
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
    data = path.read_bytes()
    has_checksum = data[-NUM_COMMENT_BYTES:][: len(COMMENT_LENGTH)] == COMMENT_LENGTH
    with memoryview(data) as view:
        checksum = hashlib.sha256(view[:-NUM_COMMENT_BYTES]).hexdigest().encode()
    if has_checksum and not data.endswith(checksum):
        raise ValueError(f"checkpoint {path} cannot be read (it was damaged: its checksum does not match)")
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged zip file raises many kinds of errors
        raise ValueError(f"checkpoint {path} cannot be read ({type(error).__name__})") from error
    version = state.get("orl_checkpoint") if isinstance(state, dict) else None
    if version == 1:
        raise ValueError(f"{path} was written by an earlier version of orl, without fingerprint and checksum")
    if version != VERSION:
        raise ValueError(f"{path} is not a checkpoint of orl")
    step = state.get("step")
    if not has_checksum or type(step) is not int or step < 0 or "fingerprint" not in state:
        raise ValueError(f"checkpoint {path} cannot be read (it has no checksum, no step or no fingerprint)")
    return state


def _name(step: int) -> str:
    return f"step_{step:08d}.ckpt"


def _by_step(folder: Path) -> list[Path]:
    return sorted(folder.glob("step_*.ckpt"), reverse=True)
