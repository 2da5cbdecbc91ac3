"""From labelled images to the accuracy of a classifier: trained by the one loop, scored on centre crops, written."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from orl import provenance
from orl.datasets.classified import ClassifiedImages, check_train_val
from orl.evaluation.classification.accuracy import Accuracy
from orl.evaluation.classification.classifier import Classifier, losses, score_images
from orl.evaluation.classification.samples import Rules, TrainingImages, training_colours
from orl.evaluation.output import EvaluationOutput, finished, write_result
from orl.processes import Processes, local_device
from orl.schedules import step_decay
from orl.training.batches import epoch_batches
from orl.training.fabric import launch_fabric
from orl.training.loader import BatchSource
from orl.training.loop import Schedules, TrainOptions, train
from orl.training.supervised import SupervisedStep
from orl.training.unreadable import UNREADABLE, UnreadableImages
from orl.views.view_dataset import collate_views

MAX_UNREADABLE_FRACTION = 0.01
"""Of the images to learn from and of those to be scored, before the judge stops."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """All that decides what a classifier learns, beside the weights that it starts from."""

    task: str
    epochs: int
    batch_size: int
    lr: float
    """Until the first milestone; a group of weights multiplies it by its `lr_scale`."""
    milestones: tuple[float, ...]
    """Shares of the epochs after which it falls."""
    factor: float
    jitter: float
    size_px: int

    def schedules(self, steps_per_epoch: int) -> Schedules:
        """The learning rate, step by step."""
        milestones = [round(fraction * self.epochs * steps_per_epoch) for fraction in self.milestones]
        return Schedules(values_at=lambda step: {"lr": step_decay(step, milestones, self.lr, self.factor)})


def train_and_score(
    course: Course,
    build: Callable[[], Classifier],
    optimise: Callable[[Classifier], torch.optim.Optimizer],
    train_images: ClassifiedImages,
    val_images: ClassifiedImages,
    inputs: Mapping[str, Any],
    settings: Mapping[str, Any],
    place: EvaluationOutput,
    processes: Processes,
) -> dict[str, Any] | None:
    """Train a classifier to the end, score it and write the result; what is done already is kept.

    Args:
        course: how it is trained.
        build: makes the classifier, random weights drawn from torch's generator.
        optimise: makes its optimiser.
        train_images: images to learn from.
        val_images: images to be scored.
        made_from: what the result depends on, beside the images, the course, the seed and the precision.
        settings: for the result.
        place: where and how to work.
        processes: joined already.

    Returns:
        The result: `top1` and `top5` of the only head, or those of each by name in `levels`; none in a process that
        is not the first.

    Raises:
        ValueError: if the two splits do not belong together, or a batch is larger than the images.
        RuntimeError: as `train`; or if too many images to be scored cannot be read.
        Stopped: as `train`.
    """
    check_train_val(train_images, val_images)
    inputs = {
        **inputs,
        "course": {**vars(course), "milestones": list(course.milestones)},
        # The first process alone compares, keeps and writes it, and the files' sizes are asked for once.
        "images": [train_images.fingerprint, val_images.fingerprint] if processes.is_first else [],
        "seed": place.seed,
        "precision": place.precision,
    }
    found = processes.from_first(lambda: finished(place, inputs), "the result that may be there")
    if found is not None:
        return found if processes.is_first else None
    batches = epoch_batches(
        len(train_images),
        course.batch_size,
        course.epochs,
        place.seed,
        rank=processes.rank,
        num_processes=processes.count,
    )
    started = time.perf_counter()
    if processes.is_first:
        # Images to be scored may be mended when all is learnt.
        provenance.claim(place.folder, {**inputs, "images": train_images.fingerprint}, place.overwrite)
    processes.wait("the folder of the classifier")
    fabric = launch_fabric(local_device(place.device), place.precision, processes)
    torch.manual_seed(place.seed)
    network = build().train()
    if fabric.world_size > 1:
        network.synchronise(fabric.device)
    training_step = SupervisedStep(fabric, network, optimise(network), losses, seed=place.seed)
    rules = Rules(size_px=course.size_px, colours=training_colours(course.jitter))
    samples = TrainingImages(train_images, rules, place.seed)
    source = BatchSource(dataset=samples, collate=collate_views, finish=lambda batch: batch)
    options = _options(course, place, len(train_images))
    train(training_step, source, batches, course.schedules(batches.steps_per_epoch), options, processes)
    counts, unreadable = score_images(
        network, val_images, course.size_px, fabric, processes, workers=place.workers, quiet=place.quiet
    )
    _check_unreadable(unreadable, val_images)
    if not processes.is_first:
        return None
    result = {
        "task": course.task,
        **settings,
        **_scores(counts),
        "train_split": train_images.split,
        "val_split": val_images.split,
        "num_classes": len(train_images.classes),
        "num_train": len(train_images),
        "num_val": len(val_images) - len(unreadable),
        "unreadable": dict(unreadable),
        "unreadable_in_training": sorted(UnreadableImages(place.folder / UNREADABLE, 0).files),
        "elapsed_s": time.perf_counter() - started,
    }
    return write_result(place, result, inputs)


def _options(course: Course, place: EvaluationOutput, num_images: int) -> TrainOptions:
    return TrainOptions(
        folder=place.folder,
        title=course.task,
        workers=place.workers,
        checkpoint_minutes=place.checkpoint_minutes,
        max_unreadable=math.ceil(MAX_UNREADABLE_FRACTION * num_images),
        unreadable_hint=f"{MAX_UNREADABLE_FRACTION:.0%} of them, or one",
        out_of_memory_hint="Take a smaller --batch-size or --size-px, or more processes",
    )


def _scores(counts: Mapping[str, Accuracy]) -> dict[str, Any]:
    if len(counts) == 1:
        return next(iter(counts.values())).to_json()
    return {"levels": {name: count.to_json() for name, count in counts.items()}}


def _check_unreadable(unreadable: list[tuple[str, str]], images: ClassifiedImages) -> None:
    if len(unreadable) > MAX_UNREADABLE_FRACTION * len(images):
        name, reason = unreadable[0]
        raise RuntimeError(
            f"{len(unreadable)} of {len(images)} images of {images.split!r} cannot be read, such as {name} ({reason}); "
            "mend them and give the same command again: training is kept"
        )


def weights_of(part: nn.Module) -> list[nn.Parameter]:
    """Those that are trained."""
    return [weight for weight in part.parameters() if weight.requires_grad]
