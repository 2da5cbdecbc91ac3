"""Output of a training for the user: the progress bar, the metrics log and the warnings of collapse."""

import logging
import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType

import torch

from orl.memory import peak_resident_bytes
from orl.progress import progress_bar
from orl.training.collapse import CollapseWatch
from orl.training.metrics import MetricsLog

logger = logging.getLogger(__name__)

RATE_STEPS = 20
"""Steps over which images per second and the fraction of waiting are measured."""


class ProgressLog:
    """The metrics log, progress bar and collapse watches of one training; silent in all processes but the first."""

    def __init__(self, log: MetricsLog, watches: Sequence[CollapseWatch], *, is_first: bool) -> None:
        self._log, self._watches, self._is_first = log, watches, is_first

    def begin(self, title: str, *, done: int, total: int) -> None:
        """Show the progress bar.

        Args:
            title: title of the bar.
            done: images of the steps done before.
            total: images of all steps.
        """
        self._started_s = time.monotonic()
        self._times: deque[tuple[float, float, int]] = deque([(self._started_s, 0.0, done)], maxlen=RATE_STEPS + 1)
        self._bar = progress_bar(
            total=total,
            done=done,
            title=title,
            unit="images",
            quiet=not self._is_first,
        )

    def add(self, step: int, metrics: dict[str, float], waited_s: float, *, done: int) -> None:
        """Log the metrics of a step and advance the bar.

        Args:
            step: number of the step.
            metrics: at least `loss`; with the metric of a watch a warning follows a collapse.
            waited_s: seconds spent waiting for the images of the step.
            done: images of all steps done, over all processes.
        """
        self._times.append((time.monotonic(), waited_s, done))
        metrics = {"step": step, **metrics, **self._rates(), "memory_gib": peak_memory_gib()}
        self._log.write(metrics)
        parts = [f"loss {metrics['loss']:.3f}"]
        if "feature_std" in metrics:
            parts.append(f"feature std {metrics['feature_std']:.2f}")
        if "effective_rank" in metrics:
            parts.append(f"rank {metrics['effective_rank']:.1f}")
        for watch in self._watches:
            if watch.limit.metric in metrics:
                warning = watch.update(step, metrics[watch.limit.metric])
                if warning is not None and self._is_first:
                    logger.warning(warning)
        parts.append(f"waiting {metrics['data_wait']:.0%}")
        self._bar.set_postfix_str(", ".join(parts), refresh=False)
        self._bar.update(done - self._times[-2][2])

    def __enter__(self) -> "ProgressLog":
        self._bar.__enter__()
        self._log.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)
        self._log.__exit__(kind, error, trace)

    def _rates(self) -> dict[str, float]:
        (first_s, _, first_done), (last_s, _, last_done) = self._times[0], self._times[-1]
        passed_s = max(last_s - first_s, 1e-9)
        waited_s = sum(waited for _, waited, _ in list(self._times)[1:])
        return {
            "images_per_s": (last_done - first_done) / passed_s,
            "data_wait": min(1.0, waited_s / passed_s),
            "elapsed_s": last_s - self._started_s,
        }


def peak_memory_gib() -> float:
    """Return the peak memory so far: of the GPU as torch counts it, otherwise of this process."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**30
    return peak_resident_bytes() / 2**30
