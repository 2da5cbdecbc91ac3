"""Cache of the features of a split in shards; a killed job loses one shard at most."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from orl import tables
from orl.datasets.classified import ClassifiedImages
from orl.datasets.decode import ImageError, load_image
from orl.datasets.loader_workers import ignore_interrupts, named_limits
from orl.embed import BATCH_SIZE, CPU_BATCH_SIZE, Encode
from orl.progress import progress_bar
from orl.views.augment import normalise
from orl.views.crops import RESAMPLING, centre_crop

SHARD_SIZE = 2048
MAX_UNREADABLE_CACHED_FRACTION = 0.1
"""Largest fraction of unreadable images in a split."""
HALF_LIMIT = 65504.0
"""Largest number of float16, in which features are stored."""


def cache_features(
    encode: Encode,
    images: ClassifiedImages,
    folder: Path,
    inputs: dict[str, str | int],
    *,
    size_px: int,
    device: torch.device,
    workers: int,
    overwrite: bool = False,
    quiet: bool = False,
) -> tables.Table:
    """Embed the centre crop of every image that is not in the cache.

    Args:
        encode: the frozen network on the device, normalised crops to embeddings.
        images: images of the split.
        folder: folder of the table, with `feature` float16 (D,) and `reason` str for each image; an unreadable image
            has a reason and zeros.
        inputs: inputs of the features besides the images and the size, such as the digest of the weights.
        size_px: side of the crop; the short side of the image is resized to 256 / 224 of it.
        device: device to compute on.
        workers: processes that read images.
        overwrite: replace features of other inputs.
        quiet: show no progress bar.

    Raises:
        StaleResultError: if the folder holds features of something else.
        ValueError: if more than a tenth of the images cannot be read.
    """
    slices = tables.shard_slices(len(images), SHARD_SIZE)
    inputs = {**inputs, "images": images.fingerprint, "size_px": size_px, "resampling": RESAMPLING}
    missing = tables.begin(folder, inputs, len(slices), overwrite)
    done = len(images) - sum(slices[index].stop - slices[index].start for index in missing)
    title = f"embed {images.split}"
    with progress_bar(total=len(images), done=done, title=title, unit="images", quiet=quiet) as bar:
        for index in missing:
            crops = _Crops(images.paths[slices[index]], size_px)
            features, reasons = _embed(encode, crops, device, workers, bar.update)
            tables.write_shard(folder, index, {"feature": features, "reason": np.array(reasons, dtype=object)})
    table = tables.finish_table(folder)
    _check_unreadable(images, table)
    return table


def unreadable(images: ClassifiedImages, table: tables.Table) -> dict[str, str]:
    """Return name and reason of each unreadable image."""
    return {name: reason for name, reason in zip(images.names, table.column("reason").tolist()) if reason}


def _check_unreadable(images: ClassifiedImages, table: tables.Table) -> None:
    bad = unreadable(images, table)
    if len(bad) > MAX_UNREADABLE_CACHED_FRACTION * len(images):
        name, reason = next(iter(bad.items()))
        raise ValueError(
            f"{len(bad)} of {len(images)} images of {images.split!r} cannot be read, more than "
            f"{MAX_UNREADABLE_CACHED_FRACTION:.0%}: {name} ({reason}); repair them, delete {table.folder} and rerun"
        )


class _Crops(Dataset[tuple[UInt8[Tensor, "3 s s"], str]]):
    """Centre crops; a black crop and a reason for an unreadable image."""

    def __init__(self, paths: tuple[Path, ...], size_px: int) -> None:
        self.paths, self.size_px = paths, size_px

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "3 s s"], str]:
        try:
            image = load_image(self.paths[index])
        except ImageError as error:
            return torch.zeros((3, self.size_px, self.size_px), dtype=torch.uint8), error.reason
        return centre_crop(image, self.size_px)[0], ""


def _embed(
    encode: Encode, crops: _Crops, device: torch.device, workers: int, report: Callable[[int], object]
) -> tuple[Float[ndarray, "n d"], list[str]]:
    parts: list[ndarray] = []
    reasons: list[str] = []
    for batch, found in _batches(crops, device, workers):
        with torch.inference_mode():
            views = normalise(batch.to(device)).contiguous(memory_format=torch.channels_last)
            features = encode(views).float()
            features[torch.tensor([bool(reason) for reason in found], device=device)] = 0
        if not features.isfinite().all():
            num_bad = int((~features.isfinite().all(dim=1)).sum())
            raise ValueError(
                f"features of {num_bad} of {len(features)} images are not finite; did its training diverge?"
            )
        parts.append(features.clamp(-HALF_LIMIT, HALF_LIMIT).half().cpu().numpy())
        reasons += found
        report(len(found))
    return np.concatenate(parts), reasons


def _batches(crops: _Crops, device: torch.device, workers: int) -> Iterator[tuple[UInt8[Tensor, "n 3 s s"], list[str]]]:
    loader = DataLoader(
        crops,
        batch_size=CPU_BATCH_SIZE if device.type == "cpu" else BATCH_SIZE,
        num_workers=workers,
        worker_init_fn=ignore_interrupts,
    )
    with named_limits(workers):
        for batch, reasons in loader:
            yield batch, cast(list[str], list(reasons))
