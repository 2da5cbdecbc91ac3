"""Localisation score of heat maps: the pointing game and the best IoU with the objects, with bootstrap intervals.

`score_backbones` scores several backbones. `score_image` scores one map, `summarise` the maps of a backbone, and
`compare` the difference of two backbones on the same images. The baselines `even_map` and `centre_map` are maps that
do not depend on the image.

One threshold serves all images of a backbone, since the best threshold of an image is not known without its objects.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from orl.datasets.object_regions import OBJECT, UNKNOWN
from orl.evaluation.bootstrap import Estimate, estimate_from, resample_counts

THRESHOLDS = np.arange(50) / 50
"""Thresholds of maps in [0, 1]; the first keeps every pixel, so that the best IoU is at least that of an even map."""


@dataclass(frozen=True, kw_only=True)
class ImageScore:
    """Score of one map against the objects of its image."""

    hit: float
    """Pointing game: 1 if the peak of the map lies on an object, else 0; for equal peaks the fraction on one."""
    inside: float
    """Fraction of the map's sum that lies on objects; for a map of zeros, the objects' fraction of the image."""
    overlaps: Float[ndarray, "_"]
    """IoU of the objects with the pixels at or above each of `THRESHOLDS`."""


@dataclass(frozen=True, kw_only=True)
class Localisation:
    """Localisation score of the maps of one backbone, or the difference of two backbones."""

    pointing: Estimate
    """Mean of `hit`."""
    overlap: Estimate
    """Mean IoU at the one threshold that is best over all images; every resample chooses its own."""
    inside: Estimate
    """Mean of `inside`."""


def even_map(shape: tuple[int, int]) -> Float[ndarray, "h w"]:
    """Return a map of zeros: its three scores are the objects' fraction of the image."""
    return np.zeros(shape, dtype=np.float32)


def centre_map(shape: tuple[int, int]) -> Float[ndarray, "h w"]:
    """Return a map that falls from 1 in the centre to 0 in the corners."""
    rows, columns = (np.abs((np.arange(side) + 0.5) / side * 2 - 1) for side in shape)
    distance = np.hypot(rows[:, None], columns[None])
    return (1 - distance / distance.max()).astype(np.float32)


BASELINES: dict[str, Callable[[tuple[int, int]], Float[ndarray, "_ _"]]] = {"even": even_map, "centre": centre_map}
"""Maps that do not depend on the image, to compare scores with."""


def score_image(attention: Float[ndarray, "h w"], region: UInt8[ndarray, "_ _"]) -> ImageScore:
    """Score a map against the objects of its image; unknown pixels are left out.

    Args:
        attention: in [0, 1].
        region: regions of the image from `orl.datasets.object_regions.ObjectRegions`.

    Raises:
        ValueError: if the two differ in size, or every pixel is unknown.
    """
    if attention.shape != region.shape:
        raise ValueError(
            f"a map of {attention.shape} pixels does not fit regions of {region.shape} pixels; give both of one image"
        )
    known = region != UNKNOWN
    values, is_object = attention[known], region[known] == OBJECT
    if not len(values):
        raise ValueError(f"all {region.size} pixels of the image are unknown; leave it out")
    total = float(values.sum(dtype=np.float64))
    inside = float(values[is_object].sum(dtype=np.float64)) / total if total > 0 else float(is_object.mean())
    hit = float(is_object[values == values.max()].mean())
    return ImageScore(hit=hit, inside=inside, overlaps=_overlaps(values, is_object))


def summarise(scores: Sequence[ImageScore], seed: int = 0) -> Localisation:
    """Compute the scores of one backbone, with 95% intervals by a bootstrap over images.

    Raises:
        ValueError: if there is no image.
    """
    return _localisation(_measures(scores), resample_counts(len(scores), seed))


