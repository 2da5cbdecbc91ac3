"""Dense retrieval: masks predicted from the nearest patches of labelled images, without training ("Hummingbird").

Source:
    Balazevic et al., Towards In-context Scene Understanding (arXiv 2306.01667), and the reproduction at
    github.com/vpariza/open-hummingbird-eval.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from orl.config import EvaluationConfig, check_numbers
from orl.datasets.decode import image_size
from orl.datasets.semantic_masks import SemanticMasks
from orl.evaluation.evaluated_backbone import EvaluatedBackbone
from orl.evaluation.objects.augmented_masks import AugmentedMasks, read_augmented
from orl.evaluation.objects.image_sums import ImageSums
from orl.evaluation.objects.mask_overlaps import class_pixels, constant_miou, mask_overlaps
from orl.evaluation.objects.memory_bank import (
    BankWriter,
    MemoryBank,
    patch_frequencies,
    patches_per_image,
    predict_mask,
    predict_patches,
    sample_patches,
)
from orl.evaluation.objects.object_dataset import MaskSplits, ObjectDataset
from orl.evaluation.objects.object_features import (
    MAP_BATCH_SIZE,
    FeatureMaps16,
    ObjectFeatures,
    feature_inputs,
    open_object_features,
)
from orl.evaluation.objects.object_result import Row, object_entries, object_result, object_tables, row_of
from orl.evaluation.objects.roi_features import run_sizes
from orl.evaluation.output import EvaluationOutput, finished, write_result
from orl.evaluation.protocol import Evaluation, Result, config_deviations
from orl.processes import Processes
from orl.progress import progress_bar
from orl.views.augment import augment
from orl.views.crops import RESAMPLING

QUERY_PATCHES = 16_384
"""Patches of test images that are compared with the memory at once; the memory is read once for each such block."""


@dataclass(frozen=True, kw_only=True)
class DenseRetrievalConfig:
    """Masks from the nearest patches of labelled images."""

    size_px: int = 512
    """Side of the squares that images are resized to, pixels."""
    memory_size: int = 100_000
    """Patches in the memory; the published tables have 102,400, 1,024,000 and 10,240,000."""
    augmentation_epochs: int = 2
    """Random crops of each training image."""
    k: int = 30
    """Neighbours of each patch."""
    temperature: float = 0.02
    """Divisor of the cosines in the softmax over the neighbours."""
    few_shot: tuple[int, ...] = (8, 64, 128)
    """Denominators of the fractions of the training images that are scored too."""
    draws: int = 5
    """Random samples of each such fraction; the score is their mean."""

    def __post_init__(self) -> None:
        check_numbers(self)
        for name in ("size_px", "memory_size", "augmentation_epochs", "k", "draws"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give 1 or more")
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; give one above 0")
        if min(self.few_shot, default=2) < 2 or len(set(self.few_shot)) < len(self.few_shot):
            raise ValueError(f"few_shot is {list(self.few_shot)}; give whole numbers from 2, each once")


@dataclass(frozen=True, kw_only=True)
class DenseRetrieval:
    """Dense retrieval with one backbone: feature maps of the test images, computed once, and any number of memories."""

    features: ObjectFeatures
    splits: MaskSplits
    config: DenseRetrievalConfig
    seed: int

    @cached_property
    def test_maps(self) -> FeatureMaps16:
        """Feature maps of the test images, on disk."""
        return self.features.maps(self.splits.test, size_px=self.config.size_px)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.splits.test.classes)

    def build_bank(self, rows: Sequence[int]) -> MemoryBank:
        """Build the memory of some training images.

        Raises:
            ValueError: if the memory is too large for the machine, or no pixel of the images has a label.
        """
        config, train = self.config, self.splits.train
        channels, *map_hw = self.features.map_shape(config.size_px)
        size_hw = (map_hw[0], map_hw[1])
        limit = min(patches_per_image(config.memory_size, len(rows), config.augmentation_epochs), map_hw[0] * map_hw[1])
        keys = [(epoch, row) for epoch in range(config.augmentation_epochs) for row in rows]
        writer = BankWriter(len(keys) * limit, channels, self.num_classes)
        batches = read_augmented(
            AugmentedMasks(train, config.size_px, self.seed),
            keys,
            batch_size=MAP_BATCH_SIZE,
            workers=self.features.workers,
        )
        remaining = iter(keys)
        with progress_bar(total=len(keys), title="memory of patches", unit="images", quiet=self.features.quiet) as bar:
            for batch in batches:
                views = augment(batch.crop, batch.colours, self.features.device)
                maps = patches_of(self.features.encode_views(views))
                for patches, mask, key in zip(maps, batch.mask.numpy(), remaining):
                    frequencies = patch_frequencies(mask, size_hw, self.num_classes)
                    chosen = sample_patches(frequencies, limit, np.random.default_rng([self.seed, *key, 1]))
                    writer.add(patches[torch.from_numpy(chosen).to(patches.device)].cpu(), frequencies[chosen])
                bar.update(len(batch.mask))
        bank = writer.finish()
        if not len(bank):
            raise ValueError(
                f"no pixel of {len(rows)} training images of {train.root} has a label, so the memory is empty; give "
                "more images, or leave few-shot fractions out"
            )
        return bank

    def score_bank(self, bank: MemoryBank, title: str) -> ImageSums:
        """Predict the masks of all test images from a memory, at the size of each image file."""
        test, maps, config = self.splits.test, self.test_maps, self.config
        map_hw = maps.shape[1:]
        images_per_block = max(1, QUERY_PATCHES // (map_hw[0] * map_hw[1]))
        overlaps = []
        with progress_bar(total=len(test), title=title, unit="images", quiet=self.features.quiet) as bar:
            for start in range(0, len(test), images_per_block):
                block = torch.from_numpy(np.array(maps.rows(start, min(start + images_per_block, len(test)))))
                queries = patches_of(block.to(self.features.device)).flatten(0, 1)
                predicted = predict_patches(bank, queries, k=config.k, temperature=config.temperature)
                for row, own in enumerate(predicted.unflatten(0, (len(block), -1)), start):
                    mask = read_mask(test, row)
                    prediction = predict_mask(own, map_hw, mask.shape)
                    overlaps.append(mask_overlaps(prediction, mask, self.num_classes))
                    bar.update()
        intersections, unions = np.array(overlaps, dtype=np.float64).transpose(1, 0, 2)
        return ImageSums(images=test.names, numerators=intersections[None], denominators=unions[None])


def check(data: ObjectDataset, config: DenseRetrievalConfig) -> None:
    """Read the lists of images and masks, and check that there are masks for both splits."""
    data.masks  # noqa: B018


def run(
    backbone: EvaluatedBackbone,
    data: ObjectDataset,
    config: DenseRetrievalConfig,
    output: EvaluationOutput,
    processes: Processes,
) -> Result:
    """Score a backbone by dense retrieval with all training images and with fractions of them; write the result."""
    check(data, config)
    splits = data.masks
    inputs = {
        **feature_inputs(backbone, output),
        "images": [images.fingerprint for images in splits],
        "void": data.void,
        "resampling": RESAMPLING,
        **asdict(config),
        "seed": output.seed,
    }
    if (result := finished(output, inputs)) is not None:
        return result
    started = time.perf_counter()
    features = open_object_features(backbone, data, output)
    map_shape = features.map_shape(config.size_px)
    for images in splits:
        images.check(output.quiet)
    retrieval = DenseRetrieval(features=features, splits=splits, config=config, seed=output.seed)
    pixels = sum(class_pixels(read_mask(splits.test, row), retrieval.num_classes) for row in range(len(splits.test)))
    chance = constant_miou(np.asarray(pixels))
    bank = retrieval.build_bank(range(len(splits.train)))
    num_patches = len(bank)
    rows = [row_of("mIoU", retrieval.score_bank(bank, "masks from all images"), seed=output.seed, chance=chance)]
    del bank  # the memory of the next one may not fit beside it
    fractions = few_shot_images(config.few_shot, len(splits.train))
    rows += [_few_shot_row(retrieval, denominator, count, chance) for denominator, count in fractions.items()]
    left_out = [f"1/{each}" for each in config.few_shot if each not in fractions]
    return write_result(
        output,
        object_result(
            DENSE_RETRIEVAL.name,
            rows,
            backbone=backbone.label,
            data=str(data.data),
            protocol_deviations=[
                *backbone.protocol_deviations,
                *config_deviations(config, ignored=("few_shot",)),
                *([f"{', '.join(left_out)} of {len(splits.train)} images left out: no image"] if left_out else []),
                *([f"k is {num_patches}, all patches of the memory"] if num_patches < config.k else []),
            ],
            elapsed_s=time.perf_counter() - started,
            about={
                "train_split": splits.train.split,
                "test_split": splits.test.split,
                "num_train": len(splits.train),
                "num_test": len(splits.test),
                "classes": list(splits.test.classes),
                "size_px": config.size_px,
                "map_shape": list(map_shape),
                "dilated": features.is_dilated,
                "memory_patches": num_patches,
                "few_shot_images": {f"1/{denominator}": count for denominator, count in fractions.items()},
                "few_shot_left_out": left_out,
            },
        ),
        inputs,
    )


def few_shot_images(denominators: Sequence[int], num_images: int) -> dict[int, int]:
    """Return the number of images of each fraction, by its denominator; fractions without an image are left out."""
    return {denominator: num_images // denominator for denominator in denominators if num_images >= denominator}


def sample_few_shot(num_images: int, count: int, draws: int, seed: int) -> list[Int[ndarray, "k"]]:
    """Sample rows of the training images, in rising order, once for each draw."""
    return [
        np.sort(np.random.default_rng([seed, count, draw]).choice(num_images, size=count, replace=False))
        for draw in range(draws)
    ]


def patches_of(maps: Float[Tensor, "n d h w"]) -> Float[Tensor, "n patches d"]:
    """Return the features of the patches of each map, row by row."""
    return maps.flatten(2).transpose(1, 2)


def read_mask(images: SemanticMasks, row: int) -> ndarray:
    """Read the mask of an image, whose size is read from the header of the image file."""
    return images.mask(row, image_size(images.paths[row]))


def _few_shot_row(retrieval: DenseRetrieval, denominator: int, count: int, chance: float) -> Row:
    draws = sample_few_shot(len(retrieval.splits.train), count, retrieval.config.draws, retrieval.seed)
    found = [
        retrieval.score_bank(retrieval.build_bank(rows.tolist()), f"masks from 1/{denominator}, draw {draw}")
        for draw, rows in enumerate(draws, start=1)
    ]
    sums = ImageSums(
        images=retrieval.splits.test.names,
        numerators=np.concatenate([each.numerators for each in found]),
        denominators=np.concatenate([each.denominators for each in found]),
    )
    return row_of(f"mIoU, 1/{denominator} of the images", sums, seed=retrieval.seed, chance=chance)


def _run_config(config: EvaluationConfig) -> DenseRetrievalConfig | None:
    _, size_px = run_sizes(config)
    # Few-shot variants take as long as their draws: they are for 'orl evaluate'.
    return (
        DenseRetrievalConfig(size_px=size_px, memory_size=config.memory_size, few_shot=()) if config.objects else None
    )


DENSE_RETRIEVAL = Evaluation(
    name="dense-retrieval",
    label="Dense retrieval",
    help="Masks by the nearest patches of labelled images, without training; mIoU on test, also with few images.",
    data=ObjectDataset,
    config=DenseRetrievalConfig,
    check=check,
    run=run,
    tables=object_tables,
    one_process=True,
    suite_entries=partial(object_entries, "dense-retrieval", check),
    run_config=_run_config,
)
