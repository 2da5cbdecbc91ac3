"""Import of published files as tables of a run, so that stage 3 can train on discoveries made elsewhere."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64
from numpy import ndarray

from orl import files, tables
from orl.datasets.image_table import ImageTable, require_original_sizes
from orl.progress import progress_bar
from orl.published_files import formats
from orl.published_files.json_stream import elements, garbage_collection_paused, value
from orl.published_files.listing import Listing, load_listing, match_listing, read_listing, save_listing, source_listing
from orl.published_files.pair_matcher import PairMatcher, TableColumns
from orl.published_files.row_order import RowOrderedReader

logger = logging.getLogger(__name__)

SLACK_PX = 1
"""Tolerance for boxes beyond the border of their image."""
NEEDED_BY_STAGE_3 = ("rois", "correspondences")


@dataclass(frozen=True, kw_only=True)
class PublishedFiles:
    """Published files to read; at least one of them."""

    correspondences: Path | None = None
    """Published correspondences, *_correspondence.json, with the neighbours; enough for stage 3."""
    neighbours: Path | None = None
    """Published neighbours, *_knn_instance.json."""
    proposals: Path | None = None
    """Published proposals, *_selective_search_proposal.json."""

    def check(self) -> None:
        """Check that a file is given and all exist.

        Raises:
            ValueError: if no file is given.
            FileNotFoundError: if a file does not exist.
        """
        given = [path for path in (self.proposals, self.neighbours, self.correspondences) if path is not None]
        if not given:
            raise ValueError("no file to read: give --proposals, --neighbours or --correspondences FILE")
        for path in given:
            if not path.is_file():
                raise FileNotFoundError(f"no file at {path}; give the path of a published JSON file")


@dataclass(frozen=True, kw_only=True)
class RunTables:
    """Location and options of the tables to write."""

    folder: Path
    """Folder of the run's tables of stage 2."""
    shard_size: int = 256
    """Number of images per shard."""
    overwrite: bool = False
    """Replace tables of other inputs."""


def read_published(files: PublishedFiles, images: ImageTable, source: Path, target: RunTables) -> list[str]:
    """Write the tables of a run from published files; finished shards are kept.

    The proposal file has no image names. Its images are in the order of another file that is read with it or was read
    before. Without such a file, the order is that of the source COCO JSON, else that of the run. The files have no
    similarities: the tables have NaN, and neighbours and pairs keep the order of the file, best first.

    Args:
        files: files to read.
        images: image table of the run, which must have the images of the files.
        source: source of the run's images, as given with --images.
        target: tables to write.

    Returns:
        Names of the finished tables, among 'proposals', 'neighbours', 'rois' and 'correspondences'.

    Raises:
        ValueError: if a file has another format, is damaged or lists other images, or the run's images were resized.
        StaleResultError: if a table has other inputs and `overwrite` is off.
    """
    files.check()
    _check_formats(files)
    if files.proposals or files.correspondences:
        require_original_sizes(images)
    target.folder.mkdir(parents=True, exist_ok=True)
    if named := files.correspondences or files.neighbours:
        listing = _listing(files)
        rows = match_listing(listing, images, named)
        save_listing(listing, rows, images, target.folder, target.overwrite)
    else:
        listing = _listing_without_names(images, source, target.folder)
        rows = match_listing(listing, images, source)
    reader = _Reader(images=images, listing=listing, rows=rows, target=target)
    if files.neighbours and files.correspondences:
        _check_same_neighbours(files.neighbours, files.correspondences)
    if files.proposals:
        reader.boxes("proposals", files.proposals, formats.PROPOSALS, "bbox")
    if files.neighbours or files.correspondences:
        reader.neighbours(files)
    if files.correspondences:
        reader.boxes("rois", files.correspondences, formats.CORRESPONDENCES, "pseudo_annotations.bbox")
        reader.correspondences(files.correspondences)
    return _finished_tables(target.folder)


