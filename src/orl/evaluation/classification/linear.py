"""Linear classification: batch normalisation and a linear layer trained on frozen features."""

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch

from orl.config import FeatureKind
from orl.datasets.class_folders import ClassifiedDataset
from orl.evaluation.classification.class_data import (
    DATASET_NAMES,
    ClassData,
    accuracy_columns,
    class_count_deviations,
    class_datasets,
)
from orl.evaluation.classification.classifier import Classifier, normalised_heads
from orl.evaluation.classification.levels import FEATURE_LEVELS
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
from orl.evaluation.pooling import feature_deviations, feature_kind, file_stem
from orl.evaluation.protocol import Datasets, Evaluation, Result, SuiteEntry, Tables
from orl.processes import Processes

LINEAR_EPOCHS: dict[str, int] = {"imagenet": 28, "places205": 14, "inat18": 84, "folder": 28}
"""Epochs of each data set, chosen so that all have a similar number of steps; own class folders have ImageNet's."""
LINEAR_MILESTONES = (2 / 7, 4 / 7, 6 / 7)
"""Fractions of the epochs after which the learning rate falls: 8, 16, 24 of 28."""
LINEAR_DECAY_FACTOR = 0.1
COLOUR_CHANGES: dict[str, tuple[float, float]] = {
    "imagenet": (0.4, 0.1),
    "places205": (0.0, 0.0),
    "inat18": (0.0, 0.0),
    "folder": (0.4, 0.1),
}
"""Jitter and lighting of each data set; own class folders have ImageNet's."""


@dataclass(frozen=True, kw_only=True)
class LinearConfig:
    """Batch normalisation and a linear layer on frozen features, trained by SGD."""

    dataset: ClassifiedDataset = "imagenet"
    """Layout of the folder, and data set whose epochs are trained; 'folder' for train/CLASS and val/CLASS."""
    epochs: int | None = None
    """Passes over the images; 28 on ImageNet, 14 on Places205, 84 on iNaturalist 2018 if not given."""
    batch_size: int = PROTOCOL_BATCH_SIZE
    """Images per step, over all processes."""
    base_lr: float = 0.01
    """Learning rate at a batch size of 256; divided by ten after 2/7, 4/7 and 6/7 of the epochs."""
    sgd_momentum: float = 0.9
    """Nesterov momentum of SGD."""
    weight_decay: float = 1e-4
    """Weight decay of the linear layer."""
    jitter: float | None = None
    """Strength of the jitter of brightness, contrast and saturation; if not given, 0.4 on ImageNet, 0 on Places205 and
    iNaturalist 2018."""
    lighting: float | None = None
    """Standard deviation of noise along the principal components of ImageNet's colours; if not given, 0.1 on ImageNet,
    0 on Places205 and iNaturalist 2018."""
    features: FeatureKind = "feat5"
    """Features: feat5, 2 x 2 averages of the last feature map of ResNet-50 as published, or pooled, its mean."""
    size_px: int = PROTOCOL_SIZE_PX
    """Side of the views, pixels; test images are resized to 256/224 of it and cropped."""
    levels: bool = False
    """Train a classifier on each of the five feature levels, conv1 to res5, pooled to about 9,000 numbers."""

    def __post_init__(self) -> None:
        check_training_config(self)
        if self.levels and self.features != "feat5":
            raise ValueError(f"--features {self.features} has no effect with --levels; leave one of them out")

    @property
    def colour_changes(self) -> tuple[float, float]:
        """Jitter and lighting from the config, or else the values published for the data set."""
        jitter, lighting = COLOUR_CHANGES[self.dataset]
        return (
            jitter if self.jitter is None else self.jitter,
            lighting if self.lighting is None else self.lighting,
        )


def check(data: ClassData, config: LinearConfig) -> None:
    """Read the labels, and check that the classes of both splits are equal."""
    data.splits(config.dataset)


