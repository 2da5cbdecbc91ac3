"""How much a training costs whatever machine it runs on: pixels that pass the network."""

from orl import tables
from orl.config import RunConfig
from orl.rundir import RunDir

FORWARD_FRACTION = 1 / 4
"""Of a training step's arithmetic: online forward 1, backward 2, target forward 1."""


def stage1_pixels(config: RunConfig) -> int:
    """Pixels of views that an image costs in an epoch of stage 1."""
    return 2 * config.stage1.views.size_px**2


def uses_pairs(config: RunConfig) -> bool:
    """Whether stage 3 has a term that needs stage 2; else it is stage 1 once more."""
    return config.objects.intra_weight > 0 or config.objects.inter_weight > 0


def uses_stage1(config: RunConfig) -> bool:
    """Whether the weights of stage 3 owe anything to stage 1: its own, or the pairs that it found."""
    return config.objects.warm_start or (uses_pairs(config) and config.discover.feature_extractor is None)


def stage3_pixels(config: RunConfig) -> int:
    """Likewise of stage 3: two views and as many pairs of RoIs as there are terms that use them."""
    objects = config.objects
    num_global, num_pairs = objects.global_weight > 0, (objects.intra_weight > 0) + (objects.inter_weight > 0)
    return 2 * (num_global * config.stage3.views.size_px**2 + num_pairs * objects.roi_size_px**2)


def discover_pixels(config: RunConfig) -> float:
    """Likewise of stage 2, once: the image and its RoIs pass forward only; nothing where no pairs are used.

    Selective search is left out, as it passes no network.

    Raises:
        FileNotFoundError: if stage 2 has not run.
    """
    if not uses_pairs(config):
        return 0.0
    run = RunDir(config.out)
    num_images = tables.load(run.table("embeddings")).num_rows
    rois_per_image = tables.load(run.table("rois")).num_rows / num_images
    settings = config.discover
    return FORWARD_FRACTION * (settings.embed_px**2 + rois_per_image * settings.roi_embed_px**2)


def epochs_of_equal_compute(config: RunConfig) -> int:
    """Epochs of stage 1 that cost as much as all three stages, rounded up; stage 1 where it is used."""
    before = config.stage1.epochs * stage1_pixels(config) if uses_stage1(config) else 0
    pixels = before + discover_pixels(config) + config.stage3.epochs * stage3_pixels(config)
    return int(-(-pixels // stage1_pixels(config)))
