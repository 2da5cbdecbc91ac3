"""Photos with their objects, as a detector is trained and tested on them: resized, perhaps mirrored.

A sample depends on (seed, epoch, photo) alone. Photos of one batch differ in shape, and are not grouped by it as in
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
from orl.images.datasets import Key, Loaded, replacements
from orl.images.decode import PhotoError, load_photo, photo_size
from orl.transfer.detection.photos import DetectionPhotos


@dataclass(frozen=True, kw_only=True)
class TrainingRules:
    """What training photos go through."""

    short_sides_px: tuple[int, ...]
    """One is drawn for a photo."""
    longest_px: int
    masks: bool
    """Whether masks are learnt."""


class TrainingSamples(Dataset[Loaded]):
    """Training photos; another one takes the place of one that cannot be read."""

    def __init__(self, photos: DetectionPhotos, rules: TrainingRules, seed: int) -> None:
        self.photos, self.rules, self.seed = photos, rules, seed

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, key: Key) -> Loaded:
        """The sample of a photo in an epoch: `photo` and `target`."""
        unreadable: list[tuple[str, str]] = []
        for row in replacements(key, self.seed, len(self)):
            try:
                views = self._draw(key[0], row)
            except PhotoError as error:
                unreadable.append((str(error.path), error.reason))
            else:
                return Loaded(views, [self.photos.names[row]], unreadable)
        return Loaded({}, [], unreadable)

    def _draw(self, epoch: int, row: int) -> dict[str, Any]:
        photos, rules = self.photos, self.rules
        generator = np.random.default_rng([self.seed, epoch, row])
        short_side, mirrored = generator.choice(rules.short_sides_px), bool(generator.random() < 0.5)
        photo = read_photo(photos, row)
        size_hw = resized_size(photo.shape[:2], int(short_side), rules.longest_px)
        learnt = ~photos.ignored[row]
        target = {
            "boxes": torch.from_numpy(move_boxes(photos.boxes[row][learnt], photo.shape[:2], size_hw, mirrored)),
            "labels": torch.from_numpy(photos.box_classes[row][learnt] + 1),
        }
        if rules.masks:
            target["masks"] = torch.from_numpy(move_masks(photos.masks(row)[learnt], size_hw, mirrored))
        resized = resize_photo(photo, size_hw)
        return {"photo": resized.flip(-1) if mirrored else resized, "target": target}


class ResizedPhotos(Dataset["tuple[int, UInt8[Tensor, '3 h w'] | str]"]):
    """Some rows of a set, resized for the test, or the reason why there is no photo."""

    def __init__(self, photos: DetectionPhotos, rows: Sequence[int], short_side_px: int, longest_px: int) -> None:
        self.photos, self.rows = photos, rows
        self.short_side_px, self.longest_px = short_side_px, longest_px

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> "tuple[int, UInt8[Tensor, '3 h w'] | str]":
        """The row of a photo in the set, and its pixels."""
        row = self.rows[index]
        try:
            photo = read_photo(self.photos, row)
        except PhotoError as error:
            return row, error.reason
        return row, resize_photo(photo, resized_size(photo.shape[:2], self.short_side_px, self.longest_px))


def collate_detection(loaded: Sequence[Loaded]) -> Loaded:
    """A batch out of samples: lists, since photos differ in size and in the number of their objects."""
    views: list[Any] = [one.views for one in loaded]
    joined: dict[str, Any] = {}
    if all(views):
        joined = {"photos": [view["photo"] for view in views], "targets": [view["target"] for view in views]}
    return Loaded(
        joined,
        [name for one in loaded for name in one.files],
        [row for one in loaded for row in one.unreadable],
    )


def read_photo(photos: DetectionPhotos, row: int) -> UInt8[ndarray, "h w 3"]:
    """The pixels of a photo.

    Raises:
        PhotoError: if it cannot be read, or has another size than the annotations say.
    """
    path = photos.root / photos.names[row]
    photo = load_photo(path)
    _check_size(path, (photo.shape[1], photo.shape[0]), photos.sizes_wh[row])
    return photo


def check_sizes(photos: DetectionPhotos) -> None:
    """Look at the header of every photo: one that cannot be scored is to be known before the training.

    Raises:
        ValueError: if photos are no images, or of other sizes than the annotations say.
    """
    bad = []
    for name, size_wh in zip(photos.names, photos.sizes_wh):
        path = photos.root / name
        try:
            _check_size(path, photo_size(path), size_wh)
        except PhotoError as error:
            bad.append(str(error))
    if bad:
        raise ValueError(
            f"{len(bad)} of {len(photos)} photos to score cannot be: {bad[0]}; mend them or the annotations"
        )


def _check_size(path: Path, found_wh: tuple[int, int], size_wh: tuple[int, int]) -> None:
    if tuple(found_wh) != tuple(size_wh):
        (width, height), (own_width, own_height) = size_wh, found_wh
        raise PhotoError(path, f"has {own_width}x{own_height} px, and its annotations are for {width}x{height} px")


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


def resize_photo(photo: UInt8[ndarray, "h w 3"], size_hw: tuple[int, int]) -> UInt8[Tensor, "3 i j"]:
    """The photo by antialiased bilinear interpolation, as Pillow does it."""
    image = torch.from_numpy(np.require(photo, requirements=["C", "W"]))[None].permute(0, 3, 1, 2)
    return F.interpolate(image, size_hw, mode="bilinear", antialias=True)[0].contiguous()


def move_boxes(
    old: Float[ndarray, "n 4"], size_hw: tuple[int, int], new_size_hw: tuple[int, int], mirrored: bool
) -> Float[ndarray, "n 4"]:
    """Boxes of a photo in the resized, perhaps mirrored photo."""
    factors = np.array([new_size_hw[1] / size_hw[1], new_size_hw[0] / size_hw[0]], dtype=np.float32)
    moved = boxes.clip(old * np.tile(factors, 2), new_size_hw[::-1])
    if mirrored:
        moved[:, [0, 2]] = new_size_hw[1] - moved[:, [2, 0]]
    return moved


def move_masks(old: Bool[ndarray, "n h w"], size_hw: tuple[int, int], mirrored: bool) -> UInt8[ndarray, "n i j"]:
    """Masks of a photo in the resized, perhaps mirrored photo, by the nearest pixel."""
    if not len(old):
        return np.zeros((0, *size_hw), dtype=np.uint8)
    masks = torch.from_numpy(old.astype(np.uint8))[None]
    moved = F.interpolate(masks, size_hw, mode="nearest-exact")[0]
    return np.ascontiguousarray((moved.flip(-1) if mirrored else moved).numpy())