def compare(first: Sequence[ImageScore], second: Sequence[ImageScore], seed: int = 0) -> Localisation:
    """Compute the first backbone's scores minus the second's on the same images, with paired intervals.

    Each resample takes the same images of both, so that the difficulty of an image cancels.

    Args:
        first: scores of the images by one backbone.
        second: scores of the same images, in the same order.
        seed: seed of the bootstrap.

    Raises:
        ValueError: if there is no image, or the numbers of images differ.
    """
    if len(first) != len(second):
        raise ValueError(
            f"{len(first)} images cannot be paired with {len(second)}; score both backbones on the same images"
        )
    counts = resample_counts(len(first), seed)
    return _localisation(_measures(first), counts, _measures(second))


def best_threshold(scores: Sequence[ImageScore]) -> float:
    """Return the threshold of the highest mean IoU; the lowest of equal ones."""
    return float(THRESHOLDS[int(_measures(scores)["overlap"].mean(axis=0).argmax())])


def score_backbones(
    maps_of: Callable[[UInt8[ndarray, "h w 3"]], Mapping[str, Float[ndarray, "h w"]]],
    images: Iterable[tuple[UInt8[ndarray, "_ _ 3"], UInt8[ndarray, "_ _"]]],
    seed: int = 0,
) -> dict[str, Any]:
    """Score several backbones and the baselines, and the difference of each pair of backbones.

    Args:
        maps_of: function from an image to the map of each backbone, by label.
        images: each image with the regions of its objects; iterated once, so it may be a generator.
        seed: seed of the bootstrap.

    Returns:
        JSON values: `num_images`; `backbones` and `baselines`, from a label to `pointing`, `overlap` and `inside`,
        each a value and its 95% interval, and the `threshold` of the overlap; and `differences`.

    Raises:
        ValueError: if there is no image.
    """
    scores: dict[str, list[ImageScore]] = {}
    baselines: dict[str, list[ImageScore]] = {name: [] for name in BASELINES}
    for image, region in images:
        for label, attention in maps_of(image).items():
            scores.setdefault(label, []).append(score_image(attention, region))
        for name, make in BASELINES.items():
            baselines[name].append(score_image(make(region.shape), region))
    if not scores:
        raise ValueError("0 images to score; give images with labelled objects")
    return {
        "num_images": len(baselines["even"]),
        "backbones": {label: _to_json(own, seed) for label, own in scores.items()},
        "baselines": {name: _to_json(own, seed) for name, own in baselines.items()},
        "differences": [
            {"of": later, "less": earlier, **asdict(compare(scores[later], scores[earlier], seed))}
            for earlier, later in combinations(scores, 2)
        ],
    }


def _overlaps(values: Float[ndarray, "p"], is_object: ndarray) -> Float[ndarray, "_"]:
    """Compute the IoU at each threshold, from counts of pixels at or above it."""
    level = np.searchsorted(THRESHOLDS, values, side="right") - 1
    counts = [np.bincount(each, minlength=len(THRESHOLDS))[::-1].cumsum()[::-1] for each in (level, level[is_object])]
    kept, kept_objects = counts
    union = kept + is_object.sum() - kept_objects
    return np.divide(kept_objects, union, out=np.zeros(len(THRESHOLDS)), where=union > 0)


def _measures(scores: Sequence[ImageScore]) -> dict[str, Float[ndarray, "n _"]]:
    """Return each measure with one column per threshold; the best column counts."""
    if not scores:
        raise ValueError("0 images to score; give images with labelled objects")
    return {
        "pointing": np.array([[score.hit] for score in scores], dtype=np.float64),
        "overlap": np.stack([score.overlaps for score in scores]),
        "inside": np.array([[score.inside] for score in scores], dtype=np.float64),
    }


def _localisation(
    measures: dict[str, Float[ndarray, "n _"]],
    counts: Float[ndarray, "b n"],
    minus: dict[str, Float[ndarray, "n _"]] | None = None,
) -> Localisation:
    found = {}
    for name, columns in measures.items():
        values = (counts @ columns).max(axis=1) / counts.shape[1]
        if minus is not None:
            values = values - (counts @ minus[name]).max(axis=1) / counts.shape[1]
        found[name] = estimate_from(values)
    return Localisation(**found)


def _to_json(scores: Sequence[ImageScore], seed: int) -> dict[str, Any]:
    return {**asdict(summarise(scores, seed)), "threshold": best_threshold(scores)}
