import math

import pytest

from orl.schedules import ema_momentum, epoch_cosine, step_decay, warmup_cosine, warmup_step_decay


def test_warm_up_rises_in_equal_steps_to_the_peak() -> None:
    values = [warmup_cosine(step, 100, 4, 1.0) for step in range(5)]
    assert values == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_cosine_is_half_way_down_in_the_middle_and_zero_at_the_end() -> None:
    assert warmup_cosine(60, 100, 20, 0.4) == pytest.approx(0.2)
    assert warmup_cosine(40, 100, 20, 0.4) == pytest.approx(0.4 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert warmup_cosine(100, 100, 20, 0.4) == pytest.approx(0)


def test_without_warm_up_the_first_step_has_the_peak() -> None:
    assert warmup_cosine(0, 10, 0, 0.3) == pytest.approx(0.3)


def published_lr(step: int, steps_per_epoch: int, num_epochs: int) -> float:
    """The closed formula of mmcv 1.0.3, as ORL configures it: `CosineAnnealing` by epoch to 0, base rate 0.4.

    `get_lr` is the cosine of the epoch, and `get_warmup_lr` multiplies it by 1 - k at each step of the first 4 epochs.
    """
    regular = 0.4 * (1 + math.cos(math.pi * (step // steps_per_epoch) / num_epochs)) / 2
    warmup_steps = 4 * steps_per_epoch
    return regular * (1 - (1 - step / warmup_steps) * (1 - 0.0001)) if step < warmup_steps else regular


@pytest.mark.parametrize("num_epochs", [10, 800])
def test_the_published_rate_at_the_start_and_the_end_of_every_epoch(num_epochs: int) -> None:
    for epoch in range(num_epochs):
        for step in (232 * epoch, 232 * epoch + 231):
            found = epoch_cosine(step, 232, num_epochs, 4, 0.4)
            assert found == pytest.approx(published_lr(step, 232, num_epochs), rel=1e-12)


def test_the_published_rate_by_hand() -> None:
    starts = [epoch_cosine(232 * epoch, 232, 10, 4, 1.0) for epoch in range(10)]
    warmed = [1e-4, 0.975528 * 0.250075, 0.904508 * 0.50005, 0.793893 * 0.750025]
    assert starts == pytest.approx([*warmed, 0.654508, 0.5, 0.345492, 0.206107, 0.095492, 0.024472], abs=1e-6)
    assert epoch_cosine(5 * 232 + 100, 232, 10, 4, 1.0) == 0.5


def test_the_published_schedule_of_ten_epochs_has_72_percent_of_the_smooth_ones_sum() -> None:
    # By hand, in epochs at the peak: the smooth one 4 / 2 + 6 / 2; stairs 5.5 without, 3.575 with the warm-up.
    stairs = sum(epoch_cosine(step, 232, 10, 4, 1.0) for step in range(2320)) / 232
    smooth = sum(warmup_cosine(step, 2320, 928, 1.0) for step in range(2320)) / 232
    assert (stairs, smooth) == (pytest.approx(3.575, abs=1e-3), pytest.approx(5.0, abs=3e-3))


def test_stairs_without_warm_up_start_at_the_peak() -> None:
    assert [epoch_cosine(step, 2, 2, 0, 0.3) for step in range(4)] == pytest.approx([0.3, 0.3, 0.15, 0.15])


def test_ema_momentum_rises_from_its_start_to_one() -> None:
    assert ema_momentum(0, 800, 0.99) == pytest.approx(0.99)
    assert ema_momentum(400, 800, 0.99) == pytest.approx(0.995)
    assert ema_momentum(200, 800, 0.99) == pytest.approx(1 - 0.01 * (math.cos(math.pi / 4) + 1) / 2)
    assert ema_momentum(800, 800, 0.99) == pytest.approx(1)


def test_step_decay_falls_at_each_milestone() -> None:
    found = [step_decay(step, (2, 4), 0.5, 0.1) for step in range(6)]
    assert found == pytest.approx([0.5, 0.5, 0.05, 0.05, 0.005, 0.005])


def test_a_warm_up_begins_at_its_fraction_and_ends_at_the_peak() -> None:
    found = [warmup_step_decay(step, 4, (6,), 0.02, 0.1, 0.001) for step in range(8)]
    # By hand: 0.02 * (0.001 * (1 - a) + a) for a = 0, 1/4, 1/2, 3/4.
    assert found == pytest.approx([0.00002, 0.005015, 0.01001, 0.015005, 0.02, 0.02, 0.002, 0.002])
