"""The choice of the pairs of images that the report shows, of several kinds, with the classes that they cover."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from orl.datasets.image_table import ImageTable
from orl.datasets.labels import NO_OBJECT, LabelledSplit, covered_classes
from orl.figures.pair_selection import best_correspondences, extreme_pairs, random_pairs, ranked_neighbours
from orl.figures.run_images import boxes_of, open_run_table
from orl.report.runs import sample_indices
from orl.report.sections.neighbours import NUM_NEIGHBOURS, NUM_QUERIES
from orl.rundir import RunDir
from orl.tables import Table

NUM_TOP, NUM_RANDOM, NUM_LOWEST = 30, 30, 15
"""Pairs of images with the most similar correspondences, random ones, and those with the least similar."""
NUM_BOX_PAIRS = 3
"""Most pairs of boxes shown in a pair of images."""
KINDS = {
    "top": "most similar",
    "random": "sampled at random",
    "lowest": "least similar that were kept",
    "query": "of a query image",
}


@dataclass(frozen=True, kw_only=True)
class ShownPair:
    """An image, a neighbour, and the most similar correspondences of the two, best first."""

    image_ids: tuple[int, int]
    kinds: tuple[str, ...]
    """Reasons to show it: keys of `KINDS`."""
    boxes: Float[ndarray, "p 4"]
    neighbour_boxes: Float[ndarray, "p 4"]
    similarities: Float[ndarray, "p"]
    """NaN if they are not known, as in an imported table."""
    covered: tuple[str, str] | None = None
    """Class of the object that each box of the best pair covers, '' for none; None if there are no labels."""

    @property
    def covers(self) -> tuple[str, ...]:
        """Keys for the best pair: 'both' are on an object, of the 'same' class; 'none' if not both are on one."""
        if self.covered is None:
            return ()
        if not all(self.covered):
            return ("none",)
        return ("both", "same") if self.covered[0] == self.covered[1] else ("both",)


def choose_pairs(run: RunDir, images: ImageTable, seed: int, labels: LabelledSplit | None) -> list[ShownPair]:
    """Choose the pairs to show, each once: the most similar first, then the other kinds that are known.

    The table of correspondences is read block by block, and of the RoIs only those of the images that are shown.

    Raises:
        FileNotFoundError: if stage 2 has not written the tables.
        ValueError: if the tables were made from other images.
    """
    rois, correspondences = (open_run_table(run, name, images) for name in ("rois", "correspondences"))
    kinds: dict[tuple[int, int], list[str]] = {}
    for kind, pairs in _chosen(correspondences, len(images), seed).items():
        for pair in pairs:
            kinds.setdefault(pair, []).append(kind)
    rows = {} if labels is None else {name: row for row, name in enumerate(labels.names)}
    found = []
    for pair, own_kinds in kinds.items():
        *roi_rows, similarities = best_correspondences(correspondences, *pair, NUM_BOX_PAIRS)
        boxes, neighbour_boxes = (boxes_of(rois, each, image_id) for each, image_id in zip(roi_rows, pair))
        found.append(
            ShownPair(
                image_ids=pair,
                kinds=tuple(own_kinds),
                boxes=boxes,
                neighbour_boxes=neighbour_boxes,
                similarities=similarities,
                covered=_covered(labels, rows, [images.names[each] for each in pair], (boxes[:1], neighbour_boxes[:1])),
            )
        )
    return found


def _chosen(correspondences: Table, num_images: int, seed: int) -> dict[str, list[tuple[int, int]]]:
    queries = sample_indices(num_images, NUM_QUERIES, seed)
    generator = np.random.default_rng(seed)
    by_query = [
        (query, int(neighbour))
        for query in queries
        for neighbour in ranked_neighbours(correspondences, query)[0][:NUM_NEIGHBOURS]
    ]
    sampled = {
        "random": random_pairs(correspondences, num_images, NUM_RANDOM, generator),
        "query": by_query,
    }
    top = extreme_pairs(correspondences, num_images, NUM_TOP, sign=1)
    if not top or np.isnan(best_correspondences(correspondences, *top[0], 1)[2][0]):
        return sampled
    lowest = extreme_pairs(correspondences, num_images, NUM_LOWEST, sign=-1)
    return {"top": top, "random": sampled["random"], "lowest": lowest, "query": by_query}


def _covered(
    labels: LabelledSplit | None, rows: Mapping[str, int], names: Sequence[str], boxes: Sequence[ndarray]
) -> tuple[str, str] | None:
    if labels is None or any(name not in rows for name in names):
        return None
    classes = [int(covered_classes(labels, rows[name], box)[0]) for name, box in zip(names, boxes)]
    words = ["" if each == NO_OBJECT else labels.classes[each] for each in classes]
    return words[0], words[1]
