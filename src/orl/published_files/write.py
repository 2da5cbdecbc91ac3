"""The tables of a finished stage 2 as the published files, image by image."""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from orl import provenance, tables
from orl.datasets.image_table import ImageTable
from orl.published_files import formats
from orl.published_files.json_stream import collector_paused
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
"""Our settings of the filter, under the names of the published `info`."""


def write_published(
    folder: Path, images: ImageTable, source: Path, to: Path, name: str, overwrite: bool = False
) -> list[Path]:
    """Write `NAME_selective_search_proposal.json`, `NAME_knn_instance.json` and `NAME_correspondence.json`.

    The images come in the order of the published files that the run was read from, else in that of the COCO JSON
    that they come from, else in that of the run. A file whose table is missing, as after a partial reading, is left
    out with a warning. Similarities are in none of the files.

    Args:
        folder: the run's tables of stage 2.
        images: the images of the run.
        source: where the images come from, as given with --images.
        to: folder for the files.
        name: what their names begin with.
        overwrite: replace files that are there.

    Returns:
        The files written.

    Raises:
        FileNotFoundError: if there is none of the tables.
        FileExistsError: if a file is there and `overwrite` is off.
        ValueError: if a table is unfinished, or was made from an older one than is there now.
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
        raise FileNotFoundError(f"{folder} holds no finished stage 2; make it with 'orl discover'")
    paths = {kind: to / f"{name}_{kind}.json" for kind in texts}
    there = [path for path in paths.values() if path.exists()]
    if there and not overwrite:
        raise FileExistsError(f"{there[0]} is there already; replace it with --overwrite, or take another --to")
    for kind in {formats.PROPOSALS, formats.NEIGHBOURS, formats.CORRESPONDENCES} - set(texts):
        logger.warning("no file of format %s is written: the run has no table for it", kind)
    for kind, path in paths.items():
        with collector_paused(), _open_atomically(path) as file:
            file.writelines(texts[kind])
    return list(paths.values())


class _Images:
    """The images in the order of the files."""

    def __init__(self, listing: Listing, images: ImageTable, source: Path) -> None:
        self.listing, self.num_images = listing, len(images)
        self.row_of = match_listing(listing, images, source)

    def text(self) -> str:
        """The object `images`."""
        return json.dumps({"file_name": list(self.listing.names), "id": list(self.listing.ids)})

    def blocks(self, num_images: int, *read: tables.Table) -> Iterator[Int64[ndarray, "n"]]:
        """The rows of so many images at a time; what was read of the tables for them is let go of."""
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
    yield from _list_text(_place_lists(images, neighbours))
    yield "}}"


def _correspondence_text(
    images: _Images, neighbours: tables.Table, rois: tables.Table, pairs: tables.Table
) -> Iterator[str]:
    info = pairs.inputs.get("info") or _info(neighbours, rois.inputs, pairs.inputs)
    yield f'{{"info": {json.dumps(info)}, "images": {images.text()}, "pseudo_annotations": {{'
    yield f'"image_id": {json.dumps(list(images.listing.ids))}, "bbox": '
    yield from _list_text(_box_lists(images, rois))
    yield ', "knn_image_id": '
    yield from _list_text(_place_lists(images, neighbours))
    yield ', "knn_bbox_pair": '
    yield from _list_text(_pair_lists(images, neighbours, rois, pairs))
    yield "}}"


def _box_lists(images: _Images, table: tables.Table) -> Iterator[list[Any]]:
    """The boxes of some images after the others."""
    starts = table.row_starts(images.num_images)
    with_few_boxes = BOXES_AT_A_TIME * images.num_images // max(1, table.num_rows)
    for rows in images.blocks(max(1, min(with_few_boxes, IMAGES_AT_A_TIME)), table):
        boxes = formats.boxes_to_json(take_rows(table, "box", ranges(starts[rows], starts[rows + 1])))
        ends = np.cumsum(starts[rows + 1] - starts[rows]).tolist()
        yield [boxes[start:end] for start, end in pairwise([0, *ends])]


def _place_lists(images: _Images, neighbours: tables.Table) -> Iterator[list[Any]]:
    """The neighbours of some images after the others, as places in the list of images."""
    if neighbours.num_rows != images.num_images:
        raise ValueError(
            f"{neighbours.folder} has {neighbours.num_rows} rows and the run {images.num_images} images; rebuild it "
            "with 'orl discover --overwrite'"
        )
    place_of = np.argsort(images.row_of)
    for rows in images.blocks(IMAGES_AT_A_TIME, neighbours):
        yield place_of[take_rows(neighbours, "neighbour_ids", rows)].tolist()


def _pair_lists(
    images: _Images, neighbours: tables.Table, rois: tables.Table, pairs: tables.Table
) -> Iterator[list[Any]]:
    """The pairs of some images after the others, a list for each neighbour as far as there are any."""
    starts = pairs.row_starts(images.num_images)
    for rows in images.blocks(IMAGES_AT_A_TIME, neighbours, rois, pairs):
        wanted = ranges(starts[rows], starts[rows + 1])
        image = np.repeat(np.arange(len(rows)), starts[rows + 1] - starts[rows])
        neighbour_ids = take_rows(neighbours, "neighbour_ids", rows)
        is_neighbour = neighbour_ids[image] == take_rows(pairs, "neighbour_id", wanted)[:, None]
        if not is_neighbour.any(axis=1).all():
            raise ValueError(f"{pairs.folder} has pairs of images that are no neighbours; rebuild it with --overwrite")
        here, there = (
            formats.boxes_to_json(take_rows(rois, "box", take_rows(pairs, column, wanted)))
            for column in ("roi", "neighbour_roi")
        )
        lists: list[list[Any]] = [[[] for _ in range(neighbour_ids.shape[1])] for _ in rows]
        for place, rank, box, other in zip(image.tolist(), is_neighbour.argmax(axis=1).tolist(), here, there):
            lists[place][rank].append(box + other)
        for groups in lists:
            while groups and not groups[-1]:
                groups.pop()
        yield lists


def _info(neighbours: tables.Table, filtered: Mapping[str, Any], matched: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a stage 2 of ours, under the published names."""
    info = {published: filtered[ours] for published, ours in ROI_INFO.items() if ours in filtered}
    info["knn_image_num"] = _num_neighbours(neighbours)
    return info | ({"knn_bbox_pair_ratio": matched["top_fraction"]} if "top_fraction" in matched else {})


def _num_neighbours(neighbours: tables.Table) -> int:
    return neighbours.rows("neighbour_ids", 0, 1).shape[1]


def _list_text(blocks: Iterator[list[Any]]) -> Iterator[str]:
    """One list out of the lists of some elements after the others."""
    yield "["
    for index, block in enumerate(blocks):
        yield (", " if index else "") + json.dumps(block)[1:-1]
    yield "]"


def _table(folder: Path, name: str, images: ImageTable) -> tables.Table | None:
    """A finished table, checked against those of the run that it was made from; None where there is none."""
    if not (folder / name / provenance.MANIFEST).exists():
        return None
    table = tables.load(folder / name)
    tables.check_image_list(table, images.fingerprint)
    tables.check_inputs(table)
    return table


@contextmanager
def _open_atomically(path: Path) -> Iterator[TextIO]:
    """A text file under a temporary name, which gets its own when all is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
