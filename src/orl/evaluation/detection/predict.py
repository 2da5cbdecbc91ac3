"""What a detector finds in the images of a set: each process looks at its share."""

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

from orl.datasets.loader_workers import ignore_interrupts
from orl.datasets.masks import encode_masks
from orl.evaluation.detection.configs import DetectionConfig
from orl.evaluation.detection.datasets import DetectionDataset
from orl.evaluation.detection.detections import Detections
from orl.evaluation.detection.model import in_unit_range
from orl.evaluation.detection.samples import ResizedImages
from orl.processes import Processes
from orl.progress import progress_bar

NUM_PASTED = 16
"""Masks that are pasted into an image at a time: as floats they take four bytes for each of its pixels."""


def predict(
    detector: FasterRCNN,
    images: DetectionDataset,
    settings: DetectionConfig,
    processes: Processes,
    *,
    workers: int,
    quiet: bool = False,
) -> Detections:
    """Everything that a detector finds in a set.

    Args:
        detector: is left in evaluation mode, where it was.
        images: to look at.
        settings: size of the images.
        processes: share the images and the detections.
        workers: processes that read images.
        quiet: show no progress.

    Returns:
        Those of all processes, in every process; boxes and masks in pixels of the images as they are.

    Raises:
        RuntimeError: in every process, if an image cannot be read.
    """
    rows = range(len(images))[processes.rank :: processes.count]
    resized = ResizedImages(images, rows, settings.test_short_side_px, settings.longest_px)
    # One at a time: without padding, as in Detectron2, so that what is found does not depend on the processes.
    loader = DataLoader(resized, batch_size=None, num_workers=workers, worker_init_fn=ignore_interrupts)
    detector.eval()
    hidden = quiet or not processes.is_first
    bar = progress_bar(loader, total=len(rows), title="detect", unit="images", quiet=hidden)
    own: list[Detections] = []
    unreadable: list[tuple[str, str]] = []
    for row, image in bar:
        if isinstance(image, str):
            unreadable.append((images.names[row], image))
        elif len((found := _detect_row(detector, images, row, image)).scores):
            own.append(found)
    unreadable = processes.gather_lists(unreadable)
    if unreadable:
        name, reason = unreadable[0]
        raise RuntimeError(
            f"{len(unreadable)} of {len(images)} images to score cannot be read, such as {name} ({reason}); mend them "
            "and give the same command again: training is kept"
        )
    return Detections.merge(processes.gather_lists(own))


@torch.no_grad()
def detect(
    detector: FasterRCNN, image: UInt8[Tensor, "3 h w"], size_hw: tuple[int, int]
) -> tuple[dict[str, Tensor], Iterator[UInt8[Tensor, "_ i j"]]]:
    """What a detector in evaluation mode finds in an image.

    Args:
        detector: as `build_detector` made it.
        image: resized for the test.
        size_hw: height and width of the image before.

    Returns:
        `boxes` in pixels of the image before it was resized, `labels` from 1 and `scores`, the best first; and their
        masks, some at a time, none if it predicts none.
    """
    images, _ = detector.transform([in_unit_range(image, next(detector.parameters()))])
    features = detector.backbone(images.tensors)
    proposals, _ = detector.rpn(images, features)
    (found,), _ = detector.roi_heads(features, proposals, images.image_sizes)
    found["boxes"] = resize_boxes(found["boxes"], images.image_sizes[0], size_hw)
    return found, _pasted(found, size_hw)


def _pasted(found: dict[str, Tensor], size_hw: tuple[int, int]) -> Iterator[UInt8[Tensor, "_ i j"]]:
    if "masks" not in found:
        return
    for masks, boxes in zip(found["masks"].split(NUM_PASTED), found["boxes"].split(NUM_PASTED)):
        yield (paste_masks_in_image(masks, boxes, size_hw)[:, 0] > 0.5).to(torch.uint8)


def _detect_row(detector: FasterRCNN, images: DetectionDataset, row: int, image: UInt8[Tensor, "3 h w"]) -> Detections:
    width, height = images.sizes_wh[row]
    found, pasted = detect(detector, image, (height, width))
    rles: list[Any] = [rle for some in pasted for rle in encode_masks(some.cpu().numpy())]
    return Detections(
        image_ids=np.full(len(found["scores"]), images.image_ids[row], dtype=np.int64),
        boxes=_floats(found["boxes"]),
        classes=found["labels"].cpu().numpy() - 1,
        scores=_floats(found["scores"]),
        masks=tuple(rles) if detector.roi_heads.has_mask() else None,
    )


def _floats(values: Tensor) -> Float[np.ndarray, "*n"]:
    return values.cpu().numpy().astype(np.float32)
