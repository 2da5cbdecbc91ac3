"""Config of a detector, and the training schedule that follows from it for COCO and VOC."""

from dataclasses import dataclass
from typing import Literal

from orl.config import check_numbers

DETECTOR_BATCH_SIZE = 16
"""Images per step for which the protocol gives numbers of steps and the learning rate."""
DECAY_FACTOR = 0.1
"""Factor of the learning rate at a milestone."""
WARMUP_FACTOR = 0.001
"""Fraction of the learning rate at the start of the warm-up."""
SGD_MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4
"""Weight decay of all weights except those of batch normalisation, as in Detectron2."""
MAX_DETECTIONS = 100
"""Detections per image."""


@dataclass(frozen=True, kw_only=True)
class DetectionConfig:
    """A detector, its training and its test; values that are not given are the protocol's for COCO or VOC."""

    schedule: Literal["1x", "2x"] = "1x"
    """1x: 90,000 steps on COCO, 24,000 on VOC, at a batch size of 16; 2x: twice as many, milestones too."""
    batch_size: int = 16
    """Images per step, over all processes; another batch size than 16 scales learning rate and steps."""
    iterations: int | None = None
    """Training steps in place of the schedule's; milestones and warm-up shrink with them."""
    base_lr: float = 0.02
    """Learning rate at a batch size of 16."""
    warmup_iterations: int | None = None
    """Steps of warm-up of the learning rate; 1,000 on COCO and 100 on VOC, at a batch size of 16, if not given."""
    short_sides_px: tuple[int, ...] | None = None
    """Short sides of training images to sample from, pixels; if not given, 640 to 800 on COCO and 480 to 800 on VOC."""
    longest_px: int = 1333
    """Longest side of any image, pixels."""
    test_short_side_px: int = 800
    """Short side of a test image, pixels."""
    masks: bool = True
    """Predict masks (COCO only): Mask R-CNN; otherwise Faster R-CNN."""
    precise_bn_iterations: int = 200
    """Batches of training images from which batch statistics are recomputed before the test; 0 for none."""
    num_channels: int = 256
    """Channels of the feature pyramid and of the heads' convolutions."""
    num_box_features: int = 1024
    """Outputs of the box head's fully connected layer."""
    num_rois: int = 512
    """RoIs per training image that the heads are trained on."""
    anchor_sizes_px: tuple[int, int, int, int, int] = (32, 64, 128, 256, 512)
    """Side of the anchors on each level of the pyramid, pixels."""

    def __post_init__(self) -> None:
        check_detection_config(self)


@dataclass(frozen=True, kw_only=True)
class DetectionSchedule:
    """The training schedule of a data set, at a batch size of 16 and 1x."""

    num_steps: int
    milestones: tuple[int, ...]
    num_warmup_steps: int
    short_sides_px: tuple[int, ...]


COCO_SCHEDULE = DetectionSchedule(
    num_steps=90_000,
    milestones=(60_000, 80_000),
    num_warmup_steps=1000,
    short_sides_px=(640, 672, 704, 736, 768, 800),
)
"""The paper's supplementary A; Detectron2's 1x schedule."""
VOC_SCHEDULE = DetectionSchedule(
    num_steps=24_000,
    milestones=(18_000, 22_000),
    num_warmup_steps=100,
    short_sides_px=(480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800),
)
"""MoCo's Detectron2 configuration for VOC 07+12."""


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """The training that follows from a config and a schedule."""

    num_steps: int
    milestones: tuple[int, ...]
    """Steps after which the learning rate falls."""
    num_warmup_steps: int
    lr: float
    """The highest learning rate."""
    short_sides_px: tuple[int, ...]


def plan_training(config: DetectionConfig, schedule: DetectionSchedule) -> TrainingPlan:
    """Scale a schedule to the length, the batch size and the number of steps of a config.

    The learning rate is proportional to the batch size; steps, milestones and warm-up are inversely proportional.

    Source:
        The linear scaling of Detectron2, `DefaultTrainer.auto_scale_workers`.
    """
    scale, length = config.batch_size / DETECTOR_BATCH_SIZE, {"1x": 1, "2x": 2}[config.schedule]
    num_scheduled = round(schedule.num_steps * length / scale)
    num_steps = num_scheduled if config.iterations is None else config.iterations
    shortened = num_steps / num_scheduled
    warmup = config.warmup_iterations
    return TrainingPlan(
        num_steps=num_steps,
        milestones=tuple(round(step * length / scale * shortened) for step in schedule.milestones),
        num_warmup_steps=round(schedule.num_warmup_steps / scale * min(1, shortened)) if warmup is None else warmup,
        lr=config.base_lr * scale,
        short_sides_px=config.short_sides_px or schedule.short_sides_px,
    )


def check_detection_config(config: DetectionConfig) -> None:
    """Check the numbers of a config.

    Raises:
        ValueError: if a number is out of its range.
    """
    check_numbers(config)
    smallest = {
        "batch_size": 1,
        "num_channels": 1,
        "num_box_features": 1,
        "num_rois": 4,
        "longest_px": 32,
        "test_short_side_px": 32,
        "precise_bn_iterations": 0,
        "iterations": 1,
        "warmup_iterations": 0,
    }
    for name, least in smallest.items():
        value = getattr(config, name)
        if value is not None and value < least:
            raise ValueError(f"{name.replace('_', '-')} is {value}; it must be {least} or more")
    if config.base_lr <= 0:
        raise ValueError(f"base-lr is {config.base_lr}; it must be above 0")
    for name in ("short_sides_px", "anchor_sizes_px"):
        values = getattr(config, name)
        if values is not None and (not values or min(values) < 1):
            raise ValueError(f"{name.replace('_', '-')} is {values}; give one or more sizes above 0")
