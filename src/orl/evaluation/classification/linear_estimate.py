"""The fast estimate of a linear score: features computed once without augmentation, and a logistic regression."""

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

from orl import tables
from orl.datasets.classified import ClassifiedImages, check_train_val
from orl.embed import at_precision
from orl.evaluation.classification.feature_cache import keep_features, unreadable
from orl.evaluation.classification.logistic import (
    MAX_ITERATIONS,
    Fit,
    Moments,
    Part,
    Parts,
    find_moments,
    fit_logistic,
    score,
)
from orl.evaluation.evaluated_backbone import EvaluatedBackbone
from orl.evaluation.output import EvaluationOutput, finished, write_result
from orl.networks.backbones import Backbone, pool
from orl.networks.device import compute_device
from orl.networks.fuse_batch_norm import fuse_batch_norm
from orl.progress import progress_bar

logger = logging.getLogger(__name__)

TASK = "linear-estimate"
PROTOCOL = "fast estimate: cached features, no augmentation, logistic regression"
STRENGTHS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)
"""L2 penalties to choose from, the greatest first: each fit begins where the one before ended."""
HELD_OUT = 10
"""One image of train in so many is held out to choose the strength."""
DTYPES = {"32-true": torch.float32, "64-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def estimate_linear(
    subject: EvaluatedBackbone,
    train: ClassifiedImages,
    val: ClassifiedImages,
    place: EvaluationOutput,
    *,
    dataset: str = "folder",
    size_px: int = 224,
) -> dict[str, Any]:
    """Estimate how well a linear layer would do, in the time of one look at every image.

    The strength of the penalty is chosen on a tenth of train that is held out, then all of train is learnt from; val
    is only scored. This is not the protocol's number: no augmentation, another optimiser.

    Args:
        subject: what is judged.
        train: images to learn from.
        val: images to score.
        place: where; the features stay in its folder.
        dataset: which one it is, for the result.
        size_px: side of the centre crop.

    Returns:
        What is written: `task` 'linear-estimate', `protocol`, `top1`, `top5`, the strengths and how each did.

    Raises:
        ValueError: if the classes of the two differ, there are too few images, or more than a tenth is unreadable.
        StaleResultError: if there is a result or there are features of something else.
    """
    check_train_val(train, val)
    if len(train) < HELD_OUT:
        raise ValueError(f"{len(train)} training images are too few to hold a tenth out; give at least {HELD_OUT}")
    inputs: dict[str, Any] = {"task": TASK, "backbone": subject.digest, "images": [train.fingerprint, val.fingerprint]}
    inputs |= {
        "dataset": dataset,
        "size_px": size_px,
        "strengths": list(STRENGTHS),
        "seed": place.seed,
        "precision": place.precision,
    }
    if (found := finished(place, inputs)) is not None:
        return found
    started = time.perf_counter()
    train_table, val_table = (_features(subject, images, place, size_px) for images in (train, val))
    embedded = time.perf_counter()
    device = compute_device(place.device)
    rejected = {
        f"{part}/{name}": reason
        for part, images, table in (("train", train, train_table), ("val", val, val_table))
        for name, reason in unreadable(images, table).items()
    }
    result = {
        "task": TASK,
        "protocol": PROTOCOL,
        "dataset": dataset,
        **_judge(_Split(train, train_table, device), _Split(val, val_table, device), place),
        "backbone": subject.label,
        "data": str(train.root),
        "train_split": train.split,
        "test_split": val.split,
        "size_px": size_px,
        "precision": place.precision,
        "num_classes": len(train.classes),
        "num_rejected": len(rejected),
        "rejected": rejected,
        "seed": place.seed,
        "embed_elapsed_s": embedded - started,
        "elapsed_s": time.perf_counter() - started,
    }
    return write_result(place, result, inputs)


def _features(
    subject: EvaluatedBackbone, images: ClassifiedImages, place: EvaluationOutput, size_px: int
) -> tables.Table:
    device = compute_device(place.device)
    network = subject.network.eval()
    folded = fuse_batch_norm(network) if isinstance(network, Backbone) else network
    folded = folded.to(memory_format=torch.channels_last).to(device)
    return keep_features(
        at_precision(lambda views: pool(folded(views)), DTYPES[place.precision]),
        images,
        place.folder / ("val" if images.split == "val" else "train"),
        {"backbone": subject.digest, "precision": place.precision},
        size_px=size_px,
        device=device,
        workers=place.workers,
        overwrite=place.overwrite,
        quiet=place.quiet,
    )


def _judge(train: "_Split", val: "_Split", place: EvaluationOutput) -> dict[str, Any]:
    held_out = train.readable & _one_in(HELD_OUT, len(train.images), place.seed)
    learnt = train.readable & ~held_out
    classes = len(train.images.classes)
    tried: dict[float, float] = {}
    fits: dict[float, Fit] = {}
    with progress_bar(total=len(STRENGTHS) + 1, title="logistic regression", unit="fits", quiet=place.quiet) as bar:
        moments = find_moments(train.parts(learnt))
        fit: Fit | None = None
        for l2 in STRENGTHS:
            fit = fit_logistic(train.parts(learnt, moments), classes, l2, start=fit)
            fits[l2], tried[l2] = fit, score(fit, train.parts(held_out, moments)).to_json()["top1"] or 0.0
            bar.update()
        # Of equal ones the first, which is the stronger penalty.
        chosen = max(tried, key=lambda l2: tried[l2])
        moments = find_moments(train.parts(train.readable))
        last = fit_logistic(train.parts(train.readable, moments), classes, chosen, start=fits[chosen])
        bar.update()
    unconverged = [l2 for l2, fit in fits.items() if not fit.converged]
    if unconverged or not last.converged:
        logger.warning("logistic regression met its %d iterations at l2 %s", MAX_ITERATIONS, unconverged or [chosen])
    return {
        **score(last, val.parts(val.readable, moments)).to_json(),
        "l2": chosen,
        "held_out_top1": {f"{l2:g}": top1 for l2, top1 in tried.items()},
        "num_iterations": last.num_iterations,
        "max_iterations": MAX_ITERATIONS,
        "converged": last.converged,
        "num_unconverged": len(unconverged) + (not last.converged),
        "num_train": int(train.readable.sum()),
        "num_held_out": int(held_out.sum()),
        "num_test": int(val.readable.sum()),
        "num_features": int(moments.mean.numel()),
    }


@dataclass(frozen=True)
class _Split:
    """Images, their kept features, and where to compute."""

    images: ClassifiedImages
    table: tables.Table
    device: torch.device

    @cached_property
    def readable(self) -> Bool[ndarray, "n"]:
        return self.table.column("reason") == ""

    def parts(self, rows: Bool[ndarray, "n"], moments: Moments | None = None) -> Parts:
        """The features of some rows, standardised if moments are given, a shard at a time."""

        def read() -> Iterator[Part]:
            for start, features in self.table.parts("feature"):
                own = rows[start : start + len(features)]
                labels = torch.from_numpy(self.images.labels[start : start + len(features)][own]).to(self.device)
                part = torch.from_numpy(features[own]).to(self.device).float()
                yield part if moments is None else moments.standardise(part), labels

        return read


def _one_in(number: int, num_images: int, seed: int) -> Bool[ndarray, "n"]:
    chosen = np.zeros(num_images, dtype=bool)
    chosen[np.random.default_rng([seed]).permutation(num_images)[: num_images // number]] = True
    return chosen
