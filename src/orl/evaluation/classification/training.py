"""Training and scoring of a classifier: schedule, training by the common loop, accuracy on centre crops, result."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from orl import provenance
from orl.config import check_numbers
from orl.datasets.classified import ClassifiedImages, check_train_val
from orl.evaluation.classification.accuracy import Accuracy
from orl.evaluation.classification.classifier import Classifier, classification_losses, score_images
from orl.evaluation.classification.samples import CropConfig, TrainingImages, training_colours
from orl.evaluation.output import MAX_UNREADABLE_FRACTION, EvaluationOutput, finished, write_result
from orl.evaluation.protocol import Result
from orl.processes import Processes, local_device
from orl.schedules import step_decay
from orl.training.batches import epoch_batches
from orl.training.fabric import launch_fabric
from orl.training.loader import BatchSource
from orl.training.loop import Schedules, train
from orl.training.supervised import SupervisedStep
from orl.training.unreadable import UNREADABLE, UnreadableImages
from orl.views.crops import RESAMPLING
from orl.views.view_dataset import collate_views

PROTOCOL_BATCH_SIZE = 256
PROTOCOL_SIZE_PX = 224


@dataclass(frozen=True, kw_only=True)
class TrainingSchedule:
    """Length, learning rate and augmentation of the training of a classifier."""

    task: str
    epochs: int
    batch_size: int
    lr: float
    """Learning rate until the first milestone; a parameter group multiplies it by its `lr_scale`."""
    milestones: tuple[float, ...]
    """Fractions of the epochs after which the learning rate falls."""
    factor: float
    """Factor of the learning rate at each milestone."""
    jitter: float
    lighting: float
    size_px: int

    def schedules(self, steps_per_epoch: int) -> Schedules:
        """Return the learning rate of each step."""
        milestones = [round(fraction * self.epochs * steps_per_epoch) for fraction in self.milestones]
        return Schedules(values_at=lambda step: {"lr": step_decay(step, milestones, self.lr, self.factor)})


@dataclass(frozen=True, kw_only=True)
class ClassifierTask:
    """A classifier to train, with the inputs and the description of its result."""

    schedule: TrainingSchedule
    build: Callable[[], Classifier]
    """Function that builds the classifier with random weights from torch's global generator."""
    build_optimiser: Callable[[Classifier], torch.optim.Optimizer]
    inputs: Mapping[str, Any]
    """Inputs of the result besides the images, the schedule, the seed and the precision."""
    description: Mapping[str, Any]
    """Entries of the result besides the scores and the counts."""


