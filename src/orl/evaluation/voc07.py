"""From a labelled set and a frozen backbone to the JSON of a judge: embed once, score."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import nn

from orl import provenance, tables
from orl.embed import embed_images
from orl.evaluation.configs import SHOTS
from orl.evaluation.knn import score_knn
from orl.evaluation.low_shot import score_low_shot
from orl.evaluation.svm import Solver, score_svm
from orl.evaluation.voc_dataset import LabelledImages, check_splits


@dataclass(frozen=True, kw_only=True)
class Features:
    """What a backbone makes of the images to learn from and of those to be scored."""

    train: LabelledImages
    test: LabelledImages
    train_features: Float[ndarray, "n d"]
    test_features: Float[ndarray, "m d"]
    size_px: int
    """Side that every image was squeezed to."""
    elapsed_s: float
    """Seconds that the embedding took."""


@dataclass(frozen=True, kw_only=True)
class FeatureCache:
    """Where features stay, and the weights that they are of."""

    folder: Path
    digest: str
    overwrite: bool = False


def embed_labelled(
    backbone: nn.Module,
    train: LabelledImages,
    test: LabelledImages,
    *,
    size_px: int = 224,
    device: torch.device | str = "cpu",
    workers: int = 0,
    quiet: bool = False,
    keep: FeatureCache | None = None,
) -> Features:
    """Embed both splits with a frozen backbone, once for all judges.

    Args:
        backbone: put into evaluation mode.
        train: images to learn from.
        test: images to be scored.
        size_px: side that every image is squeezed to.
        device: where to compute.
        workers: processes that read images.
        quiet: show no progress bar.
        keep: where features stay for the next judge; nowhere if not given.

    Raises:
        ValueError: as `check_splits`.
        StaleResultError: if features of something else are kept there, unless they are to be overwritten.
    """
    check_splits(train, test)
    started = time.perf_counter()

    def embed(images: LabelledImages) -> Float[ndarray, "_ d"]:
        title = f"embed {images.split}"
        return embed_images(
            backbone, images.paths, size_px=size_px, device=device, workers=workers, title=title, quiet=quiet
        )

    train_features, test_features = (
        embed(images) if keep is None else _kept(keep, images, size_px, embed) for images in (train, test)
    )
    return Features(
        train=train,
        test=test,
        train_features=train_features,
        test_features=test_features,
        size_px=size_px,
        elapsed_s=time.perf_counter() - started,
    )


def _kept(
    keep: FeatureCache, images: LabelledImages, size_px: int, embed: Callable[[LabelledImages], ndarray]
) -> Float[ndarray, "_ d"]:
    # A broken image that is mended changes what is readable, and so the rows.
    readable = [images.fingerprint, *images.names]
    inputs = {"backbone": keep.digest, "images": provenance.fingerprint({"readable": readable}), "size_px": size_px}
    folder = keep.folder / images.split
    if tables.begin(folder, inputs, 1, keep.overwrite):
        tables.write_shard(folder, 0, {"feature": embed(images)})
    return np.array(tables.load(folder).column("feature"))


def evaluate_svm(
    features: Features,
    backbone: str,
    *,
    solver: Solver = "batched",
    workers: int = 1,
    seed: int = 0,
    quiet: bool = False,
) -> dict[str, Any]:
    """Score linear SVMs (`score_svm`), as what is written."""
    result = score_svm(
        features.train_features,
        features.train.labels,
        features.test_features,
        features.test.labels,
        features.train.classes,
        solver=solver,
        workers=workers,
        seed=seed,
        quiet=quiet,
    )
    return {**result.to_json(), **_settings(features, backbone)}


def evaluate_low_shot(
    features: Features,
    backbone: str,
    *,
    shots: Sequence[int] = SHOTS,
    num_samples: int = 5,
    seed: int = 0,
    quiet: bool = False,
) -> dict[str, Any]:
    """Score linear SVMs from few images (`score_low_shot`), as what is written."""
    result = score_low_shot(
        features.train_features,
        features.train.labels,
        features.test_features,
        features.test.labels,
        features.train.classes,
        shots=shots,
        num_samples=num_samples,
        seed=seed,
        quiet=quiet,
    )
    return {**result.to_json(), **_settings(features, backbone)}


def evaluate_knn(
    features: Features, backbone: str, *, k: int = 20, temperature: float = 0.07, quiet: bool = False
) -> dict[str, Any]:
    """Score nearest neighbours (`score_knn`), as what is written."""
    result = score_knn(
        features.train_features,
        features.train.labels,
        features.test_features,
        features.test.labels,
        features.train.classes,
        k=k,
        temperature=temperature,
        quiet=quiet,
    )
    return {**result.to_json(), **_settings(features, backbone)}


def _settings(features: Features, backbone: str) -> dict[str, Any]:
    rejected = [*features.train.rejected, *features.test.rejected]
    return {
        "backbone": backbone,
        "data": str(features.train.data),
        "train_split": features.train.split,
        "test_split": features.test.split,
        "size_px": features.size_px,
        "num_features": features.train_features.shape[1],
        "embed_elapsed_s": features.elapsed_s,
        "num_rejected": len(rejected),
        "rejected": {image.name: image.reason for image in rejected},
    }
