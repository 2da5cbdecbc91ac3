"""Score of stage 2 without training: the fraction of matched RoIs that cover objects of one class."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from numpy import ndarray

from orl.datasets.labels import COVERING_IOU, NO_OBJECT, LabelledSplit, covered_classes
from orl.evaluation.pair_sizes import SIZE_GROUPS, area_fractions, size_groups, size_matched_outcomes
from orl.tables import row_starts

NUM_RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class PairScore:
    """Fractions of pairs of RoIs that cover labelled objects."""

    num_pairs: int
    object_fraction: float
    """Fraction of all pairs whose two RoIs both cover an object."""
    same_class_fraction: float | None
    """Fraction of the pairs that cover objects whose objects are of one class; None if no pair covers objects."""
    both_fraction: float
    """Fraction of all pairs that cover two objects of one class."""


@dataclass(frozen=True, kw_only=True)
class SizeScore:
    """Score of the top-ranked pairs of one group of sizes."""

    num_pairs: int
    both_fraction: float | None
    """Fraction of the pairs that cover two objects of one class; None without a pair."""
    size_matched_both_fraction: float | None
    """The same, as expected of random pairs of about the same sizes."""
    size_matched_lift: float | None
    """Ratio of the two; None if the latter is 0."""
    size_matched_lift_interval_95: tuple[float, float] | None
    """Its interval by the same bootstrap; None if an end is not finite."""


@dataclass(frozen=True, kw_only=True)
class DiscoveryScore:
    """Score of the top-ranked correspondences, and of random pairs of RoIs of the same two images."""

    top: PairScore
    """The most similar pair of every image and neighbour."""
    random: PairScore
    """One random pair of the RoIs of the same two images for each of those."""
    size_matched: PairScore
    """Expectation of random pairs of RoIs of the same two images and about the same two sizes."""
    kept: PairScore
    """All correspondences."""
    lift: float | None
    """`both_fraction` of the top-ranked pairs over that of the random pairs; None if the latter is 0."""
    size_matched_lift: float | None
    """`both_fraction` of the top-ranked pairs over that of the size-matched pairs; None if the latter is 0."""
    by_size: dict[str, SizeScore]
    """Scores of the top-ranked pairs by the size of their boxes."""
    intervals: dict[str, tuple[float, float] | None]
    """95% intervals by a bootstrap over the query images; None if an end is not finite."""
    num_images: int
    """Images with labels."""
    num_images_without_labels: int
    num_pairs_without_labels: int
    """Correspondences left out because one of their images has no labels."""
    roi_object_fraction: float
    """Fraction of the RoIs of labelled images that cover an object."""
    iou_threshold: float
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Return all fields as JSON values; names of the random, size-matched and kept pairs have a prefix."""
        fields = asdict(self)
        fractions = {**fields.pop("top")}
        for name in ("random", "size_matched", "kept"):
            fractions |= {f"{name}_{key}": value for key, value in fields.pop(name).items()}
        intervals = {f"{key}_interval_95": value and list(value) for key, value in fields.pop("intervals").items()}
        return {**fractions, **fields, **intervals}

    def summary(self) -> str:
        """Return the fraction of one class and the lifts of the top-ranked pairs in one line."""
        by_size = ", ".join(f"{_lift_text(each.size_matched_lift)} ({name})" for name, each in self.by_size.items())
        interval = self.intervals["size_matched_lift"]
        return (
            f"{self.top.both_fraction:.2%} of the best pairs join objects of one class: size-matched lift "
            f"{_lift_text(self.size_matched_lift)}{f' ({interval[0]:.2f}-{interval[1]:.2f})' if interval else ''}; "
            f"{by_size}; over random pairs of any size {_lift_text(self.lift)}"
        )


def roi_classes(
    split: LabelledSplit,
    image_names: tuple[str, ...],
    rois: Mapping[str, ndarray],
    iou_threshold: float,
) -> tuple[Int[ndarray, "r"], Bool[ndarray, "n"]]:
    """Find the class of the object that each RoI covers.

    An RoI covers the labelled object of the highest IoU, if that IoU reaches the threshold. 'Difficult' objects
    count.

    Args:
        split: images with boxes; they are matched with the run by name.
        image_names: name of each image of the run.
        rois: columns `image_id` and `box` of the table.
        iou_threshold: least IoU with which a box covers an object, in (0, 1].

    Returns:
        Index of the class of each RoI, -1 if it covers no object; and for each image of the run, whether it has labels.
    """
    rows = {name: row for row, name in enumerate(split.names)}
    has_labels = np.array([name in rows for name in image_names], dtype=bool)
    classes = np.full(len(rois["box"]), NO_OBJECT, dtype=np.int64)
    starts = row_starts(rois["image_id"], len(image_names))
    for image_id in np.flatnonzero(has_labels):
        row, own = rows[image_names[image_id]], slice(starts[image_id], starts[image_id + 1])
        classes[own] = covered_classes(split, row, rois["box"][own], iou_threshold)
    return classes, has_labels


