"""How much the report shows, and which images: the same ones in every section."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from orl.datasets.labels import LabelledSplit
from orl.datasets.object_regions import ObjectRegions
from orl.views.view_samplers import GlobalViewSampler, ObjectViewSampler


@dataclass(frozen=True, kw_only=True)
class GalleryOptions:
    """How much the report shows."""

    num_top_pairs: int = 30
    """Pairs of images with the most similar correspondences."""
    num_random_pairs: int = 30
    """Pairs of images drawn at random."""
    num_lowest_pairs: int = 15
    """Pairs of images with the least similar correspondences."""
    num_boxes_per_pair: int = 3
    """Pairs of boxes drawn in each."""
    num_attention_images: int = 5
    """Images with attention maps."""
    num_scored_images: int = 60
    """Images with known objects whose attention maps are scored."""
    attention_side_px: int = 448
    """Longer side of an image when the network sees it for its attention map."""
    num_queries: int = 4
    """Images shown with their neighbours, and with their correspondences in them."""
    num_neighbours: int = 5
    """Neighbours of each."""
    num_roi_images: int = 4
    """Images shown with their proposals and kept RoIs."""
    num_drawn_proposals: int = 150
    """Proposals drawn of an image, at most."""
    num_view_images: int = 4
    """Images shown with their augmented views in each stage."""
    num_map_points: int = 600
    """RoIs on the map, at most."""
    num_map_thumbnails: int = 120
    """Of these, shown as they look, at most."""
    seed: int = 0
    """Of the choice of images."""
    device: str = "cpu"
    """Where the attention maps are computed."""


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """What is known of a run's images beside what lies in its folder; any of it may be missing."""

    labels: LabelledSplit | None = None
    """Their objects, to say what pairs of boxes cover."""
    regions: ObjectRegions | None = None
    """Where these objects lie, to score attention maps."""
    view_sampler: Callable[[str], GlobalViewSampler | ObjectViewSampler] | None = None
    """From 'stage1' or 'stage3' to what its samples are drawn from; fails as tables do that are not there."""


def choose_images(num_images: int, num_shown: int, seed: int) -> list[int]:
    """Images drawn at random; a smaller choice begins a larger one, so that sections share images."""
    return np.random.default_rng(seed).permutation(num_images)[:num_shown].tolist()
