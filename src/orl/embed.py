"""Embeddings of images and RoIs by a frozen network; batches reach across images, so that each is full."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from orl.datasets.decode import ImageError, load_image
from orl.datasets.loader_workers import ignore_interrupts, in_shared_memory, named_limits
from orl.datasets.packs import PackedImage
from orl.networks.backbones import Backbone, pool
from orl.networks.fuse_batch_norm import fuse_batch_norm
from orl.progress import progress_bar
from orl.views.augment import normalise
from orl.views.crops import cut_boxes, resize_to_square

BATCH_SIZE = 64
CPU_BATCH_SIZE = 16
"""A smaller batch fits the CPU's caches: ResNet-50 needs a tenth less time per crop at 16 than at 64."""

Encode = Callable[[Float[Tensor, "n 3 h w"]], Float[Tensor, "n d"]]
Cut = Callable[[UInt8[ndarray, "h w 3"]], UInt8[Tensor, "b 3 s s"]]
"""Function from an image to its crops; workers receive it, so it must be picklable."""
ImageFunction = Callable[[UInt8[ndarray, "h w 3"]], Any]
"""Picklable function of an image that returns a tensor, or a tuple of tensors and other values."""


def embed_images(
    backbone: nn.Module,
    paths: Sequence[Path | PackedImage],
    *,
    size_px: int,
    pooling: Callable[[Float[Tensor, "n c i j"]], Float[Tensor, "n d"]] = pool,
    device: torch.device | str = "cpu",
    workers: int = 0,
    title: str = "embed images",
    quiet: bool = False,
) -> Float[ndarray, "n d"]:
    """Compute features of complete images, by `resize_to_square`, for the evaluation protocols.

    Args:
        backbone: maps normalised images to feature maps of `num_channels`; set to evaluation mode.
        paths: the images.
        size_px: side of the square.
        pooling: function from feature maps to features; by default the mean over all positions.
        device: device to compute on.
        workers: processes that read images.
        title: title of the progress bar.
        quiet: show no progress bar.

    Returns:
        float32 features in the order of the paths.

    Raises:
        ImageError: if an image cannot be read.
    """
    backbone = backbone.eval()
    fused = fuse_batch_norm(backbone) if isinstance(backbone, Backbone) else backbone
    fused = fused.to(memory_format=torch.channels_last).to(device)
    with progress_bar(total=len(paths), title=title, unit="images", quiet=quiet) as bar:
        parts = list(
            embed_crops(
                lambda views: pooling(fused(views)),
                paths,
                [partial(resize_to_square, size_px=size_px)] * len(paths),
                device=torch.device(device),
                workers=workers,
                report=bar.update,
            )
        )
    num_channels = cast(int, backbone.num_channels)
    return np.concatenate(parts) if parts else np.zeros((0, num_channels), np.float32)


def embed_boxes(
    encode: Encode,
    paths: Sequence[Path | PackedImage],
    image_boxes: Sequence[Float[ndarray, "_ 4"]],
    *,
    size_px: int,
    device: torch.device,
    workers: "int | ImageWorkers",
    report: Callable[[int], object],
) -> Iterator[Float[ndarray, "n d"]]:
    """Embed boxes of images, each resized to a square of `size_px`; see `embed_crops`."""
    cuts = [partial(cut_boxes, boxes=boxes, size_px=size_px) for boxes in image_boxes]
    return embed_crops(encode, paths, cuts, device=device, workers=workers, report=report)


