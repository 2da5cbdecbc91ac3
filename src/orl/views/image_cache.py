"""Image cache: all pixels of a pack on the training device, where views are cut a batch at a time."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from orl import memory
from orl.datasets.image_table import ImageTable
from orl.datasets.packs import open_pack
from orl.datasets.threads import map_in_threads
from orl.progress import progress_bar
from orl.views.colour import ColourParameters
from orl.views.crops import cut_boxes, round_to_pixels
from orl.views.cut import Sample, View, read_listed_image
from orl.views.view_dataset import LoadedViews
from orl.views.view_samplers import GlobalViewSampler, ObjectViewSampler, SampleKey

MAX_CUT_BYTES = 2**27
"""Bytes of the pixels, as floats, that are resized in one step."""
WEIGHT_LIMIT = 2**15 - 0.5
"""Limit of the largest weight in torch's resizing of bytes, in the unit that it rounds weights to."""


class PixelViewBox(NamedTuple):
    """A view box in integer pixels; in a batch, every field has a leading dimension."""

    image_id: Int[Tensor, "*n"] | int
    box: Int[Tensor, "*n 4"] | Int[ndarray, "4"]
    """xyxy, in integer pixels, inside the image."""
    size_px: Int[Tensor, "*n"] | int
    colours: ColourParameters


class ViewBoxDataset(Dataset[dict[str, PixelViewBox]]):
    """View boxes of samples, without pixels: workers sample them, and `ImageCache.load` cuts a batch of them."""

    def __init__(self, view_sampler: GlobalViewSampler | ObjectViewSampler) -> None:
        self.view_sampler = view_sampler

    def __len__(self) -> int:
        return len(self.view_sampler.images)

    def __getitem__(self, key: SampleKey) -> dict[str, PixelViewBox]:
        """Return the view boxes of an image in an epoch: those that `ViewDataset` cuts."""
        sizes_wh = self.view_sampler.images.sizes_wh
        return {
            name: PixelViewBox(image_id, np.array(round_to_pixels(box, sizes_wh[image_id])), size_px, colours)
            for name, (image_id, box, size_px, colours) in self.view_sampler.sample_boxes(key).items()
        }


def collate_view_boxes(samples: Sequence[dict[str, PixelViewBox]]) -> dict[str, PixelViewBox]:
    """Join view boxes into a batch."""
    return default_collate(list(samples))