@dataclass(frozen=True, kw_only=True)
class _Reader:
    """Inputs shared by all tables of one call."""

    images: ImageTable
    listing: Listing
    rows: Int64[ndarray, "n"]
    target: RunTables
    _digests: dict[Path, str] = field(default_factory=dict)

    def boxes(self, name: str, path: Path, kind: str, key: str) -> None:
        """Write the table of proposals or of RoIs."""

        def arrays() -> Iterator[ndarray]:
            for index, item in enumerate(elements(path, key)):
                found = formats.parse_boxes(item, self._where(path, index))
                if index < len(self.rows):
                    self._check_inside(found, path, index)
                if name == "rois":
                    _check_rois(found, self._where(path, index))
                yield found

        self._build(name, path, kind, {}, arrays, lambda: tables.box_columns)

    def neighbours(self, files: PublishedFiles) -> None:
        path = files.neighbours or files.correspondences
        assert path is not None
        kind = formats.NEIGHBOURS if files.neighbours else formats.CORRESPONDENCES
        info = value(path, "info")
        if kind == formats.CORRESPONDENCES and isinstance(
            info, dict
        ):  # the info of a correspondence file has more keys
            info = {key: number for key, number in info.items() if key == "knn_image_num"}

        def arrays() -> Iterator[ndarray]:
            number = None
            for index, item in enumerate(elements(path, "pseudo_annotations.knn_image_id")):
                where = self._where(path, index)
                found = formats.parse_neighbours(item, len(self.rows), where)
                number = number or len(found)
                if len(found) != number:
                    raise ValueError(f"{where} has {len(found)} neighbours, but the images before it have {number}")
                yield self.rows[found].astype(np.int32)[None]

        self._build("neighbours", path, kind, {"info": info}, arrays, lambda: _neighbour_columns)

    def correspondences(self, path: Path) -> None:
        def arrays() -> Iterator[ndarray]:
            for index, item in enumerate(elements(path, "pseudo_annotations.knn_bbox_pair")):
                found = formats.parse_pairs(item, self._where(path, index))
                if not len(found):
                    raise ValueError(f"{self._where(path, index)} has no pair; stage 3 needs one for every image")
                yield found

        inputs = {name: tables.load(self.target.folder / name).fingerprint for name in ("neighbours", "rois")}
        inputs |= {"info": value(path, "info")}
        columns = partial(PairMatcher, self.images, self.target.folder, path)
        self._build("correspondences", path, formats.CORRESPONDENCES, inputs, arrays, columns)

    def _build(
        self,
        name: str,
        path: Path,
        kind: str,
        inputs: dict[str, Any],
        arrays: Callable[[], Iterator[ndarray]],
        columns: Callable[[], Callable[[slice, list[ndarray]], TableColumns]],
    ) -> None:
        """Write the missing shards of one table from the arrays of the images."""
        folder, size = self.target.folder / name, self.target.shard_size
        inputs = {
            "imported": kind,
            "file_digest": self._digest(path),
            "images": self.images.fingerprint,
            "order": self.listing.fingerprint,
            **inputs,
        }
        slices = tables.shard_slices(len(self.images), size)
        missing = tables.begin(folder, {**inputs, "shard_size": size}, len(slices), self.target.overwrite)
        if not missing:
            logger.info("%s: up to date", name)
            return
        with (
            garbage_collection_paused(),
            progress_bar(total=len(self.images), title=f"read {name}", unit="images") as bar,
        ):
            in_rows = RowOrderedReader(arrays(), self.rows, self.target.folder, str(path), bar.update)
            make_columns = columns()
            for index in missing:
                tables.write_shard(folder, index, make_columns(slices[index], in_rows(slices[index])))
        tables.finish_table(folder)

    def _digest(self, path: Path) -> str:
        if path not in self._digests:
            self._digests[path] = files.file_digest(path)
        return self._digests[path]

    def _where(self, path: Path, index: int) -> str:
        name = f" ({self.listing.names[index]})" if index < len(self.listing) else ""
        return f"{path}: image {index}{name}"

    def _check_inside(self, found: Float32[ndarray, "n 4"], path: Path, index: int) -> None:
        """Check that boxes are inside their image, which fails for a file of other images or in another order."""
        width, height = self.images.sizes_wh[self.rows[index]]
        limits = np.array([width, height, width, height], dtype=np.float32) + SLACK_PX
        outside = (found < -SLACK_PX).any(axis=1) | (found > limits).any(axis=1)
        if outside.any():
            box = formats.boxes_to_json(found[outside][:1])[0]
            raise ValueError(
                f"{self._where(path, index)} has {width}x{height} px, but has the box {box}: the file is of "
                "other images or in another order. A proposal file has no names: give the correspondence or neighbour "
                "file with it, or the COCO JSON that it was made from as --images"
            )


def _check_formats(files: PublishedFiles) -> None:
    given = {
        formats.PROPOSALS: files.proposals,
        formats.NEIGHBOURS: files.neighbours,
        formats.CORRESPONDENCES: files.correspondences,
    }
    for kind, path in given.items():
        if path is not None:
            formats.detect_format(path, [kind])


def _listing(files: PublishedFiles) -> Listing:
    """Read the image list of the files."""
    paths = [path for path in (files.correspondences, files.neighbours) if path is not None]
    listings = [read_listing(path) for path in paths]
    if listings[0] != listings[-1]:
        raise ValueError(f"{paths[0]} and {paths[1]} list different images; read them into two runs")
    return listings[0]


def _listing_without_names(images: ImageTable, source: Path, folder: Path) -> Listing:
    """Return the image list for a file without names."""
    known = load_listing(images, folder)
    order = "the files that were read before" if known else f"{source}"
    logger.info("the proposal file has no image names: images are read in the order of %s", order)
    return known or source_listing(source, images)


def _check_same_neighbours(neighbours: Path, correspondences: Path) -> None:
    key = "pseudo_annotations.knn_image_id"
    for index, (one, other) in enumerate(zip(elements(neighbours, key), elements(correspondences, key))):
        if one != other:
            raise ValueError(
                f"image {index} has the neighbours {one} in {neighbours} and {other} in {correspondences}, which "
                "belong to different runs; leave the neighbour file out"
            )


def _check_rois(rois: Float32[ndarray, "n 4"], where: str) -> None:
    """Check that every image has an RoI, because stage 3 cuts one from every image."""
    if not len(rois):
        raise ValueError(f"{where} has no box; stage 3 needs one for every image")
    empty = (rois[:, 2:] <= rois[:, :2]).any(axis=1)
    if empty.any():
        raise ValueError(
            f"{where} has the empty box {formats.boxes_to_json(rois[empty][:1])[0]}; a box needs at least one pixel"
        )


def _neighbour_columns(images: slice, found: list[ndarray]) -> TableColumns:
    neighbour_ids = np.concatenate(found)
    return {"neighbour_ids": neighbour_ids, "similarities": np.full(neighbour_ids.shape, np.nan, dtype=np.float32)}


def _finished_tables(folder: Path) -> list[str]:
    """List the finished tables, and log the tables that stage 3 still needs."""
    names = ("proposals", "neighbours", "rois", "correspondences")
    found = [name for name in names if tables.finished_fingerprint(folder / name) is not None]
    missing = [name for name in NEEDED_BY_STAGE_3 if name not in found]
    if missing:
        logger.info("stage 3 also needs %s: read a file with --correspondences", " and ".join(missing))
    return found