def score_correspondences(
    split: LabelledSplit,
    image_names: tuple[str, ...],
    rois: Mapping[str, ndarray],
    correspondences: Mapping[str, ndarray],
    *,
    sizes_wh: Sequence[tuple[int, int]],
    iou_threshold: float = COVERING_IOU,
    seed: int = 0,
) -> DiscoveryScore:
    """Score the discovered pairs by the labelled boxes, with random pairs of the same images as baseline.

    Args:
        split: images with boxes; they are matched with the run by name.
        image_names: name of each image of the run, by image id.
        rois: columns `image_id` and `box` of the table.
        correspondences: columns `image_id`, `neighbour_id`, `roi`, `neighbour_roi`, `similarity`, and `score` if the
            pairs were chosen by another score than the cosine.
        sizes_wh: width and height of each image of the run.
        iou_threshold: least IoU with which a box covers an object, in (0, 1].
        seed: seed of the random pairs and of the bootstrap.

    Raises:
        ValueError: if the tables are of different runs, the threshold is out of range, or no correspondence lies
            between labelled images.
    """
    if not 0 < iou_threshold <= 1:
        raise ValueError(f"IoU threshold is {iou_threshold}; give one above 0 and at most 1")
    _check_tables(len(image_names), rois, correspondences)
    generator = np.random.default_rng(seed)
    classes, has_labels = roi_classes(split, image_names, rois, iou_threshold)
    usable = has_labels[correspondences["image_id"]] & has_labels[correspondences["neighbour_id"]]
    if not usable.any():
        raise ValueError(
            f"0 of {len(usable)} correspondences lie between labelled images: {has_labels.sum()} of "
            f"{len(image_names)} images have labels; the run's names are like {image_names[:1]}, "
            f"the labels' like {split.names[:1]}; score the run with the labels of its own images"
        )
    kept = {name: column[usable] for name, column in correspondences.items()}
    top = {name: column[top_ranked(kept)] for name, column in kept.items()}
    starts = row_starts(rois["image_id"], len(image_names))
    random_roi = _random_rows(starts, top["image_id"], generator)
    random_neighbour_roi = _random_rows(starts, top["neighbour_id"], generator)
    top_outcomes = _outcomes(classes[top["roi"]], classes[top["neighbour_roi"]])
    random_outcomes = _outcomes(classes[random_roi], classes[random_neighbour_roi])
    fractions = area_fractions(rois["box"], np.array(sizes_wh)[rois["image_id"]])
    matched_outcomes = size_matched_outcomes(
        np.stack([top["roi"], top["neighbour_roi"]], axis=1),
        np.stack([starts[top[name] + end] for name in ("image_id", "neighbour_id") for end in (0, 1)], axis=1),
        classes,
        fractions,
    )
    groups = size_groups(fractions[top["roi"]], fractions[top["neighbour_roi"]])
    top_score, random_score = _pair_score(top_outcomes), _pair_score(random_outcomes)
    matched_score = _pair_score(matched_outcomes)
    intervals, size_intervals = _bootstrap(
        top["image_id"], top_outcomes, random_outcomes, matched_outcomes, groups, generator
    )
    return DiscoveryScore(
        top=top_score,
        random=random_score,
        size_matched=matched_score,
        kept=_pair_score(_outcomes(classes[kept["roi"]], classes[kept["neighbour_roi"]])),
        lift=_ratio(top_score.both_fraction, random_score.both_fraction),
        size_matched_lift=_ratio(top_score.both_fraction, matched_score.both_fraction),
        by_size={
            name: _size_score(top_outcomes[groups == group], matched_outcomes[groups == group], size_intervals[group])
            for group, name in enumerate(SIZE_GROUPS)
        },
        intervals=intervals,
        num_images=int(has_labels.sum()),
        num_images_without_labels=int((~has_labels).sum()),
        num_pairs_without_labels=int((~usable).sum()),
        roi_object_fraction=float((classes[has_labels[rois["image_id"]]] != NO_OBJECT).mean()),
        iou_threshold=iou_threshold,
        seed=seed,
    )


def top_ranked(correspondences: Mapping[str, ndarray]) -> Int[ndarray, "p"]:
    """Return the row of the best pair of every image and neighbour, by score or cosine; the first of equal ones."""
    image_ids, neighbour_ids = correspondences["image_id"], correspondences["neighbour_id"]
    scores = correspondences.get("score", correspondences["similarity"])
    order = np.lexsort((-scores, neighbour_ids, image_ids))
    image_ids, neighbour_ids = image_ids[order], neighbour_ids[order]
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = (image_ids[1:] != image_ids[:-1]) | (neighbour_ids[1:] != neighbour_ids[:-1])
    return order[is_first]


