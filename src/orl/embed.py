"""A frozen network over photos or RoIs: every box is embedded once, in full batches across photos."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from orl.images.augment import normalise
from orl.images.crops import centre_box, cut
from orl.images.datasets import ignore_interrupts, to_tensor
from orl.images.decode import load_photo
from orl.networks.backbones import Backbone, pool
from orl.progress import progress_bar

BATCH_SIZE = 64
CENTRE_SHARE = 224 / 256
"""Short side of the centre crop over the short side of the photo: resize to 256, crop 224."""

Encode = Callable[[Float[Tensor, "n 3 h w"]], Float[Tensor, "n d"]]


def embed_photos(
    backbone: Backbone,
    paths: Sequence[Path],
    *,
    size_px: int,
    device: torch.device | str = "cpu",
    workers: int = 0,
    title: str = "embed photos",
    quiet: bool = False,
) -> Float[ndarray, "n d"]:
    """Pooled features of whole photos, squeezed to a square: what the transfer protocols classify.

    Args:
        backbone: put into evaluation mode.
        paths: the photos.
        size_px: side of the square.
        device: where to compute.
        workers: processes that read photos.
        title: what the progress bar says.
        quiet: no progress bar.

    Returns:
        float32 features in the order of the paths.

    Raises:
        PhotoError: if a photo cannot be read; the message names it.
    """
    backbone = backbone.to(memory_format=torch.channels_last).to(device).eval()
    with progress_bar(total=len(paths), title=title, unit="photos", quiet=quiet) as bar:
        parts = list(
            embed_boxes(
                lambda views: pool(backbone(views)),
                paths,
                [None] * len(paths),
                size_px=size_px,
                device=torch.device(device),
                workers=workers,
                report=bar.update,
            )
        )
    return np.concatenate(parts) if parts else np.zeros((0, backbone.num_channels), np.float32)


def embed_boxes(
    encode: Encode,
    paths: Sequence[Path],
    photo_boxes: Sequence[Float[ndarray, "_ 4"] | None],
    *,
    size_px: int,
    device: torch.device,
    workers: int,
    report: Callable[[int], object],
) -> Iterator[Float[ndarray, "n d"]]:
    """Embed boxes of photos; a photo is read once and its boxes may fall into two batches.

    Args:
        encode: the frozen network on the device, normalised crops to embeddings.
        paths: the photos.
        photo_boxes: the boxes of each; none stands for the whole photo as one box.
        size_px: side that every box is resized to.
        device: where to compute.
        workers: processes that read and cut.
        report: takes the number of photos just finished.

    Yields:
        float32 embeddings, in the order of the photos and of their boxes, a batch at a time.
    """
    loader = DataLoader(
        _Crops(paths, photo_boxes, size_px),
        batch_size=None,
        num_workers=workers,
        worker_init_fn=ignore_interrupts,
    )
    with torch.inference_mode():
        for batch in _full_batches(loader, report):
            views = normalise(batch.to(device)).contiguous(memory_format=torch.channels_last)
            yield encode(views).float().cpu().numpy()


def centre_crop_boxes(sizes_wh: Sequence[tuple[int, int]]) -> list[Float[ndarray, "1 4"]]:
    """The box of 'short side to 256, centre crop 224' in every photo, as one box to be resized to 224."""
    sides = [min(size_wh) * CENTRE_SHARE for size_wh in sizes_wh]
    return [centre_box(size_wh, side, side)[None] for size_wh, side in zip(sizes_wh, sides)]


class _Crops(Dataset[UInt8[Tensor, "b 3 s s"]]):
    """All boxes of one photo as squares."""

    def __init__(
        self, paths: Sequence[Path], photo_boxes: Sequence[Float[ndarray, "_ 4"] | None], size_px: int
    ) -> None:
        self.paths, self.photo_boxes, self.size_px = paths, photo_boxes, size_px

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> UInt8[Tensor, "b 3 s s"]:
        photo = load_photo(self.paths[index])
        boxes = self.photo_boxes[index]
        if boxes is None:
            boxes = np.array([[0, 0, photo.shape[1], photo.shape[0]]], dtype=np.float32)
        return torch.stack([to_tensor(cut(photo, box, self.size_px)) for box in boxes])


def _full_batches(crops: DataLoader, report: Callable[[int], object]) -> Iterator[UInt8[Tensor, "n 3 s s"]]:
    waiting: list[Tensor] = []
    for photo_crops in crops:
        waiting.append(photo_crops)
        while sum(map(len, waiting)) >= BATCH_SIZE:
            joined = torch.cat(waiting)
            yield joined[:BATCH_SIZE]
            waiting = [joined[BATCH_SIZE:]]
        report(1)
    if waiting and (rest := torch.cat(waiting)).shape[0]:
        yield rest
