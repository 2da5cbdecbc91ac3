"""Segmentation by a linear layer on the frozen feature map: a 1x1 convolution trained by SGD."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped, UInt8
from numpy import ndarray
from torch import Tensor

from orl.config import check_numbers
from orl.datasets.semantic_masks import VOID, SemanticMasks
from orl.evaluation.evaluated_backbone import EvaluatedBackbone
from orl.evaluation.objects.image_sums import ImageSums
from orl.evaluation.objects.mask_overlaps import class_pixels, constant_miou, mask_overlaps
from orl.evaluation.objects.object_dataset import ObjectDataset
from orl.evaluation.objects.object_features import FeatureMaps16, ObjectFeatures, feature_inputs, open_object_features
from orl.evaluation.objects.object_result import object_entries, object_result, object_tables, row_of
from orl.evaluation.output import EvaluationOutput, finished, write_result
from orl.evaluation.protocol import Evaluation, Result, config_deviations
from orl.processes import Processes
from orl.progress import progress_bar

CHUNK_SIZE = 16
"""Images whose feature maps are in memory at once; their gradients are summed to those of a batch."""


@dataclass(frozen=True, kw_only=True)
class LinearSegmentationConfig:
    """Images and training of the linear layer."""

    size_px: int = 448
    """Side of the square that an image is resized to, pixels."""
    mask_px: int = 100
    """Side of the square that masks and predictions are resized to, pixels."""
    epochs: int = 25
    """Passes over the training images."""
    decay_epoch: int = 20
    """Epoch after which the learning rate is divided by 10."""
    batch_size: int = 128
    """Images of a step, at most all."""
    lr: float = 0.01
    """Learning rate."""
    sgd_momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 1e-4
    """Weight decay."""

    def __post_init__(self) -> None:
        check_numbers(self)
        if min(self.size_px, self.mask_px, self.epochs, self.batch_size) < 1:
            raise ValueError(
                "size_px, mask_px, epochs and batch_size must be at least 1, got "
                f"{self.size_px}, {self.mask_px}, {self.epochs} and {self.batch_size}"
            )


def check(data: ObjectDataset, config: LinearSegmentationConfig) -> None:
    """Read the lists of images and masks."""
    _ = data.masks


def run(
    backbone: EvaluatedBackbone,
    data: ObjectDataset,
    config: LinearSegmentationConfig,
    output: EvaluationOutput,
    _: Processes,
) -> Result:
    """Train the layer on the maps of the training images, score it, and write the result."""
    masks = data.masks
    inputs = mask_inputs(backbone, data, config, output)
    if (result := finished(output, inputs)) is not None:
        return result
    started = time.perf_counter()
    for each in masks:
        each.check(output.quiet)
    features = open_object_features(backbone, data, output)
    num_classes = len(masks.train.classes)
    labels = [resized_masks(each, config.mask_px) for each in masks]
    maps = [features.maps(each, size_px=config.size_px) for each in masks]
    weight, bias = train_layer(maps[0], labels[0], num_classes, config, seed=output.seed, quiet=output.quiet)
    predictions = _predictions(maps[1], weight, bias, config.mask_px)
    sums = miou_sums(masks.test.names, [predictions], labels[1], num_classes)
    row = row_of("mIoU", sums, seed=output.seed, chance=constant_miou(class_pixels(labels[1], num_classes)))
    result = object_result(
        "linear-segmentation",
        [row],
        backbone=backbone.label,
        data=str(data.data),
        protocol_deviations=[
            *backbone.protocol_deviations,
            "no augmentation of the training images",
            *map_deviations(features),
            *config_deviations(config),
        ],
        elapsed_s=time.perf_counter() - started,
        about={**about_masks(data), **asdict(config)},
    )
    return write_result(output, result, inputs)


def train_layer(
    maps: FeatureMaps16,
    labels: UInt8[ndarray, "n m m"],
    num_classes: int,
    config: LinearSegmentationConfig,
    *,
    seed: int = 0,
    quiet: bool = True,
) -> tuple[Float[Tensor, "c d"], Float[Tensor, "c"]]:
    """Train a 1x1 convolution by the mean cross-entropy over the known pixels of each batch.

    The published layer sees maps that were resized to the masks. A 1x1 convolution and bilinear resizing commute, so
    the layer sees the small map, and its outputs are resized.

    Args:
        maps: feature maps of the training images.
        labels: class of each pixel, or `VOID`.
        num_classes: number of classes.
        config: the training.
        seed: seed of the initial weights and of the order of the images.
        quiet: show no progress bar.

    Returns:
        Weight and bias.
    """
    generator = torch.Generator().manual_seed(seed)
    bound = maps.shape[0] ** -0.5
    weight = (torch.rand(num_classes, maps.shape[0], generator=generator) * 2 - 1).mul_(bound).requires_grad_()
    bias = (torch.rand(num_classes, generator=generator) * 2 - 1).mul_(bound).requires_grad_()
    optimiser = torch.optim.SGD(
        [weight, bias], lr=config.lr, momentum=config.sgd_momentum, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, [config.decay_epoch])
    num_images = len(labels)
    with progress_bar(total=config.epochs * num_images, title="linear layer", unit="images", quiet=quiet) as bar:
        for _ in range(config.epochs):
            order = torch.randperm(num_images, generator=generator).numpy()
            for start in range(0, num_images, config.batch_size):
                rows = np.sort(order[start : start + config.batch_size])
                optimiser.zero_grad()
                num_known = max(int((labels[rows] != VOID).sum()), 1)
                for chunk in np.split(rows, range(CHUNK_SIZE, len(rows), CHUNK_SIZE)):
                    images = np.concatenate([maps.rows(row, row + 1) for row in chunk.tolist()])
                    logits = layer_logits(torch.from_numpy(images).float(), weight, bias, config.mask_px)
                    target = torch.from_numpy(labels[chunk]).long()
                    loss = F.cross_entropy(logits, target, ignore_index=VOID, reduction="sum") / num_known
                    loss.backward()
                optimiser.step()
                bar.update(len(rows))
            schedule.step()
    if not (weight.isfinite().all() and bias.isfinite().all()):
        raise RuntimeError(f"the linear layer diverged at a learning rate of {config.lr:g}; give a smaller --lr")
    return weight.detach(), bias.detach()


def layer_logits(
    maps: Float[Tensor, "n d h w"], weight: Float[Tensor, "c d"], bias: Float[Tensor, "c"], mask_px: int
) -> Float[Tensor, "n c m m"]:
    """Apply a 1x1 convolution, and resize its outputs by bilinear interpolation."""
    logits = F.conv2d(maps, weight[:, :, None, None], bias)
    return F.interpolate(logits, (mask_px, mask_px), mode="bilinear", align_corners=False)


def miou_sums(
    names: tuple[str, ...],
    draws: Iterable[Iterable[UInt8[ndarray, "m m"]]],
    labels: UInt8[ndarray, "n m m"],
    num_classes: int,
) -> ImageSums:
    """Sum intersections and unions by draw, image and class.

    Args:
        names: name of each image.
        draws: predictions of all images, for each draw.
        labels: class of each pixel, or `VOID`.
        num_classes: number of classes.
    """
    overlaps = np.array(
        [[mask_overlaps(each, mask, num_classes) for each, mask in zip(draw, labels, strict=True)] for draw in draws],
        dtype=np.float64,
    )
    return ImageSums(images=names, numerators=overlaps[:, :, 0], denominators=overlaps[:, :, 1])


def _predictions(
    maps: FeatureMaps16, weight: Float[Tensor, "c d"], bias: Float[Tensor, "c"], mask_px: int
) -> Iterator[UInt8[ndarray, "m m"]]:
    for start in range(0, len(maps), CHUNK_SIZE):
        images = torch.from_numpy(np.array(maps.rows(start, min(start + CHUNK_SIZE, len(maps))))).float()
        yield from layer_logits(images, weight, bias, mask_px).argmax(dim=1).byte().numpy()


def resized_masks(masks: SemanticMasks, mask_px: int) -> UInt8[ndarray, "n m m"]:
    """Read all masks, which have been checked, and resize them to squares by the nearest pixel."""
    return np.stack([nearest_resize(masks.readers[row](), mask_px) for row in range(len(masks))])


def nearest_resize(mask: Shaped[ndarray, "h w"], side_px: int) -> Shaped[ndarray, "s s"]:
    """Resize a mask to a square: each pixel takes the value at its centre."""
    rows, columns = (((np.arange(side_px) + 0.5) / side_px * side).astype(np.int64) for side in mask.shape)
    return mask[rows[:, None], columns[None]]


def mask_inputs(backbone: EvaluatedBackbone, data: ObjectDataset, config: object, output: EvaluationOutput) -> Result:
    """Return all inputs that determine a result on masks and its interval."""
    return {
        **feature_inputs(backbone, output),
        "masks": [each.fingerprint for each in data.masks],
        "void": data.void,
        **asdict(config),  # type: ignore[call-overload]
        "seed": output.seed,
    }


def about_masks(data: ObjectDataset) -> Result:
    """Describe the masks of a result."""
    masks = data.masks
    return {
        "train_split": masks.train.split,
        "test_split": masks.test.split,
        "num_train": len(masks.train),
        "num_test": len(masks.test),
        "classes": list(masks.train.classes),
    }


def map_deviations(features: ObjectFeatures) -> list[str]:
    """Return the deviation of a feature map from the published dilated ResNet."""
    return [] if features.is_dilated else ["feature map without dilation"]


LINEAR_SEGMENTATION = Evaluation(
    name="linear-segmentation",
    label="Linear segmentation",
    help="Segmentation by a linear layer on the frozen feature map; mIoU.",
    data=ObjectDataset,
    config=LinearSegmentationConfig,
    check=check,
    run=run,
    tables=object_tables,
    one_process=True,
    suite_entries=partial(object_entries, "linear-segmentation", check),
)
