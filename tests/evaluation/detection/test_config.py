from dataclasses import replace

import pytest

from orl.evaluation.detection.config import COCO_SCHEDULE, VOC_SCHEDULE, DetectionConfig, plan_training

PROTOCOL = DetectionConfig()


def test_1x_is_detectron2s_schedule() -> None:
    plan = plan_training(PROTOCOL, COCO_SCHEDULE)
    assert (plan.num_steps, plan.milestones, plan.num_warmup_steps) == (90_000, (60_000, 80_000), 1000)
    assert plan.lr == 0.02
    assert plan.short_sides_px == (640, 672, 704, 736, 768, 800)
    assert (PROTOCOL.longest_px, PROTOCOL.test_short_side_px, PROTOCOL.precise_bn_iterations) == (1333, 800, 200)


def test_2x_has_twice_the_steps_and_milestones_and_the_same_warm_up() -> None:
    plan = plan_training(DetectionConfig(schedule="2x"), COCO_SCHEDULE)
    assert (plan.num_steps, plan.milestones, plan.num_warmup_steps) == (180_000, (120_000, 160_000), 1000)


def test_voc_has_mocos_schedule() -> None:
    plan = plan_training(PROTOCOL, VOC_SCHEDULE)
    assert (plan.num_steps, plan.milestones, plan.num_warmup_steps) == (24_000, (18_000, 22_000), 100)
    assert plan.short_sides_px == tuple(range(480, 801, 32))


@pytest.mark.parametrize(
    ("batch_size", "lr", "steps", "milestones", "warmup"),
    [
        (8, 0.01, 180_000, (120_000, 160_000), 2000),
        (32, 0.04, 45_000, (30_000, 40_000), 500),
        (2, 0.0025, 720_000, (480_000, 640_000), 8000),  # the linear scaling that Detectron2's page on training gives
    ],
)
def test_another_batch_size_scales_learning_rate_and_steps(
    batch_size: int, lr: float, steps: int, milestones: tuple[int, ...], warmup: int
) -> None:
    plan = plan_training(DetectionConfig(batch_size=batch_size), COCO_SCHEDULE)
    assert (plan.lr, plan.num_steps, plan.milestones, plan.num_warmup_steps) == (lr, steps, milestones, warmup)


def test_fewer_steps_shrink_milestones_and_warm_up_and_more_keep_the_warm_up() -> None:
    short = plan_training(DetectionConfig(iterations=900), COCO_SCHEDULE)
    assert (short.num_steps, short.milestones, short.num_warmup_steps) == (900, (600, 800), 10)
    long = plan_training(DetectionConfig(iterations=135_000), COCO_SCHEDULE)
    assert (long.milestones, long.num_warmup_steps) == ((90_000, 120_000), 1000)
    halved = plan_training(DetectionConfig(iterations=900, batch_size=8), COCO_SCHEDULE)
    assert (halved.milestones, halved.num_warmup_steps, halved.lr) == ((600, 800), 10, 0.01)


def test_given_values_override_the_protocol() -> None:
    plan = plan_training(
        DetectionConfig(warmup_iterations=0, short_sides_px=(96,), base_lr=0.1, iterations=10), VOC_SCHEDULE
    )
    assert (plan.num_warmup_steps, plan.short_sides_px, plan.lr) == (0, (96,), 0.1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 0}, "batch-size is 0"),
        ({"iterations": 0}, "iterations is 0"),
        ({"warmup_iterations": -1}, "warmup-iterations is -1"),
        ({"base_lr": 0.0}, "base-lr is 0.0"),
        ({"short_sides_px": ()}, r"short-sides-px is \(\)"),
        ({"anchor_sizes_px": (0, 1, 2, 3, 4)}, r"anchor-sizes-px is \(0, 1"),
        ({"longest_px": 8}, "longest-px is 8"),
        ({"test_short_side_px": 8}, "test-short-side-px is 8"),
        ({"precise_bn_iterations": -1}, "precise-bn-iterations is -1"),
        ({"num_channels": 0}, "num-channels is 0"),
        ({"num_box_features": 0}, "num-box-features is 0"),
        ({"num_rois": 3}, "num-rois is 3"),
    ],
)
def test_numbers_out_of_range_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PROTOCOL, **wrong)
