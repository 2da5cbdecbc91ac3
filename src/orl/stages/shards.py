"""How one shard of each table of stage 2 is made: a slice of the photos in, columns out."""

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from orl import tables
from orl.discovery.matching import match_rois
from orl.discovery.neighbours import nearest_neighbours, unit_rows
from orl.discovery.proposals import filter_proposals
from orl.discovery.selective_search import selective_search
from orl.embed import centre_crop_boxes, embed_boxes
from orl.images.datasets import ignore_interrupts
from orl.images.decode import load_photo
from orl.images.table import ImageTable
from orl.networks.backbones import pool
from orl.networks.online_target import Encoder

Columns = dict[str, ndarray]
Report = Callable[[int], object]
"""Takes the number of photos just finished."""
ShardMaker = Callable[[slice, Report], Columns]


def image_embedder(
    images: ImageTable, encoder: Encoder, size_px: int, device: torch.device, workers: int
) -> ShardMaker:
    """Projections of the centre crops of photos."""

    def make(photos: slice, report: Report) -> Columns:
        paths = [images.path(index) for index in range(photos.start, photos.stop)]
        crops = centre_crop_boxes(images.sizes_wh[photos])
        parts = embed_boxes(encoder, paths, crops, size_px=size_px, device=device, workers=workers, report=report)
        return _embedding_columns(list(parts))

    return make


def neighbour_finder(embeddings: tables.Table, num_neighbours: int, device: torch.device) -> ShardMaker:
    """The K nearest other photos of photos."""
    rows = unit_rows(embeddings.column("embedding")).to(device)

    def make(photos: slice, report: Report) -> Columns:
        ids = torch.arange(photos.start, photos.stop, device=device)
        neighbour_ids, similarities = nearest_neighbours(rows[photos], ids, rows, num_neighbours)
        report(len(ids))
        return {
            "neighbour_ids": neighbour_ids.cpu().numpy().astype(np.int32),
            "similarities": similarities.cpu().numpy(),
        }

    return make


def proposer(images: ImageTable, seed: int, workers: int) -> ShardMaker:
    """Selective search on photos, side by side in loading workers."""

    def make(photos: slice, report: Report) -> Columns:
        loader = DataLoader(
            _Searches(images, photos, seed),
            batch_size=None,
            num_workers=workers,
            worker_init_fn=ignore_interrupts,
            collate_fn=_unchanged,
        )
        found = []
        for boxes in loader:
            found.append(boxes)
            report(1)
        return _box_columns(photos, found)

    return make


def proposal_filter(
    images: ImageTable,
    proposals: tables.Table,
    *,
    min_side: float,
    max_aspect_ratio: float,
    max_iou: float,
    max_rois: int,
) -> ShardMaker:
    """The RoIs of photos; a `min_side` below 1 is a share of each photo's short side."""
    starts = tables.row_starts(proposals.column("image_id"), len(images))
    boxes = proposals.column("box")

    def rois_of(image_id: int) -> Float[ndarray, "b 4"]:
        size_wh = images.sizes_wh[image_id]
        return filter_proposals(
            np.array(boxes[starts[image_id] : starts[image_id + 1]]),
            size_wh,
            min_side_px=min_side if min_side >= 1 else min_side * min(size_wh),
            max_aspect_ratio=max_aspect_ratio,
            max_iou=max_iou,
            max_rois=max_rois,
        )

    def make(photos: slice, report: Report) -> Columns:
        kept = []
        for image_id in range(photos.start, photos.stop):
            kept.append(rois_of(image_id))
            report(1)
        return _box_columns(photos, kept)

    return make


def roi_embedder(
    images: ImageTable, rois: tables.Table, encoder: Encoder, size_px: int, device: torch.device, workers: int
) -> ShardMaker:
    """Pooled backbone features of the RoIs of photos, each RoI once."""
    starts = tables.row_starts(rois.column("image_id"), len(images))
    boxes = rois.column("box")

    def make(photos: slice, report: Report) -> Columns:
        ids = range(photos.start, photos.stop)
        parts = embed_boxes(
            lambda views: pool(encoder.backbone(views)),
            [images.path(index) for index in ids],
            [boxes[starts[index] : starts[index + 1]] for index in ids],
            size_px=size_px,
            device=device,
            workers=workers,
            report=report,
        )
        return _embedding_columns(list(parts))

    return make


def matcher(
    num_images: int,
    neighbours: tables.Table,
    rois: tables.Table,
    roi_embeddings: tables.Table,
    pair_share: float,
) -> ShardMaker:
    """The correspondences of photos with each of their neighbours."""
    starts = tables.row_starts(rois.column("image_id"), num_images)
    neighbour_ids, embeddings = neighbours.column("neighbour_ids"), roi_embeddings.column("embedding")

    def embeddings_of(image_id: int) -> Tensor:
        return unit_rows(embeddings[starts[image_id] : starts[image_id + 1]])

    def make(photos: slice, report: Report) -> Columns:
        image_pairs, roi_pairs, similarities = [], [], []
        for image_id in range(photos.start, photos.stop):
            own = embeddings_of(image_id)
            for neighbour_id in neighbour_ids[image_id].tolist():
                pairs, values = match_rois(own, embeddings_of(neighbour_id), pair_share)
                roi_pairs.append(np.add(pairs.numpy(), [starts[image_id], starts[neighbour_id]]))
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

    return make


class _Searches(Dataset[Float[ndarray, "n 4"]]):
    """Selective search as a data set, so that loading workers run it side by side."""

    def __init__(self, images: ImageTable, photos: slice, seed: int) -> None:
        self.images, self.photos, self.seed = images, photos, seed

    def __len__(self) -> int:
        return self.photos.stop - self.photos.start

    def __getitem__(self, index: int) -> Float[ndarray, "n 4"]:
        image_id = self.photos.start + index
        photo = load_photo(self.images.path(image_id))
        return selective_search(photo, zlib.crc32(self.images.names[image_id].encode()) ^ self.seed)


def _unchanged(item: Any) -> Any:
    return item


def _embedding_columns(parts: list[Float[ndarray, "_ d"]]) -> Columns:
    return {"embedding": unit_rows(np.concatenate(parts)).numpy().astype(np.float16)}


def _box_columns(photos: slice, boxes: list[Float[ndarray, "_ 4"]]) -> Columns:
    counts = [len(part) for part in boxes]
    image_ids = np.repeat(np.arange(photos.start, photos.stop, dtype=np.int32), counts)
    return {"image_id": image_ids, "box": np.concatenate(boxes).reshape(-1, 4).astype(np.float32)}
