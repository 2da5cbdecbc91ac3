"""Stage 2: from a trained network to correspondences, as six tables, each finished shard by shard."""

import logging
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from orl import tables
from orl.config import DiscoverConfig, RunConfig
from orl.discovery.matching import match_rois
from orl.discovery.neighbours import nearest_neighbours, unit_rows
from orl.discovery.proposals import filter_proposals
from orl.discovery.selective_search import selective_search
from orl.embed import centre_crop_boxes, embed_boxes
from orl.images.datasets import ignore_interrupts
from orl.images.decode import load_photo
from orl.images.table import ImageTable
from orl.networks.backbones import load_backbone, pool
from orl.networks.device import compute_device
from orl.networks.mlp import load_projector
from orl.networks.online_target import Encoder
from orl.progress import progress_bar
from orl.rundir import RunDir

logger = logging.getLogger(__name__)

Columns = dict[str, ndarray]
Report = Callable[[int], object]
"""Takes the number of photos just finished."""


def discover(config: RunConfig, images: ImageTable) -> bool:
    """Find the correspondences of every photo with the network of stage 1; finished shards are kept.

    Returns:
        Whether anything was left to do.

    Raises:
        FileNotFoundError: if stage 1 left no backbone.
        StaleTableError: if a table was made from something else and `overwrite` is off.
    """
    run = RunDir(config.out)
    device = compute_device(config.device)
    backbone_path, projector_path = run.backbone("stage1"), run.projector("stage1")
    backbone, projector = load_backbone(backbone_path), load_projector(projector_path)
    encoder = Encoder(backbone, projector).to(memory_format=torch.channels_last).to(device).eval()
    backbone_digest, projector_digest = tables.file_digest(backbone_path), tables.file_digest(projector_path)

    known = tables.finished_fingerprint(run.table("correspondences"))
    build = partial(_build, config, len(images))
    settings = config.discover
    embeddings = build(
        "embeddings",
        {
            "images": images.fingerprint,
            "backbone": backbone_digest,
            "projector": projector_digest,
            "embed_px": settings.embed_px,
        },
        partial(_embed_images, config, images, encoder, device),
    )
    neighbours = build(
        "neighbours",
        {"embeddings": embeddings.fingerprint, "num_neighbours": settings.num_neighbours},
        partial(_find_neighbours, unit_rows(embeddings.column("embedding")).to(device), settings.num_neighbours),
    )
    proposals = build(
        "proposals",
        {"images": images.fingerprint, "search": "opencv selective search, fast", "seed": config.seed},
        partial(_propose, config, images),
    )
    rois = build(
        "rois",
        {"proposals": proposals.fingerprint, **_filter_settings(settings)},
        partial(_filter, settings, images, proposals),
    )
    roi_embeddings = build(
        "roi_embeddings",
        {"rois": rois.fingerprint, "backbone": backbone_digest, "roi_embed_px": settings.roi_embed_px},
        partial(_embed_rois, config, images, rois, encoder, device),
    )
    correspondences = build(
        "correspondences",
        {
            "neighbours": neighbours.fingerprint,
            "roi_embeddings": roi_embeddings.fingerprint,
            "pair_share": settings.pair_share,
        },
        partial(_match, settings.pair_share, len(images), neighbours, rois, roi_embeddings),
    )
    return correspondences.fingerprint != known


def _build(
    config: RunConfig,
    num_images: int,
    name: str,
    made_from: dict[str, Any],
    make_shard: Callable[[slice, Report], Columns],
) -> tables.Table:
    """Make the missing shards of one table and open it."""
    folder = RunDir(config.out).table(name)
    slices = tables.shard_slices(num_images, config.discover.shard_size)
    missing = tables.begin(
        folder, {**made_from, "shard_size": config.discover.shard_size}, len(slices), config.overwrite
    )
    if not missing:
        logger.info("%s are up to date", name)
        return tables.load(folder)
    num_missing = sum(slices[index].stop - slices[index].start for index in missing)
    title = name.replace("_", " ")
    with progress_bar(total=num_images, done=num_images - num_missing, title=title, unit="photos") as bar:
        for index in missing:
            tables.write_shard(folder, index, make_shard(slices[index], bar.update))
    return tables.load(folder)


def _embed_images(
    config: RunConfig,
    images: ImageTable,
    encoder: Encoder,
    device: torch.device,
    photos: slice,
    report: Report,
) -> Columns:
    ids = range(photos.start, photos.stop)
    parts = embed_boxes(
        encoder,
        [images.path(index) for index in ids],
        centre_crop_boxes(images.sizes_wh[photos]),
        size_px=config.discover.embed_px,
        device=device,
        workers=config.workers,
        report=report,
    )
    return {"embedding": unit_rows(np.concatenate(list(parts))).numpy().astype(np.float16)}


def _find_neighbours(embeddings: Tensor, num_neighbours: int, photos: slice, report: Report) -> Columns:
    ids = torch.arange(photos.start, photos.stop, device=embeddings.device)
    neighbour_ids, similarities = nearest_neighbours(embeddings[photos], ids, embeddings, num_neighbours)
    report(len(ids))
    return {
        "neighbour_ids": neighbour_ids.cpu().numpy().astype(np.int32),
        "similarities": similarities.cpu().numpy(),
    }


