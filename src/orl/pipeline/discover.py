"""Stage 2: from a trained network to correspondences, as six tables of shards, and their score."""

import json
import logging
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from orl import files, provenance, tables
from orl.config import DiscoverConfig, RunConfig
from orl.datasets.discovery_tables import open_discovery_table
from orl.datasets.image_table import ImageTable, require_unchanged
from orl.datasets.sources import read_labels
from orl.evaluation.correspondences import score_correspondences
from orl.pipeline import shards
from orl.pipeline.discovery_summary import StepRecord
from orl.pipeline.feature_extractor import load_stage1_extractor
from orl.pipeline.matching_tables import HUB_CORRECTED, build_whitening, read_whitening
from orl.pipeline.neighbour_tables import neighbour_finder, neighbour_inputs
from orl.pipeline.preflight import RunInputs
from orl.pipeline.proposal_tables import proposal_inputs, proposer
from orl.pipeline.record import recorded_stage
from orl.pipeline.roi_reduction import build_reduction, read_reduction
from orl.pipeline.run_report import optional_annotations
from orl.processes import Processes, local_device
from orl.progress import progress_bar
from orl.rundir import RunDir
from orl.views.crops import RESAMPLING

logger = logging.getLogger(__name__)


def discover(inputs: RunInputs, images: ImageTable, processes: Processes | None = None) -> bool:
    """Find the correspondences of all images and score them where labels are known; finished shards are kept.

    The shards of each table are divided among the processes. The content of a shard does not depend on the process.

    Args:
        inputs: the checked inputs of the run.
        images: its images.
        processes: all processes of the run; this one alone if not given.

    Returns:
        True if the correspondences are new, False if they were up to date.

    Raises:
        FileNotFoundError: if stage 1 has not been trained and no external network is given.
        StaleResultError: if a table was made from other inputs and `overwrite` is off.
        RuntimeError: if another process ended.
    """
    processes = processes or Processes()
    with recorded_stage(inputs.run, "discover", processes):
        if processes.is_first:
            require_unchanged(images)
        is_new = _build_tables(inputs, images, processes)
        if processes.is_first:
            score_discovery(inputs.config, images)
    return is_new


def _build_tables(inputs: RunInputs, images: ImageTable, processes: Processes) -> bool:
    """Build the tables; return True if the correspondences are new."""
    config, run, options = inputs.config, inputs.run, inputs.config.discover
    device = local_device(config.device)
    extractor = inputs.feature_extractor or load_stage1_extractor(run)
    encoder = extractor.encoder.to(memory_format=torch.channels_last).to(device)
    earlier = tables.finished_fingerprint(run.table("correspondences"))
    build = partial(_build, config, images, processes)
    embeddings = build(
        "embeddings",
        {
            "backbone": extractor.backbone_digest,
            "projector": extractor.projector_digest,
            "embed_px": options.embed_px,
            "resampling": RESAMPLING,
        },
        lambda: shards.image_embedder(images, encoder, options.embed_px, device, config.workers),
    )
    neighbours = build(
        "neighbours",
        neighbour_inputs(embeddings, config),
        lambda: neighbour_finder(embeddings, config, run.table("neighbours"), device, processes),
    )
    proposals = build(
        "proposals",
        proposal_inputs(images, config, extractor),
        lambda: proposer(images, config, run.table("proposals"), extractor),
    )
    rois = build(
        "rois",
        {"proposals": proposals.fingerprint, **_filter_options(options)},
        lambda: shards.proposal_filter(images, proposals, **_filter_options(options)),
    )
    if options.roi_features == "mask" and tables.RLE not in rois.column_names:
        raise ValueError(
            f"roi_features 'mask' needs boxes with masks, and proposals {options.proposals!r} give none; give masks "
            "(see docs/own-boxes.md) or --discover.roi-features map"
        )
    embedded_from = {
        "images": images.fingerprint,
        "rois": rois.fingerprint,
        "backbone": extractor.backbone_digest,
        **_feature_options(options),
        "resampling": RESAMPLING,
    }
    reduction = build_reduction(inputs, images, rois, encoder, embedded_from, device, processes)
    roi_embeddings = build(
        "roi_embeddings",
        {**embedded_from, **({} if reduction is None else {"roi_reduction": reduction.fingerprint})},
        lambda: shards.roi_embedder(images, rois, encoder, options, device, config.workers, read_reduction(reduction)),
    )
    whitening = build_whitening(inputs, roi_embeddings, processes)
    roi_hubness = None
    if options.matching in HUB_CORRECTED:
        roi_hubness = build(
            "roi_hubness",
            {
                "roi_embeddings": roi_embeddings.fingerprint,
                **({} if whitening is None else {"whitening": whitening.fingerprint}),
                "hubness_neighbours": options.hubness_neighbours,
                "hubness_bank": options.hubness_bank,
                "seed": config.seed,
            },
            lambda: shards.hubness_measurer(
                len(images), rois, roi_embeddings, read_whitening(whitening), options, config.seed, device
            ),
        )
    textures = None
    if options.textured_only:
        textures = build(
            "roi_textures",
            {"rois": rois.fingerprint},
            lambda: shards.texture_measurer(images, rois, config.workers),
        )
    correspondences = build(
        "correspondences",
        {
            "neighbours": neighbours.fingerprint,
            "roi_embeddings": roi_embeddings.fingerprint,
            "top_fraction": options.top_fraction,
            **({} if whitening is None else {"whitening": whitening.fingerprint}),
            **({} if roi_hubness is None else {"roi_hubness": roi_hubness.fingerprint}),
            **({} if textures is None else {"roi_textures": textures.fingerprint}),
            **({"mutual_pairs": True} if options.mutual_pairs else {}),
        },
        lambda: shards.matcher(
            len(images),
            neighbours,
            rois,
            roi_embeddings,
            options,
            device,
            read_whitening(whitening),
            roi_hubness,
            textures,
        ),
    )
    return correspondences.fingerprint != earlier


