"""Export of the tables of a finished stage 2 as published files."""

import json
import logging
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from orl import files, provenance, tables
from orl.datasets.discovery_tables import open_discovery_table
from orl.datasets.image_table import ImageTable
from orl.published_files import formats
from orl.published_files.json_stream import garbage_collection_paused
from orl.published_files.listing import Listing, load_listing, match_listing, source_listing
from orl.published_files.take_rows import ranges, take_rows

logger = logging.getLogger(__name__)

IMAGES_AT_A_TIME = 256
BOXES_AT_A_TIME = 16_384
ROI_INFO = {
    "bbox_min_size": "min_side",
    "bbox_max_aspect_ratio": "max_aspect_ratio",
    "bbox_max_iou": "max_iou",
    "intra_bbox_num": "max_rois",
}
"""Names of the filter's options in the published `info`, and in our tables."""


def write_published(
    folder: Path, images: ImageTable, source: Path, to: Path, name: str, overwrite: bool = False
) -> list[Path]:
    """Write `NAME_selective_search_proposal.json`, `NAME_knn_instance.json` and `NAME_correspondence.json`.

    Images are in the order of the published files that were read into the run. Without such files, the order is that of
    the source COCO JSON, else that of the run. A file without its table, as after a partial import, is left out with a
    warning. None of the files has similarities.

    Args:
        folder: folder of the run's tables of stage 2.
        images: image table of the run.
        source: source of the run's images, as given with --images.
        to: folder for the files.
        name: prefix of the file names.
        overwrite: replace existing files.

    Returns:
        The written files.

    Raises:
        FileNotFoundError: if the run has none of the tables.
        FileExistsError: if a file exists and `overwrite` is off.
        ValueError: if a table is unfinished, or was made from an older version of another table.
    """
    found = {each: _table(folder, each, images) for each in ("proposals", "neighbours", "rois", "correspondences")}
    listing = load_listing(images, folder) or source_listing(source, images)
    listed_images = _Images(listing, images, source)
    texts: dict[str, Iterator[str]] = {}
    if proposals := found["proposals"]:
        texts[formats.PROPOSALS] = _proposal_text(listed_images, proposals)
    if neighbours := found["neighbours"]:
        texts[formats.NEIGHBOURS] = _neighbour_text(listed_images, neighbours)
        if (rois := found["rois"]) and (pairs := found["correspondences"]):
            texts[formats.CORRESPONDENCES] = _correspondence_text(listed_images, neighbours, rois, pairs)
    if not texts:
        raise FileNotFoundError(f"{folder} has no finished stage 2; make it with 'orl discover'")
    paths = {kind: to / f"{name}_{kind}.json" for kind in texts}
    existing = [path for path in paths.values() if path.exists()]
    if existing and not overwrite:
        raise FileExistsError(f"{existing[0]} exists already; replace it with --overwrite, or use another --to")
    for kind in {formats.PROPOSALS, formats.NEIGHBOURS, formats.CORRESPONDENCES} - set(texts):
        logger.warning("no file of format %s is written: the run has no table for it", kind)
    for kind, path in paths.items():
        with (
            garbage_collection_paused(),
            files.written_atomically(path) as temporary,
            open(temporary, "w", encoding="utf-8") as file,
        ):
            file.writelines(texts[kind])
    return list(paths.values())


class _Images:
    """Images in the order of the files."""

    def __init__(self, listing: Listing, images: ImageTable, source: Path) -> None:
        self.listing, self.num_images = listing, len(images)
        self.row_of = match_listing(listing, images, source)

    def text(self) -> str:
        """Return the JSON object `images`."""
        return json.dumps({"file_name": list(self.listing.names), "id": list(self.listing.ids)})

    def blocks(self, num_images: int, *read: tables.Table) -> Iterator[Int64[ndarray, "n"]]:
        """Yield the rows of a block of images at a time; release the pages of the tables after each block."""
        for part in tables.shard_slices(self.num_images, num_images):
            yield self.row_of[part]
            for table in read:
                table.release()


def _proposal_text(images: _Images, proposals: tables.Table) -> Iterator[str]:
    yield '{"bbox": '
    yield from _list_text(_box_lists(images, proposals))
    yield "}"


def _neighbour_text(images: _Images, neighbours: tables.Table) -> Iterator[str]:
    info = neighbours.inputs.get("info") or {"knn_image_num": _num_neighbours(neighbours)}
    yield f'{{"info": {json.dumps(info)}, "images": {images.text()}, "pseudo_annotations": {{'
    yield f'"image_id": {json.dumps(list(images.listing.ids))}, "knn_image_id": '
    yield from _list_text(_neighbour_lists(images, neighbours))
    yield "}}"


