"""How well heat maps lie on known objects: the pointing game and the best overlap, with intervals over images.

`score_backbones` does all of it for several backbones. `score_image` scores one map, `summarise` makes the numbers of a
backbone out of many images, and `compare` holds two backbones against each other on the same images. `even_map` and
`centre_map` are the yardsticks: what maps score that know nothing of the image.

One threshold serves all images of a backbone: no image's own best threshold could be known without its objects.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from orl.datasets.object_regions import OBJECT, UNKNOWN

THRESHOLDS = np.arange(50) / 50
"""Of maps in [0, 1]; the first keeps every pixel, so that no best overlap is below that of an even map."""
NUM_DRAWS = 2000
QUANTILES = (0.025, 0.975)


@dataclass(frozen=True, kw_only=True)
class ImageScore:
    """How well one map lies on the objects of its image."""

    hit: float
    """The pointing game: 1 where the map's peak lies on an object, else 0; of several equal peaks the share that do."""
    inside: float
    """The share of the map's sum that lies on objects; of a map of zeros, the objects' share of the image."""
    overlaps: Float[ndarray, "_"]
    """IoU of the objects with the pixels at or above each of `THRESHOLDS`."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over images, and between what it lies in 95% of the bootstrap's draws of images."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Localisation:
    """How well the maps of one backbone lie on the objects of some images; or the difference of two backbones."""

    pointing: Estimate
    """Mean of `hit`."""
    overlap: Estimate
    """Mean IoU at the one threshold that is best for all images together; in every draw it is chosen anew."""
    inside: Estimate
    """Mean of `inside`."""


def even_map(shape: tuple[int, int]) -> Float[ndarray, "h w"]:
    """A map that prefers no pixel: it scores the objects' share of the image, in all three ways."""
    return np.zeros(shape, dtype=np.float32)


def centre_map(shape: tuple[int, int]) -> Float[ndarray, "h w"]:
    """A map that falls from 1 in the middle to 0 in the corners, whatever is in the image."""
    rows, columns = (np.abs((np.arange(side) + 0.5) / side * 2 - 1) for side in shape)
    distance = np.hypot(rows[:, None], columns[None])
    return (1 - distance / distance.max()).astype(np.float32)


YARDSTICKS: dict[str, Callable[[tuple[int, int]], Float[ndarray, "_ _"]]] = {"even": even_map, "centre": centre_map}
"""Maps that know nothing of an image: what scores are to be held against."""


def score_image(attention: Float[ndarray, "h w"], region: UInt8[ndarray, "_ _"]) -> ImageScore:
    """Hold a map against the objects of its image; pixels of which nothing is known count nowhere.

    Args:
        attention: in [0, 1].
        region: as `orl.datasets.object_regions.ObjectRegions` gives it.

    Raises:
        ValueError: if the two differ in size, or nothing of the image is known.
    """
    if attention.shape != region.shape:
        raise ValueError(f"a map of {attention.shape} and a region of {region.shape} are not of one image")
    known = region != UNKNOWN
    values, is_object = attention[known], region[known] == OBJECT
    if not len(values):
        raise ValueError(f"nothing is known of an image of {region.shape} pixels; leave it out")
    total = float(values.sum(dtype=np.float64))
    inside = float(values[is_object].sum(dtype=np.float64)) / total if total > 0 else float(is_object.mean())
    hit = float(is_object[values == values.max()].mean())
    return ImageScore(hit=hit, inside=inside, overlaps=_overlaps(values, is_object))


def summarise(scores: Sequence[ImageScore], seed: int = 0) -> Localisation:
    """The numbers of one backbone, with 95% intervals by a bootstrap over images.

    Raises:
        ValueError: if there is no image.
    """
    return _localisation(_measures(scores), _draws(len(scores), seed))


