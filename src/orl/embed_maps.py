"""Features of boxes from one pass of an image: its feature map, averaged inside each box by RoIAlign."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import repeat
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, UInt8
from numpy import ndarray
from torch import Tensor, nn
from torchvision.ops import roi_align

from orl import boxes as geometry
from orl.config import DiscoverConfig
from orl.datasets.masks import decode_masks
from orl.datasets.packs import PackedImage
from orl.embed import Encode, ImageWorkers, embed_boxes, embed_crops
from orl.networks.backbones import pool
from orl.views.augment import normalise
from orl.views.crops import cut_boxes, resize_short_side

ROI_GRID = 7
"""Side of the grid of RoIAlign, whose values are averaged."""
MAP_BATCH_SIZE = 16
"""Most images of one size that pass a GPU together; on a CPU images pass one by one."""

ResizedImage = tuple[UInt8[Tensor, "1 3 i j"], tuple[int, int]]
"""A resized image, and the width and height that it had."""


def embed_rois(
    backbone: nn.Module,
    paths: Sequence[Path | PackedImage],
    image_rois: Sequence[Float[ndarray, "_ 4"]],
    config: DiscoverConfig,
    *,
    device: torch.device,
    workers: int | ImageWorkers,
    report: Callable[[int], object],
    image_masks: Sequence[Sequence[str]] | None = None,
) -> Iterator[Float32[ndarray, "_ d"]]:
    """Embed RoIs as stage 2 does: by crops, from feature maps, or inside masks, centred or not.

    Features of the RoIs of an image have the scene in common: of a map, because every position sees most of the image.
    The most alike RoIs of two images of one kind are then large ones, whatever they cover. Centring subtracts from each
    RoI what the complete image has.

    Args:
        backbone: the frozen network on the device, from normalised images to feature maps.
        paths: the images.
        image_rois: RoIs `xyxy` of each image, in its pixels.
        config: the options of stage 2.
        device: device to compute on.
        workers: number of processes that read images, or the `ImageWorkers` of an earlier call.
        report: called with the number of images just finished.
        image_masks: RLE of the mask of each RoI, empty for none, for `roi_features` 'mask'.

    Yields:
        float32 features, in the order of the images and of their RoIs.
    """
    embed: Callable[..., Iterator[ndarray]]
    if config.roi_features != "crops":
        embed = partial(
            embed_boxes_on_maps,
            backbone,
            short_px=config.roi_map_px,
            centred=config.roi_centred,
            image_masks=image_masks if config.roi_features == "mask" else None,
        )
    elif config.roi_centred:
        embed = partial(embed_centred_boxes, lambda views: pool(backbone(views)), size_px=config.roi_embed_px)
    else:
        embed = partial(embed_boxes, lambda views: pool(backbone(views)), size_px=config.roi_embed_px)
    yield from embed(paths, image_rois, device=device, workers=workers, report=report)


def embed_centred_boxes(
    encode: Encode,
    paths: Sequence[Path | PackedImage],
    image_boxes: Sequence[Float[ndarray, "_ 4"]],
    *,
    size_px: int,
    device: torch.device,
    workers: int | ImageWorkers,
    report: Callable[[int], object],
) -> Iterator[Float32[ndarray, "_ d"]]:
    """Embed boxes of images as `embed_boxes`, and subtract the embedding of the complete image, resized alike.

    A box of the complete image is left with zeros: it matches at random.
    """
    cuts = [partial(_image_and_boxes, boxes=boxes, size_px=size_px) for boxes in image_boxes]
    waiting: list[ndarray] = []
    counts = iter([len(boxes) for boxes in image_boxes])
    count = next(counts, None)
    for batch in embed_crops(encode, paths, cuts, device=device, workers=workers, report=report):
        waiting.append(batch)
        while count is not None and sum(map(len, waiting)) > count:
            rows = np.concatenate(waiting)
            yield rows[1 : count + 1] - rows[0]
            waiting, count = [rows[count + 1 :]], next(counts, None)


def _image_and_boxes(
    image: UInt8[ndarray, "h w 3"], boxes: Float[ndarray, "b 4"], size_px: int
) -> UInt8[Tensor, "_ 3 s s"]:
    complete = np.array([[0, 0, image.shape[1], image.shape[0]]], dtype=np.float32)
    return cut_boxes(image, np.concatenate([complete, boxes.astype(np.float32)]), size_px)


def embed_boxes_on_maps(
    encode: Encode,
    paths: Sequence[Path | PackedImage],
    image_boxes: Sequence[Float[ndarray, "_ 4"]],
    *,
    short_px: int,
    centred: bool = False,
    image_masks: Sequence[Sequence[str]] | None = None,
    device: torch.device,
    workers: int | ImageWorkers,
    report: Callable[[int], object],
) -> Iterator[Float32[ndarray, "b d"]]:
    """Embed boxes of images from the feature map of each image, which passes the network once.

    It takes about the time of the image's area over the area of all crops that `embed_boxes` would resize.

    Args:
        encode: the frozen network on the device, from normalised images to feature maps.
        paths: the images.
        image_boxes: boxes `xyxy` of each image, in its pixels.
        short_px: short side that an image is resized to, pixels; its aspect ratio is kept.
        centred: subtract the mean of each map over its positions. A box of the complete image is left with rounding: it
            matches at random.
        image_masks: RLE of the mask of each box, of the size of the image, empty for none; the map is averaged inside
            the masks in place of the boxes.
        device: device to compute on.
        workers: number of processes that read and resize, or the `ImageWorkers` of an earlier call.
        report: called with the number of images just finished.

    Yields:
        float32 features of the boxes of one image, in the order of the images.

    Raises:
        ImageError: if an image cannot be read.
        ValueError: if the feature map of an image has a single position.
    """
    if isinstance(workers, int):
        workers = ImageWorkers(workers)
    resized = workers.apply(paths, [partial(with_size, short_px=short_px)] * len(paths))
    max_batch = 1 if device.type == "cpu" else MAP_BATCH_SIZE
    done = 0
    for batch in _equal_sizes(resized, max_batch):
        views = torch.cat([image for image, _ in batch]).to(device)
        with torch.inference_mode():
            maps = encode(normalise(views).contiguous(memory_format=torch.channels_last)).float()
            if maps.shape[2] * maps.shape[3] < 2:
                raise ValueError(
                    f"the feature map of {paths[done]} has a single position, and RoIs need a map of several; give "
                    f"larger images than a short side of {short_px} px, or a network with a spatial map"
                )
            if centred:
                maps = maps - maps.mean(dim=(2, 3), keepdim=True)
            found = [
                _pooled(feature_map, boxes, masks, size_wh).cpu().numpy()
                for feature_map, (_, size_wh), boxes, masks in zip(
                    maps, batch, image_boxes[done:], repeat(None) if image_masks is None else image_masks[done:]
                )
            ]
        done += len(batch)
        yield from found
        report(len(batch))


def rois_on_map(
    feature_map: Float[Tensor, "1 d i j"], boxes: Float[ndarray, "b 4"], size_wh: tuple[int, int]
) -> Float[Tensor, "b d"]:
    """Average a feature map inside boxes, by RoIAlign on a grid of 7x7.

    Args:
        feature_map: map of a complete image.
        boxes: boxes `xyxy` in pixels of the image file, clipped to the image.
        size_wh: width and height of the image file.
    """
    scale = np.array([feature_map.shape[3] / size_wh[0], feature_map.shape[2] / size_wh[1]] * 2, dtype=np.float32)
    on_map = torch.from_numpy(geometry.clip(boxes, size_wh) * scale).to(feature_map)
    return roi_align(feature_map, [on_map], ROI_GRID, sampling_ratio=2, aligned=True).mean(dim=(2, 3))


def masks_on_map(
    feature_map: Float[Tensor, "1 d i j"], masks: Bool[ndarray, "b h w"]
) -> tuple[Float[Tensor, "b d"], Bool[Tensor, "b"]]:
    """Average a feature map inside masks: each position counts by the fraction of its pixels inside.

    Args:
        feature_map: map of a complete image.
        masks: masks of the size of the image file.

    Returns:
        The means, and whether each mask has a pixel; the mean of an empty mask is 0.
    """
    size_hw = feature_map.shape[2:]
    parts = [F.interpolate(torch.from_numpy(mask)[None, None].float(), size_hw, mode="area")[0, 0] for mask in masks]
    weights = torch.stack(parts).to(feature_map).flatten(1)
    sums = weights.sum(dim=1, keepdim=True)
    return weights @ feature_map[0].flatten(1).T / sums.clamp(min=1e-12), sums[:, 0] > 0


def _pooled(
    feature_map: Float[Tensor, "d i j"],
    boxes: Float[ndarray, "b 4"],
    masks: Sequence[str] | None,
    size_wh: tuple[int, int],
) -> Float[Tensor, "b d"]:
    """Average a map inside boxes, or inside their masks where they have one."""
    features = rois_on_map(feature_map[None], boxes, size_wh)
    rows = [] if masks is None else [row for row, mask in enumerate(masks) if mask]
    if masks is not None and rows:
        size_hw = [size_wh[1], size_wh[0]]
        bitmaps = decode_masks([{"size": size_hw, "counts": masks[row]} for row in rows], size_wh)
        inside, is_filled = masks_on_map(feature_map[None], bitmaps)
        features[rows] = torch.where(is_filled[:, None], inside, features[rows])
    return features


def with_size(image: UInt8[ndarray, "h w 3"], short_px: int) -> ResizedImage:
    """Resize the short side of an image, and return it with the width and height that it had."""
    return resize_short_side(image, short_px), (image.shape[1], image.shape[0])


def _equal_sizes(images: Iterable[ResizedImage], max_batch: int) -> Iterator[list[ResizedImage]]:
    """Collect consecutive images of one size into batches."""
    batch: list[ResizedImage] = []
    for image in images:
        if batch and (len(batch) == max_batch or image[0].shape != batch[0][0].shape):
            yield batch
            batch = []
        batch.append(image)
    if batch:
        yield batch