def _build(
    config: RunConfig,
    images: ImageTable,
    processes: Processes,
    name: str,
    inputs: dict[str, Any],
    new_maker: Callable[[], shards.ShardMaker],
) -> tables.Table:
    """Make the missing shards of one table and open it; `new_maker` is called only if one is missing."""
    run, slices = RunDir(config.out), tables.shard_slices(len(images), config.discover.shard_size)
    folder = run.table(name)
    sizes = {"shard_size": config.discover.shard_size, "num_shards": len(slices)}
    inputs = {"images": images.fingerprint, **inputs, **sizes}
    missing = processes.from_first(
        lambda: tables.begin(folder, inputs, len(slices), config.overwrite), f"the folder of {name}"
    )
    if not missing:
        logger.info("%s: up to date", name)
    with StepRecord(run, name, provenance.fingerprint(inputs), quiet=not processes.is_first) as record:
        if missing:
            _make_shards(folder, slices, missing, new_maker(), processes, record)
        num_rows = processes.from_first(lambda: tables.finish_table(folder).num_rows, f"the manifest of {name}")
        record.finish(len(images), num_rows)
    return open_discovery_table(folder, images)


def _make_shards(
    folder: Path,
    slices: list[slice],
    missing: list[int],
    make_shard: shards.ShardMaker,
    processes: Processes,
    record: StepRecord,
) -> None:
    """Make the shards assigned to this process and wait for the others; the first process shows the progress of all."""
    # Number of images done after 0, 1, 2, ... of the missing shards.
    done = list(accumulate((slices[index].stop - slices[index].start for index in missing), initial=0))
    before = slices[-1].stop - done[-1]
    title = folder.name.replace("_", " ")
    with progress_bar(
        total=slices[-1].stop, done=before, title=title, unit="images", quiet=not processes.is_first
    ) as bar:
        for place, index in processes.deal(missing):
            columns = make_shard(slices[index], bar.update if processes.count == 1 else _ignore)
            record.update(done[place + 1])
            tables.write_shard(folder, index, columns)
            bar.update(before + done[place + 1] - bar.n)
        processes.wait(f"the rest of {folder.name}")
        bar.update(slices[-1].stop - bar.n)


def _ignore(num_images: int) -> None:
    """Ignore single images: several processes count by the shard."""


def _feature_options(config: DiscoverConfig) -> dict[str, Any]:
    by_crops = {"roi_embed_px": config.roi_embed_px}
    by_map = {"roi_features": config.roi_features, "roi_map_px": config.roi_map_px}
    options = by_crops if config.roi_features == "crops" else by_map
    return {**options, **({"roi_centred": True} if config.roi_centred else {})}


def _filter_options(config: DiscoverConfig) -> dict[str, Any]:
    return {
        "min_side": config.min_side,
        "max_aspect_ratio": config.max_aspect_ratio,
        "max_iou": config.max_iou,
        "max_rois": config.max_rois,
    }


def score_discovery(config: RunConfig, images: ImageTable) -> None:
    """Write how often correspondences join objects of one class, where the images' source has labels."""
    run, labels = RunDir(config.out), optional_annotations(read_labels, config)
    if labels is None:
        run.discovery_score.unlink(missing_ok=True)
        logger.info("the correspondences are not scored: the source of the images has no labels")
        return
    correspondences, rois = tables.load(run.table("correspondences")), tables.load(run.table("rois"))
    columns = correspondences.column_names
    score = score_correspondences(
        labels,
        images.names,
        {name: rois.column(name) for name in ("image_id", "box")},
        {name: correspondences.column(name) for name in columns},
        sizes_wh=images.sizes_wh,
        seed=config.seed,
    )
    result = score.to_json() | {"correspondences": correspondences.fingerprint}
    files.write_atomically(run.discovery_score, json.dumps(result, indent=1))
    logger.info("%s", score.summary())
