"""Semi-supervised classification: all weights trained on a fraction of the labels."""

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from orl.datasets.class_folders import ClassifiedDataset
from orl.datasets.classified import ClassifiedImages
from orl.evaluation.classification.class_data import (
    DATASET_NAMES,
    ClassData,
    accuracy_columns,
    class_count_deviations,
)
from orl.evaluation.classification.classifier import Classifier, freeze_unused_parameters, pooled_head
from orl.evaluation.classification.subsets import read_subset, sample_subset
from orl.evaluation.classification.training import (
    PROTOCOL_BATCH_SIZE,
    PROTOCOL_SIZE_PX,
    ClassifierTask,
    TrainingSchedule,
    check_training_config,
    size_deviations,
    train_and_score,
    trainable_parameters,
)
from orl.evaluation.evaluated_backbone import EvaluatedBackbone
from orl.evaluation.output import EvaluationOutput
from orl.evaluation.protocol import Datasets, Evaluation, Result, SuiteEntry, Tables
from orl.processes import Processes

SEMI_MILESTONES = (12 / 20, 16 / 20)
"""Fractions of the epochs after which the learning rate falls."""
SEMI_DECAY_FACTOR = 0.2
SMALL_FRACTION, SEMI_WEIGHT_DECAY = 0.01, 1e-4
"""Largest fraction of the labels that is trained without weight decay, and the weight decay above it."""
MAX_FRACTION_ERROR = 0.1
"""Largest relative difference between the fraction of a list and the given fraction; published lists are rounded."""


@dataclass(frozen=True, kw_only=True)
class SemiConfig:
    """All weights trained on a fraction of the labels, by SGD."""

    dataset: ClassifiedDataset = "imagenet"
    """Layout of the folder."""
    fraction: float = 0.01
    """Fraction of the labels."""
    list: Path | None = None
    """File with the names of the labelled images, such as SimCLR's 1percent.txt; sampled by the seed if not given."""
    epochs: int = 20
    """Passes over the images of the fraction."""
    batch_size: int = PROTOCOL_BATCH_SIZE
    """Images per step, over all processes."""
    backbone_lr: float = 0.01
    """Learning rate of the backbone at a batch size of 256; divided by five after 3/5 and 4/5 of the epochs."""
    head_lr: float = 1.0
    """Learning rate of the linear classifier at a batch size of 256, with the same schedule."""
    sgd_momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float | None = None
    """Weight decay of all weights; 0 up to 1% of the labels and 1e-4 above, if not given."""
    size_px: int = PROTOCOL_SIZE_PX
    """Side of the views, pixels; test images are resized to 256/224 of it and cropped."""

    def __post_init__(self) -> None:
        check_training_config(self)


def check(data: ClassData, config: SemiConfig) -> None:
    """Read the labels and the list, and check that the list has the given fraction of the images."""
    # The seed decides which labels are sampled, not whether they can be.
    labelled_fraction(data.splits(config.dataset)[0], config, seed=0)


def run(
    backbone: EvaluatedBackbone, data: ClassData, config: SemiConfig, output: EvaluationOutput, processes: Processes
) -> Result | None:
    """Train backbone and linear layer on a fraction of the labelled images and score them on centre crops.

    Batch statistics are those of all processes.

    Returns:
        The result: `top1`, `top5` and the origin of the fraction; None in all processes but the first.

    Raises:
        ValueError: if the splits, the list or the fraction do not allow it.

    Source:
        ORL's supplementary A; SimCLR's subsets.
    """
    train, val = data.splits(config.dataset)
    fraction, num_classes = labelled_fraction(train, config, output.seed), len(train.classes)

    def build() -> Classifier:
        network = copy.deepcopy(backbone.network).requires_grad_(True)
        freeze_unused_parameters(network, config.size_px)
        return Classifier(network, pooled_head(network.num_channels, num_classes), is_frozen=False)

    described = {**asdict(config), "list": str(config.list) if config.list else None}
    deviations = [
        *backbone.protocol_deviations,
        *class_count_deviations(config.dataset, num_classes),
        *semi_deviations(config),
    ]
    task = ClassifierTask(
        schedule=semi_schedule(config),
        build=build,
        build_optimiser=lambda network: build_semi_optimiser(network, config),
        # The fingerprint of the images replaces the path of the list.
        inputs={"backbone": backbone.digest, "config": {**described, "list": None}},
        description={
            **described,
            "backbone": backbone.label,
            "data": str(train.root),
            "protocol_deviations": deviations,
            "weight_decay": weight_decay(config),
        },
    )
    return train_and_score(task, fraction, val, output, processes)


