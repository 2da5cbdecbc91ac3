"""Sources of class-agnostic boxes: searches, feature maps, baselines, and the user's file or function."""

import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import nn

from orl.config import OWN_FUNCTION, check_numbers, check_proposal_source
from orl.datasets.decode import image_size
from orl.datasets.image_table import ImageTable
from orl.discovery.baseline_boxes import grid_boxes, random_boxes
from orl.discovery.opencv_search import opencv_selective_search
from orl.discovery.selective_search import compile_search, selective_search
from orl.evaluation.evaluated_backbone import EvaluatedBackbone
from orl.evaluation.objects.object_dataset import ObjectBoxes
from orl.evaluation.output import EvaluationOutput
from orl.map_boxes import MAP_BOXES_VERSION, at_short_sides, find_boxes_on_maps
from orl.networks.backbones import Backbone
from orl.networks.device import compute_device
from orl.networks.fuse_batch_norm import fuse_batch_norm
from orl.own_boxes.box_file import box_file_digest, detect_box_format, read_box_file
from orl.own_boxes.box_function import load_box_function

Find = Callable[[UInt8[ndarray, "h w 3"], int], Float[ndarray, "_ 4"]]
"""Function from an image and its row to its boxes, the best ranked first."""

_one_at_a_time = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class BoxSourceConfig:
    """Source of the boxes."""

    source: str = "selective-search"
    """Source of the boxes: 'selective-search', 'extractor' (on the feature maps of the backbone), 'opencv', 'grid',
    'random', 'file' or 'python:module:function'."""
    file: str | None = None
    """Path of your own boxes, for --source file, in any format of --discover.proposals-file."""

    def __post_init__(self) -> None:
        check_numbers(self)
        check_proposal_source("source", self.source)
        if (self.source == "file") != (self.file is not None):
            raise ValueError(
                f"source {self.source!r} and file {self.file} do not go together: boxes of your own need --source file "
                "and --file FILE"
            )

    @property
    def path(self) -> Path:
        """Path of the file of boxes."""
        return Path(self.file or "").expanduser()


def source_inputs(config: BoxSourceConfig, backbone: EvaluatedBackbone | None = None) -> dict[str, Any]:
    """Return what determines the boxes of a source, beside the images and the seed; a backbone only if it is one.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it has no known format, or a function cannot be imported.
    """
    if config.source == "file":
        detect_box_format(config.path)
        return {"source": "file", "file": box_file_digest(config.path)}
    if config.source == "extractor" and backbone is not None:
        return {"source": "extractor", "backbone": backbone.digest, "map_boxes_version": MAP_BOXES_VERSION}
    if config.source.startswith(OWN_FUNCTION):
        return {"source": config.source, "function": _own_function(config.source).digest}
    return {"source": config.source}


def box_finder(
    config: BoxSourceConfig, images: ObjectBoxes, output: EvaluationOutput, backbone: EvaluatedBackbone | None = None
) -> Find:
    """Return the function that finds the boxes of an image.

    Args:
        config: the source.
        images: the labelled images.
        output: the seed of the random numbers, which also depend on the name of the image; the device; and the folder
            for the temporary file of a large file of boxes.
        backbone: the network whose feature maps are searched; needed for the source 'extractor' only.

    Raises:
        ValueError: if the backbone is needed and there is none.
    """

    def seed_of(row: int) -> int:
        return zlib.crc32(f"{output.seed} {images.names[row]}".encode())

    def search(image: UInt8[ndarray, "h w 3"], row: int) -> Float[ndarray, "_ 4"]:
        return selective_search(image, seed_of(row) % 2**31)

    def search_by_opencv(image: UInt8[ndarray, "h w 3"], row: int) -> Float[ndarray, "_ 4"]:
        with _one_at_a_time:  # OpenCV has one random generator for the process
            return opencv_selective_search(image, seed_of(row) % 2**31)

    def grid(image: UInt8[ndarray, "h w 3"], _: int) -> Float[ndarray, "_ 4"]:
        return grid_boxes((image.shape[1], image.shape[0]))

    def random(image: UInt8[ndarray, "h w 3"], row: int) -> Float[ndarray, "_ 4"]:
        return random_boxes((image.shape[1], image.shape[0]), np.random.default_rng(seed_of(row)))

    if config.source == "file":
        return _file_finder(config.path, images, output.folder)
    if config.source == "extractor":
        if backbone is None:
            raise ValueError("source 'extractor' needs a backbone, and this evaluation has none; give another --source")
        return _map_finder(backbone, output)
    if config.source.startswith(OWN_FUNCTION):
        return _function_finder(config.source, images)
    if config.source == "selective-search":
        compile_search()
    return {"selective-search": search, "opencv": search_by_opencv, "grid": grid, "random": random}[config.source]


def _map_finder(backbone: EvaluatedBackbone, output: EvaluationOutput) -> Find:
    device, network = compute_device(output.device), backbone.network
    fused: nn.Module = fuse_batch_norm(network) if isinstance(network, Backbone) else network
    fused = fused.eval().to(memory_format=torch.channels_last).to(device)

    def search(image: UInt8[ndarray, "h w 3"], _: int) -> Float[ndarray, "_ 4"]:
        with _one_at_a_time:
            return find_boxes_on_maps(fused, at_short_sides(image), device)

    return search


def _file_finder(path: Path, images: ObjectBoxes, folder: Path) -> Find:
    sizes_wh = tuple(image_size(each) for each in images.paths)
    table = ImageTable(root=images.root, names=images.names, sizes_wh=sizes_wh, digests=images.names)
    found = read_box_file(path, table, _coco_json(images), folder)(slice(0, len(images)))
    return lambda _, row: found[row].xyxy


def _function_finder(source: str, images: ObjectBoxes) -> Find:
    function = _own_function(source)

    def call(image: UInt8[ndarray, "h w 3"], row: int) -> Float[ndarray, "_ 4"]:
        with _one_at_a_time:
            return function(image, images.names[row]).xyxy

    return call


def _own_function(source: str) -> Any:
    return load_box_function(source.removeprefix(OWN_FUNCTION))


def _coco_json(images: ObjectBoxes) -> Path:
    """Return the COCO JSON of the images, whose ids a list of results has; their folder if there is none."""
    paths = [folder / "annotations" / f"instances_{images.split}.json" for folder in (images.root, images.root.parent)]
    return next((path for path in paths if path.is_file()), images.root)
