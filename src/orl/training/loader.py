"""Batches in order, whatever happens to the processes that read images, and how long was waited for them."""

import logging
import signal
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, Dataset

from orl.datasets.loader_workers import ignore_interrupts
from orl.views.batch_sampler import EpochBatchSampler
from orl.views.image_cache import ImageCache, ViewBoxDataset, collate_view_boxes
from orl.views.view_dataset import LoadedViews, ViewDataset, collate_views

logger = logging.getLogger(__name__)

MAX_KILLED = 3
"""Times that killed workers are replaced before training stops."""
CALM_STEPS = 100
"""Steps after which earlier ones do not count any more."""
KILLED_WORKER = "DataLoader worker"
"""How torch's message about a worker that is gone begins."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """How a batch comes about: workers make samples and join them, this process does the rest."""

    samples: Dataset[Any]
    collate: Callable[[Sequence[Any]], Any]
    finish: Callable[[Any], LoadedViews]


def read_from_files(samples: ViewDataset) -> Source:
    """Workers read images and cut views; nothing is left to do."""
    return Source(samples=samples, collate=collate_views, finish=lambda batch: batch)


def cut_on_device(samples: ViewBoxDataset, images: ImageCache) -> Source:
    """Workers say where views lie; they are cut where the images are held."""
    return Source(samples=samples, collate=collate_view_boxes, finish=images.load)


class BatchReader:
    """The batches from the first step on, read by worker processes; iterate over it once, and close the iterator.

    A sample depends on its key alone, so batches that a killed worker took with it are read again, the same.
    """

    def __init__(self, source: Source, batches: EpochBatchSampler, num_workers: int, pin_memory: bool) -> None:
        self.source, self.batches = source, batches
        self.num_workers, self.pin_memory = num_workers, pin_memory
        self.waited_s = 0.0
        """Seconds spent waiting for the newest batch."""

    def __iter__(self) -> Generator[LoadedViews, None, None]:
        """Give batch after batch.

        Raises:
            RuntimeError: if workers were killed again and again.
        """
        step, num_killed, killed_at = self.batches.first_step, 0, 0
        last_step = step + len(self.batches)
        while step < last_step:
            self.batches.first_step = step
            try:
                for batch in self._timed():
                    step += 1
                    yield batch
            except _WorkerKilledError as error:
                num_killed = 1 if step - killed_at > CALM_STEPS else num_killed + 1
                killed_at = step
                if num_killed > MAX_KILLED:
                    raise RuntimeError(
                        f"processes that read images were killed {num_killed} times ({error}); memory may have run "
                        f"out: try fewer than --workers {self.num_workers}"
                    ) from error
                logger.warning(
                    "a process that reads images was killed (%s); new ones go on at step %d", error, step + 1
                )

    def _timed(self) -> Iterator[LoadedViews]:
        started = time.monotonic()
        with _ChildrenEndQuietly(self._loader()) as loaded:
            while True:
                batch = _next_batch(loaded)
                if batch is None:
                    return
                finished = self.source.finish(batch)
                self.waited_s = time.monotonic() - started
                yield finished
                started = time.monotonic()

    def _loader(self) -> DataLoader[Any]:
        return DataLoader(
            self.source.samples,
            batch_sampler=self.batches,
            num_workers=self.num_workers,
            collate_fn=self.source.collate,
            worker_init_fn=ignore_interrupts,
            pin_memory=self.pin_memory,
        )


class _WorkerKilledError(RuntimeError):
    pass


def _next_batch(loaded: Iterator[Any]) -> Any:
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

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._loader = loader

    def __enter__(self) -> Iterator[Any]:
        self._iterator = iter(self._loader)
        self._previous = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        return self._iterator

    def __exit__(self, *exception: object) -> None:
        # A killed worker that is still known when the handler is back would be told of at the end of any other process.
        end_workers = getattr(self._iterator, "_shutdown_workers", None)
        if end_workers is not None:
            end_workers()
        signal.signal(signal.SIGCHLD, self._previous)
