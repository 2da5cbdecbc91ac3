"""How a detector is trained and tested: the protocol's numbers, and what becomes of them at another batch or length."""

from dataclasses import dataclass
from typing import Literal

PROTOCOL_BATCH_SIZE = 16
"""Images a step that the protocol's numbers of steps and learning rate are for."""
DECAY_FACTOR = 0.1
"""What the learning rate is multiplied by at a milestone."""
WARMUP_FACTOR = 0.001
"""Share of the learning rate that the warm-up begins with."""
SGD_MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4
"""Of all weights but those of batch normalisation, as in Detectron2."""
MAX_DETECTIONS = 100
"""Of an image."""


@dataclass(frozen=True, kw_only=True)
class DetectionConfig:
    """A detector, its training and its test; what is not set is the protocol's, for COCO or for VOC."""

    schedule: Literal["1x", "2x"] = "1x"
    """1x: 90,000 steps on COCO, 24,000 on VOC, at a batch of 16; 2x: twice as many, milestones too."""
    batch_size: int = 16
    """Images a step, over all processes; another batch than 16 scales learning rate and steps."""
    iterations: int | None = None
    """Steps to train instead of the schedule's; milestones and warm-up shrink with them."""
    base_lr: float = 0.02
    """Learning rate at a batch of 16."""
    warmup_iterations: int | None = None
    """Steps in which the learning rate rises; 1,000 on COCO and 100 on VOC, at a batch of 16, if not given."""
    short_sides_px: tuple[int, ...] | None = None
    """Short sides that a training image is drawn to, pixels; 640 to 800 on COCO, 480 to 800 on VOC, if not given."""
    longest_px: int = 1333
    """Longest side of any image, pixels."""
    test_short_side_px: int = 800
    """Short side of a test image, pixels."""
    masks: bool = True
    """Predict masks too (COCO): Mask R-CNN, not Faster R-CNN."""
    precise_bn_iterations: int = 200
    """Batches of training images that the statistics of batch normalisation are computed from again before the test."""
    num_channels: int = 256
    """Channels of the feature pyramid and of the heads' convolutions."""
    num_box_features: int = 1024
    """Outputs of the box head's fully connected layer."""
    num_rois: int = 512
    """RoIs of a training image that the heads learn from."""
    anchor_sizes_px: tuple[int, int, int, int, int] = (32, 64, 128, 256, 512)
    """Side of the anchors on each level of the pyramid, pixels."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What differs between the data sets, at a batch of 16 and 1x."""

    num_steps: int
    milestones: tuple[int, ...]
    num_warmup_steps: int
    short_sides_px: tuple[int, ...]


COCO = Protocol(
    num_steps=90_000,
    milestones=(60_000, 80_000),
    num_warmup_steps=1000,
    short_sides_px=(640, 672, 704, 736, 768, 800),
)
"""The paper's supplementary A; Detectron2's 1x schedule."""
VOC = Protocol(
    num_steps=24_000,
    milestones=(18_000, 22_000),
    num_warmup_steps=100,
    short_sides_px=(480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800),
)
"""MoCo's Detectron2 configuration for VOC 07+12."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The training that settings and a protocol come to."""

    num_steps: int
    milestones: tuple[int, ...]
    """Steps after which the learning rate falls."""
    num_warmup_steps: int
    lr: float
    """The highest learning rate."""
    short_sides_px: tuple[int, ...]


def plan_training(settings: DetectionConfig, protocol: Protocol) -> Plan:
    """Scale a protocol to the schedule, the batch and the number of steps that are asked for.

    Learning rate in proportion to the batch; steps, milestones and warm-up in inverse proportion.

    Raises:
        ValueError: if a setting is out of its range.

    Source:
        The linear scaling of Detectron2, `DefaultTrainer.auto_scale_workers`.
    """
    check_settings(settings)
    scale, length = settings.batch_size / PROTOCOL_BATCH_SIZE, {"1x": 1, "2x": 2}[settings.schedule]
    num_scheduled = round(protocol.num_steps * length / scale)
    num_steps = num_scheduled if settings.iterations is None else settings.iterations
    shortened = num_steps / num_scheduled
    warmup = settings.warmup_iterations
    return Plan(
        num_steps=num_steps,
        milestones=tuple(round(step * length / scale * shortened) for step in protocol.milestones),
        num_warmup_steps=round(protocol.num_warmup_steps / scale * min(1, shortened)) if warmup is None else warmup,
        lr=settings.base_lr * scale,
        short_sides_px=settings.short_sides_px or protocol.short_sides_px,
    )


def check_settings(settings: DetectionConfig) -> None:
    """Refuse what cannot be trained.

    Raises:
        ValueError: if a number is out of its range.
    """
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
        value = getattr(settings, name)
        if value is not None and value < least:
            raise ValueError(f"{name.replace('_', '-')} is {value}; it must be {least} or more")
    if settings.base_lr <= 0:
        raise ValueError(f"base-lr is {settings.base_lr}; it must be above 0")
    for name in ("short_sides_px", "anchor_sizes_px"):
        values = getattr(settings, name)
        if values is not None and (not values or min(values) < 1):
            raise ValueError(f"{name.replace('_', '-')} is {values}; give one size or more, each above 0")
