"""A fast estimate of the linear score: features computed once without augmentation, and a logistic regression."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from numpy import ndarray

from orl import tables as arrow_tables
from orl.config import FeatureKind
from orl.datasets.class_folders import ClassifiedDataset
from orl.datasets.classified import ClassifiedImages, check_train_val
from orl.embed import at_precision
from orl.evaluation.classification.class_data import DATASET_NAMES, ClassData, accuracy_columns
from orl.evaluation.classification.feature_cache import cache_features, unreadable
from orl.evaluation.classification.logistic import (
    MAX_LBFGS_ITERATIONS,
    LogisticFit,
    Moments,
    Shard,
    Shards,
    count_correct,
    find_moments,
    fit_logistic,
)
from orl.evaluation.classification.training import check_training_config
from orl.evaluation.evaluated_backbone import EvaluatedBackbone
from orl.evaluation.output import EvaluationOutput, finished, write_result
from orl.evaluation.pooling import POOLINGS, feature_kind, file_stem
from orl.evaluation.protocol import Evaluation, Result, Tables
from orl.networks.backbones import Backbone
from orl.networks.device import compute_device
from orl.networks.fuse_batch_norm import fuse_batch_norm
from orl.processes import Processes
from orl.progress import progress_bar
from orl.views.crops import RESAMPLING

logger = logging.getLogger(__name__)

DESCRIPTION = "fast estimate: cached features, no augmentation, logistic regression"
STRENGTHS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)
"""L2 penalties to choose from, the largest first: each fit starts from the one before."""
VALIDATION_RATIO = 10
"""One in this many training images is used to choose the penalty."""
DTYPES = {"32-true": torch.float32, "64-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True, kw_only=True)
class EstimateConfig:
    """Logistic regression on features that are computed once, without augmentation."""

    dataset: ClassifiedDataset = "imagenet"
    """Layout of the folder; 'folder' for train/CLASS and val/CLASS."""
    size_px: int = 224
    """Side of the centre crop, pixels."""
    features: FeatureKind = "feat5"
    """Features, stored in 2 bytes a number: feat5, 8,192 numbers of ResNet-50 as `linear`, or pooled, 2,048 numbers."""

    def __post_init__(self) -> None:
        check_training_config(self)


def check(data: ClassData, config: EstimateConfig) -> None:
    """Read the labels and check that there are enough training images.

    Raises:
        ValueError: if the classes of the splits differ, or there are too few training images.
    """
    train, val = data.splits(config.dataset)
    check_train_val(train, val)
    if len(train) < VALIDATION_RATIO:
        raise ValueError(
            f"a tenth of the training images chooses the penalty, which needs {VALIDATION_RATIO} images or more, got "
            f"{len(train)}"
        )


def run(
    backbone: EvaluatedBackbone, data: ClassData, config: EstimateConfig, output: EvaluationOutput, processes: Processes
) -> Result:
    """Estimate the linear score in the time of one forward pass over every image.

    The penalty is chosen on a tenth of the training split, then the classifier is fitted on the complete split. This is
    not the score of the protocol: it has no augmentation and another optimiser. Features are cached in the output's
    folder.

    Returns:
        The result: `task` 'linear-estimate', `protocol`, `top1`, `top5`, and the accuracy of each penalty.

    Raises:
        ValueError: if `check` fails, or more than a tenth of the images is unreadable.
        StaleResultError: if there is a result or a cache of other inputs.
    """
    check(data, config)
    train, val = data.splits(config.dataset)
    inputs = {
        "task": LINEAR_ESTIMATE.name,
        "backbone": backbone.digest,
        "resampling": RESAMPLING,
        "images": [train.fingerprint, val.fingerprint],
        "dataset": config.dataset,
        "size_px": config.size_px,
        "features": config.features,
        "strengths": list(STRENGTHS),
        "seed": output.seed,
        "precision": output.precision,
    }
    if (result := finished(output, inputs)) is not None:
        return result
    started = time.perf_counter()
    train_table, val_table = (_features(backbone, images, output, config) for images in (train, val))
    embedded = time.perf_counter()
    num_positions = train_table.rows("feature", 0, 1).shape[1] // backbone.network.num_channels
    device = compute_device(output.device)
    rejected = {
        f"{split}/{name}": reason
        for split, images, table in (("train", train, train_table), ("val", val, val_table))
        for name, reason in unreadable(images, table).items()
    }
    result = {
        "task": LINEAR_ESTIMATE.name,
        "protocol": DESCRIPTION,
        "dataset": config.dataset,
        **_fit_and_score(_Split(train, train_table, device), _Split(val, val_table, device), num_positions, output),
        "backbone": backbone.label,
        "data": str(train.root),
        "train_split": train.split,
        "test_split": val.split,
        "size_px": config.size_px,
        "features": config.features,
        "precision": output.precision,
        "num_classes": len(train.classes),
        "num_rejected": len(rejected),
        "rejected": rejected,
        "seed": output.seed,
        "embed_elapsed_s": embedded - started,
        "elapsed_s": time.perf_counter() - started,
    }
    return write_result(output, result, inputs)


def _features(
    backbone: EvaluatedBackbone, images: ClassifiedImages, output: EvaluationOutput, config: EstimateConfig
) -> arrow_tables.Table:
    device = compute_device(output.device)
    network = backbone.network.eval()
    fused = fuse_batch_norm(network) if isinstance(network, Backbone) else network
    fused = fused.to(memory_format=torch.channels_last).to(device)
    return cache_features(
        at_precision(lambda views: POOLINGS[config.features](fused(views)).flatten(1), DTYPES[output.precision]),
        images,
        output.folder / ("val" if images.split == "val" else "train"),
        {"backbone": backbone.digest, "precision": output.precision, "features": config.features},
        size_px=config.size_px,
        device=device,
        workers=output.workers,
        overwrite=output.overwrite,
        quiet=output.quiet,
    )


def _fit_and_score(train: "_Split", val: "_Split", num_positions: int, output: EvaluationOutput) -> dict[str, Any]:
    validation = train.readable & _one_in(VALIDATION_RATIO, len(train.images), output.seed)
    fitted = train.readable & ~validation
    num_classes = len(train.images.classes)
    accuracies: dict[float, float] = {}
    fits: dict[float, LogisticFit] = {}
    with progress_bar(total=len(STRENGTHS) + 1, title="logistic regression", unit="fits", quiet=output.quiet) as bar:
        moments = find_moments(train.shards(fitted), num_positions)
        fit: LogisticFit | None = None
        for l2 in STRENGTHS:
            fit = fit_logistic(train.shards(fitted, moments), num_classes, l2, start=fit)
            fits[l2] = fit
            accuracies[l2] = count_correct(fit, train.shards(validation, moments)).to_json()["top1"] or 0.0
            bar.update()
        # Among equal accuracies the first counts, which has the stronger penalty.
        chosen = max(accuracies, key=lambda l2: accuracies[l2])
        moments = find_moments(train.shards(train.readable), num_positions)
        last = fit_logistic(train.shards(train.readable, moments), num_classes, chosen, start=fits[chosen])
        bar.update()
    unconverged = [l2 for l2, fit in fits.items() if not fit.converged]
    if unconverged or not last.converged:
        logger.warning(
            "logistic regression stopped at its limit of %d iterations at l2 %s",
            MAX_LBFGS_ITERATIONS,
            unconverged or [chosen],
        )
    return {
        **count_correct(last, val.shards(val.readable, moments)).to_json(),
        "l2": chosen,
        "validation_top1": {f"{l2:g}": top1 for l2, top1 in accuracies.items()},
        "num_iterations": last.num_iterations,
        "max_iterations": MAX_LBFGS_ITERATIONS,
        "converged": last.converged,
        "num_unconverged": len(unconverged) + (not last.converged),
        "num_train": int(train.readable.sum()),
        "num_validation": int(validation.sum()),
        "num_test": int(val.readable.sum()),
        "num_features": int(moments.mean.numel()),
    }


@dataclass(frozen=True)
class _Split:
    """Images, their cached features, and the device to compute on."""

    images: ClassifiedImages
    table: arrow_tables.Table
    device: torch.device

    @cached_property
    def readable(self) -> Bool[ndarray, "n"]:
        return self.table.column("reason") == ""

    def shards(self, rows: Bool[ndarray, "n"], moments: Moments | None = None) -> Shards:
        """Return a reader of the features of some rows, standardised if moments are given."""

        def read() -> Iterator[Shard]:
            for start, features in self.table.parts("feature"):
                chosen = rows[start : start + len(features)]
                labels = torch.from_numpy(self.images.labels[start : start + len(features)][chosen]).to(self.device)
                shard = torch.from_numpy(features[chosen]).to(self.device).float()
                yield shard if moments is None else moments.standardise(shard), labels

        return read


def _one_in(number: int, num_images: int, seed: int) -> Bool[ndarray, "n"]:
    chosen = np.zeros(num_images, dtype=bool)
    chosen[np.random.default_rng([seed]).permutation(num_images)[: num_images // number]] = True
    return chosen


def tables(result: Result) -> Tables:
    """Return the accuracies."""
    name, features = DATASET_NAMES[result["dataset"]], feature_kind(result)
    title = f"{name}, fast estimate by cached {features} features (not the linear protocol)"
    return {title: accuracy_columns(result)}


LINEAR_ESTIMATE = Evaluation(
    name="linear-estimate",
    label="Linear classifier, estimate",
    help=(
        "A fast estimate of linear, from features that are computed once without augmentation; not the score of the "
        "protocol."
    ),
    data=ClassData,
    config=EstimateConfig,
    check=check,
    run=run,
    tables=tables,
    one_process=True,
    trains=True,
    file_stem=lambda config: file_stem("linear-estimate", config.features),
)