def _correspondence_text(
    images: _Images, neighbours: tables.Table, rois: tables.Table, pairs: tables.Table
) -> Iterator[str]:
    info = pairs.inputs.get("info") or _info(neighbours, rois.inputs, pairs.inputs)
    yield f'{{"info": {json.dumps(info)}, "images": {images.text()}, "pseudo_annotations": {{'
    yield f'"image_id": {json.dumps(list(images.listing.ids))}, "bbox": '
    yield from _list_text(_box_lists(images, rois))
    yield ', "knn_image_id": '
    yield from _list_text(_neighbour_lists(images, neighbours))
    yield ', "knn_bbox_pair": '
    yield from _list_text(_pair_lists(images, neighbours, rois, pairs))
    yield "}}"


def _box_lists(images: _Images, table: tables.Table) -> Iterator[list[Any]]:
    """Yield the boxes of a block of images at a time."""
    starts = table.row_starts(images.num_images)
    with_few_boxes = BOXES_AT_A_TIME * images.num_images // max(1, table.num_rows)
    for rows in images.blocks(max(1, min(with_few_boxes, IMAGES_AT_A_TIME)), table):
        boxes = formats.boxes_to_json(take_rows(table, "box", ranges(starts[rows], starts[rows + 1])))
        ends = np.cumsum(starts[rows + 1] - starts[rows]).tolist()
        yield [boxes[start:end] for start, end in pairwise([0, *ends])]


def _neighbour_lists(images: _Images, neighbours: tables.Table) -> Iterator[list[Any]]:
    """Yield the neighbours of a block of images at a time, as indices into the list of images."""
    index_of = np.argsort(images.row_of)
    for rows in images.blocks(IMAGES_AT_A_TIME, neighbours):
        yield index_of[take_rows(neighbours, "neighbour_ids", rows)].tolist()


def _pair_lists(
    images: _Images, neighbours: tables.Table, rois: tables.Table, pairs: tables.Table
) -> Iterator[list[Any]]:
    """Yield the pairs of a block of images at a time: a list for each neighbour up to the last with a pair."""
    starts = pairs.row_starts(images.num_images)
    for rows in images.blocks(IMAGES_AT_A_TIME, neighbours, rois, pairs):
        wanted = ranges(starts[rows], starts[rows + 1])
        image = np.repeat(np.arange(len(rows)), starts[rows + 1] - starts[rows])
        neighbour_ids = take_rows(neighbours, "neighbour_ids", rows)
        is_neighbour = neighbour_ids[image] == take_rows(pairs, "neighbour_id", wanted)[:, None]
        boxes, neighbour_boxes = (
            formats.boxes_to_json(take_rows(rois, "box", take_rows(pairs, column, wanted)))
            for column in ("roi", "neighbour_roi")
        )
        lists: list[list[Any]] = [[[] for _ in range(neighbour_ids.shape[1])] for _ in rows]
        ranks = is_neighbour.argmax(axis=1).tolist()
        for index, rank, box, other in zip(image.tolist(), ranks, boxes, neighbour_boxes):
            lists[index][rank].append(box + other)
        for groups in lists:
            while groups and not groups[-1]:
                groups.pop()
        yield lists


def _info(neighbours: tables.Table, filtered: Mapping[str, Any], matched: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of our stage 2 under their published names."""
    info = {published: filtered[ours] for published, ours in ROI_INFO.items() if ours in filtered}
    info["knn_image_num"] = _num_neighbours(neighbours)
    return info | ({"knn_bbox_pair_ratio": matched["top_fraction"]} if "top_fraction" in matched else {})


def _num_neighbours(neighbours: tables.Table) -> int:
    return neighbours.rows("neighbour_ids", 0, 1).shape[1]


def _list_text(blocks: Iterator[list[Any]]) -> Iterator[str]:
    """Join blocks of elements to the JSON text of one list."""
    yield "["
    for index, block in enumerate(blocks):
        yield (", " if index else "") + json.dumps(block)[1:-1]
    yield "]"


def _table(folder: Path, name: str, images: ImageTable) -> tables.Table | None:
    """Load a finished table and check its inputs; return None if there is no table."""
    if not (folder / name / provenance.MANIFEST).exists():
        return None
    table = open_discovery_table(folder / name, images)
    tables.check_inputs(table)
    return table
