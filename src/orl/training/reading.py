"""Batches in order, whatever happens to the processes that read photos, and how long was waited for them."""

import logging
import signal
import time
from collections.abc import Generator, Iterator

from torch.utils.data import DataLoader

from orl.images.datasets import EpochBatches, Loaded, Samples, collate, ignore_interrupts

logger = logging.getLogger(__name__)

MAX_KILLED = 3
"""Times that killed workers are replaced before training stops."""
KILLED_WORKER = "DataLoader worker"
"""How torch's message about a worker that is gone begins."""


class BatchReader:
    """The batches from the first step on, read by worker processes; iterate over it once, and close the iterator.

    A sample depends on its key alone, so batches that a killed worker took with it are read again, the same.
    """

    def __init__(self, samples: Samples, batches: EpochBatches, num_workers: int, pin_memory: bool) -> None:
        self.samples, self.batches = samples, batches
        self.num_workers, self.pin_memory = num_workers, pin_memory
        self.waited_s = 0.0
        """Seconds spent waiting for the newest batch."""

    def __iter__(self) -> Generator[Loaded, None, None]:
        """Give batch after batch.

        Raises:
            RuntimeError: if workers were killed again and again.
        """
        step, num_killed = self.batches.first_step, 0
        last_step = step + len(self.batches)
        while step < last_step:
            self.batches.first_step = step
            try:
                for batch in self._timed():
                    step += 1
                    yield batch
            except _WorkerKilledError as error:
                num_killed += 1
                if num_killed > MAX_KILLED:
                    raise RuntimeError(
                        f"processes that read photos were killed {num_killed} times ({error}); memory may have run "
                        f"out: try fewer than --workers {self.num_workers}"
                    ) from error
                logger.warning(
                    "a process that reads photos was killed (%s); new ones go on at step %d", error, step + 1
                )

    def _timed(self) -> Iterator[Loaded]:
        started = time.monotonic()
        with _ChildrenEndQuietly(self._loader()) as loaded:
            while True:
                batch = _next_batch(loaded)
                if batch is None:
                    return
                self.waited_s = time.monotonic() - started
                yield batch
                started = time.monotonic()

    def _loader(self) -> DataLoader[Loaded]:
        return DataLoader(
            self.samples,
            batch_sampler=self.batches,
            num_workers=self.num_workers,
            collate_fn=collate,
            worker_init_fn=ignore_interrupts,
            pin_memory=self.pin_memory,
        )


class _WorkerKilledError(RuntimeError):
    pass


def _next_batch(loaded: Iterator[Loaded]) -> Loaded | None:
    try:
        return next(loaded, None)
    except RuntimeError as error:
        if str(error).startswith(KILLED_WORKER):
            raise _WorkerKilledError(str(error).splitlines()[0]) from error
        raise


class _ChildrenEndQuietly:
    """Iterate over a loader without torch's signal handler, which raises in the middle of whatever step is on.

    A worker that is gone is still found, when the next batch is waited for.
    """

    def __init__(self, loader: DataLoader[Loaded]) -> None:
        self._loader = loader

    def __enter__(self) -> Iterator[Loaded]:
        iterator = iter(self._loader)
        self._previous = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        return iterator

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGCHLD, self._previous)
