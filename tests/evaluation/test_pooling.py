"""Features for linear classifiers: feat5 and pooled."""

import logging

import pytest
import torch

from orl.evaluation.pooling import POOLINGS, feature_deviations, file_stem, pool_all_kinds, warn_if_one_position


def a_map(*shape: int) -> torch.Tensor:
    return torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))


def test_feat5_of_resnet_50_has_8192_numbers_of_windows_of_six() -> None:
    """OpenSelfSup's POOL_PARAMS of resnet50, last level: kernel_size=6, stride=1, padding=0; POOL_DIMS 8192."""
    feature_map = a_map(2048, 7, 7)
    found = POOLINGS["feat5"](feature_map).flatten(1)
    expected = torch.nn.AvgPool2d(kernel_size=6, stride=1)(feature_map).view(2, -1)
    assert found.shape == (2, 8192)
    assert torch.equal(found, expected)
    torch.testing.assert_close(found[0, 2], feature_map[0, 0, 1:, :6].mean())


@pytest.mark.parametrize(
    ("shape", "side"),
    [((2048, 2, 2), 2), ((2048, 1, 1), 1), ((512, 2, 2), 2), ((512, 4, 4), 4), ((512, 7, 7), 4), ((1280, 7, 7), 3)],
)
def test_other_maps_are_pooled_to_at_most_about_9000_numbers(shape: tuple[int, int, int], side: int) -> None:
    feature_map = a_map(*shape)
    found = POOLINGS["feat5"](feature_map)
    assert found.shape == (2, shape[0], side, side)
    assert found[0].numel() <= 12_000
    if side == shape[1]:
        assert torch.equal(found, feature_map)


def test_pooled_features_are_means_and_all_kinds_follow_each_other() -> None:
    feature_map = a_map(512, 3, 3)
    pooled = POOLINGS["pooled"](feature_map)
    torch.testing.assert_close(pooled[:, :, 0, 0], feature_map.mean(dim=(2, 3)))
    joined = pool_all_kinds(feature_map)
    assert torch.equal(joined, torch.cat([POOLINGS["feat5"](feature_map).flatten(1), pooled.flatten(1)], dim=1))


def test_features_other_than_feat5_are_a_deviation_and_name_the_file() -> None:
    assert (feature_deviations("feat5"), file_stem("svm", "feat5")) == ([], "svm")
    assert (feature_deviations("pooled"), file_stem("svm", "pooled")) == (["pooled features, not feat5"], "svm-pooled")


def test_feat5_of_one_position_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        warn_if_one_position("pooled", 1, 32)
        warn_if_one_position("feat5", 2, 64)
        assert not caplog.text
        warn_if_one_position("feat5", 1, 32)
    assert "the feature map of images of 32 px has one position, so feat5 equals the pooled features" in caplog.text