def embed_crops(
    encode: Encode,
    paths: Sequence[Path | PackedImage],
    cuts: Sequence[Cut],
    *,
    device: torch.device,
    workers: "int | ImageWorkers",
    report: Callable[[int], object],
) -> Iterator[Float[ndarray, "n d"]]:
    """Embed crops of images; each image is read once, and its crops may fall into two batches.

    In evaluation mode an embedding depends on its batch only by float rounding: a library may add in another order for
    another batch size. Batches depend on the crops alone, so the same call on the same machine gives the same bits
    with any number of workers.

    Args:
        encode: the frozen network on the device, from normalised crops to embeddings; fastest after
            `fuse_batch_norm`.
        paths: the images.
        cuts: the function that cuts the crops of each image, all of one size.
        device: device to compute on.
        workers: number of processes that read and crop, or the `ImageWorkers` of an earlier call.
        report: called with the number of images just finished.

    Yields:
        float32 embeddings, in the order of the images and of their crops, a batch at a time.

    Raises:
        ImageError: if an image cannot be read.
    """
    if isinstance(workers, int):
        workers = ImageWorkers(workers)
    batch_size = CPU_BATCH_SIZE if device.type == "cpu" else BATCH_SIZE
    for batch in _full_batches(workers.apply(paths, cuts), batch_size, report):
        with torch.inference_mode():
            views = normalise(batch.to(device)).contiguous(memory_format=torch.channels_last)
            embeddings = encode(views).float().cpu().numpy()
        yield embeddings


def at_precision(encode: Encode, precision: torch.dtype) -> Encode:
    """Return a network that multiplies matrices at this precision, by autocast.

    Half precision changes a cosine by 0.001 to 0.01, enough to swap two correspondences of almost equal similarity.

    Args:
        encode: a network in float32.
        precision: bfloat16 or float16; float32 returns the network unchanged.
    """

    def encode_in_half(views: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n *d"]:
        with torch.autocast(views.device.type, precision):
            return encode(views)

    return encode if precision == torch.float32 else encode_in_half


class ImageWorkers:
    """Processes that read images and apply a function to each, such as cropping its boxes.

    They are kept for the next call since their start takes up to a second, and end when this object is deleted.
    """

    def __init__(self, count: int) -> None:
        """Prepare the workers; they start with the first images.

        Args:
            count: number of processes; at 0 the calling process reads and computes.
        """
        self._jobs: list[_Job] = []
        self._busy = False
        # The list of jobs is the loader's sampler: each pass sends its present contents to the workers.
        self._loader = DataLoader(
            _Results(),
            batch_size=None,
            sampler=self._jobs,
            num_workers=count,
            collate_fn=_unchanged,
            persistent_workers=count > 0,
            worker_init_fn=ignore_interrupts,
        )

    def apply(self, paths: Sequence[Path | PackedImage], functions: Sequence[ImageFunction]) -> Iterator[Any]:
        """Apply a function to each image; yield one result at a time, in order.

        Raises:
            RuntimeError: if an earlier call has not finished.
            ImageError: if an image cannot be read.
        """
        if self._busy:
            raise RuntimeError("these ImageWorkers still read the images of an earlier call; finish or close it first")
        self._busy = True
        try:
            self._jobs[:] = zip(paths, functions, strict=True)
            with named_limits(self._loader.num_workers):
                for found in self._loader:
                    if isinstance(found, ImageError):
                        raise found
                    yield found
        finally:
            self._busy = False


_Job = tuple[Path | PackedImage, ImageFunction]


class _Results(Dataset[Any]):
    def __getitem__(self, job: _Job) -> Any:
        path, function = job
        try:
            image = load_image(path, None)
        except ImageError as error:
            return error  # an error raised in a worker arrives as a RuntimeError with two tracebacks as its text
        found = function(image)
        parts = found if isinstance(found, tuple) else (found,)
        for part in parts:
            if isinstance(part, Tensor):
                in_shared_memory(part)
        return found


def _unchanged(item: Any) -> Any:
    """Return an item as it is; the loader would turn arrays into tensors."""
    return item


def _full_batches(
    crops: Iterable[Tensor], batch_size: int, report: Callable[[int], object]
) -> Iterator[UInt8[Tensor, "n 3 s s"]]:
    waiting: list[Tensor] = []
    for image_crops in crops:
        waiting.append(image_crops)
        if sum(map(len, waiting)) >= batch_size:
            *full, rest = torch.cat(waiting).split(batch_size)
            yield from full
            waiting = [rest]
        report(1)
    if waiting and len(rest := torch.cat(waiting)):
        yield rest
