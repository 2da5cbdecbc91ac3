import pytest
from hypothesis import given
from hypothesis import strategies as st

from orl.doctor.estimates import (
    LinearCost,
    accumulation_steps_needed,
    largest_batch,
    line_through,
    queue_bytes,
    seconds_per_image,
    training_hours,
)


def test_a_line_goes_through_both_measurements() -> None:
    assert line_through((2, 110.0), (6, 130.0)) == LinearCost(100.0, 5.0)
    assert LinearCost(100.0, 5.0).at(10) == 150


def test_noise_makes_neither_part_negative() -> None:
    assert line_through((2, 120.0), (6, 110.0)) == LinearCost(110.0, 0.0)
    assert line_through((2, 1.0), (4, 10.0)) == LinearCost(0.0, 2.5)


def test_two_measurements_of_one_batch_size_are_refused() -> None:
    with pytest.raises(ValueError, match="got 4 twice"):
        line_through((4, 1.0), (4, 2.0))


@given(st.floats(0, 100), st.floats(0, 10), st.integers(1, 50), st.integers(51, 100))
def test_a_line_is_found_again_from_two_of_its_points(fixed: float, per_image: float, few: int, many: int) -> None:
    line = LinearCost(fixed, per_image)
    found = line_through((few, line.at(few)), (many, line.at(many)))
    assert found.at(200) == pytest.approx(line.at(200), abs=1e-9)


def test_a_tenth_of_the_memory_is_left_alone() -> None:
    # 0.9 x 1000 - 100 = 800 for images of 8.
    assert largest_batch(LinearCost(100.0, 8.0), 1000) == 100
    assert largest_batch(LinearCost(100.0, 8.1), 1000) == 98


def test_nothing_fits_when_the_network_alone_is_too_large() -> None:
    assert largest_batch(LinearCost(950.0, 1.0), 1000) == 0
    assert largest_batch(LinearCost(950.0, 0.0), 1000) == 0


def test_images_that_take_nothing_always_fit() -> None:
    assert largest_batch(LinearCost(100.0, 0.0), 1000) > 10**6


@pytest.mark.parametrize(
    ("batch_size", "largest", "parts"),
    [(64, 64, 1), (64, 63, 2), (64, 20, 4), (512, 118, 8), (10, 4, 5), (6, 1, None), (7, 6, None), (2, 2, 1)],
)
def test_a_batch_is_passed_in_the_fewest_equal_parts_that_fit(batch_size: int, largest: int, parts: int | None) -> None:
    assert accumulation_steps_needed(batch_size, largest) == parts


@given(st.integers(2, 600), st.integers(0, 600))
def test_parts_are_equal_fit_and_hold_two_images(batch_size: int, largest: int) -> None:
    parts = accumulation_steps_needed(batch_size, largest)
    fitting = [n for n in range(1, batch_size) if batch_size % n == 0 and 2 <= batch_size // n <= largest]
    assert parts == (min(fitting) if fitting else None)


def test_without_workers_reading_and_learning_take_turns() -> None:
    assert seconds_per_image(0.02, 0.01, workers=0, cores=4, shares_cores=False) == pytest.approx(0.03)


def test_workers_read_while_a_gpu_learns() -> None:
    # Four workers on two cores read an image in 0.06 / 2 s; a GPU of 0.02 s waits for them.
    assert seconds_per_image(0.02, 0.06, workers=4, cores=2, shares_cores=False) == pytest.approx(0.03)
    assert seconds_per_image(0.02, 0.03, workers=4, cores=2, shares_cores=False) == pytest.approx(0.02)


def test_reading_slows_a_network_on_the_same_cores() -> None:
    assert seconds_per_image(0.02, 0.01, workers=2, cores=2, shares_cores=True) == pytest.approx(0.025)
    assert seconds_per_image(0.02, 0.08, workers=1, cores=2, shares_cores=True) == pytest.approx(0.08)


def test_hours_count_full_batches_only() -> None:
    # 10 images at batch 4 are 8 an epoch: 8 x 900 x 0.5 s is an hour.
    assert training_hours(10, 4, 900, 0.5, drop_last=True) == pytest.approx(1.0)
    assert training_hours(3, 4, 900, 0.5, drop_last=True) == 0
    assert training_hours(10, 4, 900, 0.5, drop_last=False) == pytest.approx(1.25)


def test_each_worker_has_two_batches_ready() -> None:
    assert queue_bytes(workers=3, batch_size=10, sample_bytes=100) == 6000
