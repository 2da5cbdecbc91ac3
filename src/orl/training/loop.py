"""The training loop: step after step until the last one, or until a signal stops it.

`train` reads batches, does steps (`orl.training.training_step.TrainingStep.update`), writes the log and checkpoints.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from orl import files, provenance
from orl.processes import Processes
from orl.training.batches import TrainingBatches
from orl.training.checkpoints import Checkpoints
from orl.training.collapse import COLLAPSE_LIMITS, CollapseWatch
from orl.training.fabric import is_out_of_memory
from orl.training.interrupts import Stopped, StopRequest
from orl.training.loader import BatchReader, BatchSource
from orl.training.metrics import MetricsLog, WandbMode
from orl.training.progress_log import ProgressLog
from orl.training.training_step import NotFiniteError, TrainingStep
from orl.training.unreadable import UNREADABLE, UnreadableImages
from orl.views.view_dataset import LoadedViews

NUM_NAMED = 5
"""Most images that an error message names; `not_finite.json` lists all."""


@dataclass(frozen=True, kw_only=True)
class Schedules:
    """The values that change with the step."""

    values_at: Callable[[int], dict[str, float]]
    """Number of steps done -> values of the next step by name: `lr`, and for SSL methods `ema_momentum`."""
    num_warmup_steps: int = 0
    """Steps before the first warning of collapse."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of running and monitoring a training; none of them changes the weights."""

    folder: Path
    """Folder of the stage, for checkpoints, metrics.jsonl, tensorboard and unreadable.csv."""
    title: str
    """Title of the progress bar."""
    workers: int
    """Processes that read images, for each process that trains."""
    checkpoint_minutes: float
    """Time between two checkpoints."""
    num_checkpoints: int = 2
    """Checkpoints that are kept."""
    max_unreadable: int = 0
    """Images that may become unreadable before training stops."""
    unreadable_hint: str = ""
    """Option that changes that number, for the error message."""
    wandb: WandbMode = "off"
    """Whether metrics go to Weights & Biases too."""
    probe: Callable[[], dict[str, float]] | None = None
    """Evaluates the network during training: scores by name."""
    probe_steps: int = 0
    """Steps between two probes."""
    after_step: Callable[[int], None] | None = None
    """Called in the first process after each step, with the number of steps done."""
    out_of_memory_hint: str = "use a smaller batch or smaller images"
    """Advice for the error message when memory runs out."""


def train(
    training_step: TrainingStep,
    source: BatchSource,
    batches: TrainingBatches,
    schedules: Schedules,
    options: TrainOptions,
    processes: Processes | None = None,
) -> None:
    """Train to the last step, from the newest checkpoint in the folder if there is one.

    Args:
        training_step: the step to repeat.
        source: the samples and their collation.
        batches: the images of each step, for this process.
        schedules: the learning rate and other scheduled values.
        options: folder, checkpoints, workers and monitoring.
        processes: all processes that train together; only this one if not given.

    Raises:
        RuntimeError: if the loss or the gradient is not finite, memory runs out, or too many images are unreadable.
        Stopped: after Ctrl-C, SIGTERM or SIGUSR1 to any of the processes; the state is saved.
    """
    processes = processes or Processes()
    is_first, num_steps = processes.is_first, batches.num_steps
    checkpoints = Checkpoints(
        options.folder / "checkpoints",
        training_step,
        fingerprint=provenance.read_fingerprint(options.folder),
        minutes=options.checkpoint_minutes,
        num_kept=options.num_checkpoints,
        is_writer=is_first,
    )
    step = _common_step(checkpoints.resume(), processes, options.folder)
    if step == num_steps:
        return
    pin_memory = training_step.fabric.device.type == "cuda"
    reader = BatchReader(source, batches, options.workers, first_step=step, pin_memory=pin_memory)
    unreadable = UnreadableImages(
        options.folder / UNREADABLE, options.max_unreadable, hint=options.unreadable_hint, is_writer=is_first
    )
    log = MetricsLog(options.folder, step, wandb_mode=options.wandb, quiet=not is_first)
    watches = [CollapseWatch(schedules.num_warmup_steps, limit) for limit in COLLAPSE_LIMITS]
    progress_log = ProgressLog(log, watches, is_first=is_first)
    progress_log.begin(options.title, done=batches.images_before(step), total=batches.images_before(num_steps))
    with (
        StopRequest() as stop,
        progress_log,
        _saved_on_failure(checkpoints, lambda: step),
        closing(reader.__iter__()) as loaded,
    ):
        for batch in loaded:
            schedule = schedules.values_at(step)
            _record_unreadable(unreadable, batch, step + 1, processes)
            with _explained_errors(step + 1, batch, options, processes):
                metrics = training_step.update(step + 1, batch.views, schedule)
            step += 1
            metrics = {"epoch": batches.epoch(step), **metrics, **schedule}
            if is_first and options.probe is not None and step % options.probe_steps == 0:
                metrics |= options.probe()
            progress_log.add(step, metrics, reader.waited_s, done=batches.images_before(step))
            if is_first and options.after_step is not None:
                options.after_step(step)
            signals = [number for (number,) in processes.gather(stop.signal_number or 0) if number]
            if signals:
                checkpoints.save(step)
                raise Stopped(signals[0], f"stopped after step {step} of {num_steps} and saved")
            if step < num_steps:
                checkpoints.save_if_due(step)
        checkpoints.save(step)


def _common_step(step: int, processes: Processes, folder: Path) -> int:
    """Check that all processes resume from the same step."""
    steps = [number for (number,) in processes.gather(step)]
    if len(set(steps)) > 1:
        raise RuntimeError(
            f"the processes found checkpoints of different steps ({steps}): all of them must see one folder {folder}"
        )
    return step


def _record_unreadable(unreadable: UnreadableImages, batch: LoadedViews, step: int, processes: Processes) -> None:
    """Record the unreadable images of this step; stop all processes when there are too many."""
    counts = processes.gather(len(batch.unreadable), int(not batch.views))
    if not any(num_unreadable for num_unreadable, _ in counts):
        return
    rows = processes.gather_lists(batch.unreadable)
    unreadable.add(step, rows)
    if any(is_empty for _, is_empty in counts):
        file, reason = rows[-1]
        raise RuntimeError(
            f"{len(rows)} images in a row cannot be read at step {step}, the last one {file}: {reason}. "
            "Is the disk still there? The state is saved: the same command resumes"
        )


class _NotFiniteRunError(RuntimeError):
    """A loss that is not finite, reported. No checkpoint follows: the weights may be on their way to diverge."""


@contextmanager
def _explained_errors(step: int, batch: LoadedViews, options: TrainOptions, processes: Processes) -> Iterator[None]:
    """Add the step, its images and advice to the errors of a step."""
    try:
        yield
    except NotFiniteError as error:
        # All processes come here together: the value that is not finite is a mean over them.
        names, path = processes.gather_lists(batch.files), options.folder / "not_finite.json"
        report = {"step": step, "terms": {name: str(value) for name, value in error.terms.items()}, "images": names}
        if processes.is_first:
            files.write_atomically(path, json.dumps(report, indent=1))
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
    """Save a checkpoint of the finished steps when the next one fails."""
    try:
        yield
    except (Stopped, _NotFiniteRunError):
        raise
    except Exception:
        checkpoints.save(steps_done())
        raise
