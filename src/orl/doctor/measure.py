"""Measurements on a few images: real training steps and box searches, each in a separate process.

Each process has its own peak memory. When one is killed for lack of memory, the other measurements continue.
"""

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import nn

from orl import tables
from orl.config import DenseCLConfig, MoCoV2Config, RunConfig
from orl.datasets.image_table import ImageTable
from orl.datasets.loader_workers import end_with_parent
from orl.datasets.sources import find_images
from orl.datasets.validation import scan_images
from orl.doctor.estimates import LinearCost, line_through
from orl.embed import BATCH_SIZE, CPU_BATCH_SIZE, embed_boxes
from orl.memory import keep_freed_memory, peak_resident_bytes
from orl.networks.backbones import build_backbone, pool
from orl.networks.fuse_batch_norm import fuse_batch_norm
from orl.networks.online_target import Encoder
from orl.pipeline.feature_extractor import FeatureExtractor
from orl.pipeline.proposal_tables import proposer
from orl.pipeline.shards import proposal_filter
from orl.pipeline.training_setup import (
    Method,
    build_image_method,
    build_optimiser,
    build_orl,
    stage_config,
    view_distribution,
)
from orl.processes import Processes, local_device
from orl.synthetic.scenes import draw_scenes
from orl.training.fabric import is_out_of_memory, launch_fabric
from orl.training.training_step import SSLStep
from orl.views.view_dataset import ViewDataset, collate_views
from orl.views.view_samplers import GlobalViewSampler, ObjectTable, ObjectViewSampler

STEP_PIXELS = {"cpu": 300_000, "cuda": 9_600_000}
"""Pixels of all views of the larger measured batch: seconds on two cores, and enough to fill a GPU."""
NUM_STEPS = 3
SLOW_S = 2.0
"""Time of the first step above which only one more step is measured."""
NUM_SAMPLES = 8
SCENE_WH = (640, 480)
"""Size of synthetic scenes: that of most COCO images."""

Made = TypeVar("Made")


@dataclass(frozen=True, kw_only=True)
class TrainingCost:
    """Cost of one training stage."""

    parameters: int
    """Weights of the online network and the predictors."""
    state_bytes: int
    """Size of a checkpoint."""
    batches: tuple[int, int]
    """Batch sizes that were measured."""
    memory: LinearCost
    """Bytes by images of a forward pass: of the process on a CPU, of the device on a GPU."""
    step: LinearCost
    """Seconds of a step by images of a batch."""
    sample_s: float
    """Time to read an image and crop its views, on one core."""
    sample_bytes: int
    """Bytes of the views of an image, as workers send them."""


@dataclass(frozen=True, kw_only=True)
class DiscoveryCost:
    """Cost of stage 2 per image."""

    proposals_s: float
    """Time to search boxes, with as many threads as workers."""
    rois: float
    """RoIs after the filter."""
    crop_s: float
    """Time to crop and embed one box."""
    embedding_bytes: int
    """Bytes of the embedding of one RoI on disk."""


class FoundRois(NamedTuple):
    """RoIs of the measured images, in the order of the images."""

    boxes: Float[ndarray, "r 4"]
    image_ids: Int[ndarray, "r"]


def sample_images(source: Path | None, split: str | None, num_images: int, folder: Path) -> tuple[ImageTable, int]:
    """Take a few images at equal distances in a source, or create synthetic scenes.

    Args:
        source: a source of images, as 'orl run --images' takes it; None for synthetic scenes.
        split: split of a VOC devkit.
        num_images: number of images to take.
        folder: folder for synthetic scenes.

    Returns:
        The usable ones of these images, and the number of images of the source; 0 for synthetic scenes.

    Raises:
        FileNotFoundError: if the source is missing.
        ValueError: if none of the images can be used.
    """
    if source is None:
        draw_scenes(folder, num_trainval=num_images, num_test=0, size_wh=SCENE_WH, quiet=True)
        root, names = find_images(folder)
    else:
        root, names = find_images(source, split)
    chosen = [names[row] for row in np.unique(np.linspace(0, len(names) - 1, num_images).round().astype(int))]
    images, rejected = scan_images(root, chosen, min_side_px=32, max_pixels=10**8, workers=1, quiet=True)
    if not len(images):
        raise ValueError(
            f"none of {len(chosen)} images of {root} can be used: {rejected[0].name}: {rejected[0].reason}"
        )
    return images, 0 if source is None else len(names)


