"""Proposals of stage 2: from selective search, from a baseline (OpenCV, grid, random), or from a user's file."""

import threading
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from orl import files, tables
from orl.config import DiscoverConfig, RunConfig
from orl.datasets.decode import load_image
from orl.datasets.image_table import ImageTable, require_original_sizes
from orl.datasets.threads import map_in_threads
from orl.discovery.baseline_boxes import grid_boxes, random_boxes
from orl.discovery.opencv_search import opencv_selective_search
from orl.discovery.selective_search import compile_search, selective_search
from orl.pipeline.shards import Columns, Report, ShardMaker
from orl.published_files.box_file import read_box_file

SEARCH_VERSION = 1
"""Version of selective search; increased when the same config gives different boxes."""

Boxes = Float[ndarray, "_ 4"]

_opencv_lock = threading.Lock()


def proposal_inputs(images: ImageTable, config: RunConfig) -> dict[str, Any]:
    """Return all inputs that determine the proposals of a run."""
    options = config.discover
    inputs: dict[str, Any] = {"images": images.fingerprint, "proposals": options.proposals}
    if options.proposals == "file":
        return {**inputs, "file": files.file_digest(boxes_file(options))}
    if options.proposals == "selective-search":
        inputs |= {"search_version": SEARCH_VERSION, "search_scale": options.search_scale}
    return inputs if options.proposals == "grid" else {**inputs, "seed": config.seed}


def proposer(images: ImageTable, config: RunConfig, folder: Path) -> ShardMaker:
    """Build the maker of shards with the proposals of images, before the filter.

    Args:
        images: the images of the run.
        config: the run; `discover.proposals` chooses the source of boxes.
        folder: folder of the table, where a large file of boxes is sorted.
    """
    if config.discover.proposals == "file":
        require_original_sizes(images)
        lists = read_box_file(boxes_file(config.discover), images, config.images, folder)

        def read(rows: slice, report: Report) -> Columns:
            found = lists(rows)
            report(rows.stop - rows.start)
            return tables.box_columns(rows, found)

        return read
    find = _finder(images, config)

    def search(rows: slice, report: Report) -> Columns:
        return tables.box_columns(rows, _search_in_threads(find, range(rows.start, rows.stop), config.workers, report))

    return search


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


def boxes_file(config: DiscoverConfig) -> Path:
    """Return the path of the user's own boxes.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    path = config.proposals_file
    if path is None or not path.is_file():
        raise FileNotFoundError(f"no file of boxes at {path}; give one with --discover.proposals-file")
    return path