class _Proposals(Dataset[Float[ndarray, "n 4"]]):
    """Selective search as a data set, so that loading workers run it side by side."""

    def __init__(self, images: ImageTable, photos: slice, seed: int) -> None:
        self.images, self.photos, self.seed = images, photos, seed

    def __len__(self) -> int:
        return self.photos.stop - self.photos.start

    def __getitem__(self, index: int) -> Float[ndarray, "n 4"]:
        image_id = self.photos.start + index
        photo = load_photo(self.images.path(image_id))
        return selective_search(photo, zlib.crc32(self.images.names[image_id].encode()) ^ self.seed)


def _propose(config: RunConfig, images: ImageTable, photos: slice, report: Report) -> Columns:
    loader = DataLoader(
        _Proposals(images, photos, config.seed),
        batch_size=None,
        num_workers=config.workers,
        worker_init_fn=ignore_interrupts,
        collate_fn=_as_it_is,
    )
    found = []
    for boxes in loader:
        found.append(boxes)
        report(1)
    return _box_columns(photos, found)


def _as_it_is(item: Any) -> Any:
    return item


def _filter(
    settings: DiscoverConfig, images: ImageTable, proposals: tables.Table, photos: slice, report: Report
) -> Columns:
    image_ids, boxes = proposals.column("image_id"), proposals.column("box")
    starts = tables.row_starts(image_ids, len(images))
    kept = []
    for image_id in range(photos.start, photos.stop):
        size_wh = images.sizes_wh[image_id]
        min_side_px = settings.min_side if settings.min_side >= 1 else settings.min_side * min(size_wh)
        kept.append(
            filter_proposals(
                np.array(boxes[starts[image_id] : starts[image_id + 1]]),
                size_wh,
                min_side_px=min_side_px,
                max_aspect_ratio=settings.max_aspect_ratio,
                max_iou=settings.max_iou,
                max_rois=settings.max_rois,
            )
        )
        report(1)
    return _box_columns(photos, kept)


def _embed_rois(
    config: RunConfig,
    images: ImageTable,
    rois: tables.Table,
    encoder: Encoder,
    device: torch.device,
    photos: slice,
    report: Report,
) -> Columns:
    starts = tables.row_starts(rois.column("image_id"), len(images))
    boxes = rois.column("box")
    ids = range(photos.start, photos.stop)
    parts = embed_boxes(
        lambda views: pool(encoder.backbone(views)),
        [images.path(index) for index in ids],
        [boxes[starts[index] : starts[index + 1]] for index in ids],
        size_px=config.discover.roi_embed_px,
        device=device,
        workers=config.workers,
        report=report,
    )
    return {"embedding": unit_rows(np.concatenate(list(parts))).numpy().astype(np.float16)}


def _match(
    pair_share: float,
    num_images: int,
    neighbours: tables.Table,
    rois: tables.Table,
    roi_embeddings: tables.Table,
    photos: slice,
    report: Report,
) -> Columns:
    starts = tables.row_starts(rois.column("image_id"), num_images)
    neighbour_ids, embeddings = neighbours.column("neighbour_ids"), roi_embeddings.column("embedding")

    def embeddings_of(image_id: int) -> Tensor:
        return unit_rows(embeddings[starts[image_id] : starts[image_id + 1]])

    image_pairs, roi_pairs, similarities = [], [], []
    for image_id in range(photos.start, photos.stop):
        own = embeddings_of(image_id)
        for neighbour_id in neighbour_ids[image_id].tolist():
            pairs, values = match_rois(own, embeddings_of(neighbour_id), pair_share)
            roi_pairs.append(pairs.numpy() + [starts[image_id], starts[neighbour_id]])
            similarities.append(values.numpy())
            image_pairs.append(np.tile(np.array([image_id, neighbour_id], dtype=np.int32), (len(pairs), 1)))
        report(1)
    joined_images, joined_rois = np.concatenate(image_pairs), np.concatenate(roi_pairs)
    return {
        "image_id": joined_images[:, 0],
        "neighbour_id": joined_images[:, 1],
        "roi": joined_rois[:, 0],
        "neighbour_roi": joined_rois[:, 1],
        "similarity": np.concatenate(similarities),
    }


def _box_columns(photos: slice, boxes: list[Float[ndarray, "_ 4"]]) -> Columns:
    counts = [len(part) for part in boxes]
    image_ids = np.repeat(np.arange(photos.start, photos.stop, dtype=np.int32), counts)
    return {"image_id": image_ids, "box": np.concatenate(boxes).reshape(-1, 4).astype(np.float32)}


def _filter_settings(settings: DiscoverConfig) -> dict[str, Any]:
    return {
        "min_side": settings.min_side,
        "max_aspect_ratio": settings.max_aspect_ratio,
        "max_iou": settings.max_iou,
        "max_rois": settings.max_rois,
    }
