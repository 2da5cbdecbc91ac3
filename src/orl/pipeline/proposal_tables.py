"""Proposals of stage 2: from selective search, a baseline (OpenCV, grid, random), or the user's file or function."""

import threading
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from orl import tables
from orl.config import OWN_FUNCTION, DiscoverConfig, RunConfig
from orl.datasets.decode import load_image
from orl.datasets.image_table import ImageTable
from orl.datasets.threads import map_in_threads
from orl.discovery.baseline_boxes import grid_boxes, random_boxes
from orl.discovery.opencv_search import opencv_selective_search
from orl.discovery.selective_search import compile_search, selective_search
from orl.embed import ImageWorkers
from orl.map_boxes import MAP_BOXES_VERSION, boxes_on_maps
from orl.own_boxes.box_file import box_file_digest, detect_box_format, read_box_file
from orl.own_boxes.box_function import BoxFunction, load_box_function
from orl.own_boxes.image_boxes import ImageBoxes
from orl.pipeline.feature_extractor import FeatureExtractor
from orl.pipeline.shards import Columns, Report, ShardMaker
from orl.processes import local_device

SEARCH_VERSION = 1
"""Version of selective search; increased when the same config gives different boxes."""

Boxes = Float[ndarray, "_ 4"]

_opencv_lock = threading.Lock()


def proposal_inputs(images: ImageTable, config: RunConfig, extractor: FeatureExtractor | None = None) -> dict[str, Any]:
    """Return all inputs that determine the proposals of a run; `extractor` is needed for its own boxes only."""
    options = config.discover
    inputs: dict[str, Any] = {"images": images.fingerprint, "proposals": options.proposals}
    if options.proposals == "file":
        path = boxes_file(options)
        # Tables without masks keep the inputs that they had before masks were kept.
        masks = {"masks": True} if detect_box_format(path).has_masks else {}
        return {**inputs, "file": box_file_digest(path), **masks}
    if options.proposals == "extractor":
        assert extractor is not None
        return {**inputs, "backbone": extractor.backbone_digest, "map_boxes_version": MAP_BOXES_VERSION}
    if (function := own_function(options)) is not None:
        return {**inputs, "source": function.digest}
    if options.proposals == "selective-search":
        inputs |= {"search_version": SEARCH_VERSION, "search_scale": options.search_scale}
    return inputs if options.proposals == "grid" else {**inputs, "seed": config.seed}


def proposer(
    images: ImageTable, config: RunConfig, folder: Path, extractor: FeatureExtractor | None = None
) -> ShardMaker:
    """Build the maker of shards with the proposals of images, before the filter.

    Args:
        images: the images of the run.
        config: the run; `discover.proposals` chooses the source of boxes.
        folder: folder of the table, where a large file of boxes is sorted.
        extractor: the feature extractor, on the device of the run; needed for its own boxes only.
    """
    if config.discover.proposals == "file":
        box_file = read_box_file(boxes_file(config.discover), images, config.images, folder)

        def read(rows: slice, report: Report) -> Columns:
            found = box_file(rows)
            report(rows.stop - rows.start)
            return _own_columns(rows, found, has_masks=box_file.has_masks)

        return read
    if config.discover.proposals == "extractor":
        assert extractor is not None
        return _map_searcher(extractor, images, config)
    if (function := own_function(config.discover)) is not None:
        return _function_caller(function, images)
    find = _finder(images, config)

    def search(rows: slice, report: Report) -> Columns:
        return tables.box_columns(rows, _search_in_threads(find, range(rows.start, rows.stop), config.workers, report))

    return search


def _map_searcher(extractor: FeatureExtractor, images: ImageTable, config: RunConfig) -> ShardMaker:
    """Build the maker of shards with boxes from the feature maps of the feature extractor."""
    workers, device = ImageWorkers(config.workers), local_device(config.device)

    def search(rows: slice, report: Report) -> Columns:
        paths = [images.path(image_id) for image_id in range(rows.start, rows.stop)]
        found = boxes_on_maps(extractor.encoder.backbone, paths, device=device, workers=workers, report=report)
        return tables.box_columns(rows, list(found))

    return search


def _function_caller(function: BoxFunction, images: ImageTable) -> ShardMaker:
    """Build the maker of shards by a function of the user, which is called for one image after the other."""

    def call(rows: slice, report: Report) -> Columns:
        found = []
        for image_id in range(rows.start, rows.stop):
            found.append(function(load_image(images.path(image_id), None), images.names[image_id]))
            report(1)
        # Which images will have masks is not known before, and all shards need the same columns.
        return _own_columns(rows, found, has_masks=True)

    return call


def _own_columns(rows: slice, found: Sequence[ImageBoxes], *, has_masks: bool) -> Columns:
    rles = [[""] * len(each.xyxy) if each.rles is None else each.rles for each in found]
    return tables.box_columns(rows, [each.xyxy for each in found], rles if has_masks else None)


def _finder(images: ImageTable, config: RunConfig) -> Callable[[int], Boxes]:
    """Build the search of one image; its random numbers depend on the image's name and the seed alone."""
    options = config.discover

    def seed_of(image_id: int) -> int:
        return zlib.crc32(images.names[image_id].encode()) ^ config.seed

    def by_search(image_id: int) -> Boxes:
        return selective_search(load_image(images.path(image_id), None), seed_of(image_id), options.search_scale)

    def by_opencv(image_id: int) -> Boxes:
        image = load_image(images.path(image_id), None)
        with _opencv_lock:  # OpenCV has one random generator for the process
            return opencv_selective_search(image, seed_of(image_id))

    def on_a_grid(image_id: int) -> Boxes:
        return grid_boxes(images.sizes_wh[image_id])

    def at_random(image_id: int) -> Boxes:
        return random_boxes(images.sizes_wh[image_id], np.random.default_rng(seed_of(image_id)))

    if options.proposals == "selective-search":
        compile_search()
    finders = {"selective-search": by_search, "opencv": by_opencv, "grid": on_a_grid, "random": at_random}
    return finders[options.proposals]


def _search_in_threads(
    find: Callable[[int], Boxes], image_ids: Sequence[int], threads: int, report: Report
) -> list[Boxes]:
    """Search images in threads, since decoding and search release the GIL; return the boxes in the images' order."""
    found: list[Boxes] = []

    def take(boxes: Boxes) -> None:
        found.append(boxes)
        report(1)

    map_in_threads(find, image_ids, threads, take)
    return found


def own_function(config: DiscoverConfig) -> BoxFunction | None:
    """Return the function of the user that gives the boxes; None for other sources.

    Raises:
        ValueError: if it cannot be imported.
    """
    if not config.proposals.startswith(OWN_FUNCTION):
        return None
    return load_box_function(config.proposals.removeprefix(OWN_FUNCTION))


def boxes_file(config: DiscoverConfig) -> Path:
    """Return the path of the user's own boxes.

    Raises:
        FileNotFoundError: if there is no such file or folder.
    """
    path = config.proposals_file
    if path is None or not path.exists():
        raise FileNotFoundError(f"no file of boxes at {path}; give one with --discover.proposals-file")
    return path
