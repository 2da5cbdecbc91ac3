"""The one training loop: batch after batch, until the last one or until it is asked to stop."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from orl import files
from orl.processes import Processes
from orl.training.checkpoints import Checkpoints
from orl.training.collapse import CollapseWatch
from orl.training.fabric import is_out_of_memory
from orl.training.interrupts import Stopped, StopRequest
from orl.training.loader import BatchReader, Source
from orl.training.metrics import MetricsLog, WandbMode
from orl.training.progress_log import ProgressLog
from orl.training.training_step import NotFiniteError, TrainingStep
from orl.training.unreadable import UNREADABLE, UnreadableImages
from orl.views.batch_sampler import EpochBatchSampler
from orl.views.view_dataset import LoadedViews

logger = logging.getLogger(__name__)

NUM_NAMED = 5
"""Images that an error names; a file has all."""


@dataclass(frozen=True, kw_only=True)
class Schedules:
    """What changes with the number of steps done."""

    at: Callable[[int], dict[str, float]]
    """Values by name for the step after so many: `lr`, and what else the trainee asks for."""
    num_warmup_steps: int = 0
    """Steps before which no collapse is warned of."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How training is run and watched; none of it changes what is learnt."""

    folder: Path
    """Of the stage; gets checkpoints, metrics.jsonl, tensorboard, unreadable.csv."""
    title: str
    """What the progress bar says."""
    workers: int
    """Processes that read images, for each process that trains."""
    checkpoint_minutes: float
    """Time between two checkpoints."""
    num_checkpoints: int = 2
    """Checkpoints that are kept."""
    max_unreadable: int = 0
    unreadable_hint: str = ""
    """Images that may become unreadable before training stops."""
    wandb: WandbMode = "off"
    """Whether Weights & Biases gets the numbers."""
    probe: Callable[[], dict[str, float]] | None = None
    """Judges what is trained while it is trained: scores by name."""
    probe_steps: int = 0
    """Steps between two probes."""
    out_of_memory_hint: str = "take a smaller batch or smaller images"
    """What to do when memory runs out."""


def train(
    training_step: TrainingStep,
    source: Source,
    batches: EpochBatchSampler,
    schedules: Schedules,
    options: Options,
    processes: Processes | None = None,
) -> None:
    """Train to the end, from the newest checkpoint in the folder if there is one.

    Args:
        trainee: does the steps.
        source: gives the sample of each image.
        batches: say which image comes at which step, to this process.
        schedules: learning rate and whatever else changes.
        options: how to run and watch it.
        processes: all that train together; this one alone if not given.

    Raises:
        RuntimeError: if the loss or the gradient is not finite, memory runs out, or too many images cannot be read.
        Stopped: after Ctrl-C, SIGTERM or SIGUSR1 to any of the processes, when the state is saved.
    """
    processes = processes or Processes()
    is_first, num_steps = processes.is_first, batches.steps_per_epoch * batches.epochs
    checkpoints = Checkpoints(
        options.folder / "checkpoints",
        training_step,
        minutes=options.checkpoint_minutes,
        num_kept=options.num_checkpoints,
        is_writer=is_first,
    )
    step = batches.first_step = _common_step(checkpoints.resume(), processes, options.folder)
    if step == num_steps:
        return
    reader = BatchReader(source, batches, options.workers, pin_memory=training_step.fabric.device.type == "cuda")
    unreadable = UnreadableImages(
        options.folder / UNREADABLE, options.max_unreadable, hint=options.unreadable_hint, is_writer=is_first
    )
    log = MetricsLog(options.folder, step, wandb_mode=options.wandb, quiet=not is_first)
    progress_log = ProgressLog(log, CollapseWatch(schedules.num_warmup_steps), is_first=is_first)
    progress_log.begin(options.title, step, num_steps, batches.batch_size)
    with (
        StopRequest() as stop,
        progress_log,
        _saved_on_failure(checkpoints, lambda: step),
        closing(reader.__iter__()) as loaded,
    ):
        for batch in loaded:
            at = schedules.at(step)
            _note_unreadable(unreadable, batch, step + 1, processes)
            with _explained(step + 1, batch, options, processes):
                metrics = training_step.update(step + 1, batch.views, at)
            step += 1
            metrics = {"epoch": step / batches.steps_per_epoch, **metrics, **at}
            if is_first and options.probe is not None and step % options.probe_steps == 0:
                metrics |= options.probe()
            progress_log.add(step, metrics, reader.waited_s)
            signals = [number for (number,) in processes.gather(stop.signal_number or 0) if number]
            if signals:
                checkpoints.save(step)
                raise Stopped(signals[0], f"stopped after step {step} of {num_steps} and saved")
            if step < num_steps:
                checkpoints.save_if_due(step)
        checkpoints.save(step)


def _common_step(step: int, processes: Processes, folder: Path) -> int:
    steps = [number for (number,) in processes.gather(step)]
    if len(set(steps)) > 1:
        raise RuntimeError(
            f"the processes found checkpoints of different steps ({steps}): {folder} must be one folder that all share"
        )
    return step


def _note_unreadable(unreadable: UnreadableImages, batch: LoadedViews, step: int, processes: Processes) -> None:
    """Write down what could not be read for this step; too much of it stops all processes."""
    parts = processes.gather(len(batch.unreadable), int(not batch.views))
    if not any(number for number, _ in parts):
        return
    rows = processes.gather_lists(batch.unreadable)
    unreadable.add(step, rows)
    if any(is_empty for _, is_empty in parts):
        file, reason = rows[-1]
        raise RuntimeError(
            f"{len(rows)} images in a row cannot be read at step {step}, the last one {file}: {reason}. "
            "Is the disk still there? The state is saved: the same command goes on"
        )


class _NotFiniteRunError(RuntimeError):
    """Told already, and not to be saved: the weights may be on their way to where this came from."""


@contextmanager
def _explained(step: int, batch: LoadedViews, options: Options, processes: Processes) -> Iterator[None]:
    """Say why a step cannot be done, and what to do about it."""
    try:
        yield
    except NotFiniteError as error:
        # All processes come here together, since what is not finite is a mean over them.
        names, path = processes.gather_lists(batch.files), options.folder / "not_finite.json"
        told = {"step": step, "terms": {name: str(value) for name, value in error.terms.items()}, "images": names}
        if processes.is_first:
            files.write_atomically(path, json.dumps(told, indent=1))
        raise _NotFiniteRunError(
            f"at step {step} {error}; its images begin with {', '.join(names[:NUM_NAMED])} (all are in {path}). In "
            "a new run (--out) try a smaller base-lr, a longer warm-up, or --precision 32-true"
        ) from error
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise RuntimeError(
            f"out of memory at step {step} of {options.title} with {len(batch.files)} images at a time; the steps "
            f"before it are kept. {options.out_of_memory_hint} ({str(error).splitlines()[0]})"
        ) from error


@contextmanager
def _saved_on_failure(checkpoints: Checkpoints, steps_done: Callable[[], int]) -> Iterator[None]:
    """Keep the steps that are done when the next one cannot be, whatever the reason."""
    try:
        yield
    except (Stopped, _NotFiniteRunError):
        raise
    except Exception:
        checkpoints.save(steps_done())
        raise
