"""Data sets of a detector: images with their objects, resized and for training randomly mirrored.

A sample depends only on (seed, epoch, image). Images of a batch differ in shape and are padded to the largest.
Unlike in Detectron2, they are not grouped by shape.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from torch import Tensor
from torch.utils.data import Dataset

from orl import boxes
from orl.datasets.decode import ImageError, image_size, load_image
from orl.datasets.loader_workers import in_shared_memory
from orl.evaluation.detection.datasets import DetectionDataset
from orl.views.crops import resize
from orl.views.view_dataset import LoadedViews, load_or_replace
from orl.views.view_samplers import SampleKey


@dataclass(frozen=True, kw_only=True)
class ResizeConfig:
    """Sizes of training images, and whether masks are needed."""

    short_sides_px: tuple[int, ...]
    """Short sides, of which one is sampled for each image."""
    longest_px: int
    masks: bool
    """Whether targets have masks."""


class DetectionTrainingImages(Dataset[LoadedViews]):
    """Training images with their targets; another image replaces an unreadable one."""

    def __init__(self, images: DetectionDataset, sizes: ResizeConfig, seed: int) -> None:
        self.images, self.sizes, self.seed = images, sizes, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: SampleKey) -> LoadedViews:
        """Return `image` and `target` of an image in an epoch."""
        return load_or_replace(key, self.seed, self.images.names, lambda row: self._sample(key[0], row))

    def _sample(self, epoch: int, row: int) -> dict[str, Any]:
        images, sizes = self.images, self.sizes
        generator = np.random.default_rng([self.seed, epoch, row])
        short_side, mirrored = generator.choice(sizes.short_sides_px), bool(generator.random() < 0.5)
        image = read_image(images, row)
        size_hw = resized_size(image.shape[:2], int(short_side), sizes.longest_px)
        kept = ~images.ignored[row]
        target = {
            "boxes": torch.from_numpy(transform_boxes(images.boxes[row][kept], image.shape[:2], size_hw, mirrored)),
            "labels": torch.from_numpy(images.box_classes[row][kept] + 1),
        }
        if sizes.masks:
            target["masks"] = torch.from_numpy(transform_masks(images.masks(row)[kept], size_hw, mirrored))
        resized = resize(image, size_hw).contiguous()
        return {"image": resized.flip(-1) if mirrored else resized, "target": target}


class ResizedImages(Dataset["tuple[int, UInt8[Tensor, '3 h w'] | str]"]):
    """Test images of some rows, resized; a reason in place of an unreadable image."""

    def __init__(self, images: DetectionDataset, rows: Sequence[int], short_side_px: int, longest_px: int) -> None:
        self.images, self.rows = images, rows
        self.short_side_px, self.longest_px = short_side_px, longest_px

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> "tuple[int, UInt8[Tensor, '3 h w'] | str]":
        """Return the row of an image and its pixels."""
        row = self.rows[index]
        try:
            image = read_image(self.images, row)
        except ImageError as error:
            return row, error.reason
        resized = resize(image, resized_size(image.shape[:2], self.short_side_px, self.longest_px))
        return row, in_shared_memory(resized.contiguous())


def collate_detection(loaded: Sequence[LoadedViews]) -> LoadedViews:
    """Collate samples to lists, because images differ in size and number of objects."""
    views: list[Any] = [one.views for one in loaded]
    joined: dict[str, Any] = {}
    if all(views):
        joined = {"images": [view["image"] for view in views], "targets": [view["target"] for view in views]}
    return LoadedViews(
        joined,
        [name for one in loaded for name in one.files],
        [row for one in loaded for row in one.unreadable],
    )


def read_image(images: DetectionDataset, row: int) -> UInt8[ndarray, "h w 3"]:
    """Read the pixels of an image.

    Raises:
        ImageError: if the image cannot be read, or its size is not the annotated one.
    """
    path = images.root / images.names[row]
    image = load_image(path)
    _check_size(path, (image.shape[1], image.shape[0]), images.sizes_wh[row])
    return image


def check_sizes(images: DetectionDataset) -> None:
    """Check the header of every image to score, before the training.

    Raises:
        ValueError: if a file is not an image, or its size is not the annotated one.
    """
    bad = []
    for name, size_wh in zip(images.names, images.sizes_wh):
        path = images.root / name
        try:
            _check_size(path, image_size(path), size_wh)
        except ImageError as error:
            bad.append(str(error))
    if bad:
        raise ValueError(
            f"{len(bad)} of {len(images)} images cannot be scored: {bad[0]}; repair them or the annotations"
        )


def _check_size(path: Path, found_wh: tuple[int, int], size_wh: tuple[int, int]) -> None:
    if tuple(found_wh) != tuple(size_wh):
        (width, height), (found_width, found_height) = size_wh, found_wh
        raise ImageError(path, f"has {found_width}x{found_height} px, but its annotations are for {width}x{height} px")


def resized_size(size_hw: tuple[int, int], short_side_px: int, longest_px: int) -> tuple[int, int]:
    """Return height and width with a given short side, reduced where the long side would exceed its limit.

    Source:
        Detectron2, `ResizeShortestEdge.get_output_shape`, with its rounding.
    """
    scale = short_side_px / min(size_hw)
    height, width = (short_side_px if side == min(size_hw) else scale * side for side in size_hw)
    if max(height, width) > longest_px:
        scale = longest_px / max(height, width)
        height, width = height * scale, width * scale
    return int(height + 0.5), int(width + 0.5)


def transform_boxes(
    old: Float[ndarray, "n 4"], size_hw: tuple[int, int], new_size_hw: tuple[int, int], mirrored: bool
) -> Float[ndarray, "n 4"]:
    """Transform boxes of an image to the resized and possibly mirrored image."""
    factors = np.array([new_size_hw[1] / size_hw[1], new_size_hw[0] / size_hw[0]], dtype=np.float32)
    moved = boxes.clip(old * np.tile(factors, 2), new_size_hw[::-1])
    if mirrored:
        moved[:, [0, 2]] = new_size_hw[1] - moved[:, [2, 0]]
    return moved


def transform_masks(old: Bool[ndarray, "n h w"], size_hw: tuple[int, int], mirrored: bool) -> UInt8[ndarray, "n i j"]:
    """Transform masks of an image to the resized and possibly mirrored image, by the nearest pixel."""
    if not len(old):
        return np.zeros((0, *size_hw), dtype=np.uint8)
    masks = torch.from_numpy(old.astype(np.uint8))[None]
    moved = F.interpolate(masks, size_hw, mode="nearest-exact")[0]
    return np.ascontiguousarray((moved.flip(-1) if mirrored else moved).numpy())
