"""LOST: against loops and known answers."""

import pytest
import torch
from tests.reference.lost import lost_box, lost_boxes

from orl.discovery.lost import centred_units, find_object, find_objects, layer_normalised


@pytest.mark.parametrize("seed", range(6))
def test_boxes_equal_those_of_loops(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randn(42, 5, generator=generator, dtype=torch.float64)
    for num_expansion in (1, 10, 100):
        found = find_object(patches, (6, 7), num_expansion)
        assert found.tolist() == lost_box(patches.numpy(), 6, 7, num_expansion)


def test_a_distinct_block_is_found_exactly() -> None:
    feature_map = torch.zeros(2, 10, 12)
    feature_map[0] = 1.0
    feature_map[:, 3:6, 5:9] = torch.tensor([-0.2, 2.0])[:, None, None]
    patches = feature_map.flatten(1).T - torch.tensor([0.5, 0.2])
    assert find_object(patches, (10, 12)).tolist() == [5, 3, 9, 6]


def test_a_second_object_apart_from_the_seed_is_left_out() -> None:
    feature_map = torch.ones(1, 8, 8)
    feature_map[:, 1:3, 1:3] = -3.0
    feature_map[:, 6:7, 6:8] = -3.0
    assert find_object(feature_map.flatten(1).T, (8, 8)).tolist() == [1, 1, 3, 3]


def test_features_are_normalised_over_the_complete_map() -> None:
    patches = layer_normalised(3 + 2 * torch.randn(5, 6, 4, generator=torch.Generator().manual_seed(0)))
    assert patches.shape == (24, 5)
    assert patches.mean().item() == pytest.approx(0, abs=1e-5)
    assert patches.var(correction=0).item() == pytest.approx(1, abs=1e-3)


def test_equal_patches_give_the_complete_map_and_zeros_the_first_patch() -> None:
    assert find_object(torch.ones(12, 2), (3, 4)).tolist() == [0, 0, 4, 3]
    assert find_object(torch.zeros(12, 2), (3, 4)).tolist() == [0, 0, 1, 1]


def test_a_map_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="12 patches are not 3 x 5"):
        find_object(torch.ones(12, 2), (3, 5))


@pytest.mark.parametrize("seed", range(6))
def test_boxes_of_several_objects_equal_those_of_loops(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    feature_map = torch.randn(5, 6, 7, generator=generator, dtype=torch.float64).cumsum(dim=1)
    patches, thresholds = centred_units(feature_map), [-0.3, 0.0, 0.41]
    for num_expansion, max_objects in ((1, 30), (10, 3)):
        found = find_objects(
            patches, (6, 7), num_expansion=num_expansion, thresholds=thresholds, max_objects=max_objects
        )
        assert found.tolist() == lost_boxes(patches.numpy(), 6, 7, num_expansion, thresholds, max_objects)


def test_each_of_three_blocks_is_an_object_and_no_patch_is_in_two() -> None:
    feature_map = torch.zeros(4, 8, 10)
    feature_map[0] = 1.0
    blocks = [[1, 1, 3, 3], [6, 2, 9, 4], [2, 5, 6, 8]]
    for channel, (left, top, right, bottom) in enumerate(blocks, start=1):
        feature_map[:, top:bottom, left:right] = 0.0
        feature_map[channel, top:bottom, left:right] = 1.0
    found = find_objects(centred_units(feature_map), (8, 10), num_expansion=24, thresholds=(0.1,), max_objects=9)
    assert found.tolist() == [*blocks, [0, 0, 10, 8]], "the smallest block has the fewest similar patches"


def test_centred_units_have_length_one_and_ignore_the_mean_of_all_patches() -> None:
    feature_map = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0))
    units = centred_units(feature_map)
    torch.testing.assert_close(units.norm(dim=1), torch.ones(12))
    torch.testing.assert_close(centred_units(feature_map + torch.arange(5.0)[:, None, None]), units, atol=1e-5, rtol=0)
    assert centred_units(torch.ones(5, 2, 2)).tolist() == [[0.0] * 5] * 4