def train_and_score(
    task: ClassifierTask,
    train_images: ClassifiedImages,
    val_images: ClassifiedImages,
    output: EvaluationOutput,
    processes: Processes,
) -> Result | None:
    """Train a classifier, score it and write the result; a finished result is read, a stopped training resumes.

    Args:
        task: classifier, schedule and description.
        train_images: images to train on.
        val_images: images to score.
        output: file and options of the work.
        processes: joined processes, which train together.

    Returns:
        The result: `top1` and `top5` of a single head, or those of each head in `levels`; None in all processes but
        the first.

    Raises:
        ValueError: if the splits differ in classes or share images, or the batch is larger than the training split.
        RuntimeError: if training fails, or too many images to score are unreadable.
        Stopped: after Ctrl-C or a signal; the same call resumes.
    """
    schedule = task.schedule
    check_train_val(train_images, val_images)
    inputs = {
        **task.inputs,
        "resampling": RESAMPLING,
        "schedule": {**vars(schedule), "milestones": list(schedule.milestones)},
        # Only the first process compares and writes the inputs, so only it reads the sizes of all files.
        "images": [train_images.fingerprint, val_images.fingerprint] if processes.is_first else [],
        "seed": output.seed,
        "precision": output.precision,
    }
    result = processes.from_first(lambda: finished(output, inputs), "the search for a finished result")
    if result is not None:
        return result if processes.is_first else None
    batches = epoch_batches(
        len(train_images),
        schedule.batch_size,
        schedule.epochs,
        output.seed,
        rank=processes.rank,
        num_processes=processes.count,
    )
    started = time.perf_counter()
    if processes.is_first:
        # Test images are no input of the training: they may be repaired after it.
        provenance.claim(output.folder, {**inputs, "images": train_images.fingerprint}, output.overwrite)
    processes.wait("the folder of the classifier")
    fabric = launch_fabric(local_device(output.device), output.precision, processes)
    torch.manual_seed(output.seed)
    network = task.build().train()
    if fabric.world_size > 1:
        network.synchronise(fabric.device)
    training_step = SupervisedStep(
        fabric, network, task.build_optimiser(network), classification_losses, seed=output.seed
    )
    crops = CropConfig(size_px=schedule.size_px, colours=training_colours(schedule.jitter), lighting=schedule.lighting)
    dataset = TrainingImages(train_images, crops, output.seed)
    source = BatchSource(dataset=dataset, collate=collate_views, finish=lambda batch: batch)
    hint = "Use a smaller --batch-size or --size-px, or more processes"
    options = output.train_options(schedule.task, len(train_images), hint)
    train(training_step, source, batches, schedule.schedules(batches.steps_per_epoch), options, processes)
    counts, unreadable = score_images(
        network, val_images, schedule.size_px, fabric, processes, workers=output.workers, quiet=output.quiet
    )
    _check_unreadable(unreadable, val_images)
    if not processes.is_first:
        return None
    result = {
        "task": schedule.task,
        **task.description,
        **_scores(counts),
        "train_split": train_images.split,
        "val_split": val_images.split,
        "num_classes": len(train_images.classes),
        "num_train": len(train_images),
        "num_val": len(val_images) - len(unreadable),
        "unreadable": dict(unreadable),
        "unreadable_in_training": sorted(UnreadableImages(output.folder / UNREADABLE, 0).files),
        "elapsed_s": time.perf_counter() - started,
    }
    return write_result(output, result, inputs)


def check_training_config(config: object) -> None:
    """Check the numbers of a config of linear or semi.

    Raises:
        ValueError: if a number is out of its range.
    """
    check_numbers(config)
    least = {
        "epochs": 1,
        "batch_size": 1,
        "size_px": 32,
        "sgd_momentum": 0,
        "weight_decay": 0,
        "jitter": 0,
        "lighting": 0,
    }
    for name, limit in least.items():
        value = getattr(config, name, None)
        if value is not None and not value >= limit:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; it must be {limit} or more")
    for name in ("base_lr", "head_lr", "backbone_lr"):
        value = getattr(config, name, None)
        if value is not None and not value > 0:
            message = f"--{name.replace('_', '-')} is {value}; it must be above 0"
            message += "; 'linear' evaluates a frozen backbone" if name == "backbone_lr" else ""
            raise ValueError(message)


def size_deviations(size_px: int) -> list[str]:
    """Return the deviation of another size of the views than the protocol's."""
    return [] if size_px == PROTOCOL_SIZE_PX else [f"{size_px} px, not {PROTOCOL_SIZE_PX}"]


def trainable_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that get gradients."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _scores(counts: Mapping[str, Accuracy]) -> dict[str, Any]:
    if len(counts) == 1:
        return next(iter(counts.values())).to_json()
    return {"levels": {name: count.to_json() for name, count in counts.items()}}


def _check_unreadable(unreadable: list[tuple[str, str]], images: ClassifiedImages) -> None:
    if len(unreadable) > MAX_UNREADABLE_FRACTION * len(images):
        name, reason = unreadable[0]
        raise RuntimeError(
            f"{len(unreadable)} of {len(images)} images of {images.split!r} cannot be read, such as {name} ({reason}); "
            "repair them and give the same command again: training is kept"
        )
