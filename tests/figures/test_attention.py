from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from orl.figures.attention import (
    attention_map,
    attention_overlap,
    draw_attention,
    points_at_object,
    score_attention,
)
from orl.networks.backbones import Backbone, build_backbone


class FixedMap(nn.Module):
    """Sees nothing and answers with one feature map; remembers the size of what it was shown."""

    def __init__(self, feature_map: torch.Tensor) -> None:
        super().__init__()
        self.feature_map = feature_map
        self.seen = torch.Size()

    def forward(self, photos: torch.Tensor) -> torch.Tensor:
        self.seen = photos.shape
        return self.feature_map[None]


def fake_backbone(feature_map: torch.Tensor) -> Backbone:
    return Backbone(OrderedDict(fixed=FixedMap(feature_map)), "fake", len(feature_map)).eval()


def photo(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def test_the_peak_lies_over_the_hot_cell():
    feature_map = torch.zeros(4, 3, 6)
    feature_map[:, 2, 1] = 5.0
    attention = attention_map(fake_backbone(feature_map), photo(90, 180))
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
    attention = attention_map(fake_backbone(feature_map), photo(32, 96))
    assert np.argmax(attention.mean(axis=0)) < 32


@pytest.mark.parametrize("value", [0.0, 0.3, 1e6])
def test_equal_magnitudes_everywhere_give_zeros(value):
    attention = attention_map(fake_backbone(torch.full((3, 5, 7), value)), photo(61, 83))
    assert np.array_equal(attention, np.zeros((61, 83)))


def test_the_network_sees_the_asked_side_in_whole_positions():
    backbone = fake_backbone(torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0)))
    attention_map(backbone, photo(300, 500), long_side_px=448)
    assert backbone.fixed.seen == (1, 3, 256, 448)  # 268.8 px are 8.4 positions
    attention_map(backbone, photo(1000, 5), long_side_px=64)
    assert backbone.fixed.seen == (1, 3, 64, 32)


def test_a_real_backbone_stays_in_range_and_unchanged():
    backbone = build_backbone("resnet10").eval()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    attention = attention_map(backbone, photo(50, 70), long_side_px=96)
    assert attention.min() == 0
    assert attention.max() == 1
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def test_a_backbone_in_training_mode_is_refused():
    with pytest.raises(ValueError, match="resnet10 in training mode"):
        attention_map(build_backbone("resnet10").train(), photo(40, 40))


def test_a_side_below_one_position_is_refused():
    with pytest.raises(ValueError, match="long_side_px 31"):
        attention_map(fake_backbone(torch.ones(1, 1, 1)), photo(40, 40), long_side_px=31)


def test_overlap_is_the_share_of_the_sum_inside_the_boxes_each_pixel_once():
    attention = np.ones((10, 10), dtype=np.float32)
    boxes = np.array([[0, 0, 5, 4], [0, 0, 5, 4], [2, 0, 7, 4]], dtype=np.float32)
    assert attention_overlap(attention, boxes) == pytest.approx(0.28)
    assert attention_overlap(attention, boxes[:0]) == 0
    assert attention_overlap(np.zeros((10, 10), dtype=np.float32), boxes) == 0


def test_scores_are_means_over_photos_beside_what_chance_gives():
    left = np.zeros((4, 8), dtype=np.float32)
    left[:, :4], left[1, 1] = 0.5, 1.0
    inside, outside = np.array([[0.0, 0, 4, 4]]), np.array([[6.0, 0, 8, 4]])
    score = score_attention([left, left], [inside, outside])
    assert (score.pointing_share, score.inside_share, score.num_photos) == (0.5, 0.5, 2)
    assert score.box_share == (4 / 8 + 2 / 8) / 2
    with pytest.raises(ValueError, match="got 0 photos"):
        score_attention([], [])


def test_the_pointing_game_is_won_when_the_peak_is_in_a_box():
    attention = np.zeros((10, 20), dtype=np.float32)
    attention[3, 15] = 1
    assert points_at_object(attention, np.array([[0.0, 0, 2, 2], [15, 3, 16, 4]]))
    assert not points_at_object(attention, np.array([[0.0, 0, 15, 10]]))  # right edges are exclusive


def test_maps_share_one_colour_scale_and_only_a_map_that_crosses_it_has_an_outline():
    ramp = np.tile(np.linspace(0, 1, 60, dtype=np.float32), (40, 1))
    figure = draw_attention(photo(40, 60), {"stage 1": ramp, "stage 3": np.zeros((40, 60), dtype=np.float32)})
    panels = figure.axes[:3]
    assert [axes.get_title() for axes in panels] == ["photo", "stage 1", "stage 3"]
    scales = [axes.images[-1].get_clim() for axes in panels[1:]]
    assert scales == [(0, 1), (0, 1)]
    outlined = [len(axes.collections) for axes in panels]
    assert outlined == [0, 1, 0]
    levels = panels[1].collections[0].levels
    assert levels.tolist() == [0.6]
