"""How classifiers are trained on features, or with all weights: the protocol's numbers, and what may be changed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Dataset = Literal["imagenet", "places205", "inat18", "folder"]
LINEAR_EPOCHS: dict[str, int] = {"imagenet": 28, "places205": 14, "inat18": 84, "folder": 28}
"""So that all have about as many steps; own class folders as ImageNet."""
NUM_CLASSES: dict[str, int] = {"imagenet": 1000, "places205": 205, "inat18": 8142}
LINEAR_MILESTONES = (2 / 7, 4 / 7, 6 / 7)
"""Shares of the epochs after which the rate falls: 8, 16, 24 of 28."""
LINEAR_FACTOR = 0.1
SEMI_MILESTONES = (12 / 20, 16 / 20)
SEMI_FACTOR = 0.2
PROTOCOL_BATCH_SIZE = 256
PROTOCOL_SIZE_PX = 224


@dataclass(frozen=True, kw_only=True)
class LinearConfig:
    """A linear layer on frozen features, by SGD."""

    dataset: Dataset = "imagenet"
    """Whose layout the folder has, and whose epochs are trained; 'folder' for train/CLASS and val/CLASS."""
    epochs: int | None = None
    """Passes over the images; 28 on ImageNet, 14 on Places205, 84 on iNaturalist 2018 if not given."""
    batch_size: int = PROTOCOL_BATCH_SIZE
    """Images a step, over all processes."""
    base_lr: float = 0.01
    """Learning rate at a batch of 256; divided by ten after 2/7, 4/7 and 6/7 of the epochs."""
    sgd_momentum: float = 0.9
    """Momentum of the optimiser, Nesterov's."""
    weight_decay: float = 1e-4
    """Of the linear layer's weights."""
    jitter: float = 0.4
    """Strength of the jitter of brightness, contrast and saturation; 0 for none."""
    size_px: int = PROTOCOL_SIZE_PX
    """Side of the views, pixels; test images are resized to 256/224 of it and cropped."""
    levels: bool = False
    """A classifier on each of the five feature levels, conv1 to res5, pooled to about 9,000 numbers."""


@dataclass(frozen=True, kw_only=True)
class SemiConfig:
    """All weights trained on a share of the labels, by SGD."""

    dataset: Dataset = "imagenet"
    """Whose layout the folder has."""
    fraction: float = 0.01
    """Of the labels."""
    list: Path | None = None
    """Names of the images whose labels are used, such as SimCLR's 1percent.txt; drawn by the seed if not given."""
    epochs: int = 20
    """Passes over the images of the share."""
    batch_size: int = PROTOCOL_BATCH_SIZE
    """Images a step, over all processes."""
    backbone_lr: float = 0.01
    """Learning rate of the backbone at a batch of 256; divided by five after 3/5 and 4/5 of the epochs."""
    head_lr: float = 1.0
    """Learning rate of the linear classifier, likewise."""
    sgd_momentum: float = 0.9
    """Momentum of the optimiser."""
    weight_decay: float | None = None
    """Of all weights; 0 up to 1% of the labels and 1e-4 above, if not given."""
    size_px: int = PROTOCOL_SIZE_PX
    """Side of the views, pixels; test images are resized to 256/224 of it and cropped."""


def class_deviations(settings: LinearConfig | SemiConfig, num_classes: int) -> list[str]:
    """What a set of a published layout is not, whose classes are fewer or more."""
    usual = NUM_CLASSES.get(settings.dataset, num_classes)
    return [] if num_classes == usual else [f"{num_classes:,} classes, not {usual:,}"]


def check_settings(settings: LinearConfig | SemiConfig) -> None:
    """Refuse what cannot be trained.

    Raises:
        ValueError: if a number is out of its range.
    """
    least = {"epochs": 1, "batch_size": 1, "size_px": 32, "sgd_momentum": 0, "weight_decay": 0, "jitter": 0}
    for name, limit in least.items():
        value = getattr(settings, name, None)
        if value is not None and not value >= limit:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; it must be {limit} or more")
    for name in ("base_lr", "head_lr", "backbone_lr"):
        value = getattr(settings, name, None)
        if value is not None and not value > 0:
            told = f"--{name.replace('_', '-')} is {value}; it must be above 0"
            told += ": a backbone that stays as it is, is judged by 'linear'" if name == "backbone_lr" else ""
            raise ValueError(told)
