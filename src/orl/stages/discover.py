"""Stage 2: from a trained network to correspondences, as six tables, each finished shard by shard."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from orl import tables
from orl.config import DiscoverConfig, RunConfig
from orl.images.table import ImageTable
from orl.networks.backbones import load_backbone
from orl.networks.device import compute_device
from orl.networks.mlp import load_projector
from orl.networks.online_target import Encoder
from orl.progress import progress_bar
from orl.rundir import RunDir
from orl.stages import shards

logger = logging.getLogger(__name__)


def discover(config: RunConfig, images: ImageTable) -> bool:
    """Find the correspondences of every photo with the network of stage 1; finished shards are kept.

    Returns:
        Whether anything was left to do.

    Raises:
        FileNotFoundError: if stage 1 left no backbone.
        StaleTableError: if a table was made from something else and `overwrite` is off.
    """
    run, settings = RunDir(config.out), config.discover
    device = compute_device(config.device)
    encoder = Encoder(load_backbone(run.backbone("stage1")), load_projector(run.projector("stage1")))
    encoder = encoder.to(memory_format=torch.channels_last).to(device).eval()
    backbone_digest = tables.file_digest(run.backbone("stage1"))
    projector_digest = tables.file_digest(run.projector("stage1"))

    known = tables.finished_fingerprint(run.table("correspondences"))
    build = partial(_build, config, len(images))
    embeddings = build(
        "embeddings",
        {
            "images": images.fingerprint,
            "backbone": backbone_digest,
            "projector": projector_digest,
            "embed_px": settings.embed_px,
        },
        lambda: shards.image_embedder(images, encoder, settings.embed_px, device, config.workers),
    )
    neighbours = build(
        "neighbours",
        {"embeddings": embeddings.fingerprint, "num_neighbours": settings.num_neighbours},
        lambda: shards.neighbour_finder(embeddings, settings.num_neighbours, device),
    )
    proposals = build(
        "proposals",
        {"images": images.fingerprint, "search": "selective search by OpenCV, fast", "seed": config.seed},
        lambda: shards.proposer(images, config.seed, config.workers),
    )
    rois = build(
        "rois",
        {"proposals": proposals.fingerprint, **_filter_settings(settings)},
        lambda: shards.proposal_filter(images, proposals, **_filter_settings(settings)),
    )
    roi_embeddings = build(
        "roi_embeddings",
        {"rois": rois.fingerprint, "backbone": backbone_digest, "roi_embed_px": settings.roi_embed_px},
        lambda: shards.roi_embedder(images, rois, encoder, settings.roi_embed_px, device, config.workers),
    )
    correspondences = build(
        "correspondences",
        {
            "neighbours": neighbours.fingerprint,
            "roi_embeddings": roi_embeddings.fingerprint,
            "pair_share": settings.pair_share,
        },
        lambda: shards.matcher(len(images), neighbours, rois, roi_embeddings, settings.pair_share),
    )
    return correspondences.fingerprint != known


def _build(
    config: RunConfig,
    num_images: int,
    name: str,
    made_from: dict[str, Any],
    new_maker: Callable[[], shards.ShardMaker],
) -> tables.Table:
    """Make the missing shards of one table and open it; the maker is asked for only when one is missing."""
    folder = RunDir(config.out).table(name)
    slices = tables.shard_slices(num_images, config.discover.shard_size)
    made_from = {**made_from, "shard_size": config.discover.shard_size}
    missing = tables.begin(folder, made_from, len(slices), config.overwrite)
    if not missing:
        logger.info("%s: up to date", name)
        return tables.load(folder)
    num_missing = sum(slices[index].stop - slices[index].start for index in missing)
    title = name.replace("_", " ")
    with progress_bar(total=num_images, done=num_images - num_missing, title=title, unit="photos") as bar:
        make_shard = new_maker()
        for index in missing:
            tables.write_shard(folder, index, make_shard(slices[index], bar.update))
    return tables.load(folder)


def _filter_settings(settings: DiscoverConfig) -> dict[str, Any]:
    return {
        "min_side": settings.min_side,
        "max_aspect_ratio": settings.max_aspect_ratio,
        "max_iou": settings.max_iou,
        "max_rois": settings.max_rois,
    }