def run(
    backbone: EvaluatedBackbone, data: ClassData, config: LinearConfig, output: EvaluationOutput, processes: Processes
) -> Result | None:
    """Train batch normalisation and a linear layer on the features of a frozen backbone; score it on centre crops.

    Returns:
        The result: `top1` and `top5`, or those of each level in `levels`; None in all processes but the first.

    Raises:
        ValueError: if the splits do not allow it, or `levels` is set for a network that is not an orl ResNet.

    Source:
        ORL's supplementary A; Goyal et al. (arXiv 1905.01235) for the five levels.
    """
    train, val = data.splits(config.dataset)
    num_classes = len(train.classes)

    def build() -> Classifier:
        network = copy.deepcopy(backbone.network)
        names = FEATURE_LEVELS if config.levels else [config.features]
        return Classifier(network, normalised_heads(network, names, num_classes, config.size_px), is_frozen=True)

    deviations = [
        *backbone.protocol_deviations,
        *class_count_deviations(config.dataset, num_classes),
        *linear_deviations(config),
    ]
    task = ClassifierTask(
        schedule=linear_schedule(config),
        build=build,
        build_optimiser=lambda network: build_linear_optimiser(network, config),
        inputs={"backbone": backbone.digest, "config": asdict(config)},
        description={
            "backbone": backbone.label,
            "data": str(train.root),
            **asdict(config),
            "protocol_deviations": deviations,
        },
    )
    return train_and_score(task, train, val, output, processes)


def linear_schedule(config: LinearConfig) -> TrainingSchedule:
    """Return the schedule: the learning rate is divided by ten at three equally spaced epochs."""
    jitter, lighting = config.colour_changes
    return TrainingSchedule(
        task="linear",
        epochs=LINEAR_EPOCHS[config.dataset] if config.epochs is None else config.epochs,
        batch_size=config.batch_size,
        lr=config.base_lr * config.batch_size / PROTOCOL_BATCH_SIZE,
        milestones=LINEAR_MILESTONES,
        factor=LINEAR_DECAY_FACTOR,
        jitter=jitter,
        lighting=lighting,
        size_px=config.size_px,
    )


def build_linear_optimiser(network: Classifier, config: LinearConfig) -> torch.optim.SGD:
    """Return SGD with Nesterov momentum over the trainable parameters."""
    return torch.optim.SGD(
        trainable_parameters(network),
        lr=config.base_lr,
        momentum=config.sgd_momentum,
        weight_decay=config.weight_decay,
        nesterov=config.sgd_momentum > 0,
    )


def linear_deviations(config: LinearConfig) -> list[str]:
    """List the differences from the published protocol."""
    protocol = LinearConfig(dataset=config.dataset, levels=config.levels)
    found = [] if config.dataset != "folder" else ["own classes"]
    if config.epochs not in (None, LINEAR_EPOCHS[config.dataset]):
        found.append(f"{config.epochs} epochs, not {LINEAR_EPOCHS[config.dataset]}")
    found += size_deviations(config.size_px)
    found += feature_deviations(config.features)
    names = ("batch_size", "base_lr", "sgd_momentum", "weight_decay")
    values = [(name, getattr(config, name), getattr(protocol, name)) for name in names]
    values += list(zip(("jitter", "lighting"), config.colour_changes, protocol.colour_changes))
    for name, value, published in values:
        if value != published:
            found.append(f"{name} {value:g}, not {published:g}")
    return found


def tables(result: Result) -> Tables:
    """Return the accuracies, or the top-1 accuracy of each level."""
    name = DATASET_NAMES[result["dataset"]]
    if result.get("levels"):
        levels = {level: scores["top1"] for level, scores in result["levels"].items()}
        return {f"{name} linear, top-1 of each level": levels}
    return {f"{name} linear, {feature_kind(result)}": accuracy_columns(result)}


def suite_entries(datasets: Datasets, config: LinearConfig) -> Sequence[SuiteEntry[ClassData, LinearConfig]]:
    """Return one entry for each class data set."""
    return [
        SuiteEntry(name=f"linear_{name}", data=data, config=replace(config, dataset=name))
        for name, data in class_datasets(datasets)
    ]


LINEAR = Evaluation(
    name="linear",
    label="Linear classifier",
    help=(
        "Batch normalisation and a linear layer trained on frozen features: ImageNet, Places205, iNaturalist 2018 or "
        "own class folders. With --cached-features it is linear-estimate."
    ),
    data=ClassData,
    config=LinearConfig,
    check=check,
    run=run,
    tables=tables,
    trains=True,
    file_stem=lambda config: "linear-levels" if config.levels else file_stem("linear", config.features),
    suite_entries=suite_entries,
)
