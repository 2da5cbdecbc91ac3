"""Makers of the shards of stage 2's tables: each takes a slice of the images and returns columns.

A maker reads the rows of its images from other tables and releases them. Its memory does not grow with the number of
images.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from orl import tables
from orl.datasets.image_table import ImageTable
from orl.discovery.matching import match_neighbours
from orl.discovery.nearest_neighbours import unit_vectors
from orl.discovery.proposal_filter import filter_proposals
from orl.embed import CropWorkers, embed_boxes, embed_crops
from orl.networks.backbones import pool
from orl.networks.online_target import Encoder
from orl.views.crops import centre_crop

Columns = dict[str, ndarray]
Report = Callable[[int], object]
"""Function that takes the number of images just finished."""
ShardMaker = Callable[[slice, Report], Columns]

RELEASE_BYTES = 2**28
"""Bytes to read of a memory-mapped table before its pages are released."""


def image_embedder(
    images: ImageTable, encoder: Encoder, size_px: int, device: torch.device, workers: int
) -> ShardMaker:
    """Build the maker of embeddings: projections of the centre crops of images."""
    crop_workers = CropWorkers(workers)

    def make(rows: slice, report: Report) -> Columns:
        paths = [images.path(index) for index in range(rows.start, rows.stop)]
        cuts = [partial(centre_crop, size_px=size_px)] * len(paths)
        parts = embed_crops(encoder, paths, cuts, device=device, workers=crop_workers, report=report)
        return _embedding_columns(list(parts))

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
    """Build the maker of RoIs; a `min_side` below 1 is a fraction of each image's short side."""

    def rois_of(image_id: int, boxes: Float[ndarray, "n 4"]) -> Float[ndarray, "b 4"]:
        size_wh = images.sizes_wh[image_id]
        return filter_proposals(
            np.array(boxes),
            size_wh,
            min_side_px=min_side if min_side >= 1 else min_side * min(size_wh),
            max_aspect_ratio=max_aspect_ratio,
            max_iou=max_iou,
            max_rois=max_rois,
        )

    def make(rows: slice, report: Report) -> Columns:
        kept = []
        for image_id, boxes in zip(range(rows.start, rows.stop), _boxes_of(proposals, rows)):
            kept.append(rois_of(image_id, boxes))
            report(1)
        proposals.release()
        return tables.box_columns(rows, kept)

    return make


def roi_embedder(
    images: ImageTable, rois: tables.Table, encoder: Encoder, size_px: int, device: torch.device, workers: int
) -> ShardMaker:
    """Build the maker of RoI embeddings: pooled backbone features, each RoI once."""
    crop_workers = CropWorkers(workers)

    def make(rows: slice, report: Report) -> Columns:
        parts = embed_boxes(
            lambda views: pool(encoder.backbone(views)),
            [images.path(index) for index in range(rows.start, rows.stop)],
            _boxes_of(rois, rows),
            size_px=size_px,
            device=device,
            workers=crop_workers,
            report=report,
        )
        return _embedding_columns(list(parts))

    return make


def matcher(
    num_images: int,
    neighbours: tables.Table,
    rois: tables.Table,
    roi_embeddings: tables.Table,
    top_fraction: float,
    device: torch.device,
) -> ShardMaker:
    """Build the maker of correspondences of images with each of their neighbours."""
    vectors = _RoiVectors(roi_embeddings, rois.row_starts(num_images), device)

    def match(image_id: int, neighbour_ids: Int[ndarray, "k"]) -> Columns:
        images = [image_id, *neighbour_ids.tolist()]
        (num_own, *counts), units = vectors.of(images)
        matches = match_neighbours(units[:num_own], units[num_own:], counts, top_fraction)
        firsts = vectors.starts[images]
        pairs = torch.stack([rois for rois, _ in matches]).cpu().numpy()
        num_pairs = pairs.shape[1]
        return {
            "image_id": np.full(num_pairs * len(counts), image_id, np.int32),
            "neighbour_id": np.repeat(neighbour_ids, num_pairs),
            "roi": (pairs[:, :, 0] + firsts[0]).reshape(-1),
            "neighbour_roi": (pairs[:, :, 1] + firsts[1:, None]).reshape(-1),
            "similarity": torch.cat([similarities for _, similarities in matches]).cpu().numpy(),
        }

    def make(images: slice, report: Report) -> Columns:
        found = []
        neighbour_ids = neighbours.rows("neighbour_ids", images.start, images.stop)
        for image_id, ids in zip(range(images.start, images.stop), neighbour_ids):
            found.append(match(image_id, ids))
            report(1)
        neighbours.release()
        vectors.release()
        return {name: np.concatenate([columns[name] for columns in found]) for name in found[0]}

    return make


class _RoiVectors:
    """Unit vectors of the RoIs of a few images at a time, from a table that may be larger than the memory."""

    def __init__(self, table: tables.Table, starts: Int[ndarray, "n"], device: torch.device) -> None:
        if starts[-1] != table.num_rows:
            raise ValueError(
                f"table {table.folder} has {table.num_rows} rows but there are {starts[-1]} RoIs; rebuild it with "
                "--overwrite"
            )
        self.table, self.starts = table, starts
        # Reused for every image: allocating memory of this size costs as much as the computation.
        self._halves = torch.empty((0, 0), dtype=torch.float16)
        self._units = torch.empty((0, 0), device=device)
        self._num_bytes = 0

    def of(self, images: Sequence[int]) -> tuple[list[int], Float[Tensor, "n d"]]:
        """Return the number of RoIs of each image, and their vectors in a buffer that the next call overwrites."""
        parts = [self.table.rows("embedding", *self.starts[image : image + 2].tolist()) for image in images]
        counts = [len(part) for part in parts]
        num_rows, num_dims = sum(counts), parts[0].shape[1]
        if len(self._units) < num_rows:
            self._halves = torch.empty((2 * num_rows, num_dims), dtype=torch.float16)
            self._units = torch.empty((2 * num_rows, num_dims), device=self._units.device)
        halves, units = self._halves[:num_rows], self._units[:num_rows]
        np.concatenate(parts, out=halves.numpy())
        units.copy_(halves.to(units.device))
        self._num_bytes += halves.nbytes
        if self._num_bytes > RELEASE_BYTES:
            self.release()
        return counts, torch.nn.functional.normalize(units, dim=1, out=units)

    def release(self) -> None:
        """Release the pages that were read of the table."""
        self.table.release()
        self._num_bytes = 0


def _boxes_of(table: tables.Table, images: slice) -> list[Float[ndarray, "_ 4"]]:
    """Read the boxes of the images of one shard, from the shard of the same images."""
    index = images.start // table.inputs["shard_size"]
    image_ids, boxes = table.shard_column(index, "image_id"), np.array(table.shard_column(index, "box"))
    starts = np.searchsorted(image_ids, np.arange(images.start, images.stop + 1))
    if starts[0] != 0 or starts[-1] != len(image_ids):
        raise ValueError(
            f"shard {index} of {table.folder} has images {image_ids[0]} to {image_ids[-1]}, not {images.start} to "
            f"{images.stop - 1}; rebuild it with --overwrite"
        )
    table.release()
    return np.split(boxes, starts[1:-1])


def _embedding_columns(parts: list[Float[ndarray, "_ d"]]) -> Columns:
    embeddings = unit_vectors(np.concatenate(parts)).numpy().astype(np.float16)
    if not np.isfinite(embeddings).all():
        raise ValueError(
            "the embeddings of stage 1's network are not finite: it has diverged; train it again with a smaller base-lr"
        )
    return {"embedding": embeddings}
