"""What a person sees of a training while it runs: the progress line, the log of numbers, and warnings."""

import logging
import time
from collections import deque
from types import TracebackType

import torch

from orl.memory import peak_resident_bytes
from orl.progress import progress_bar
from orl.training.collapse import CollapseWatch
from orl.training.metrics import MetricsLog

logger = logging.getLogger(__name__)

RATE_STEPS = 20
"""Steps that the rate and the share of waiting are told over."""


class ProgressLog:
    """The log, the bar and the watch of one training; silent in all processes but the first."""

    def __init__(self, log: MetricsLog, watch: CollapseWatch, *, is_first: bool) -> None:
        self._log, self._watch, self._is_first = log, watch, is_first

    def begin(self, title: str, step: int, num_steps: int, batch_size: int) -> None:
        """Show the bar.

        Args:
            title: what it says.
            step: steps done before.
            num_steps: steps in all.
            batch_size: images a step, over all processes.
        """
        self._batch_size, self._started_s = batch_size, time.monotonic()
        self._ticks: deque[tuple[float, float]] = deque([(self._started_s, 0.0)], maxlen=RATE_STEPS + 1)
        self._bar = progress_bar(
            total=num_steps * batch_size,
            done=step * batch_size,
            title=title,
            unit="images",
            quiet=not self._is_first,
        )

    def add(self, step: int, metrics: dict[str, float], waited_s: float) -> None:
        """Tell of a step.

        Args:
            step: its number.
            metrics: what was measured: `loss`, and `spread` where features may collapse.
            waited_s: seconds spent waiting for its images.
        """
        self._ticks.append((time.monotonic(), waited_s))
        metrics = {"step": step, **metrics, **self._rates(), "memory_gib": peak_memory_gib()}
        self._log.write(metrics)
        told = [f"loss {metrics['loss']:.3f}"]
        if "spread" in metrics:
            told.append(f"spread {metrics['spread']:.2f}")
            warning = self._watch.look(step, metrics["spread"])
            if warning is not None and self._is_first:
                logger.warning(warning)
        told.append(f"waiting {metrics['data_wait']:.0%}")
        self._bar.set_postfix_str(", ".join(told), refresh=False)
        self._bar.update(self._batch_size)

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
        (first_s, _), (last_s, _) = self._ticks[0], self._ticks[-1]
        passed_s = max(last_s - first_s, 1e-9)
        waited_s = sum(waited for _, waited in list(self._ticks)[1:])
        return {
            "images_per_s": (len(self._ticks) - 1) * self._batch_size / passed_s,
            "data_wait": min(1.0, waited_s / passed_s),
            "elapsed_s": last_s - self._started_s,
        }


def peak_memory_gib() -> float:
    """The most memory held so far: of the GPU by torch where there is one, else by this process."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**30
    return peak_resident_bytes() / 2**30
