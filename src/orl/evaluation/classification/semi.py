"""Semi-supervised classification: all weights trained on a share of the labels."""

import copy
from dataclasses import asdict
from typing import Any

import torch

from orl.datasets.classified import ClassifiedImages
from orl.evaluation.classification.classifier import Classifier, hold_unreached, pooled_head
from orl.evaluation.classification.configs import (
    PROTOCOL_BATCH_SIZE,
    PROTOCOL_SIZE_PX,
    SEMI_FACTOR,
    SEMI_MILESTONES,
    SemiConfig,
    check_settings,
    class_deviations,
)
from orl.evaluation.classification.schedule import Course, train_and_score, weights_of
from orl.evaluation.classification.subsets import draw_subset, read_subset
from orl.evaluation.evaluated_backbone import EvaluatedBackbone
from orl.evaluation.output import EvaluationOutput
from orl.processes import Processes

SMALL_FRACTION, WEIGHT_DECAY = 0.01, 1e-4
"""Up to this share of the labels weights do not decay; above it by this much."""
MAX_FRACTION_ERROR = 0.1
"""By how much of itself the share of a list may differ from that which is asked for: lists are rounded."""


def evaluate_semi(
    subject: EvaluatedBackbone,
    train: ClassifiedImages,
    val: ClassifiedImages,
    settings: SemiConfig,
    place: EvaluationOutput,
    processes: Processes,
) -> dict[str, Any] | None:
    """Train backbone and linear layer on a part of the labelled images and score them by centre crops.

    Args:
        subject: where the backbone starts from.
        train: all labelled images, of which the listed or drawn ones are learnt from.
        val: images to be scored.
        settings: of the training.
        place: where and how to work.
        processes: joined already; batch statistics are of all their images.

    Returns:
        What is written: `top1`, `top5`, and where the part comes from; none in a process that is not the first.

    Raises:
        ValueError: as `check_settings`, `find_part` and `train_and_score`.

    Source:
        ORL's supplementary A; SimCLR's subsets.
    """
    check_settings(settings)
    part = find_part(train, settings, place.seed)

    def build() -> Classifier:
        backbone = copy.deepcopy(subject.network).requires_grad_(True)
        hold_unreached(backbone, settings.size_px)
        heads = pooled_head(backbone.num_channels, len(train.classes))
        return Classifier(backbone, heads, is_frozen=False)

    departing = [
        *subject.protocol_deviations,
        *class_deviations(settings, len(train.classes)),
        *protocol_deviations(settings),
    ]
    told = {**asdict(settings), "list": str(settings.list) if settings.list else None}
    inputs = {"backbone": subject.digest, "settings": {**told, "list": None}}
    told |= {"backbone": subject.label, "data": str(train.root), "protocol_deviations": departing}
    told["weight_decay"] = weight_decay(settings)

    def optimise(network: Classifier) -> torch.optim.Optimizer:
        return build_optimiser(network, settings)

    return train_and_score(semi_course(settings), build, optimise, part, val, inputs, told, place, processes)


def find_part(train: ClassifiedImages, settings: SemiConfig, seed: int) -> ClassifiedImages:
    """The images whose labels are used: those listed, or else drawn.

    Raises:
        ValueError: as `read_subset` and `draw_subset`, or if the list holds another share than that of the settings,
            which decides the weight decay and the name of the score.
    """
    if settings.list is None:
        return draw_subset(train, settings.fraction, seed)
    part = read_subset(train, settings.list)
    fraction = len(part) / len(train)
    if abs(fraction - settings.fraction) > MAX_FRACTION_ERROR * settings.fraction:
        raise ValueError(
            f"{settings.list} lists {len(part)} of {len(train)} images, which is {fraction:.2%} and not "
            f"{settings.fraction:.2%}: give --fraction {fraction:.2g}, or the list of that share"
        )
    return part


def semi_course(settings: SemiConfig) -> Course:
    """The recipe: the backbone's rate, divided by five after 12 and 16 of 20 epochs."""
    return Course(
        task="semi",
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        lr=settings.backbone_lr * settings.batch_size / PROTOCOL_BATCH_SIZE,
        milestones=SEMI_MILESTONES,
        factor=SEMI_FACTOR,
        jitter=0.0,
        size_px=settings.size_px,
    )


def build_optimiser(network: Classifier, settings: SemiConfig) -> torch.optim.SGD:
    """SGD with a rate of its own for the classifier."""
    groups: list[dict[str, Any]] = [
        {"params": weights_of(network.backbone)},
        {"params": weights_of(network.heads), "lr_scale": settings.head_lr / settings.backbone_lr},
    ]
    return torch.optim.SGD(
        groups, lr=settings.backbone_lr, momentum=settings.sgd_momentum, weight_decay=weight_decay(settings)
    )


def weight_decay(settings: SemiConfig) -> float:
    """As set, or the protocol's for this share."""
    if settings.weight_decay is not None:
        return settings.weight_decay
    return 0.0 if settings.fraction <= SMALL_FRACTION else WEIGHT_DECAY


def protocol_deviations(settings: SemiConfig) -> list[str]:
    """What is not as in the protocol."""
    protocol = SemiConfig(fraction=settings.fraction)
    found = [] if settings.dataset == "imagenet" else ["not ImageNet"]
    if settings.list is None:
        found.append("labels drawn by the seed, not SimCLR's list")
    if settings.fraction not in (0.01, 0.1):
        found.append(f"{settings.fraction:g} of the labels")
    if settings.weight_decay is not None:
        found.append(f"weight_decay {settings.weight_decay:g}")
    for name in ("epochs", "batch_size", "backbone_lr", "head_lr", "sgd_momentum"):
        value, usual = getattr(settings, name), getattr(protocol, name)
        if value != usual:
            found.append(f"{name} {value:g}, not {usual:g}")
    if settings.size_px != PROTOCOL_SIZE_PX:
        found.append(f"{settings.size_px} px, not {PROTOCOL_SIZE_PX}")
    return found
