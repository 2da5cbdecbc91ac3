"""Object discovery without labels: LOST's box of each image against the labelled boxes, CorLoc."""

import logging
import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from numpy import ndarray
from torch import Tensor

from orl import boxes as geometry
from orl.config import check_numbers
from orl.discovery.lost import NUM_EXPANSION_PATCHES, find_object, layer_normalised
from orl.embed import ImageWorkers
from orl.evaluation.evaluated_backbone import EvaluatedBackbone
from orl.evaluation.objects.image_sums import ImageSums
from orl.evaluation.objects.object_dataset import ObjectBoxes, ObjectDataset
from orl.evaluation.objects.object_features import ObjectFeatures, feature_inputs, open_object_features
from orl.evaluation.objects.object_result import object_entries, object_result, object_tables, row_of
from orl.evaluation.output import EvaluationOutput, finished, write_result
from orl.evaluation.protocol import Evaluation, Result, config_deviations
from orl.processes import Processes
from orl.progress import progress_bar
from orl.views.crops import resize_short_side

logger = logging.getLogger(__name__)

MIN_IOU = 0.5
"""IoU from which a box counts as an object."""
PADDING_PX = 16
"""Multiple of the side that images are padded to."""


@dataclass(frozen=True, kw_only=True)
class CorlocConfig:
    """Images and LOST's only parameter."""

    split: Literal["train", "test"] = "train"
    """Split of the images; the published numbers are of VOC07's trainval."""
    short_px: int = 0
    """Short side that images are resized to, pixels; 0 for the size of the file, as published."""
    num_expansion: int = NUM_EXPANSION_PATCHES
    """Patches of lowest degree that may join the seed."""

    def __post_init__(self) -> None:
        check_numbers(self)


def check(data: ObjectDataset, config: CorlocConfig) -> None:
    """Read the labels of both splits."""
    _images(data, config)


def run(
    backbone: EvaluatedBackbone, data: ObjectDataset, config: CorlocConfig, output: EvaluationOutput, _: Processes
) -> Result:
    """Find a box in every image, score it, and write the result."""
    images = _images(data, config)
    inputs = {
        **feature_inputs(backbone, output),
        "boxes": images.fingerprint,
        **asdict(config),
        "seed": output.seed,
    }
    if (result := finished(output, inputs)) is not None:
        return result
    started = time.perf_counter()
    features = open_object_features(backbone, data, output)
    found, complete, num_patches = find_boxes(features, images, config)
    few = [
        f"{sum(count <= config.num_expansion for count in num_patches)} of {len(images)} maps have no more than the "
        f"{config.num_expansion} patches that may join the seed: give larger images by --short-px"
    ]
    few = few if min(num_patches) <= config.num_expansion else []
    for text in few:
        logger.warning("corloc says little on small images: %s", text)
    hits = corloc_sums(images, found)
    row = row_of("CorLoc", hits, seed=output.seed, chance=corloc_sums(images, complete).value)
    result = object_result(
        "corloc",
        [row],
        backbone=backbone.label,
        data=str(data.data),
        protocol_deviations=[
            *backbone.protocol_deviations,
            *([] if features.is_dilated or features.is_transformer else ["feature map without dilation"]),
            *config_deviations(config, ignored=("split",)),
            *few,
        ],
        elapsed_s=time.perf_counter() - started,
        about={
            "test_split": images.split,
            "num_test": len(images),
            "chance": "the box of the complete image",
            **asdict(config),
        },
    )
    return write_result(output, result, inputs)


def find_boxes(
    features: ObjectFeatures, images: ObjectBoxes, config: CorlocConfig
) -> tuple[list[Float32[ndarray, "4"]], list[Float32[ndarray, "4"]], list[int]]:
    """Find one box in each image by LOST.

    Returns:
        The box of each image and that of the complete image, in pixels of the file, and the number of its patches.
    """
    found: list[Float32[ndarray, "4"]] = []
    complete: list[Float32[ndarray, "4"]] = []
    num_patches: list[int] = []
    cut = partial(padded, short_px=config.short_px)
    read = ImageWorkers(features.workers).apply(images.paths, [cut] * len(images))
    with progress_bar(total=len(images), title="find objects", unit="images", quiet=features.quiet) as bar:
        for image, used_hw, size_wh in read:
            keys = features.encode_keys(image[None])
            (feature_map,) = features.encode_maps(image[None]) if keys is None else keys
            height, width = feature_map.shape[1:]
            if height < 2 or width < 2:
                raise ValueError(
                    f"the feature map of an image of {size_wh[0]}x{size_wh[1]} px has {height}x{width} positions, and "
                    "LOST needs at least 2x2; give larger images or --short-px"
                )
            # The published code normalises maps of convolutional networks, and keys not.
            patches = layer_normalised(feature_map) if keys is None else feature_map.flatten(1).T
            box = find_object(patches, (height, width), config.num_expansion).numpy()
            # From patches to the padded image, to the pixels of the file.
            scale = np.array([image.shape[2] / width, image.shape[1] / height] * 2)
            to_file = np.array([size_wh[0] / used_hw[1], size_wh[1] / used_hw[0]] * 2)
            found.append(geometry.clip((box * scale * to_file).astype(np.float32), size_wh))
            complete.append(np.array([0, 0, *size_wh], dtype=np.float32))
            num_patches.append(height * width)
            bar.update()
    return found, complete, num_patches


def corloc_sums(images: ObjectBoxes, found: list[Float32[ndarray, "4"]]) -> ImageSums:
    """Count the images whose box meets a labelled box, difficult ones too, with an IoU of 0.5 or more."""
    hits = [bool((geometry.iou(box[None], own) >= MIN_IOU).any()) for box, own in zip(found, images.boxes, strict=True)]
    numerators = np.array(hits, dtype=np.float64)[None, :, None]
    return ImageSums(images=images.names, numerators=numerators, denominators=np.ones_like(numerators))


def padded(
    image: UInt8[ndarray, "h w 3"], short_px: int
) -> tuple[UInt8[Tensor, "3 i j"], tuple[int, int], tuple[int, int]]:
    """Resize an image if a short side is given, and pad it with the mean colour to a multiple of 16.

    Returns:
        The padded image, its height and width before padding, and the width and height of the file.
    """
    size_wh = (image.shape[1], image.shape[0])
    pixels = resize_short_side(image, short_px)[0] if short_px else torch.from_numpy(image.copy()).permute(2, 0, 1)
    height, width = pixels.shape[1:]
    full_hw = [-(-side // PADDING_PX) * PADDING_PX for side in (height, width)]
    result = PADDING_COLOUR.repeat(1, *full_hw)
    result[:, :height, :width] = pixels
    return result, (height, width), size_wh


PADDING_COLOUR = torch.tensor([124, 116, 104], dtype=torch.uint8)[:, None, None]
"""ImageNet's mean colour, which is zero once images are normalised, as the published padding is."""


def _images(data: ObjectDataset, config: CorlocConfig) -> ObjectBoxes:
    return data.boxes.train if config.split == "train" else data.boxes.test


CORLOC = Evaluation(
    name="corloc",
    label="CorLoc",
    help="Object discovery without labels (LOST): images whose box meets a labelled box.",
    data=ObjectDataset,
    config=CorlocConfig,
    check=check,
    run=run,
    tables=object_tables,
    one_process=True,
    suite_entries=partial(object_entries, "corloc", check),
)
