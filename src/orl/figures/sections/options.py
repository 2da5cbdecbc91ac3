"""How much the report shows, and which photos: the same ones in every section."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from orl.images.datasets import ImageViews, ObjectViews
from orl.images.labels import LabelledSplit
from orl.images.regions import ObjectRegions


@dataclass(frozen=True, kw_only=True)
class GalleryOptions:
    """How much the report shows."""

    num_top_pairs: int = 30
    """Pairs of photos with the most similar correspondences."""
    num_random_pairs: int = 30
    """Pairs of photos drawn at random."""
    num_lowest_pairs: int = 15
    """Pairs of photos with the least similar correspondences."""
    num_boxes_per_pair: int = 3
    """Pairs of boxes drawn in each."""
    num_attention_photos: int = 5
    """Photos with attention maps."""
    num_scored_photos: int = 60
    """Photos with known objects whose attention maps are scored."""
    attention_side_px: int = 448
    """Longer side of a photo when the network sees it for its attention map."""
    num_queries: int = 4
    """Photos shown with their neighbours, and with their correspondences in them."""
    num_neighbours: int = 5
    """Neighbours of each."""
    num_roi_photos: int = 4
    """Photos shown with their proposals and kept RoIs."""
    num_drawn_proposals: int = 150
    """Proposals drawn of a photo, at most."""
    num_view_photos: int = 4
    """Photos shown with their augmented views in each stage."""
    num_map_points: int = 600
    """RoIs on the map, at most."""
    num_map_thumbnails: int = 120
    """Of these, shown as they look, at most."""
    seed: int = 0
    """Of the choice of photos."""
    device: str = "cpu"
    """Where the attention maps are computed."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of a run's photos beside what lies in its folder; any of it may be missing."""

    labels: LabelledSplit | None = None
    """Their objects, to say what pairs of boxes cover."""
    regions: ObjectRegions | None = None
    """Where these objects lie, to score attention maps."""
    view_placer: Callable[[str], ImageViews | ObjectViews] | None = None
    """From 'stage1' or 'stage3' to what its samples are drawn from; fails as tables do that are not there."""


def choose_photos(num_photos: int, num_shown: int, seed: int) -> list[int]:
    """Photos drawn at random; a smaller choice begins a larger one, so that sections share photos."""
    return np.random.default_rng(seed).permutation(num_photos)[:num_shown].tolist()
