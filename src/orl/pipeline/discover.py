"""Stage 2: from a trained network to correspondences, as six tables, each finished shard by shard."""

import logging
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from orl import provenance, tables
from orl.config import DiscoverConfig, RunConfig
from orl.datasets.image_table import ImageTable
from orl.pipeline import shards
from orl.pipeline.discovery_summary import StepRecord
from orl.pipeline.feature_extractor import load_feature_extractor
from orl.pipeline.neighbour_tables import neighbour_finder, neighbour_inputs
from orl.pipeline.proposal_tables import proposal_inputs, proposer
from orl.processes import Processes, local_device
from orl.progress import progress_bar
from orl.rundir import RunDir

logger = logging.getLogger(__name__)

CROPS = "bicubic by torch"
"""How boxes are cut for the network; embeddings of other crops are stale."""


def discover(config: RunConfig, images: ImageTable, processes: Processes | None = None) -> bool:
    """Find the correspondences of every image with stage 1's network, or one from outside; finished shards are kept.

    Several processes share the shards of each table. What a shard holds does not depend on which of them made it.

    Args:
        config: the run.
        images: its images.
        processes: all that work on this run; this one alone if not given.

    Returns:
        Whether anything was left to do.

    Raises:
        FileNotFoundError: if there is no network to look with.
        StaleResultError: if a table was made from something else and `overwrite` is off.
        RuntimeError: if another process ended.
    """
    run, settings = RunDir(config.out), config.discover
    device = local_device(config.device)
    feature_extractor = load_feature_extractor(config)
    encoder = feature_extractor.encoder.to(memory_format=torch.channels_last).to(device)
    known = tables.finished_fingerprint(run.table("correspondences"))
    processes = processes or Processes()
    build = partial(_build, config, images, processes)
    embeddings = build(
        "embeddings",
        {
            "backbone": feature_extractor.backbone_digest,
            "projector": feature_extractor.projector_digest,
            "embed_px": settings.embed_px,
            "crops": CROPS,
        },
        lambda: shards.image_embedder(images, encoder, settings.embed_px, device, config.workers),
    )
    neighbours = build(
        "neighbours",
        neighbour_inputs(embeddings, config),
        lambda: neighbour_finder(embeddings, config, run.table("neighbours"), device, processes),
    )
    proposals = build(
        "proposals",
        proposal_inputs(images, config),
        lambda: proposer(images, config, run.table("proposals")),
    )
    rois = build(
        "rois",
        {"proposals": proposals.fingerprint, **_filter_settings(settings)},
        lambda: shards.proposal_filter(images, proposals, **_filter_settings(settings)),
    )
    roi_embeddings = build(
        "roi_embeddings",
        {
            "rois": rois.fingerprint,
            "backbone": feature_extractor.backbone_digest,
            "roi_embed_px": settings.roi_embed_px,
            "crops": CROPS,
        },
        lambda: shards.roi_embedder(images, rois, encoder, settings.roi_embed_px, device, config.workers),
    )
    correspondences = build(
        "correspondences",
        {
            "neighbours": neighbours.fingerprint,
            "roi_embeddings": roi_embeddings.fingerprint,
            "top_fraction": settings.top_fraction,
        },
        lambda: shards.matcher(len(images), neighbours, rois, roi_embeddings, settings.top_fraction, device),
    )
    return correspondences.fingerprint != known


def _build(
    config: RunConfig,
    images: ImageTable,
    processes: Processes,
    name: str,
    inputs: dict[str, Any],
    new_maker: Callable[[], shards.ShardMaker],
) -> tables.Table:
    """Make the missing shards of one table and open it; the maker is asked for only when one is missing."""
    run, slices = RunDir(config.out), tables.shard_slices(len(images), config.discover.shard_size)
    folder = run.table(name)
    sizes = {"shard_size": config.discover.shard_size, "num_shards": len(slices)}
    inputs = {"images": images.fingerprint, **inputs, **sizes}
    missing = processes.from_first(
        lambda: tables.begin(folder, inputs, len(slices), config.overwrite), f"the folder of {name}"
    )
    if not missing:
        logger.info("%s: up to date", name)
        return tables.load(folder)
    with StepRecord(run, name, provenance.fingerprint(inputs), quiet=not processes.is_first) as record:
        _make_shards(folder, slices, missing, new_maker(), processes, record)
        table = tables.load(folder)
        record.num_rows = table.num_rows
    return table


def _make_shards(
    folder: Path,
    slices: list[slice],
    missing: list[int],
    make_shard: shards.ShardMaker,
    processes: Processes,
    record: StepRecord,
) -> None:
    """Make the shards that fall to this process and wait for the others; the first shows how far all have come."""
    # Images that are done when the first so many of the missing shards are.
    done = list(accumulate((slices[index].stop - slices[index].start for index in missing), initial=0))
    before = slices[-1].stop - done[-1]
    title = folder.name.replace("_", " ")
    with progress_bar(
        total=slices[-1].stop, done=before, title=title, unit="images", quiet=not processes.is_first
    ) as bar:
        for place, index in processes.deal(missing):
            columns = make_shard(slices[index], bar.update if processes.count == 1 else _ignore)
            tables.write_shard(folder, index, columns)
            bar.update(before + done[place + 1] - bar.n)
            record.update(done[place + 1])
        processes.wait(f"the rest of {folder.name}")
        bar.update(slices[-1].stop - bar.n)
        record.update(done[-1])


def _ignore(num_images: int) -> None:
    """Of one of several processes, images are counted by the shard."""


def _filter_settings(settings: DiscoverConfig) -> dict[str, Any]:
    return {
        "min_side": settings.min_side,
        "max_aspect_ratio": settings.max_aspect_ratio,
        "max_iou": settings.max_iou,
        "max_rois": settings.max_rois,
    }
