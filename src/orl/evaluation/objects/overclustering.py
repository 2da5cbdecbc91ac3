"""Segmentation by clusters of patches: k-means on frozen feature maps, and a class for each cluster."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
from jaxtyping import Float32, Int, UInt8
from numpy import ndarray

from orl.config import check_numbers
from orl.datasets.semantic_masks import VOID
from orl.evaluation.evaluated_backbone import EvaluatedBackbone
from orl.evaluation.objects.linear_segmentation import (
    about_masks,
    map_deviations,
    mask_inputs,
    miou_sums,
    nearest_resize,
    resized_masks,
)
from orl.evaluation.objects.mask_overlaps import class_pixels, constant_miou
from orl.evaluation.objects.object_dataset import ObjectDataset
from orl.evaluation.objects.object_features import FeatureMaps16, open_object_features
from orl.evaluation.objects.object_result import Row, object_entries, object_result, object_tables, row_of
from orl.evaluation.output import EvaluationOutput, finished, write_result
from orl.evaluation.protocol import Evaluation, Result, config_deviations
from orl.processes import Processes
from orl.progress import progress_bar


@dataclass(frozen=True, kw_only=True)
class OverclusteringConfig:
    """Clusters of the patches of the images to score."""

    size_px: int = 448
    """Side of the square that an image is resized to, pixels."""
    mask_px: int = 100
    """Side of the square that masks and predictions are resized to, pixels."""
    components: int = 50
    """Principal components that patches are projected to."""
    clusters: int = 500
    """Clusters that are assigned many to one; as many clusters as classes are matched one to one beside them."""
    seeds: int = 5
    """Repetitions of k-means."""
    max_patches: int = 200_000
    """Patches, sampled by the seed, that components and clusters are fitted on."""

    def __post_init__(self) -> None:
        check_numbers(self)
        if min(self.size_px, self.mask_px, self.components, self.clusters, self.seeds, self.max_patches) < 1:
            raise ValueError("the options of overclustering must be at least 1")
        if self.max_patches < self.clusters:
            raise ValueError(f"max_patches is {self.max_patches}; {self.clusters} clusters need at least as many")


def check(data: ObjectDataset, config: OverclusteringConfig) -> None:
    """Read the lists of images and masks."""
    _ = data.masks


def run(
    backbone: EvaluatedBackbone,
    data: ObjectDataset,
    config: OverclusteringConfig,
    output: EvaluationOutput,
    _: Processes,
) -> Result:
    """Cluster the patches of the images to score, compare them with the masks, and write the result."""
    masks = data.masks
    inputs = mask_inputs(backbone, data, config, output)
    if (result := finished(output, inputs)) is not None:
        return result
    started = time.perf_counter()
    masks.test.check(output.quiet)
    features = open_object_features(backbone, data, output)
    classes = masks.test.classes
    map_shape = features.map_shape(config.size_px)
    num_patches, most = len(masks.test) * map_shape[1] * map_shape[2], max(config.clusters, len(classes))
    if num_patches < most:
        raise ValueError(f"{num_patches} patches cannot form {most} clusters; give more images or fewer --clusters")
    labels = resized_masks(masks.test, config.mask_px)
    maps = features.maps(masks.test, size_px=config.size_px)
    patches = reduced_patches(maps, config.components, config.max_patches, output.seed)
    chance = constant_miou(class_pixels(labels, len(classes)))
    rows: list[Row] = []
    for title, num_clusters, match in (
        ("K = classes", len(classes), match_one_to_one),
        (f"K = {config.clusters}", config.clusters, match_many_to_one),
    ):
        draws = []
        seeds = range(output.seed, output.seed + config.seeds)
        bar_title = f"clusters, {title}"
        with progress_bar(seeds, total=config.seeds, title=bar_title, unit="seeds", quiet=output.quiet) as bar:
            for seed in bar:
                clusters = k_means(patches, num_clusters, config.max_patches, seed)
                cluster_maps = list(_cluster_maps(clusters, maps, config.mask_px))
                counts = co_occurrence(cluster_maps, labels, num_clusters, len(classes))
                class_of = match(counts)
                draws.append([class_of[each] for each in cluster_maps])
        sums = miou_sums(masks.test.names, draws, labels, len(classes))
        rows.append(row_of(f"mIoU, {title}", sums, seed=output.seed, chance=chance))
    result = object_result(
        "overclustering",
        rows,
        backbone=backbone.label,
        data=str(data.data),
        protocol_deviations=[
            *backbone.protocol_deviations,
            *map_deviations(features),
            "mini-batch k-means of scikit-learn",
            *config_deviations(config),
        ],
        elapsed_s=time.perf_counter() - started,
        about={**about_masks(data), **asdict(config)},
    )
    return write_result(output, result, inputs)


def reduced_patches(maps: FeatureMaps16, components: int, max_patches: int, seed: int) -> Float32[ndarray, "p k"]:
    """Project the features of all patches to principal components, which a sample of them gives.

    Args:
        maps: feature maps.
        components: number of components, at most the number of channels.
        max_patches: size of the sample.
        seed: seed of the sample.
    """
    from sklearn.decomposition import PCA

    per_image = maps.shape[1] * maps.shape[2]
    generator = np.random.default_rng(seed)
    per_sample = max(1, min(per_image, max_patches // len(maps)))
    sample = np.concatenate(
        [_patches(maps, row)[generator.permutation(per_image)[:per_sample]] for row in range(len(maps))]
    )
    pca = PCA(min(components, *sample.shape), random_state=seed).fit(sample)
    return np.concatenate([pca.transform(_patches(maps, row)) for row in range(len(maps))]).astype(np.float32)


def k_means(patches: Float32[ndarray, "p k"], num_clusters: int, max_patches: int, seed: int) -> Int[ndarray, "p"]:
    """Return the cluster of each patch; clusters are fitted on a sample."""
    from sklearn.cluster import MiniBatchKMeans

    sample = patches[np.random.default_rng(seed).permutation(len(patches))[:max_patches]]
    fitted = MiniBatchKMeans(num_clusters, batch_size=4096, n_init=3, random_state=seed).fit(sample)
    return fitted.predict(patches)


def co_occurrence(
    cluster_maps: list[Int[ndarray, "m m"]], labels: UInt8[ndarray, "n m m"], num_clusters: int, num_classes: int
) -> Int[ndarray, "k c"]:
    """Count the known pixels of each cluster and class."""
    counts = np.zeros(num_clusters * num_classes, dtype=np.int64)
    for clusters, mask in zip(cluster_maps, labels, strict=True):
        known = mask != VOID
        pairs = clusters[known].astype(np.int64) * num_classes + mask[known]
        counts += np.bincount(pairs, minlength=len(counts))
    return counts.reshape(num_clusters, num_classes)


def match_one_to_one(counts: Int[ndarray, "k c"]) -> UInt8[ndarray, "k"]:
    """Assign each cluster its own class so that the sum of the IoUs is largest (Hungarian matching)."""
    from scipy.optimize import linear_sum_assignment

    union = counts.sum(axis=1, keepdims=True) + counts.sum(axis=0, keepdims=True) - counts
    clusters, classes = linear_sum_assignment(-counts / np.maximum(union, 1))
    found = np.zeros(len(counts), dtype=np.uint8)
    found[clusters] = classes
    return found


def match_many_to_one(counts: Int[ndarray, "k c"]) -> UInt8[ndarray, "k"]:
    """Assign each cluster the class of most of its pixels; of equal ones the first."""
    return counts.argmax(axis=1).astype(np.uint8)


def _patches(maps: FeatureMaps16, row: int) -> Float32[ndarray, "p d"]:
    """Return the features of the patches of one image, row by row of its map."""
    return maps.rows(row, row + 1)[0].reshape(maps.shape[0], -1).T.astype(np.float32)


def _cluster_maps(clusters: Int[ndarray, "p"], maps: FeatureMaps16, mask_px: int) -> Iterator[Int[ndarray, "m m"]]:
    """Yield the cluster of each pixel of the masks, from the nearest patch."""
    for each in clusters.reshape(len(maps), *maps.shape[1:]):
        yield nearest_resize(each, mask_px)


OVERCLUSTERING = Evaluation(
    name="overclustering",
    label="Overclustering",
    help="Segmentation by k-means clusters of patches, matched to the classes; mIoU.",
    data=ObjectDataset,
    config=OverclusteringConfig,
    check=check,
    run=run,
    tables=object_tables,
    one_process=True,
    suite_entries=partial(object_entries, "overclustering", check),
)
