"""Detection in the images of a split; each process takes a part of them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.models.detection.transform import resize_boxes

from orl.datasets.loader_workers import ignore_interrupts, named_limits
from orl.datasets.masks import encode_masks
from orl.evaluation.detection.config import DetectionConfig
from orl.evaluation.detection.datasets import DetectionDataset
from orl.evaluation.detection.detections import Detections
from orl.evaluation.detection.model import in_unit_range
from orl.evaluation.detection.samples import ResizedImages
from orl.processes import Processes
from orl.progress import progress_bar

MASKS_AT_ONCE = 16
"""Masks that are pasted into an image at a time: as floats each takes four bytes per pixel."""


def predict(
    detector: FasterRCNN,
    images: DetectionDataset,
    config: DetectionConfig,
    processes: Processes,
    *,
    workers: int,
    quiet: bool = False,
) -> Detections:
    """Detect objects in all images of a split.

    Args:
        detector: set to evaluation mode.
        images: images to detect in.
        config: size of the images.
        processes: joined processes, which take parts of the images.
        workers: processes that read images.
        quiet: show no progress bar.

    Returns:
        The detections of all processes, in every process; boxes and masks in pixels of the image files.

    Raises:
        RuntimeError: in every process, if an image cannot be read.
    """
    rows = range(len(images))[processes.rank :: processes.count]
    resized = ResizedImages(images, rows, config.test_short_side_px, config.longest_px)
    # One image at a time, as in Detectron2: without padding, so that detections do not depend on the processes.
    loader = DataLoader(resized, batch_size=None, num_workers=workers, worker_init_fn=ignore_interrupts)
    detector.eval()
    hidden = quiet or not processes.is_first
    parts: list[Detections] = []
    unreadable: list[tuple[str, str]] = []
    with (
        named_limits(workers),
        progress_bar(loader, total=len(rows), title="detect", unit="images", quiet=hidden) as bar,
    ):
        for row, image in bar:
            if isinstance(image, str):
                unreadable.append((images.names[row], image))
            elif len((found := _detect_in_row(detector, images, row, image)).scores):
                parts.append(found)
    unreadable = processes.gather_lists(unreadable)
    if unreadable:
        name, reason = unreadable[0]
        raise RuntimeError(
            f"{len(unreadable)} of {len(images)} images to score cannot be read, such as {name} ({reason}); repair "
            "them and give the same command again: training is kept"
        )
    return Detections.merge(processes.gather_lists(parts))


@torch.no_grad()
def detect(
    detector: FasterRCNN, image: UInt8[Tensor, "3 h w"], size_hw: tuple[int, int]
) -> tuple[dict[str, Tensor], Iterator[UInt8[Tensor, "_ i j"]]]:
    """Detect objects in one image.

    Args:
        detector: result of `build_detector`, in evaluation mode.
        image: the resized image.
        size_hw: height and width of the image file.

    Returns:
        `boxes` in pixels of the image file, `labels` from 1 and `scores`, the highest first; and an iterator over their
        masks in groups, empty for a detector without masks.
    """
    images, _ = detector.transform([in_unit_range(image, next(detector.parameters()))])
    features = detector.backbone(images.tensors)
    proposals, _ = detector.rpn(images, features)
    (found,), _ = detector.roi_heads(features, proposals, images.image_sizes)
    found["boxes"] = resize_boxes(found["boxes"], images.image_sizes[0], size_hw)
    return found, _paste_masks(found, size_hw)


def _paste_masks(found: dict[str, Tensor], size_hw: tuple[int, int]) -> Iterator[UInt8[Tensor, "_ i j"]]:
    if "masks" not in found:
        return
    for masks, boxes in zip(found["masks"].split(MASKS_AT_ONCE), found["boxes"].split(MASKS_AT_ONCE)):
        yield (paste_masks_in_image(masks, boxes, size_hw)[:, 0] > 0.5).to(torch.uint8)


def _detect_in_row(
    detector: FasterRCNN, images: DetectionDataset, row: int, image: UInt8[Tensor, "3 h w"]
) -> Detections:
    width, height = images.sizes_wh[row]
    found, mask_groups = detect(detector, image, (height, width))
    rles: list[Any] = [rle for masks in mask_groups for rle in encode_masks(masks.cpu().numpy())]
    return Detections(
        image_ids=np.full(len(found["scores"]), images.image_ids[row], dtype=np.int64),
        boxes=_floats(found["boxes"]),
        classes=found["labels"].cpu().numpy() - 1,
        scores=_floats(found["scores"]),
        masks=tuple(rles) if detector.roi_heads.has_mask() else None,
    )


def _floats(values: Tensor) -> Float[np.ndarray, "*n"]:
    return values.cpu().numpy().astype(np.float32)
