"""Linear classification: a linear layer on frozen features."""

import copy
from dataclasses import asdict
from typing import Any

import torch

from orl.datasets.classified import ClassifiedImages
from orl.evaluation.classification.classifier import Classifier, level_heads, pooled_head
from orl.evaluation.classification.configs import (
    LINEAR_EPOCHS,
    LINEAR_FACTOR,
    LINEAR_MILESTONES,
    PROTOCOL_BATCH_SIZE,
    PROTOCOL_SIZE_PX,
    LinearConfig,
    check_settings,
    class_deviations,
)
from orl.evaluation.classification.schedule import Course, train_and_score, weights_of
from orl.evaluation.evaluated_backbone import EvaluatedBackbone
from orl.evaluation.output import EvaluationOutput
from orl.processes import Processes


def evaluate_linear(
    subject: EvaluatedBackbone,
    train: ClassifiedImages,
    val: ClassifiedImages,
    settings: LinearConfig,
    place: EvaluationOutput,
    processes: Processes,
) -> dict[str, Any] | None:
    """Train a linear layer on the features of a frozen backbone and score it by centre crops.

    Args:
        subject: its backbone stays as it is, in evaluation mode.
        train: images to learn from.
        val: images to be scored.
        settings: of the training.
        place: where and how to work.
        processes: joined already.

    Returns:
        What is written: `top1`, `top5`, or those of each level in `levels`; none in a process that is not the first.

    Raises:
        ValueError: as `check_settings` and `train_and_score`; or if levels are asked for of a network that is no
            ResNet.

    Source:
        ORL's supplementary A; Goyal et al. (arXiv 1905.01235) for the five levels.
    """

    check_settings(settings)

    def build() -> Classifier:
        backbone, num_classes = copy.deepcopy(subject.network), len(train.classes)
        if settings.levels:
            heads = level_heads(backbone, num_classes, settings.size_px)
        else:
            heads = pooled_head(backbone.num_channels, num_classes)
        return Classifier(backbone, heads, is_frozen=True)

    def optimise(network: Classifier) -> torch.optim.Optimizer:
        return build_optimiser(network, settings)

    departing = [
        *subject.protocol_deviations,
        *class_deviations(settings, len(train.classes)),
        *protocol_deviations(settings),
    ]
    told = {"backbone": subject.label, "data": str(train.root), **asdict(settings), "protocol_deviations": departing}
    inputs = {"backbone": subject.digest, "settings": asdict(settings)}
    return train_and_score(linear_course(settings), build, optimise, train, val, inputs, told, place, processes)


def build_optimiser(network: Classifier, settings: LinearConfig) -> torch.optim.SGD:
    """SGD with Nesterov's momentum for what is trained."""
    return torch.optim.SGD(
        weights_of(network),
        lr=settings.base_lr,
        momentum=settings.sgd_momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.sgd_momentum > 0,
    )


def linear_course(settings: LinearConfig) -> Course:
    """The recipe: the rate divided by ten at three equally spaced epochs."""
    return Course(
        task="linear",
        epochs=LINEAR_EPOCHS[settings.dataset] if settings.epochs is None else settings.epochs,
        batch_size=settings.batch_size,
        lr=settings.base_lr * settings.batch_size / PROTOCOL_BATCH_SIZE,
        milestones=LINEAR_MILESTONES,
        factor=LINEAR_FACTOR,
        jitter=settings.jitter,
        size_px=settings.size_px,
    )


def protocol_deviations(settings: LinearConfig) -> list[str]:
    """What is not as in the protocol."""
    protocol = LinearConfig(dataset=settings.dataset, levels=settings.levels)
    found = [] if settings.dataset != "folder" else ["own classes"]
    if settings.epochs not in (None, LINEAR_EPOCHS[settings.dataset]):
        found.append(f"{settings.epochs} epochs, not {LINEAR_EPOCHS[settings.dataset]}")
    if settings.size_px != PROTOCOL_SIZE_PX:
        found.append(f"{settings.size_px} px, not {PROTOCOL_SIZE_PX}")
    for name in ("batch_size", "base_lr", "sgd_momentum", "weight_decay", "jitter"):
        value, usual = getattr(settings, name), getattr(protocol, name)
        if value != usual:
            found.append(f"{name} {value:g}, not {usual:g}")
    return found
