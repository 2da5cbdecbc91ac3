"""Batches from worker processes: in order, read again if a worker is killed, with the waiting time."""

import logging
import signal
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch.utils.data import DataLoader, Dataset

from orl.datasets.loader_workers import ignore_interrupts, in_shared_memory, named_limits
from orl.training.batches import TrainingBatches
from orl.training.joined_tensors import JoinedTensors, join_tensors, split_tensors
from orl.views.image_cache import ImageCache, ViewBoxDataset, collate_view_boxes
from orl.views.view_dataset import LoadedViews, ViewDataset, collate_views
from orl.views.view_samplers import SampleKey

logger = logging.getLogger(__name__)

MAX_KILLED = 3
"""Times that killed workers are replaced before training stops."""
CALM_STEPS = 100
"""Steps without a killed worker after which the count restarts at 0."""
KILLED_WORKER = "DataLoader worker"
"""Beginning of torch's message about a worker that has ended."""
LOST_CONNECTION = (ConnectionError, EOFError, FileNotFoundError)
"""Errors when a tensor is fetched from a worker that has ended."""


@dataclass(frozen=True, kw_only=True)
class BatchSource:
    """The three parts of making a batch."""

    dataset: Dataset[Any]
    """Returns the sample of a key, in a worker."""
    collate: Callable[[Sequence[Any]], Any]
    """Joins samples to a batch, in a worker."""
    finish: Callable[[Any], LoadedViews]
    """Completes the batch in the training process, such as by cutting views from the image cache."""


def read_from_files(dataset: ViewDataset) -> BatchSource:
    """Return a source whose workers read images and cut the views."""
    return BatchSource(dataset=dataset, collate=collate_views, finish=lambda batch: batch)


def cut_on_device(dataset: ViewBoxDataset, cache: ImageCache) -> BatchSource:
    """Return a source whose workers sample view boxes; the training process cuts the views from the image cache."""
    return BatchSource(dataset=dataset, collate=collate_view_boxes, finish=cache.load)


class BatchReader:
    """The batches of a training from a step on. Iterate over it once, and close the iterator.

    A sample depends on its key alone, so the batches that a killed worker had begun are read again unchanged.
    """

    def __init__(
        self,
        source: BatchSource,
        batches: TrainingBatches,
        num_workers: int,
        *,
        first_step: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self.source, self.batches, self.first_step = source, batches, first_step
        self.num_workers, self.pin_memory = num_workers, pin_memory
        self.waited_s = 0.0
        """Seconds spent waiting for the newest batch."""

    def __iter__(self) -> Generator[LoadedViews, None, None]:
        """Yield batch after batch.

        Raises:
            RuntimeError: if workers are killed more than `MAX_KILLED` times, or if the machine's limit of open files or
                shared memory is too low for them.
        """
        step, num_killed, killed_at = self.first_step, 0, 0
        while step < self.batches.num_steps:
            try:
                with named_limits(self.num_workers):
                    for batch in self._timed(self.batches.from_step(step)):
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
                    "a process that reads images was killed (%s); new ones resume at step %d", error, step + 1
                )

    def _timed(self, keys: Iterable[list[SampleKey]]) -> Iterator[LoadedViews]:
        started = time.monotonic()
        with _DeferredWorkerErrors(self._loader(keys)) as loaded:
            while True:
                batch = self._next_batch(loaded)
                if batch is None:
                    return
                finished = self.source.finish(split_tensors(batch) if isinstance(batch, JoinedTensors) else batch)
                self.waited_s = time.monotonic() - started
                yield finished
                started = time.monotonic()

    def _loader(self, keys: Iterable[list[SampleKey]]) -> DataLoader[Any]:
        return DataLoader(
            self.source.dataset,
            batch_sampler=keys,
            num_workers=self.num_workers,
            collate_fn=partial(_collate_joined, self.source.collate) if self.num_workers else self.source.collate,
            worker_init_fn=ignore_interrupts,
            pin_memory=self.pin_memory,
        )

    def _next_batch(self, loaded: Iterator[Any]) -> Any:
        try:
            return next(loaded, None)
        except (RuntimeError, OSError, EOFError) as error:
            message = str(error)
            # A batch of a worker that has ended since cannot be fetched. A worker's own error begins with "Caught".
            is_gone = isinstance(error, LOST_CONNECTION) and not message.startswith("Caught")
            if is_gone or message.startswith(KILLED_WORKER):
                raise _WorkerKilledError(next(iter(message.splitlines()), "its connection ended")) from error
            raise


def _collate_joined(collate: Callable[[Sequence[Any]], Any], samples: Sequence[Any]) -> JoinedTensors:
    joined = join_tensors(collate(samples))
    return joined._replace(data=in_shared_memory(joined.data))


class _WorkerKilledError(RuntimeError):
    pass


class _DeferredWorkerErrors:
    """An iterator over a loader without torch's signal handler, which raises in the middle of the current step.

    A killed worker is still reported when the next batch is waited for.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._loader = loader

    def __enter__(self) -> Iterator[Any]:
        self._iterator = iter(self._loader)
        self._previous = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        return self._iterator

    def __exit__(self, *exception: object) -> None:
        # Torch's handler would report an earlier killed worker when any other child process ends.
        end_workers = getattr(self._iterator, "_shutdown_workers", None)
        if end_workers is not None:
            end_workers()
        signal.signal(signal.SIGCHLD, self._previous)
