"""Features of labelled boxes, of complete images and of patches by a frozen backbone, computed once and cached.

All evaluations of objects share them: a cache is found by the digest of the backbone, the images and the sizes.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float16, Float32, UInt8
from numpy import ndarray
from torch import Tensor, nn

from orl import provenance, tables
from orl.config import DiscoverConfig
from orl.embed import Encode, ImageWorkers, at_precision, embed_boxes, embed_images
from orl.embed_maps import embed_boxes_on_maps, embed_rois
from orl.evaluation.detection.precise_bn import update_batch_statistics
from orl.evaluation.evaluated_backbone import EvaluatedBackbone
from orl.evaluation.objects.object_dataset import ObjectBoxes, ObjectDataset
from orl.evaluation.output import EvaluationOutput
from orl.networks.backbones import Backbone, pool
from orl.networks.device import compute_device
from orl.networks.dilation import dilate_last_stage
from orl.networks.fuse_batch_norm import fuse_batch_norm
from orl.networks.names import Precision
from orl.progress import progress_bar
from orl.views.augment import normalise
from orl.views.crops import RESAMPLING, cut_boxes, resize
from orl.weights.architectures import ImageNetInputBackbone, PatchMaps

Cut = Literal["crop", "map"]
MAPS_PER_SHARD = 32
MAP_BATCH_SIZE = 4
"""Images of a batch for feature maps, which are larger than crops."""
RECALIBRATION_BATCH_SIZES: dict[Cut, int] = {"crop": 64, "map": 8}
MAX_RECALIBRATION_VIEWS: dict[Cut, int] = {"crop": 2048, "map": 256}
"""Most crops, or images for maps, whose batch-norm statistics are computed."""
DTYPES: dict[Precision, torch.dtype] = {
    "32-true": torch.float32,
    "bf16-mixed": torch.bfloat16,
    "16-mixed": torch.float16,
}


@runtime_checkable
class Images(Protocol):
    """Images of a split: `ObjectBoxes` or `SemanticMasks`."""

    @property
    def split(self) -> str: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def paths(self) -> tuple[Path, ...]: ...
    @property
    def fingerprint(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class FeatureMaps16:
    """Feature maps of images in half precision, memory-mapped."""

    table: tables.Table
    shape: tuple[int, int, int]
    """Channels, height and width of a map."""

    def __len__(self) -> int:
        return self.table.num_rows

    def rows(self, start: int, stop: int) -> Float16[ndarray, "n d h w"]:
        """Read the maps of some consecutive images."""
        return self.table.rows("map", start, stop).reshape(-1, *self.shape)


@dataclass(frozen=True, kw_only=True)
class ObjectFeatures:
    """A frozen backbone with the cache of its features."""

    backbone: EvaluatedBackbone
    folder: Path
    """Folder of the cached features of this backbone and data set."""
    device: torch.device
    workers: int
    overwrite: bool
    quiet: bool
    precision: Precision = "32-true"
    """Arithmetic of the network; its outputs are float32."""

    def rois(
        self, boxes: ObjectBoxes, *, cut: Cut, size_px: int, recalibrate_on: ObjectBoxes | None = None
    ) -> Float32[ndarray, "r d"]:
        """Compute the features of all boxes, in the order of the images and of their boxes.

        Args:
            boxes: images of a split with their boxes.
            cut: 'crop': each box is resized to a square, as in stage 2, and its feature map averaged. 'map': each image
                passes once, and the values of its feature map are averaged inside each box by RoIAlign.
            size_px: side of the crop, or short side of the image.
            recalibrate_on: boxes whose crops, or whose images for 'map', give new batch-norm statistics; None for those
                of the backbone.

        Raises:
            ValueError: if the network has no feature map at this size, or no batch normalisation to recalibrate.
        """
        if cut == "map":
            self.map_shape(size_px)
        inputs = {
            "rois": boxes.fingerprint,
            "cut": cut,
            "size_px": size_px,
            "recalibrated": None if recalibrate_on is None else recalibrate_on.fingerprint,
        }
        name = f"{boxes.split}_{cut}_{size_px}px" + ("" if recalibrate_on is None else "_recalibrated")
        return self._cached(name, inputs, lambda: self._embed_rois(boxes, cut, size_px, recalibrate_on))

    def stage2_rois(self, boxes: ObjectBoxes, config: DiscoverConfig) -> Float32[ndarray, "r d"]:
        """Compute the features of boxes with the network and the options of stage 2, without dilation."""
        size_px = config.roi_map_px if config.roi_features == "map" else config.roi_embed_px
        if config.roi_features == "crops" and not config.roi_centred:
            return self.rois(boxes, cut="crop", size_px=size_px)
        name = f"stage2_{config.roi_features}_{size_px}px" + ("_centred" if config.roi_centred else "")
        inputs = {"rois": boxes.fingerprint, "roi_features": name}

        def embed() -> Float32[ndarray, "r d"]:
            network = self._prepared(self.backbone.network)
            title = f"feature maps of {boxes.split}"
            with progress_bar(total=len(boxes), title=title, unit="images", quiet=self.quiet) as bar:
                parts = embed_rois(
                    network,
                    boxes.paths,
                    boxes.boxes,
                    config,
                    device=self.device,
                    workers=self.workers,
                    report=bar.update,
                )
                return np.concatenate(list(parts))

        return self._cached(f"{boxes.split}_{name}", inputs, embed)

    def images(self, images: Images, *, size_px: int) -> Float32[ndarray, "n d"]:
        """Compute pooled features of complete images, resized to a square."""
        inputs = {"images": images.fingerprint, "size_px": size_px}
        return self._cached(f"{images.split}_images_{size_px}px", inputs, lambda: self._embed_images(images, size_px))

    def maps(self, images: Images, *, size_px: int) -> FeatureMaps16:
        """Compute the feature maps of complete images, resized to a square; those of ResNets are dilated.

        Maps are large: those of 1,000 images of 448 px by a ResNet-50 are 3.2 GB.
        """
        shape = self.map_shape(size_px)
        inputs = self._inputs({"images": images.fingerprint, "size_px": size_px, "map": "dilated"})
        folder = self.folder / f"{images.split}_maps_{size_px}px"
        slices = tables.shard_slices(len(images.names), MAPS_PER_SHARD)
        missing = tables.begin(folder, inputs, len(slices), self.overwrite)
        done = len(images.names) - sum(slices[index].stop - slices[index].start for index in missing)
        title = f"feature maps of {images.split}"
        with progress_bar(total=len(images.names), done=done, title=title, unit="images", quiet=self.quiet) as bar:
            for index in missing:
                parts = []
                squares = self._squares(images.paths[slices[index]], size_px)
                for batch in _batches(squares, MAP_BATCH_SIZE):
                    parts.append(self.encode_maps(batch).half().cpu().numpy())
                    bar.update(len(batch))
                maps = np.concatenate(parts)
                tables.write_shard(folder, index, {"map": maps.reshape(len(maps), -1)})
        return FeatureMaps16(table=tables.finish_table(folder), shape=shape)

    def encode_maps(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n d i j"]:
        """Compute the feature maps of a batch of images, on the device; those of ResNets are dilated."""
        return self.encode_views(normalise(images.to(self.device)))

    def encode_views(self, views: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d i j"]:
        """Compute the feature maps of normalised images; see `encode_maps`."""
        with torch.inference_mode():
            return self._map_network(views.contiguous(memory_format=torch.channels_last)).float()

    def encode_keys(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n d i j"] | None:
        """Compute the keys of the last attention block of a vision transformer; None for other networks."""
        network = self.backbone.network
        transformer = next((part for part in network.modules() if isinstance(part, PatchMaps)), None)
        if transformer is None:
            return None
        assert isinstance(network, ImageNetInputBackbone)
        with torch.inference_mode():
            views = normalise(images.to(self.device))
            network.to(self.device)
            return transformer.keys(views * network.factor + network.shift).float()

    def map_shape(self, size_px: int) -> tuple[int, int, int]:
        """Return channels, height and width of the feature map of a square image.

        Raises:
            ValueError: if the map has one position.
        """
        shape = self.encode_maps(torch.zeros((1, 3, size_px, size_px), dtype=torch.uint8)).shape[1:]
        if shape[1] < 2 or shape[2] < 2:
            raise ValueError(
                f"the feature map of {self.backbone.network.name} at {size_px} px has {shape[1]}x{shape[2]} positions, "
                "and a map needs at least 2x2; give larger images, or a network with a spatial map"
            )
        return shape[0], shape[1], shape[2]

    @property
    def is_dilated(self) -> bool:
        """Return True if feature maps are those of a ResNet with a dilated last stage."""
        network: nn.Module = self.backbone.network
        return dilate_last_stage(network) is not None

    @property
    def is_transformer(self) -> bool:
        """Return True for a vision transformer, whose keys LOST takes."""
        return any(isinstance(part, PatchMaps) for part in self.backbone.network.modules())

    @cached_property
    def _map_network(self) -> nn.Module:
        network: nn.Module = self.backbone.network
        return self._prepared(dilate_last_stage(network) or network)

    def _prepared(self, network: nn.Module) -> nn.Module:
        network = network.eval()
        fused = fuse_batch_norm(network) if isinstance(network, Backbone) else network
        fused = fused.to(memory_format=torch.channels_last).to(self.device)
        return _FrozenNetwork(fused, self.backbone.network.num_channels, DTYPES[self.precision])

    def _embed_images(self, images: Images, size_px: int) -> Float32[ndarray, "n d"]:
        return embed_images(
            self._prepared(self.backbone.network),
            images.paths,
            size_px=size_px,
            device=self.device,
            workers=self.workers,
            title=f"embed images of {images.split}",
            quiet=self.quiet,
        )

    def _embed_rois(
        self, boxes: ObjectBoxes, cut: Cut, size_px: int, recalibrate_on: ObjectBoxes | None
    ) -> Float32[ndarray, "r d"]:
        network: nn.Module = self.backbone.network
        if recalibrate_on is not None:
            network = self._recalibrated(recalibrate_on, size_px, cut)
        title = {"crop": "embed boxes", "map": "feature maps"}[cut] + f" of {boxes.split}"
        with progress_bar(total=len(boxes), title=title, unit="images", quiet=self.quiet) as bar:
            embed: Callable[..., Iterator[ndarray]]
            if cut == "map":
                network = dilate_last_stage(network) or network
                embed = partial(embed_boxes_on_maps, self._prepared(network), short_px=size_px)
            else:
                embed = partial(embed_boxes, _pooled(self._prepared(network)), size_px=size_px)
            parts = embed(boxes.paths, boxes.boxes, device=self.device, workers=self.workers, report=bar.update)
            return np.concatenate(list(parts))

    def _recalibrated(self, boxes: ObjectBoxes, size_px: int, cut: Cut = "crop") -> nn.Module:
        """Return a copy of the network with the batch-norm statistics of what it gets.

        For crops these are the crops of the boxes that count, for maps the complete images, resized to squares.
        """
        network = copy.deepcopy(self.backbone.network).to(self.device).eval()
        norms = [part for part in network.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
        if not norms:
            raise ValueError(f"{self.backbone.network.name} has no batch normalisation; leave --recalibrate out")
        for part in norms:
            part.train()
        most = MAX_RECALIBRATION_VIEWS[cut]
        shuffled = boxes.select(np.random.default_rng(0).permutation(len(boxes)).tolist())
        views: Iterator[Tensor]
        if cut == "crop":
            before = np.cumsum([0, *(int(own.sum()) for own in shuffled.scored)])
            shuffled = shuffled.select(np.flatnonzero(before[:-1] < most).tolist())
            cuts = [
                partial(cut_boxes, boxes=own[scored], size_px=size_px)
                for own, scored in zip(shuffled.boxes, shuffled.scored)
            ]
            views = (crop for crops in ImageWorkers(self.workers).apply(shuffled.paths, cuts) for crop in crops)
            count = shuffled.num_scored
        else:
            views = self._squares(shuffled.paths[:most], size_px)
            count = min(most, len(shuffled))
        # A batch of one crop may leave one value to a channel, which has no variance.
        batches = (
            normalise(batch.to(self.device))
            for index, batch in enumerate(_batches(views, RECALIBRATION_BATCH_SIZES[cut]))
            if len(batch) > 1 or index == 0
        )
        with progress_bar(total=count, title="batch-norm statistics", unit="images", quiet=self.quiet) as bar:

            def forward(batch: Tensor) -> None:
                network(batch)
                bar.update(len(batch))

            update_batch_statistics(network, forward, batches)
        return network.eval()

    def _squares(self, paths: Sequence[Path], size_px: int) -> Iterator[UInt8[Tensor, "3 s s"]]:
        return ImageWorkers(self.workers).apply(paths, [partial(square, size_px=size_px)] * len(paths))

    def _inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {**_network_inputs(self.backbone, self.precision), "resampling": RESAMPLING, **inputs}

    def _cached(
        self, name: str, inputs: dict[str, Any], embed: Callable[[], Float32[ndarray, "n d"]]
    ) -> Float32[ndarray, "n d"]:
        folder = self.folder / name
        if tables.begin(folder, self._inputs(inputs), 1, self.overwrite):
            features = embed()
            num_bad = int((~np.isfinite(features).all(axis=1)).sum())
            if num_bad:
                raise ValueError(f"{num_bad} of {len(features)} features are not finite; did its training diverge?")
            tables.write_shard(folder, 0, {"feature": features})
        return np.array(tables.finish_table(folder).column("feature"))


def open_object_features(backbone: EvaluatedBackbone, data: ObjectDataset, output: EvaluationOutput) -> ObjectFeatures:
    """Return the features of a backbone, cached beside the result of an evaluation."""
    # Another sample of images, or another limit on boxes, is another cache.
    options = provenance.fingerprint({"max_images": data.max_images, "min_box_px": data.min_box_px, "void": data.void})
    folder = f"features_{data.data.resolve().name}_{options[:8]}_{backbone.digest[:8]}"
    if output.precision != "32-true":
        folder += f"_{output.precision}"
    return ObjectFeatures(
        backbone=backbone,
        folder=output.result.with_name(folder),
        device=torch.device(compute_device(output.device)),
        workers=output.workers,
        overwrite=output.overwrite,
        quiet=output.quiet,
        precision=output.precision,
    )


def feature_inputs(backbone: EvaluatedBackbone, output: EvaluationOutput) -> dict[str, Any]:
    """Return the inputs of a result that determine the features: the network, and its arithmetic unless float32.

    Raises:
        ValueError: if features are not computed in this arithmetic.
    """
    if output.precision not in DTYPES:
        raise ValueError(f"features are not computed in {output.precision}; give one of {', '.join(DTYPES)}")
    return _network_inputs(backbone, output.precision)


def _network_inputs(backbone: EvaluatedBackbone, precision: Precision) -> dict[str, Any]:
    return {"backbone": backbone.digest, **({} if precision == "32-true" else {"precision": precision})}


def square(image: UInt8[ndarray, "h w 3"], size_px: int) -> UInt8[Tensor, "3 s s"]:
    """Resize an image to a square; its aspect ratio is not kept."""
    return resize(image, (size_px, size_px))


class _FrozenNetwork(nn.Module):
    """A network at a precision, whose feature maps are float32, so that their mean is not rounded."""

    def __init__(self, network: nn.Module, num_channels: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.num_channels = network, num_channels
        self.encode = at_precision(network, dtype)

    def forward(self, views: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d i j"]:
        return self.encode(views).float()


def _pooled(network: nn.Module) -> Encode:
    return lambda views: pool(network(views))


def _batches(items: Iterator[Tensor], size: int) -> Iterator[Tensor]:
    batch: list[Tensor] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield torch.stack(batch)
            batch = []
    if batch:
        yield torch.stack(batch)