def labelled_fraction(train: ClassifiedImages, config: SemiConfig, seed: int) -> ClassifiedImages:
    """Return the images whose labels are used: those of the list if there is one, otherwise sampled ones.

    Raises:
        ValueError: if the list or the fraction is invalid, or the list has another fraction than the config. The
            fraction decides the weight decay and the name of the score.
    """
    if config.list is None:
        return sample_subset(train, config.fraction, seed)
    listed = read_subset(train, config.list)
    fraction = len(listed) / len(train)
    if abs(fraction - config.fraction) > MAX_FRACTION_ERROR * config.fraction:
        raise ValueError(
            f"{config.list} lists {len(listed)} of {len(train)} images, which is {fraction:.2%} and not "
            f"{config.fraction:.2%}: give --fraction {fraction:.2g}, or the list of that fraction"
        )
    return listed


def semi_schedule(config: SemiConfig) -> TrainingSchedule:
    """Return the schedule: the learning rate of the backbone is divided by five after 12 and 16 of 20 epochs."""
    return TrainingSchedule(
        task="semi",
        epochs=config.epochs,
        batch_size=config.batch_size,
        lr=config.backbone_lr * config.batch_size / PROTOCOL_BATCH_SIZE,
        milestones=SEMI_MILESTONES,
        factor=SEMI_DECAY_FACTOR,
        jitter=0.0,
        lighting=0.0,
        size_px=config.size_px,
    )


def build_semi_optimiser(network: Classifier, config: SemiConfig) -> torch.optim.SGD:
    """Return SGD with separate learning rates for backbone and classifier."""
    groups: list[dict[str, Any]] = [
        {"params": trainable_parameters(network.backbone)},
        {"params": trainable_parameters(network.heads), "lr_scale": config.head_lr / config.backbone_lr},
    ]
    return torch.optim.SGD(
        groups, lr=config.backbone_lr, momentum=config.sgd_momentum, weight_decay=weight_decay(config)
    )


def weight_decay(config: SemiConfig) -> float:
    """Return the weight decay of the config, or the protocol's for this fraction."""
    if config.weight_decay is not None:
        return config.weight_decay
    return 0.0 if config.fraction <= SMALL_FRACTION else SEMI_WEIGHT_DECAY


def semi_deviations(config: SemiConfig) -> list[str]:
    """List the differences from the published protocol."""
    protocol = SemiConfig(fraction=config.fraction)
    found = [] if config.dataset == "imagenet" else ["not ImageNet"]
    if config.list is None:
        found.append("labels sampled by the seed, not SimCLR's list")
    if config.fraction not in (0.01, 0.1):
        found.append(f"{config.fraction:g} of the labels")
    if config.weight_decay is not None:
        found.append(f"weight_decay {config.weight_decay:g}")
    for name in ("epochs", "batch_size", "backbone_lr", "head_lr", "sgd_momentum"):
        value, published = getattr(config, name), getattr(protocol, name)
        if value != published:
            found.append(f"{name} {value:g}, not {published:g}")
    return [*found, *size_deviations(config.size_px)]


def tables(result: Result) -> Tables:
    """Return the accuracies."""
    title = f"{DATASET_NAMES[result['dataset']]} semi-supervised, {100 * result['fraction']:g}% of the labels"
    return {title: accuracy_columns(result)}


def suite_entries(datasets: Datasets, config: SemiConfig) -> Sequence[SuiteEntry[ClassData, SemiConfig]]:
    """Return the entries of 1% and 10% of ImageNet's labels.

    Raises:
        ValueError: if the config has one list for both fractions.
    """
    if config.list is not None:
        raise ValueError(
            f"{config.list} lists one fraction of ImageNet, but the suite evaluates 1% and 10%: give "
            "--imagenet-1percent and --imagenet-10percent in place of --semi.list"
        )
    if datasets.imagenet is None:
        return []
    lists = {0.01: datasets.imagenet_1percent, 0.1: datasets.imagenet_10percent}
    return [
        SuiteEntry(
            name=f"semi_{100 * fraction:g}",
            data=ClassData(data=datasets.imagenet),
            config=replace(config, dataset="imagenet", fraction=fraction, list=path),
        )
        for fraction, path in lists.items()
    ]


SEMI = Evaluation(
    name="semi",
    label="Semi-supervised",
    help="All weights trained on 1% or 10% of the labels; top-1 and top-5.",
    data=ClassData,
    config=SemiConfig,
    check=check,
    run=run,
    tables=tables,
    trains=True,
    file_stem=lambda config: f"semi-{100 * config.fraction:g}percent",
    suite_entries=suite_entries,
)
