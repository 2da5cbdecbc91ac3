import pytest

from orl.views.batch_sampler import EpochBatchSampler


def test_every_epoch_takes_every_image_once_in_another_order() -> None:
    batches = list(EpochBatchSampler(num_images=12, batch_size=4, epochs=2, seed=0))
    assert [len(batch) for batch in batches] == [4] * 6
    for epoch in range(2):
        keys = [key for batch in batches[3 * epoch : 3 * epoch + 3] for key in batch]
        assert {key[0] for key in keys} == {epoch}
        assert sorted(key[1] for key in keys) == list(range(12))
    assert [key[1] for key in batches[0]] != [key[1] for key in batches[3]]


@pytest.mark.parametrize("step", [1, 3, 5, 6])
def test_batches_from_a_step_on_are_the_rest_of_all(step: int) -> None:
    everything = list(EpochBatchSampler(num_images=13, batch_size=4, epochs=2, seed=1))
    rest = EpochBatchSampler(num_images=13, batch_size=4, epochs=2, seed=1)
    rest.first_step = step
    assert list(rest) == everything[step:]
    assert len(rest) == len(everything) - step


def test_a_batch_larger_than_the_images_is_refused() -> None:
    with pytest.raises(ValueError, match=r"batch of 512 needs as many images, and there are 400.*batch-size"):
        EpochBatchSampler(num_images=400, batch_size=512, epochs=1, seed=0)


def test_the_parts_of_the_processes_make_up_each_batch() -> None:
    whole = list(EpochBatchSampler(num_images=13, batch_size=4, epochs=2, seed=1))
    parts = [list(EpochBatchSampler(13, 4, 2, 1, rank=rank, num_processes=2)) for rank in range(2)]
    assert all(len(one) == len(other) == 2 for one, other in zip(*parts))
    assert [sorted(one + other) for one, other in zip(*parts)] == [sorted(batch) for batch in whole]


def test_a_batch_that_cannot_be_shared_evenly_is_refused() -> None:
    with pytest.raises(ValueError, match="batch of 8 cannot be shared evenly by 3 processes"):
        EpochBatchSampler(num_images=400, batch_size=8, epochs=1, seed=0, num_processes=3)
