"""How much the report shows, and which photos: the same ones in every section."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class GalleryOptions:
    """How much the report shows."""

    num_top_pairs: int = 6
    """The most similar correspondences."""
    num_random_pairs: int = 4
    """Correspondences drawn at random."""
    num_attention_photos: int = 5
    """Photos with attention maps."""
    num_scored_photos: int = 60
    """Photos with known objects whose attention maps are scored."""
    attention_side_px: int = 448
    """Longer side of a photo when the network sees it for its attention map."""
    num_queries: int = 4
    """Photos shown with their neighbours."""
    num_neighbours: int = 5
    """Neighbours of each."""
    num_roi_photos: int = 4
    """Photos shown with their kept RoIs."""
    seed: int = 0
    """Of the choice of photos."""
    device: str = "cpu"
    """Where the attention maps are computed."""


def choose_photos(num_photos: int, num_shown: int, seed: int) -> list[int]:
    """Photos drawn at random; a smaller choice begins a larger one, so that sections share photos."""
    return np.random.default_rng(seed).permutation(num_photos)[:num_shown].tolist()
