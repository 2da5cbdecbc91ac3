"""Compute of a training, independent of the machine: pixels that pass the network."""

from orl import tables
from orl.config import RunConfig
from orl.datasets.image_table import load_image_table
from orl.rundir import RunDir

FORWARD_FRACTION = 1 / 4
"""Cost of a forward pass relative to a training step (online forward 1, backward 2, target forward 1)."""


def stage1_pixels(config: RunConfig) -> int:
    """Return the pixels per image and epoch of stage 1: two views."""
    return 2 * config.stage1.views.size_px**2


def uses_pairs(config: RunConfig) -> bool:
    """Return whether the loss of stage 3 has a term on pairs of RoIs, which stage 2 finds."""
    return config.objects.intra_weight > 0 or config.objects.inter_weight > 0


def uses_stage1(config: RunConfig) -> bool:
    """Return whether stage 3 depends on stage 1: on its weights, or on pairs that its embeddings found."""
    return config.objects.warm_start or (uses_pairs(config) and config.discover.feature_extractor is None)


def stage3_pixels(config: RunConfig) -> int:
    """Return the pixels per image and epoch of stage 3: two views, and a pair of RoIs for each term that uses one."""
    objects = config.objects
    num_global, num_pairs = objects.global_weight > 0, (objects.intra_weight > 0) + (objects.inter_weight > 0)
    return 2 * (num_global * config.stage3.views.size_px**2 + num_pairs * objects.roi_size_px**2)


def discover_pixels(config: RunConfig) -> float:
    """Return the pixels per image of stage 2: one forward pass of the image and of its RoIs; 0 if no pairs are used.

    Selective search does not count, because it uses no network.

    Raises:
        FileNotFoundError: if stage 2 has not run.
    """
    if not uses_pairs(config):
        return 0.0
    run = RunDir(config.out)
    num_images = tables.load(run.table("embeddings")).num_rows
    rois_per_image = tables.load(run.table("rois")).num_rows / num_images
    options = config.discover
    roi_pixels = rois_per_image * options.roi_embed_px**2
    if options.roi_features != "crops":
        ratios = [max(size_wh) / min(size_wh) for size_wh in load_image_table(run.images).sizes_wh]
        roi_pixels = options.roi_map_px**2 * sum(ratios) / len(ratios)
    return FORWARD_FRACTION * (options.embed_px**2 + roi_pixels)


def compute_matched_epochs(config: RunConfig) -> int:
    """Return the epochs of stage 1 that cost as much as all stages that the ORL run needs, rounded up."""
    before = config.stage1.epochs * stage1_pixels(config) if uses_stage1(config) else 0
    pixels = before + discover_pixels(config) + config.stage3.epochs * stage3_pixels(config)
    return int(-(-pixels // stage1_pixels(config)))
