import math

import pytest

from orl.schedules import ema_momentum, step_decay, warmup_cosine, warmup_step_decay


def test_warm_up_rises_in_equal_steps_to_the_peak() -> None:
    values = [warmup_cosine(step, 100, 4, 1.0) for step in range(5)]
    assert values == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_cosine_is_half_way_down_in_the_middle_and_zero_at_the_end() -> None:
    assert warmup_cosine(60, 100, 20, 0.4) == pytest.approx(0.2)
    assert warmup_cosine(40, 100, 20, 0.4) == pytest.approx(0.4 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert warmup_cosine(100, 100, 20, 0.4) == pytest.approx(0)


def test_without_warm_up_the_first_step_has_the_peak() -> None:
    assert warmup_cosine(0, 10, 0, 0.3) == pytest.approx(0.3)


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
