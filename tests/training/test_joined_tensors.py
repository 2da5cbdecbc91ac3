import torch
from torch.utils.data import default_collate

from orl.training.joined_tensors import JoinedTensors, join_tensors, split_tensors
from orl.views.view_dataset import LoadedViews


def test_a_batch_of_tensors_of_any_dtype_and_shape_is_restored() -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "crop": torch.randint(0, 256, (3, 3, 7, 5), generator=generator, dtype=torch.uint8),
        "hue": torch.rand(3, generator=generator, dtype=torch.float64),
        "flip": torch.tensor([True, False, True]),
        "none": torch.zeros(0, 4),
        "scalar": torch.tensor(7, dtype=torch.int16),
        "turned": torch.rand(4, 3, generator=generator).t(),
    }
    joined = join_tensors(LoadedViews({"view": tensors, "pair": [tensors["hue"], ("x", 3)]}, ["a.jpg"], []))
    assert joined.data.dtype == torch.uint8
    batch = split_tensors(joined)
    assert isinstance(batch, LoadedViews)
    assert batch.files == ["a.jpg"]
    assert batch.views["pair"][1] == ("x", 3)
    assert torch.equal(batch.views["pair"][0], tensors["hue"])
    for name, tensor in tensors.items():
        found = batch.views["view"][name]
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape), name
        assert torch.equal(found, tensor), name


def test_a_joined_batch_has_a_single_tensor() -> None:
    batch = default_collate([{"a": torch.ones(2), "b": {"c": torch.zeros(3, dtype=torch.int64)}}] * 4)
    joined = join_tensors(batch)
    assert isinstance(joined, JoinedTensors)
    assert "tensor" not in repr(joined.structure)
    assert joined.data.numel() >= 4 * 2 * 4 + 4 * 3 * 8
