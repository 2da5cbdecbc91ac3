"""Options of a report, and annotations of the images of its run."""

from collections.abc import Callable
from dataclasses import dataclass

from orl.datasets.labels import LabelledSplit
from orl.datasets.object_regions import ObjectRegions
from orl.views.view_samplers import GlobalViewSampler, ObjectViewSampler


@dataclass(frozen=True, kw_only=True)
class GalleryOptions:
    """Choice of the images in the report, and the network's input for attention maps."""

    seed: int = 0
    """Seed of the choice of images."""
    device: str = "cpu"
    """Device on which the attention maps are computed."""
    attention_side_px: int = 448
    """Longer side of an image as the network gets it for its attention map."""


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """Labels and samplers of a run's images beside its files; any of them may be missing."""

    labels: LabelledSplit | None = None
    """Classes and boxes of the objects, to name what pairs of boxes cover."""
    regions: ObjectRegions | None = None
    """Masks or boxes of the objects, to score attention maps."""
    view_sampler: Callable[[str], GlobalViewSampler | ObjectViewSampler] | None = None
    """Function from 'stage1' or 'stage3' to the view sampler of that stage.

    It raises FileNotFoundError or ValueError if tables of stage 2 are missing or do not fit."""
