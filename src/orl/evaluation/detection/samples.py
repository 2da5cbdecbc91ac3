"""Images with their objects, as a detector is trained and tested on them: resized, perhaps mirrored.

A sample depends on (seed, epoch, image) alone. Images of one batch differ in shape, and are not grouped by it as in
Detectron2: a batch is padded to its largest.
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
from orl.evaluation.detection.datasets import DetectionDataset
from orl.views.view_dataset import LoadedViews, image_and_replacements
from orl.views.view_samplers import SampleKey


@dataclass(frozen=True, kw_only=True)
class TrainingRules:
    """What training images go through."""

    short_sides_px: tuple[int, ...]
    """One is drawn for an image."""
    longest_px: int
    masks: bool
    """Whether masks are learnt."""


class TrainingSamples(Dataset[LoadedViews]):
    """Training images; another one takes the place of one that cannot be read."""

    def __init__(self, images: DetectionDataset, rules: TrainingRules, seed: int) -> None:
        self.images, self.rules, self.seed = images, rules, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: SampleKey) -> LoadedViews:
        """The sample of an image in an epoch: `image` and `target`."""
        unreadable: list[tuple[str, str]] = []
        for row in image_and_replacements(key, self.seed, len(self)):
            try:
                views = self._draw(key[0], row)
            except ImageError as error:
                unreadable.append((str(error.path), error.reason))
            else:
                return LoadedViews(views, [self.images.names[row]], unreadable)
        return LoadedViews({}, [], unreadable)

    def _draw(self, epoch: int, row: int) -> dict[str, Any]:
        images, rules = self.images, self.rules
        generator = np.random.default_rng([self.seed, epoch, row])
        short_side, mirrored = generator.choice(rules.short_sides_px), bool(generator.random() < 0.5)
        image = read_image(images, row)
        size_hw = resized_size(image.shape[:2], int(short_side), rules.longest_px)
        learnt = ~images.ignored[row]
        target = {
            "boxes": torch.from_numpy(move_boxes(images.boxes[row][learnt], image.shape[:2], size_hw, mirrored)),
            "labels": torch.from_numpy(images.box_classes[row][learnt] + 1),
        }
        if rules.masks:
            target["masks"] = torch.from_numpy(move_masks(images.masks(row)[learnt], size_hw, mirrored))
        resized = resize_image(image, size_hw)
        return {"image": resized.flip(-1) if mirrored else resized, "target": target}


class ResizedImages(Dataset["tuple[int, UInt8[Tensor, '3 h w'] | str]"]):
    """Some rows of a set, resized for the test, or the reason why there is no image."""

    def __init__(self, images: DetectionDataset, rows: Sequence[int], short_side_px: int, longest_px: int) -> None:
        self.images, self.rows = images, rows
        self.short_side_px, self.longest_px = short_side_px, longest_px

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> "tuple[int, UInt8[Tensor, '3 h w'] | str]":
        """The row of an image in the set, and its pixels."""
        row = self.rows[index]
        try:
            image = read_image(self.images, row)
        except ImageError as error:
            return row, error.reason
        return row, resize_image(image, resized_size(image.shape[:2], self.short_side_px, self.longest_px))


def collate_detection(loaded: Sequence[LoadedViews]) -> LoadedViews:
    """A batch out of samples: lists, since images differ in size and in the number of their objects."""
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
    """The pixels of an image.

    Raises:
        ImageError: if it cannot be read, or has another size than the annotations say.
    """
    path = images.root / images.names[row]
    image = load_image(path)
    _check_size(path, (image.shape[1], image.shape[0]), images.sizes_wh[row])
    return image


def check_sizes(images: DetectionDataset) -> None:
    """Look at the header of every image: one that cannot be scored is to be known before the training.

    Raises:
        ValueError: if images are no images, or of other sizes than the annotations say.
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
            f"{len(bad)} of {len(images)} images to score cannot be: {bad[0]}; mend them or the annotations"
        )


def _check_size(path: Path, found_wh: tuple[int, int], size_wh: tuple[int, int]) -> None:
    if tuple(found_wh) != tuple(size_wh):
        (width, height), (own_width, own_height) = size_wh, found_wh
        raise ImageError(path, f"has {own_width}x{own_height} px, and its annotations are for {width}x{height} px")


def resized_size(size_hw: tuple[int, int], short_side_px: int, longest_px: int) -> tuple[int, int]:
    """Height and width that bring the short side to a size, or the long side to its limit where it would exceed it.

    Source:
        Detectron2, `ResizeShortestEdge.get_output_shape`, with its rounding.
    """
    scale = short_side_px / min(size_hw)
    height, width = (short_side_px if side == min(size_hw) else scale * side for side in size_hw)
    if max(height, width) > longest_px:
        scale = longest_px / max(height, width)
        height, width = height * scale, width * scale
    return int(height + 0.5), int(width + 0.5)


def resize_image(image: UInt8[ndarray, "h w 3"], size_hw: tuple[int, int]) -> UInt8[Tensor, "3 i j"]:
    """The image by antialiased bilinear interpolation, as Pillow does it."""
    tensor = torch.from_numpy(np.require(image, requirements=["C", "W"]))[None].permute(0, 3, 1, 2)
    return F.interpolate(tensor, size_hw, mode="bilinear", antialias=True)[0].contiguous()


def move_boxes(
    old: Float[ndarray, "n 4"], size_hw: tuple[int, int], new_size_hw: tuple[int, int], mirrored: bool
) -> Float[ndarray, "n 4"]:
    """Boxes of an image in the resized, perhaps mirrored image."""
    factors = np.array([new_size_hw[1] / size_hw[1], new_size_hw[0] / size_hw[0]], dtype=np.float32)
    moved = boxes.clip(old * np.tile(factors, 2), new_size_hw[::-1])
    if mirrored:
        moved[:, [0, 2]] = new_size_hw[1] - moved[:, [2, 0]]
    return moved


def move_masks(old: Bool[ndarray, "n h w"], size_hw: tuple[int, int], mirrored: bool) -> UInt8[ndarray, "n i j"]:
    """Masks of an image in the resized, perhaps mirrored image, by the nearest pixel."""
    if not len(old):
        return np.zeros((0, *size_hw), dtype=np.uint8)
    masks = torch.from_numpy(old.astype(np.uint8))[None]
    moved = F.interpolate(masks, size_hw, mode="nearest-exact")[0]
    return np.ascontiguousarray((moved.flip(-1) if mirrored else moved).numpy())