def compare(first: Sequence[ImageScore], second: Sequence[ImageScore], seed: int = 0) -> Localisation:
    """The first backbone less the second on the same images in the same order, with paired intervals.

    Each draw takes the same images of both, so that what makes an image hard for both cancels.

    Raises:
        ValueError: if there is no image, or not as many of one as of the other.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} images cannot be paired with {len(second)}; score both on the same images")
    draws = _draws(len(first), seed)
    return _localisation(_measures(first), draws, _measures(second))


def best_threshold(scores: Sequence[ImageScore]) -> float:
    """The threshold at which the mean overlap is the highest; of equal ones the lowest."""
    return float(THRESHOLDS[int(_measures(scores)["overlap"].mean(axis=0).argmax())])


def score_backbones(
    maps_of: Callable[[UInt8[ndarray, "h w 3"]], Mapping[str, Float[ndarray, "h w"]]],
    images: Iterable[tuple[UInt8[ndarray, "_ _ 3"], UInt8[ndarray, "_ _"]]],
    seed: int = 0,
) -> dict[str, Any]:
    """The numbers of several backbones, of the yardsticks, and of each backbone less each one before it.

    Args:
        maps_of: an image to the map of each backbone, by label.
        images: each with the region of its objects; walked through once, so that they need not be in memory together.
        seed: of the bootstrap.

    Returns:
        JSON values: `num_images`; `backbones` and `yardsticks`, a label to `pointing`, `overlap` and `inside` (each a
        value and its 95% interval) and the overlap's `threshold`; and `differences`.

    Raises:
        ValueError: if there is no image.
    """
    found: dict[str, list[ImageScore]] = {}
    known: dict[str, list[ImageScore]] = {name: [] for name in YARDSTICKS}
    for image, region in images:
        for label, attention in maps_of(image).items():
            found.setdefault(label, []).append(score_image(attention, region))
        for name, make in YARDSTICKS.items():
            known[name].append(score_image(make(region.shape), region))
    if not found:
        raise ValueError("0 images are scored; give some whose objects are known")
    return {
        "num_images": len(known["even"]),
        "backbones": {label: _numbers(scores, seed) for label, scores in found.items()},
        "yardsticks": {name: _numbers(scores, seed) for name, scores in known.items()},
        "differences": [
            {"of": later, "less": earlier, **asdict(compare(found[later], found[earlier], seed))}
            for earlier, later in combinations(found, 2)
        ],
    }


def _overlaps(values: Float[ndarray, "p"], is_object: ndarray) -> Float[ndarray, "_"]:
    """By counts: how many pixels, and how many of an object, lie at or above each threshold."""
    level = np.searchsorted(THRESHOLDS, values, side="right") - 1
    counts = [np.bincount(each, minlength=len(THRESHOLDS))[::-1].cumsum()[::-1] for each in (level, level[is_object])]
    kept, kept_objects = counts
    union = kept + is_object.sum() - kept_objects
    return np.divide(kept_objects, union, out=np.zeros(len(THRESHOLDS)), where=union > 0)


def _measures(scores: Sequence[ImageScore]) -> dict[str, Float[ndarray, "n _"]]:
    """Each measure as columns, of which the best counts."""
    if not scores:
        raise ValueError("0 images are scored; give some whose objects are known")
    return {
        "pointing": np.array([[score.hit] for score in scores], dtype=np.float64),
        "overlap": np.stack([score.overlaps for score in scores]),
        "inside": np.array([[score.inside] for score in scores], dtype=np.float64),
    }


def _draws(num_images: int, seed: int) -> Float[ndarray, "b n"]:
    """How often each image comes in each draw of as many; the first row is every image once."""
    if num_images == 0:
        raise ValueError("0 images are scored; give some whose objects are known")
    counts = np.random.default_rng(seed).multinomial(num_images, np.full(num_images, 1 / num_images), size=NUM_DRAWS)
    return np.concatenate([np.ones((1, num_images)), counts])


def _localisation(
    measures: dict[str, Float[ndarray, "n _"]],
    draws: Float[ndarray, "b n"],
    less: dict[str, Float[ndarray, "n _"]] | None = None,
) -> Localisation:
    found = {}
    for name, columns in measures.items():
        values = (draws @ columns).max(axis=1) / draws.shape[1]
        if less is not None:
            values = values - (draws @ less[name]).max(axis=1) / draws.shape[1]
        low, high = np.quantile(values[1:], QUANTILES).tolist()
        found[name] = Estimate(value=float(values[0]), low=low, high=high)
    return Localisation(**found)


def _numbers(scores: Sequence[ImageScore], seed: int) -> dict[str, Any]:
    return {**asdict(summarise(scores, seed)), "threshold": best_threshold(scores)}