class ImageCache:
    """Pixels of all images on one device."""

    def __init__(self, images: ImageTable, device: torch.device, *, workers: int = 1, quiet: bool = False) -> None:
        """Read every image once.

        Args:
            images: image table, usually of a pack, because its images are small and fast to read.
            device: device that stores the pixels and cuts the views.
            workers: number of threads that read.
            quiet: show no progress bar.

        Raises:
            ValueError: if the pixels do not fit into the free memory of the device.
            ImageError: if an image cannot be read, or has another size than the image table lists.
        """
        self.images = images
        sizes = torch.tensor(images.sizes_wh, dtype=torch.int64)
        counts = sizes.prod(dim=1)
        _require_space(3 * int(counts.sum()), device)
        self._starts = (counts.cumsum(0) - counts).tolist()
        self._pixels = torch.empty((int(counts.sum()), 3), dtype=torch.uint8, device=device)
        self._first_pixels = torch.tensor(self._starts, device=device)
        self._widths = sizes[:, 0].to(device)
        with progress_bar(total=len(images), title=f"load images to {device}", unit="images", quiet=quiet) as bar:
            map_in_threads(self._read, range(len(images)), workers, bar.update)

    def load(self, batch: dict[str, PixelViewBox]) -> LoadedViews:
        """Cut the views of a batch, and name its images."""
        image_ids: Any = next(iter(batch.values())).image_id
        return LoadedViews(self.cut(batch), [self.images.names[image_id] for image_id in image_ids.tolist()], [])

    def cut(self, batch: dict[str, PixelViewBox]) -> Sample:
        """Cut the views of a batch, resized as `crops.resize` does.

        On a CPU the views equal those that workers cut, bit for bit. On a GPU they come from the same weights and
        passes in float32: where a box is reduced several times, one value in some thousands differs by a grey level.
        """
        cut = self._cut_one_by_one if self._pixels.device.type == "cpu" else self.cut_batch
        sample: Sample = {}
        for name, (image_ids, boxes, sizes_px, colours) in batch.items():
            sizes: Any = sizes_px
            sample[name] = View(cut(image_ids, boxes, int(sizes[0])), colours)  # type: ignore[arg-type]
        return sample

    def _cut_one_by_one(
        self, image_ids: Int[Tensor, "n"], boxes: Int[Tensor, "n 4"], size_px: int
    ) -> UInt8[Tensor, "n 3 s s"]:
        crops = []
        for image_id, box in zip(image_ids.tolist(), boxes.numpy().astype(np.float32)):
            width, height = self.images.sizes_wh[image_id]
            start = self._starts[image_id]
            image = self._pixels[start : start + width * height].view(height, width, 3).numpy()
            crops.append(cut_boxes(image, box[None], size_px))
        return torch.cat(crops)

    def cut_batch(
        self, image_ids: Int[Tensor, "n"], boxes: Int[Tensor, "n 4"], size_px: int
    ) -> UInt8[Tensor, "n 3 s s"]:
        """Cut crops of many images in a few large operations, which suit a GPU: resizing is two matrix products."""
        sides = boxes[:, 2:] - boxes[:, :2]
        num_together = max(1, MAX_CUT_BYTES // (12 * int(sides.max(dim=0).values.prod())))
        device = self._pixels.device
        crops = []
        for rows in torch.arange(len(boxes)).split(num_together):
            widest, highest = sides[rows].max(dim=0).values.tolist()
            ids, part = image_ids[rows].to(device), boxes[rows].to(device)
            frames = self._frames(ids, part, widest, highest)
            across = resize_weights(part[:, 2] - part[:, 0], widest, size_px)
            down = resize_weights(part[:, 3] - part[:, 1], highest, size_px)
            crops.append(_resize(frames, across, down))
        return torch.cat(crops).permute(0, 3, 1, 2)

    def _frames(
        self, image_ids: Int[Tensor, "n"], boxes: Int[Tensor, "n 4"], widest: int, highest: int
    ) -> UInt8[Tensor, "n h w 3"]:
        """Return the pixels of each box at the top left of a frame of one size; other pixels are undefined."""
        left, top, right, bottom = (side[:, None] for side in boxes.unbind(dim=1))
        columns = (left + torch.arange(widest, device=boxes.device)).minimum(right - 1)
        rows = (top + torch.arange(highest, device=boxes.device)).minimum(bottom - 1)
        row_starts = self._first_pixels[image_ids][:, None] + rows * self._widths[image_ids][:, None]
        return self._pixels[row_starts[:, :, None] + columns[:, None, :]]

    def _read(self, image_id: int) -> int:
        image = torch.from_numpy(read_listed_image(self.images, image_id)).reshape(-1, 3)
        start = self._starts[image_id]
        self._pixels[start : start + len(image)] = image.to(self._pixels.device)
        return 1


def resize_weights(sides_px: Int[Tensor, "n"], width_px: int, size_px: int) -> Float[Tensor, "n s w"]:
    """Compute the weights of antialiased bilinear interpolation along one axis.

    Args:
        sides_px: sides of several boxes along the axis.
        width_px: at least the longest side; pixels beyond a side have weight 0.
        size_px: size that all sides are resized to.

    Returns:
        Weight of each input pixel for each output pixel; the weights of an output pixel sum to about 1.
    """
    positions = torch.arange(width_px, device=sides_px.device)
    scale = (sides_px.double() / size_px)[:, None, None]
    stretch = scale.clamp(min=1)
    centre = (torch.arange(size_px, device=sides_px.device) + 0.5)[None, :, None] * scale
    distance = ((positions + 0.5 - centre) / stretch).abs()
    weights = (1 - distance).clamp(min=0) * (positions < sides_px[:, None, None])
    weights = weights / weights.sum(dim=2, keepdim=True)
    # torch resizes bytes with weights of at most 15 bits, so that their largest is just below 2^15.
    unit = torch.exp2((WEIGHT_LIMIT / weights.amax(dim=(1, 2), keepdim=True)).log2().floor())
    return ((weights * unit + 0.5).floor() / unit).float()


def require_pack(images: ImageTable) -> None:
    """Refuse to cache images that are not in a pack.

    Image files are read at a reduced size where the views allow it, so the cache would give other views.

    Raises:
        ValueError: if the images are not in a pack.
    """
    if not images.packed:
        raise ValueError(
            f"only packed images can be cached, and {images.root} is not a pack: make one with 'orl data pack', or use "
            "--cache disk"
        )


def load_into_memory(images: ImageTable) -> None:
    """Read a pack into memory before workers start, so that forked workers share it.

    Raises:
        ValueError: if the images are not in a pack, do not fit into the free memory, or a shard is damaged.
    """
    require_pack(images)
    pack = open_pack(images.root)
    if not pack.is_in_memory:
        _require_space(pack.num_bytes, torch.device("cpu"))
        pack.load_into_memory()


def _resize(
    frames: UInt8[Tensor, "n h w 3"], across: Float[Tensor, "n s w"], down: Float[Tensor, "n s h"]
) -> UInt8[Tensor, "n s s 3"]:
    """Resize along the rows, round, then resize along the columns: the order of torch's resizing of bytes."""
    n, height, width, _ = frames.shape
    size_px = across.shape[1]
    by_column = frames.transpose(1, 2).float().reshape(n, width, height * 3)
    narrow = _rounded(torch.bmm(across, by_column)).view(n, size_px, height, 3)
    by_row = narrow.transpose(1, 2).reshape(n, height, size_px * 3)
    return _rounded(torch.bmm(down, by_row)).view(n, size_px, size_px, 3).to(torch.uint8)


def _rounded(values: Tensor) -> Tensor:
    # Halves are rounded up, as in integer arithmetic.
    return (values + 0.5).floor_().clamp_(0, 255)


def _require_space(num_bytes: int, device: torch.device) -> None:
    on_gpu = device.type == "cuda"
    if on_gpu:
        # Memory that torch has cached since an earlier stage is free too.
        torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info(device)[0] if on_gpu else memory.available_bytes()
    if num_bytes > free:
        where, instead = (str(device), "ram or disk") if on_gpu else ("memory", "disk")
        raise ValueError(
            f"the images need {num_bytes / 1e9:.2f} GB and {where} has {free / 1e9:.2f} GB free: use --cache "
            f"{instead}, or a pack of a smaller --short-side"
        )
