"""Features of a frozen backbone on VOC07 and the common parts of the results of svm, low-shot and knn."""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor, nn

from orl import provenance, tables
from orl.config import FeatureKind
from orl.embed import embed_images
from orl.evaluation.evaluated_backbone import EvaluatedBackbone
from orl.evaluation.output import EvaluationOutput
from orl.evaluation.pooling import POOLINGS, pool_all_kinds, warn_if_one_position
from orl.evaluation.protocol import Config, Datasets, Result, SuiteEntry
from orl.evaluation.voc_dataset import LabelledImages, VocDataset, VocOptions, check_splits
from orl.networks.device import compute_device
from orl.views.crops import RESAMPLING

logger = logging.getLogger(__name__)

NUM_TRAIN_IMAGES, NUM_TEST_IMAGES, NUM_CLASSES = 5011, 4952, 20
"""Size of VOC07's trainval and test, and its classes."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """Features of the images to train on and of the images to score."""

    train: LabelledImages
    test: LabelledImages
    train_features: Float[ndarray, "n d"]
    test_features: Float[ndarray, "m d"]
    kind: FeatureKind
    size_px: int
    """Side that every image was resized to."""
    elapsed_s: float
    """Time of the embedding, seconds."""

    @property
    def arrays(self) -> tuple[Float[ndarray, "n d"], Int[ndarray, "n c"], Float[ndarray, "m d"], Int[ndarray, "m c"]]:
        """X_train, y_train, X_test and y_test."""
        return self.train_features, self.train.labels, self.test_features, self.test.labels


@dataclass(frozen=True, kw_only=True)
class FeatureCache:
    """Folder of features on disk, and the digest of the weights that made them."""

    folder: Path
    digest: str
    overwrite: bool = False


def embed_labelled(
    backbone: nn.Module,
    train: LabelledImages,
    test: LabelledImages,
    *,
    kind: FeatureKind,
    size_px: int = 224,
    device: torch.device | str = "cpu",
    workers: int = 0,
    quiet: bool = False,
    cache: FeatureCache | None = None,
) -> Features:
    """Embed both splits with a frozen backbone.

    Args:
        backbone: a network, which is put into evaluation mode.
        train: images to train on.
        test: images to score.
        kind: kind of the features.
        size_px: side that every image is resized to.
        device: device to compute on.
        workers: processes that read images.
        quiet: show no progress bar.
        cache: folder of the features of all kinds for the next evaluation; None for no cache.

    Raises:
        ValueError: if `check_splits` refuses the splits.
        StaleResultError: if the cache holds features made from other inputs and must not be overwritten.
    """
    check_splits(train, test)
    started = time.perf_counter()

    def embed(images: LabelledImages, pooling: Callable[[Tensor], Tensor]) -> Float[ndarray, "_ d"]:
        title, paths = f"embed {images.split}", images.paths
        return embed_images(
            backbone, paths, size_px=size_px, pooling=pooling, device=device, workers=workers, title=title, quiet=quiet
        )

    num_channels = cast(int, backbone.num_channels)

    def features(images: LabelledImages) -> Float[ndarray, "_ d"]:
        if cache is None:
            return embed(images, lambda feature_map: POOLINGS[kind](feature_map).flatten(1))
        return _cached(cache, images, size_px, kind, num_channels, lambda: embed(images, pool_all_kinds))

    train_features, test_features = features(train), features(test)
    warn_if_one_position(kind, math.isqrt(train_features.shape[1] // num_channels), size_px)
    return Features(
        train=train,
        test=test,
        train_features=train_features,
        test_features=test_features,
        kind=kind,
        size_px=size_px,
        elapsed_s=time.perf_counter() - started,
    )


def _cached(
    cache: FeatureCache,
    images: LabelledImages,
    size_px: int,
    kind: FeatureKind,
    num_channels: int,
    embed: Callable[[], Float[ndarray, "_ d"]],
) -> Float[ndarray, "_ d"]:
    # A broken image that is repaired changes the readable images, and so the rows.
    readable = [images.fingerprint, *images.names]
    inputs = {
        "backbone": cache.digest,
        "images": provenance.fingerprint({"readable": readable}),
        "size_px": size_px,
        "resampling": RESAMPLING,
        "kinds": list(POOLINGS),
    }
    folder = cache.folder / images.split
    if tables.begin(folder, inputs, 1, cache.overwrite):
        # All kinds come from one pass of the network; the pooled features have one value a channel.
        feat5, pooled = np.split(embed(), [-num_channels], axis=1)
        tables.write_shard(folder, 0, {"feat5": feat5, "pooled": pooled})
    return np.array(tables.finish_table(folder).column(kind))


def result_inputs(backbone: EvaluatedBackbone, data: VocDataset, config: Any, seed: int | None = None) -> Result:
    """Return all inputs that determine a result on VOC07; a seed only if something is sampled."""
    return {
        "backbone": backbone.digest,
        "images": [each.fingerprint for each in data.listed],
        "size_px": data.size_px,
        "resampling": RESAMPLING,
        **asdict(config),
        **({} if seed is None else {"seed": seed}),
    }


def embed_voc07(
    backbone: EvaluatedBackbone,
    data: VocDataset,
    output: EvaluationOutput,
    kind: FeatureKind,
    unscored_classes: Callable[[LabelledImages, LabelledImages], Mapping[str, str]],
) -> Features:
    """Embed the readable images of both splits; features of the same inputs are kept beside the result.

    Args:
        backbone: the network and its digest.
        data: the devkit.
        output: file of the result, device and workers.
        kind: kind of the features.
        unscored_classes: the evaluation's own function from both splits to classes it must leave out, with the reason;
            it raises ValueError if the readable images are too few.
    """
    train, test = data.readable(workers=output.workers, quiet=output.quiet)
    for name, reason in unscored_classes(train, test).items():
        logger.warning("class %r is left out: %s", name, reason)
    folder = f"features_{data.data.resolve().name}_{data.size_px}px_{backbone.digest[:8]}"
    return embed_labelled(
        backbone.network,
        train,
        test,
        kind=kind,
        size_px=data.size_px,
        device=compute_device(output.device),
        workers=output.workers,
        quiet=output.quiet,
        cache=FeatureCache(folder=output.result.with_name(folder), digest=backbone.digest, overwrite=output.overwrite),
    )


def describe_result(
    score: Result, backbone: EvaluatedBackbone, features: Features, config_deviations: Sequence[str]
) -> Result:
    """Add the backbone, the data and all deviations from the VOC07 protocol to a score.

    Args:
        score: JSON values of the score, with `skipped` classes and, where solvers iterate, `num_unconverged`.
        backbone: the network.
        features: the scored features.
        config_deviations: deviations of the evaluation's own config.
    """
    train, test = features.train, features.test
    rejected = [*train.rejected, *test.rejected]
    deviations = [
        *backbone.protocol_deviations,
        *_data_deviations(features),
        *config_deviations,
        *_score_deviations(score, len(rejected)),
    ]
    return {
        **score,
        "backbone": backbone.label,
        "data": str(train.data),
        "train_split": train.split,
        "test_split": test.split,
        "size_px": features.size_px,
        "features": features.kind,
        "num_features": features.train_features.shape[1],
        "embed_elapsed_s": features.elapsed_s,
        "num_rejected": len(rejected),
        "rejected": {image.name: image.reason for image in rejected},
        "protocol_deviations": deviations,
    }


def _data_deviations(features: Features) -> list[str]:
    found = []
    if features.size_px != VocOptions.size_px:
        found.append(f"{features.size_px} px, not {VocOptions.size_px}")
    if len(features.train.classes) != NUM_CLASSES:
        found.append(f"{len(features.train.classes)} classes, not {NUM_CLASSES}")
    num_train, num_test = len(features.train.names), len(features.test.names)
    if (num_train, num_test) != (NUM_TRAIN_IMAGES, NUM_TEST_IMAGES):
        usual = f"VOC07's {NUM_TRAIN_IMAGES:,} and {NUM_TEST_IMAGES:,}"
        found.append(f"{num_train:,} training images and {num_test:,} test images, not {usual}")
    return found


def _score_deviations(score: Result, num_rejected: int) -> list[str]:
    found = []
    if score["skipped"]:
        found.append(f"{len(score['skipped'])} classes without a score: {', '.join(sorted(score['skipped'])[:3])}")
    if num_rejected:
        found.append(f"{num_rejected} images that cannot be read")
    if score.get("num_unconverged"):
        found.append(f"{score['num_unconverged']} fits stopped by the limit on iterations")
    return found


def voc07_entries(name: str, datasets: Datasets, config: Config) -> list[SuiteEntry[VocDataset, Config]]:
    """Return the entry of an evaluation on VOC07 in the suite, if that data set is given."""
    if datasets.voc07 is None:
        return []
    data = VocDataset(data=datasets.voc07, **asdict(datasets.voc))
    return [SuiteEntry(name=name, data=data, config=config)]
