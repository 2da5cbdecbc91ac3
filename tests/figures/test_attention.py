from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from orl.figures.attention import attention_map, reduce_feature_map
from orl.networks.backbones import Backbone, build_backbone


class FixedMap(nn.Module):
    """Sees nothing and answers with one feature map; remembers the size of what it was shown."""

    def __init__(self, feature_map: torch.Tensor) -> None:
        super().__init__()
        self.feature_map = feature_map
        self.seen = torch.Size()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen = images.shape
        return self.feature_map[None]


def fake_backbone(feature_map: torch.Tensor) -> Backbone:
    return Backbone(OrderedDict(fixed=FixedMap(feature_map)), "fake", len(feature_map)).eval()


def image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def test_the_peak_lies_over_the_hot_cell():
    feature_map = torch.zeros(4, 3, 6)
    feature_map[:, 2, 1] = 5.0
    attention = attention_map(fake_backbone(feature_map), image(90, 180))
    row, column = np.unravel_index(np.argmax(attention), attention.shape)
    assert attention.shape == (90, 180)
    assert 60 <= row < 90
    assert 30 <= column < 60
    assert attention.min() == 0
    assert attention.max() == 1


def test_the_reduction_is_the_mean_magnitude_whatever_the_sign():
    feature_map = torch.zeros(2, 1, 3)
    feature_map[:, 0, 0] = torch.tensor([-3.0, 3.0])  # magnitude 3, though the mean is 0
    feature_map[:, 0, 2] = torch.tensor([2.0, 2.0])
    attention = attention_map(fake_backbone(feature_map), image(32, 96))
    assert np.argmax(attention.mean(axis=0)) < 32


@pytest.mark.parametrize("value", [0.0, 0.3, 1e6])
def test_equal_magnitudes_everywhere_give_zeros(value):
    attention = attention_map(fake_backbone(torch.full((3, 5, 7), value)), image(61, 83))
    assert np.array_equal(attention, np.zeros((61, 83)))


def test_the_network_sees_the_asked_side_in_integer_positions():
    backbone = fake_backbone(torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0)))
    attention_map(backbone, image(300, 500), long_side_px=448)
    assert backbone.fixed.seen == (1, 3, 256, 448)  # 268.8 px are 8.4 positions
    attention_map(backbone, image(1000, 5), long_side_px=64)
    assert backbone.fixed.seen == (1, 3, 64, 32)


def test_a_real_backbone_stays_in_range_and_unchanged():
    backbone = build_backbone("resnet10").eval()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    attention = attention_map(backbone, image(50, 70), long_side_px=96)
    assert attention.min() == 0
    assert attention.max() == 1
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def test_the_magnitude_is_the_mean_over_the_channels_by_hand():
    feature_map = torch.tensor([[[1.0, -2.0]], [[-3.0, 4.0]]])
    torch.testing.assert_close(reduce_feature_map(feature_map, "magnitude"), torch.tensor([[2.0, 3.0]]))


def test_the_similarity_is_the_cosine_to_the_mean_by_hand():
    # Positions (1, 0), (0, 1) and (2, 2): the mean is (1, 1).
    feature_map = torch.tensor([[[1.0, 0.0, 2.0]], [[0.0, 1.0, 2.0]]])
    half = 0.5**0.5
    torch.testing.assert_close(reduce_feature_map(feature_map, "similarity"), torch.tensor([[half, half, 1.0]]))


def test_the_component_is_the_direction_of_most_variance_by_hand():
    # Positions on the line through (3, 1) along (4, 3) / 5, at -5, 0, 0 and 5: the magnitude rises along it.
    steps = torch.tensor([-5.0, 0.0, 0.0, 5.0])
    feature_map = torch.stack([8 + steps * 0.8, 6 + steps * 0.6])[:, None]
    torch.testing.assert_close(reduce_feature_map(feature_map, "component"), steps[None])


def test_the_sign_of_the_component_follows_the_magnitude_and_not_the_sign_of_the_features():
    steps = torch.tensor([-5.0, 0.0, 0.0, 5.0])
    for sign in (1, -1):
        feature_map = sign * torch.stack([8 + steps * 0.8, 6 + steps * 0.6])[:, None]
        torch.testing.assert_close(reduce_feature_map(feature_map, "component"), steps[None])


def test_without_help_of_the_magnitude_the_smaller_area_is_positive():
    # One position at (1, -1) of three at (-1, 1): the magnitude is the same everywhere.
    signs = torch.tensor([1.0, -1.0, -1.0, -1.0])
    found = reduce_feature_map(torch.stack([signs, -signs])[:, None], "component")
    assert (found > 0).tolist() == [[True, False, False, False]]
    other = reduce_feature_map(torch.stack([-signs, signs])[:, None], "component")
    torch.testing.assert_close(found, other)


def test_the_component_agrees_with_a_singular_value_decomposition():
    feature_map = torch.randn(7, 3, 5, generator=torch.Generator().manual_seed(0))
    positions = feature_map.double().flatten(1).T
    left, values, _ = torch.linalg.svd(positions - positions.mean(dim=0), full_matrices=False)
    expected = (left[:, 0] * values[0]).float().reshape(3, 5)
    found = reduce_feature_map(feature_map, "component")
    torch.testing.assert_close(found.abs(), expected.abs())
    assert float(found.flatten() @ feature_map.abs().mean(dim=0).flatten()) > 0


def test_the_component_does_not_change_when_channels_change_places_or_zeros_are_added():
    feature_map = torch.randn(6, 4, 4, generator=torch.Generator().manual_seed(1))
    found = reduce_feature_map(feature_map, "component")
    torch.testing.assert_close(reduce_feature_map(feature_map.flip(0), "component"), found)


@pytest.mark.parametrize("reduction", ["magnitude", "component", "similarity"])
def test_a_map_of_equal_positions_is_empty_and_any_other_is_the_same_each_time(reduction):
    alike = fake_backbone(torch.tensor([0.3, -1.0, 7.0])[:, None, None].expand(3, 4, 6))
    assert np.array_equal(attention_map(alike, image(40, 60), reduction=reduction), np.zeros((40, 60)))
    backbone = build_backbone("resnet10").eval()
    maps = [attention_map(backbone, image(50, 70), 96, reduction=reduction) for _ in range(2)]
    assert np.array_equal(*maps)
    assert (maps[0].min(), maps[0].max()) == (0, 1)


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (7, 7), (28, 42)])
def test_a_backbone_of_any_stride_gives_a_map_of_the_images_size(shape):
    feature_map = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    assert attention_map(fake_backbone(feature_map), image(50, 75)).shape == (50, 75)


def test_an_unnamed_network_is_called_by_its_class():
    with pytest.raises(ValueError, match="FixedMap in training mode"):
        attention_map(FixedMap(torch.ones(1, 1, 1)).train(), image(40, 40))


def test_a_backbone_in_training_mode_is_refused():
    with pytest.raises(ValueError, match="resnet10 in training mode"):
        attention_map(build_backbone("resnet10").train(), image(40, 40))


def test_a_side_below_one_position_is_refused():
    with pytest.raises(ValueError, match="needs a long_side_px of at least 32, got 31"):
        attention_map(fake_backbone(torch.ones(1, 1, 1)), image(40, 40), long_side_px=31)