def in_own_process(measure: Callable[..., Made], *arguments: Any) -> Made:
    """Call a function of this module in a separate process.

    Raises:
        MemoryError: if the process was killed or out of memory.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=end_with_parent) as pool:
        try:
            return pool.submit(measure, *arguments).result()
        except BrokenProcessPool as error:
            raise MemoryError("the process was killed") from error
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise MemoryError(str(error).splitlines()[0]) from error
            raise


def measure_training(config: RunConfig, stage: str, images: ImageTable, found: FoundRois | None) -> TrainingCost:
    """Measure steps of a stage at two batch sizes, and the reading of samples.

    Args:
        config: the planned run.
        stage: 'stage1' or 'stage3'.
        images: images to read.
        found: their RoIs, for stage 3.
    """
    keep_freed_memory()
    samples = ViewDataset(_view_sampler(config, stage, images, found))
    sample_bytes = sum(view.crop.nbytes for view in samples[(0, 0)].views.values())
    train_config = stage_config(config, stage)
    batches = measured_batches(sample_bytes // 3, local_device(config.device).type, train_config.batch_size)
    method = _method(config, stage, batches[1])
    fabric = launch_fabric(local_device(config.device), config.precision, Processes())
    weights = [weight for weight in method.parameters() if weight.requires_grad]
    ssl_step = SSLStep(fabric, method, build_optimiser(method, train_config))
    peaks, seconds = zip(*(_steps(ssl_step, samples, size) for size in batches))
    few, many = batches
    return TrainingCost(
        parameters=sum(weight.numel() for weight in weights),
        state_bytes=_num_bytes(ssl_step.state()),
        batches=batches,
        memory=line_through((few, peaks[0]), (many, peaks[1])),
        step=line_through((few, seconds[0]), (many, seconds[1])),
        sample_s=_sample_seconds(samples),
        sample_bytes=sample_bytes,
    )


def measure_discovery(config: RunConfig, images: ImageTable) -> tuple[DiscoveryCost, FoundRois]:
    """Measure the search of boxes, their filter, and the embedding of some of them."""
    device = local_device(config.device)
    backbone = build_backbone(config.network.backbone)
    folded = fuse_batch_norm(backbone).to(memory_format=torch.channels_last).to(device)
    with tempfile.TemporaryDirectory() as folder:
        proposals_s, found = _find_rois(config, images, Path(folder), folded)
    first = found.boxes[found.image_ids == 0]
    crops = np.resize(first, (CPU_BATCH_SIZE if device.type == "cpu" else BATCH_SIZE, 4))

    def embed() -> None:
        parts = embed_boxes(
            lambda views: pool(folded(views)),
            [images.path(0)],
            [crops],
            size_px=config.discover.roi_embed_px,
            device=device,
            workers=0,
            report=lambda _: None,
        )
        assert sum(map(len, parts)) == len(crops)

    embed()
    cost = DiscoveryCost(
        proposals_s=proposals_s,
        rois=len(found.boxes) / len(images),
        crop_s=_median_seconds(embed, 2) / len(crops),
        embedding_bytes=2 * backbone.num_channels,
    )
    return cost, found


def measured_batches(pixels_per_image: int, device_type: str, most: int) -> tuple[int, int]:
    """Choose two batch sizes that are far enough apart for a line.

    The larger one has as many images as `STEP_PIXELS` allows, at least 6 and at most the batch of the config.
    """
    third = max(2, min(most, STEP_PIXELS[device_type] // pixels_per_image) // 3)
    return third, 3 * third


def _view_sampler(
    config: RunConfig, stage: str, images: ImageTable, found: FoundRois | None
) -> GlobalViewSampler | ObjectViewSampler:
    rules = view_distribution(stage_config(config, stage).views)
    if stage == "stage1" or found is None:
        return GlobalViewSampler(images, rules, config.seed)
    return ObjectViewSampler(
        images, rules, measured_object_table(found, len(images)), config.objects.roi_size_px, config.seed
    )


def _method(config: RunConfig, stage: str, batch_size: int) -> Method:
    """Build the method of a stage; the length of a queue is made a multiple of the measured batch."""
    if stage == "stage3":
        return build_orl(replace(config, objects=replace(config.objects, warm_start=False)))
    method = config.method
    if isinstance(method, MoCoV2Config | DenseCLConfig):
        queue_size = batch_size * max(1, method.queue_size // batch_size)
        method = replace(method, queue_size=queue_size, num_groups=1)
    return build_image_method(replace(config, method=method))


def measured_object_table(found: FoundRois, num_table_images: int) -> ObjectTable:
    """Pair the first RoI of each image with that of the next image: the pairing does not affect the measurement."""
    starts = tables.row_starts(found.image_ids, num_table_images)
    firsts = starts[:-1]
    return ObjectTable(
        rois=found.boxes,
        roi_starts=starts,
        roi_image_ids=found.image_ids,
        correspondences=np.stack([firsts, np.roll(firsts, -1)], axis=1),
        neighbour_slices=[np.array([[image_id, image_id + 1]]) for image_id in range(num_table_images)],
    )


def _find_rois(config: RunConfig, images: ImageTable, folder: Path, backbone: nn.Module) -> tuple[float, FoundRois]:
    """Return the seconds per image of the search, and the RoIs after stage 2's filter."""
    discover_config = config.discover
    if discover_config.proposals == "file":
        # Boxes from a file need no search; the rest of the measurement works with any boxes.
        config = replace(config, discover=replace(discover_config, proposals="grid", proposals_file=None))
    extractor = FeatureExtractor(encoder=Encoder(backbone, nn.Identity()), backbone_digest="", projector_digest="")
    make = proposer(images, config, folder, extractor)
    rows, shard = slice(0, len(images)), {"shard_size": len(images)}
    started = time.perf_counter()
    columns = make(rows, lambda _: None)
    seconds = (time.perf_counter() - started) / len(images)
    tables.begin(folder / "proposals", shard, 1)
    tables.write_shard(folder / "proposals", 0, columns)
    keep = proposal_filter(
        images,
        tables.load(folder / "proposals"),
        min_side=discover_config.min_side,
        max_aspect_ratio=discover_config.max_aspect_ratio,
        max_iou=discover_config.max_iou,
        max_rois=discover_config.max_rois,
    )
    kept = keep(rows, lambda _: None)
    return seconds, FoundRois(np.array(kept["box"]), np.array(kept["image_id"]))


