"""Metrics of training: a JSON line for each step, TensorBoard and, optionally, Weights & Biases."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from orl import files

WandbMode = Literal["off", "online", "offline"]


class MetricsLog:
    """A writer of `metrics.jsonl` and TensorBoard files that continues from the checkpoint of a resumed run."""

    def __init__(self, folder: Path, first_step: int, *, wandb_mode: WandbMode = "off", quiet: bool = False) -> None:
        """Open the files, and drop the steps after the checkpoint, since they are repeated.

        Args:
            folder: folder of the stage.
            first_step: number of steps done before.
            wandb_mode: also send the metrics to Weights & Biases, or keep them in `wandb/` for 'wandb sync'.
            quiet: write nothing (every process but the first).

        Raises:
            ImportError: if the mode is not 'off' and Weights & Biases is not installed.
        """
        self._quiet, self._wandb = quiet, None
        if quiet:
            return
        from torch.utils.tensorboard import SummaryWriter

        if wandb_mode != "off":
            self._wandb = _begin_wandb(folder, wandb_mode)
        path = folder / "metrics.jsonl"
        kept = [line for line in _lines(path) if _step_of(line, path) <= first_step]
        files.write_atomically(path, "".join(line + "\n" for line in kept))
        self._file = open(path, "a", buffering=1)  # noqa: SIM115 - closed in __exit__
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1)

    def write(self, metrics: Mapping[str, float]) -> None:
        """Write the metrics of one step; `step` is one of them."""
        if self._quiet:
            return
        # JSON has no infinity, the gradient norm of a step that fp16's scaler skips.
        rounded = {name: round(value, 6) if math.isfinite(value) else None for name, value in metrics.items()}
        self._file.write(json.dumps(rounded) + "\n")
        shown = {name: value for name, value in metrics.items() if name not in ("step", "epoch")}
        for name, value in shown.items():
            self._board.add_scalar(name, value, int(metrics["step"]))
        if self._wandb is not None:
            self._wandb.log(shown, step=int(metrics["step"]))

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._quiet:
            return
        self._file.close()
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish(exit_code=0 if kind is None else 1)


def _begin_wandb(folder: Path, mode: WandbMode) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise ImportError(f"--wandb {mode} needs Weights & Biases: pip install wandb, or leave it off") from error
    # A resumed run is a new run in Weights & Biases; the group joins them.
    name = f"{folder.resolve().parent.name}-{folder.name}"
    silent: Any = wandb.Settings(silent=True)
    init: Any = wandb.init  # typed with other literals for the mode
    return init(project="orl", name=name, group=name, dir=str(folder), mode=mode, settings=silent)


def _lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    # A killed process may leave an incomplete last line.
    return [line for line in path.read_text().splitlines() if line.endswith("}")]


def _step_of(line: str, path: Path) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        raise ValueError(f"{path} has the line {line[:80]!r}, which is not of a step; delete that line") from error
