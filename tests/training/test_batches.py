import numpy as np
import pytest

from orl.training.batches import TrainingBatches, epoch_batches, stream_batches


def all_keys(batches: TrainingBatches) -> list[list[tuple[int, int]]]:
    return list(batches.from_step(0))


def test_every_epoch_takes_every_image_once_in_another_order() -> None:
    batches = all_keys(epoch_batches(12, 4, 2, seed=0))
    assert [len(batch) for batch in batches] == [4] * 6
    for epoch in range(2):
        keys = [key for batch in batches[3 * epoch : 3 * epoch + 3] for key in batch]
        assert {key[0] for key in keys} == {epoch}
        assert sorted(key[1] for key in keys) == list(range(12))
    assert [key[1] for key in batches[0]] != [key[1] for key in batches[3]]


def test_epochs_of_coco_have_232_steps_and_a_last_batch_of_16() -> None:
    for num_processes in (1, 2, 4, 8):
        parts = [
            epoch_batches(118_287, 512, 800, seed=0, rank=rank, num_processes=num_processes)
            for rank in range(num_processes)
        ]
        assert (parts[0].steps_per_epoch, parts[0].num_steps) == (232, 800 * 232)
        assert [len(part.keys(231)) for part in parts] == [16 // num_processes] * num_processes
        assert [len(part.keys(232)) for part in parts] == [512 // num_processes] * num_processes
    # MoCo v2 and DenseCL: 256 at a time, without the last batch.
    assert epoch_batches(118_287, 256, 800, seed=0, drop_last=True).num_steps == 800 * 462


def test_the_last_batch_is_kept_and_filled_with_the_first_images_of_its_epoch() -> None:
    batches = epoch_batches(13, 4, 2, seed=1)
    assert (batches.num_steps, batches.steps_per_epoch) == (8, 4)
    for epoch in range(2):
        order = np.random.default_rng([1, epoch]).permutation(13).tolist()
        keys = [batches.keys(4 * epoch + step) for step in range(4)]
        assert [len(batch) for batch in keys] == [4, 4, 4, 2]
        assert [key for batch in keys for key in batch] == [(epoch, image) for image in [*order, order[0]]]
    assert [batches.images_before(step) for step in range(9)] == [0, 4, 8, 12, 14, 18, 22, 26, 28]
    assert [batches.epoch(step) for step in (0, 4, 8)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("num_images", "accumulation_steps", "num_processes", "expected"),
    [(33, 1, 1, 2), (35, 1, 1, 4), (33, 1, 4, 8), (33, 2, 4, 16), (49, 4, 4, 32), (33, 3, 1, 6), (64, 1, 4, 32)],
)
def test_a_last_batch_has_equal_parts_of_two_images_or_more(
    num_images: int, accumulation_steps: int, num_processes: int, expected: int
) -> None:
    parts = [
        epoch_batches(
            num_images, 32, 1, seed=0, accumulation_steps=accumulation_steps, rank=rank, num_processes=num_processes
        )
        for rank in range(num_processes)
    ]
    assert parts[0].num_steps == 2
    assert [len(part.keys(1)) for part in parts] == [expected // num_processes] * num_processes


def test_epochs_can_leave_out_the_last_smaller_batch() -> None:
    batches = epoch_batches(13, 4, 2, seed=1, drop_last=True)
    assert (batches.num_steps, batches.steps_per_epoch) == (6, 3)
    for epoch in range(2):
        order = np.random.default_rng([1, epoch]).permutation(13)[:12].tolist()
        assert [key for step in range(3) for key in batches.keys(3 * epoch + step)] == [(epoch, i) for i in order]


def test_a_stream_continues_over_the_ends_of_epochs() -> None:
    batches = stream_batches(5, 2, 10, seed=3)
    keys = [key for batch in all_keys(batches) for key in batch]
    assert [epoch for epoch, _ in keys] == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5
    for epoch in range(4):
        assert [image for of, image in keys if of == epoch] == np.random.default_rng([3, epoch]).permutation(5).tolist()
    assert [batches.epoch(step) for step in (1, 5, 10)] == [0.4, 2, 4]


@pytest.mark.parametrize("make", [epoch_batches, stream_batches])
@pytest.mark.parametrize("step", [0, 1, 3, 5, 6])
def test_batches_from_a_step_are_the_rest_of_all(make, step: int) -> None:  # type: ignore[no-untyped-def]
    batches = make(13, 4, 6, seed=1)
    assert list(batches.from_step(step)) == all_keys(make(13, 4, 6, seed=1))[step:]


@pytest.mark.parametrize("make", [epoch_batches, stream_batches])
def test_processes_take_alternate_images_of_each_batch(make) -> None:  # type: ignore[no-untyped-def]
    # Of seven images the last batch of an epoch has three, and is filled to four.
    complete = all_keys(make(7, 4, 6, seed=3))
    parts = [all_keys(make(7, 4, 6, seed=3, rank=rank, num_processes=2)) for rank in range(2)]
    assert parts == [[batch[rank::2] for batch in complete] for rank in range(2)]


@pytest.mark.parametrize("make", [epoch_batches, stream_batches])
def test_a_batch_larger_than_the_images_is_refused(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"batch of 512 needs as many images, and there are 400.*batch-size"):
        make(400, 512, 1, seed=0)


def test_a_batch_that_cannot_be_split_evenly_is_refused() -> None:
    with pytest.raises(ValueError, match="batch of 8 cannot be split evenly over 3 processes"):
        epoch_batches(400, 8, 1, seed=0, num_processes=3)