def _steps(ssl_step: SSLStep, samples: ViewDataset, batch_size: int) -> tuple[int, float]:
    """Return the peak bytes and the median seconds of a few steps, after one untimed step."""
    views = collate_views([samples[(0, row % len(samples))] for row in range(batch_size)]).views
    _reset_peak(ssl_step.fabric.device)
    steps, schedule = iter(range(1, NUM_STEPS + 2)), {"lr": 1e-3, "ema_momentum": 0.99}

    def step() -> None:
        ssl_step.update(next(steps), views, schedule)  # it reads its metrics at the end, so the device has finished

    first_s = _median_seconds(step, 1)
    seconds = _median_seconds(step, 1 if first_s > SLOW_S else NUM_STEPS)
    return _peak_bytes(ssl_step.fabric.device), seconds


def _sample_seconds(samples: ViewDataset) -> float:
    torch.set_num_threads(1)
    keys = iter(range(NUM_SAMPLES + 1))

    def read() -> None:
        samples[(1, next(keys) % len(samples))]

    read()
    return _median_seconds(read, NUM_SAMPLES)


def _median_seconds(work: Callable[[], object], times: int) -> float:
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # without a reset the peak includes compilation
        Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes(device: torch.device) -> int:
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else peak_resident_bytes()


def _num_bytes(state: Any) -> int:
    if isinstance(state, torch.Tensor):
        return state.nbytes
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return sum(_num_bytes(part) for part in parts)
