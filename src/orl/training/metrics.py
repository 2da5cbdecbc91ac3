"""What training tells of itself: a JSON line a step, TensorBoard, and the spread of the features."""

import json
from pathlib import Path
from types import TracebackType

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from orl import tables


class MetricsLog:
    """Writes `metrics.jsonl` and TensorBoard files; a resumed run goes on where its checkpoint was."""

    def __init__(self, folder: Path, first_step: int) -> None:
        """Drop what was written after the checkpoint, since those steps are done again.

        Args:
            folder: of the stage.
            first_step: steps done before.
        """
        from torch.utils.tensorboard import SummaryWriter

        path = folder / "metrics.jsonl"
        kept = [line for line in _lines(path) if json.loads(line)["step"] <= first_step]
        tables.write_atomically(path, "".join(line + "\n" for line in kept))
        self._file = open(path, "a", buffering=1)  # noqa: SIM115 - closed in __exit__
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1)

    def write(self, metrics: dict[str, float]) -> None:
        """Add one step; `step` is among the metrics."""
        self._file.write(json.dumps({name: round(value, 6) for name, value in metrics.items()}) + "\n")
        for name, value in metrics.items():
            if name not in ("step", "epoch"):
                self._board.add_scalar(name, value, int(metrics["step"]))

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._board.close()


def feature_spread(projections: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """How far the features spread: mean deviation per dimension of unit vectors, times the root of d.

    Returns:
        0 when all photos have one feature (collapse), about 1 when they lie evenly on the sphere.

    Source:
        SimSiam (arXiv 2011.10566), Section 4.1.
    """
    unit = F.normalize(projections.float(), dim=1)
    return unit.std(dim=0, correction=0).mean() * unit.shape[1] ** 0.5


def _lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    # A killed process may leave a torn last line.
    return [line for line in path.read_text().splitlines() if line.endswith("}")]
