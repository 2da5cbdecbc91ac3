"""Makers of the shards of stage 2's tables: each takes a slice of the images and returns columns.

A maker reads the rows of its images from other tables and releases them. Its memory does not grow with the number of
images.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Shaped
from numpy import ndarray
from torch import Tensor

from orl import tables
from orl.config import DiscoverConfig
from orl.datasets.image_table import ImageTable
from orl.discovery.matching import corrected_similarities, hubness, select_pairs
from orl.discovery.nearest_neighbours import unit_vectors
from orl.discovery.proposal_filter import filter_proposals, kept_proposals
from orl.discovery.roi_texture import has_texture, roi_textures
from orl.discovery.whitening import Whitening
from orl.embed import ImageWorkers, embed_crops
from orl.embed_maps import embed_rois
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
    image_workers = ImageWorkers(workers)

    def make(rows: slice, report: Report) -> Columns:
        paths = [images.path(index) for index in range(rows.start, rows.stop)]
        cuts = [partial(centre_crop, size_px=size_px)] * len(paths)
        parts = embed_crops(encoder, paths, cuts, device=device, workers=image_workers, report=report)
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
    """Build the maker of RoIs; a `min_side` below 1 is a fraction of each image's short side.

    RoIs keep the masks of their proposals, where the table has some.
    """

    def rows_of(image_id: int, boxes: Float[ndarray, "n 4"]) -> Int[ndarray, "b"]:
        return kept_proposals(
            boxes,
            min_side_px=min_side if min_side >= 1 else min_side * min(images.sizes_wh[image_id]),
            max_aspect_ratio=max_aspect_ratio,
            max_iou=max_iou,
            max_rois=max_rois,
        )

    def make(rows: slice, report: Report) -> Columns:
        rois, rles = [], []
        image_ids = range(rows.start, rows.stop)
        for image_id, boxes, masks in zip(image_ids, _boxes_of(proposals, rows), _masks_of(proposals, rows)):
            kept = rows_of(image_id, boxes)
            rois.append(boxes[kept] if len(boxes) else filter_proposals(boxes, images.sizes_wh[image_id]))
            rles.append(masks[kept].tolist() if len(boxes) else [""])
            report(1)
        proposals.release()
        return tables.box_columns(rows, rois, rles if tables.RLE in proposals.column_names else None)

    return make


def roi_embedder(
    images: ImageTable,
    rois: tables.Table,
    encoder: Encoder,
    config: DiscoverConfig,
    device: torch.device,
    workers: int,
    reduction: Float32[ndarray, "d k"] | None = None,
) -> ShardMaker:
    """Build the maker of RoI embeddings: features of each RoI, computed once, and reduced by a projection if given."""
    image_workers = ImageWorkers(workers)

    def make(rows: slice, report: Report) -> Columns:
        paths = [images.path(index) for index in range(rows.start, rows.stop)]
        parts = embed_rois(
            encoder.backbone,
            paths,
            _boxes_of(rois, rows),
            config,
            device=device,
            workers=image_workers,
            report=report,
            image_masks=[masks.tolist() for masks in _masks_of(rois, rows)],
        )
        return _embedding_columns(list(parts), reduction)

    return make


def texture_measurer(images: ImageTable, rois: tables.Table, workers: int) -> ShardMaker:
    """Build the maker of the contrast and the edges of each RoI."""
    image_workers = ImageWorkers(workers)

    def make(rows: slice, report: Report) -> Columns:
        paths = [images.path(index) for index in range(rows.start, rows.stop)]
        found = []
        for textures in image_workers.apply(
            paths, [partial(roi_textures, boxes=boxes) for boxes in _boxes_of(rois, rows)]
        ):
            found.append(textures)
            report(1)
        joined = np.concatenate(found)
        return {"contrast": joined[:, 0].copy(), "edges": joined[:, 1].copy()}

    return make


def hubness_measurer(
    num_images: int,
    rois: tables.Table,
    roi_embeddings: tables.Table,
    whitening: Whitening | None,
    config: DiscoverConfig,
    seed: int,
    device: torch.device,
) -> ShardMaker:
    """Build the maker of the mean similarity of each RoI to its nearest RoIs elsewhere, in a bank sampled by a seed."""
    vectors = RoiVectors(roi_embeddings, rois.row_starts(num_images), device, whitening)
    bank_rows = random_rows(roi_embeddings.num_rows, config.hubness_bank, seed)
    bank = vectors.of_rows(bank_rows)
    bank_image_ids = torch.from_numpy(np.searchsorted(vectors.starts, bank_rows, side="right") - 1).to(device)

    def make(images: slice, report: Report) -> Columns:
        found = []
        for image_id in range(images.start, images.stop):
            _, units = vectors.of([image_id])
            image_ids = torch.full((len(units),), image_id, device=device)
            found.append(hubness(units, image_ids, bank, bank_image_ids, config.hubness_neighbours).cpu().numpy())
            report(1)
        vectors.release()
        return {"mean_similarity": np.concatenate(found)}

    return make


def matcher(
    num_images: int,
    neighbours: tables.Table,
    rois: tables.Table,
    roi_embeddings: tables.Table,
    config: DiscoverConfig,
    device: torch.device,
    whitening: Whitening | None = None,
    roi_hubness: tables.Table | None = None,
    textures: tables.Table | None = None,
) -> ShardMaker:
    """Build the maker of correspondences of images with each of their neighbours.

    Pairs are chosen by their score: the cosine, or that of whitened embeddings, corrected by hubness if there is a
    table of it. The raw cosine is a column in each case, and the score one where it is another. With a table of
    textures, RoIs without texture are left out, but for images that have no other.
    """
    starts = rois.row_starts(num_images)
    vectors = RoiVectors(roi_embeddings, starts, device)
    scored = vectors if whitening is None else RoiVectors(roi_embeddings, starts, device, whitening)

    def match(image_id: int, neighbour_ids: Int[ndarray, "k"]) -> Columns:
        images = [image_id, *neighbour_ids.tolist()]
        (num_own, *counts), units = scored.of(images)
        scores = units[:num_own] @ units[num_own:].T
        if roi_hubness is not None:
            parts = [roi_hubness.rows("mean_similarity", *starts[image : image + 2].tolist()) for image in images]
            own, *others = (torch.from_numpy(np.array(part)).to(device) for part in parts)
            scores = corrected_similarities(scores, own, torch.cat(others))
        if textures is not None:
            usable_own, *usable = (_usable(textures, slice(*starts[image : image + 2].tolist())) for image in images)
            is_usable = torch.from_numpy(usable_own[:, None] & np.concatenate(usable)[None])
            scores = scores.masked_fill(~is_usable.to(device), -torch.inf)
        matches = select_pairs(scores, counts, config.top_fraction, config.mutual_pairs)
        num_pairs = [len(found) for found, _ in matches]
        own_rois = torch.cat([found[:, 0] for found, _ in matches])
        firsts = np.cumsum([0, *counts[:-1]])
        their_rois = torch.cat([found[:, 1] + first for (found, _), first in zip(matches, firsts.tolist())])
        columns = {
            "image_id": np.full(sum(num_pairs), image_id, np.int32),
            "neighbour_id": np.repeat(neighbour_ids, num_pairs),
            "roi": own_rois.cpu().numpy() + starts[image_id],
            "neighbour_roi": their_rois.cpu().numpy() + np.repeat(starts[neighbour_ids] - firsts, num_pairs),
        }
        values = torch.cat([values for _, values in matches])
        if scored is vectors and roi_hubness is None:
            return {**columns, "similarity": values.cpu().numpy()}
        if scored is not vectors:
            _, units = vectors.of(images)
        cosines = (units[:num_own][own_rois] * units[num_own:][their_rois]).sum(dim=1)
        return {**columns, "similarity": cosines.cpu().numpy(), "score": values.cpu().numpy()}

    def make(images: slice, report: Report) -> Columns:
        found = []
        neighbour_ids = neighbours.rows("neighbour_ids", images.start, images.stop)
        for image_id, ids in zip(range(images.start, images.stop), neighbour_ids):
            found.append(match(image_id, ids))
            report(1)
        neighbours.release()
        vectors.release()
        for table in (roi_hubness, textures):
            if table is not None:
                table.release()
        return {name: np.concatenate([columns[name] for columns in found]) for name in found[0]}

    return make


def _usable(textures: tables.Table, rows: slice) -> Bool[ndarray, "b"]:
    """Return which RoIs of an image have texture; all of them if none has."""
    found = has_texture(
        np.stack([textures.rows(name, rows.start, rows.stop) for name in ("contrast", "edges")], axis=1)
    )
    return found if found.any() else np.ones_like(found)


def random_rows(num_rows: int, most: int, seed: int) -> Int[ndarray, "m"]:
    """Sample rows of a table without replacement, in their order; all of them if there are no more."""
    if num_rows <= most:
        return np.arange(num_rows)
    return np.sort(np.random.default_rng(seed).choice(num_rows, most, replace=False, shuffle=False))


class RoiVectors:
    """Unit vectors of the RoIs of a few images at a time, from a table that may be larger than the memory."""

    def __init__(
        self,
        table: tables.Table,
        starts: Int[ndarray, "n"],
        device: torch.device,
        whitening: Whitening | None = None,
    ) -> None:
        if starts[-1] != table.num_rows:
            raise ValueError(
                f"table {table.folder} has {table.num_rows} rows but there are {starts[-1]} RoIs; rebuild it with "
                "--overwrite"
            )
        self.table, self.starts = table, starts
        self._whiten = None if whitening is None else whitening.to(device)
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
        return counts, self._prepared(units)

    def of_rows(self, rows: Int[ndarray, "m"]) -> Float[Tensor, "m d"]:
        """Return the vectors of some RoIs."""
        halves = np.stack([self.table.rows("embedding", row, row + 1)[0] for row in rows.tolist()])
        self.release()
        return self._prepared(torch.from_numpy(halves.astype(np.float32)).to(self._units.device))

    def _prepared(self, units: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        torch.nn.functional.normalize(units, dim=1, out=units)
        return units if self._whiten is None else self._whiten(units)

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


def _masks_of(table: tables.Table, images: slice) -> list[Shaped[ndarray, "_"]]:
    """Read the masks of the boxes of `_boxes_of`; empty texts if the table has none."""
    index = images.start // table.inputs["shard_size"]
    image_ids = table.shard_column(index, "image_id")
    has_masks = tables.RLE in table.column_names
    rles = table.shard_column(index, tables.RLE) if has_masks else np.full(len(image_ids), "", dtype=object)
    starts = np.searchsorted(image_ids, np.arange(images.start, images.stop + 1))
    return np.split(rles, starts[1:-1])


def _embedding_columns(parts: list[Float[ndarray, "_ d"]], reduction: Float32[ndarray, "d k"] | None = None) -> Columns:
    units = unit_vectors(np.concatenate(parts))
    if reduction is not None:
        units = torch.nn.functional.normalize(units @ torch.from_numpy(reduction), dim=1)
    embeddings = units.numpy().astype(np.float16)
    if not np.isfinite(embeddings).all():
        raise ValueError(
            "the embeddings of stage 1's network are not finite: it has diverged; train it again with a smaller base-lr"
        )
    return {"embedding": embeddings}