def _check_tables(num_images: int, rois: Mapping[str, ndarray], correspondences: Mapping[str, ndarray]) -> None:
    num_rois = len(rois["box"])
    for message, numbers, limit in (
        ("the RoI table names image", rois["image_id"], num_images),
        ("the correspondences name image", correspondences["image_id"], num_images),
        ("the correspondences name image", correspondences["neighbour_id"], num_images),
        ("the correspondences name RoI", correspondences["roi"], num_rois),
        ("the correspondences name RoI", correspondences["neighbour_roi"], num_rois),
    ):
        if len(numbers) and numbers.max() >= limit:
            raise ValueError(f"{message} {numbers.max()}, but there are {limit}; rebuild it with 'orl discover'")


def _random_rows(starts: Int[ndarray, "s"], image_ids: Int[ndarray, "p"], generator: np.random.Generator) -> ndarray:
    return generator.integers(starts[image_ids], starts[image_ids + 1])


def _outcomes(classes: Int[ndarray, "p"], neighbour_classes: Int[ndarray, "p"]) -> Shaped[ndarray, "p 3"]:
    """Return for each pair: 1, whether both RoIs cover objects, and whether the objects are of one class."""
    both_objects = (classes != NO_OBJECT) & (neighbour_classes != NO_OBJECT)
    columns = (np.ones(len(classes)), both_objects, both_objects & (classes == neighbour_classes))
    return np.stack(columns, axis=1).astype(np.int64)


def _pair_score(outcomes: Shaped[ndarray, "p 3"]) -> PairScore:
    num_pairs, num_objects, num_same = outcomes.sum(axis=0).tolist()
    return PairScore(
        num_pairs=round(num_pairs),
        object_fraction=num_objects / num_pairs,
        same_class_fraction=_ratio(num_same, num_objects),
        both_fraction=num_same / num_pairs,
    )


def _size_score(
    outcomes: Shaped[ndarray, "p 3"], matched: Shaped[ndarray, "p 3"], interval: tuple[float, float] | None
) -> SizeScore:
    num_pairs, _, num_same = outcomes.sum(axis=0).tolist()
    expected = float(matched[:, 2].sum())
    return SizeScore(
        num_pairs=num_pairs,
        both_fraction=_ratio(num_same, num_pairs),
        size_matched_both_fraction=_ratio(expected, num_pairs),
        size_matched_lift=_ratio(num_same, expected),
        size_matched_lift_interval_95=interval if num_pairs else None,
    )


def _lift_text(lift: float | None) -> str:
    return "unknown" if lift is None else f"{lift:.2f}"


def _ratio(value: float, base: float) -> float | None:
    return value / base if base else None


def _bootstrap(
    image_ids: Int[ndarray, "p"],
    top_outcomes: Shaped[ndarray, "p 3"],
    random_outcomes: Shaped[ndarray, "p 3"],
    matched_outcomes: Shaped[ndarray, "p 3"],
    groups: Int[ndarray, "p"],
    generator: np.random.Generator,
) -> tuple[dict[str, tuple[float, float] | None], list[tuple[float, float] | None]]:
    """Compute 95% intervals by resampling query images, each with all its top-ranked and random pairs.

    Returns:
        Intervals by name, and that of the size-matched lift of each group of sizes.
    """
    _, images = np.unique(image_ids, return_inverse=True)
    in_group = (groups[:, None] == np.arange(len(SIZE_GROUPS))[None]).astype(np.float64)
    columns = (
        *(top_outcomes, random_outcomes, matched_outcomes[:, 2:]),
        *(top_outcomes[:, 2:] * in_group, matched_outcomes[:, 2:] * in_group),
    )
    values = np.concatenate(columns, axis=1)
    counts = np.zeros((images.max() + 1, values.shape[1]))
    np.add.at(counts, images, values)
    sums = np.stack(
        [counts[generator.integers(len(counts), size=len(counts))].sum(axis=0) for _ in range(NUM_RESAMPLES)]
    )
    num_pairs, objects, same, num_random, random_objects, random_same, matched_same, *by_group = sums.T
    with np.errstate(divide="ignore", invalid="ignore"):
        resampled = {
            "object_fraction": objects / num_pairs,
            "same_class_fraction": same / objects,
            "both_fraction": same / num_pairs,
            "random_object_fraction": random_objects / num_random,
            "random_same_class_fraction": random_same / random_objects,
            "random_both_fraction": random_same / num_random,
            "lift": same / random_same,
            "size_matched_lift": same / matched_same,
        }
        lifts = [by_group[group] / by_group[len(SIZE_GROUPS) + group] for group in range(len(SIZE_GROUPS))]
    return {name: _interval(each) for name, each in resampled.items()}, [_interval(each) for each in lifts]


def _interval(values: Float[ndarray, "b"]) -> tuple[float, float] | None:
    if np.isnan(values).any():
        return None
    low, high = np.quantile(values, (0.025, 0.975), method="nearest")
    return (float(low), float(high)) if np.isfinite(high) else None
