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


def test_epochs_leave_out_the_last_smaller_batch() -> None:
    batches = epoch_batches(13, 4, 2, seed=1)
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
    complete = all_keys(make(5, 4, 6, seed=3))
    parts = [all_keys(make(5, 4, 6, seed=3, rank=rank, num_processes=2)) for rank in range(2)]
    assert parts == [[batch[rank::2] for batch in complete] for rank in range(2)]


@pytest.mark.parametrize("make", [epoch_batches, stream_batches])
def test_a_batch_larger_than_the_images_is_refused(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"batch of 512 needs as many images, and there are 400.*batch-size"):
        make(400, 512, 1, seed=0)


def test_a_batch_that_cannot_be_split_evenly_is_refused() -> None:
    with pytest.raises(ValueError, match="batch of 8 cannot be split evenly over 3 processes"):
        epoch_batches(400, 8, 1, seed=0, num_processes=3)
