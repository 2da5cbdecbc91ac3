"""Features inside boxes and masks from one feature map."""

import numpy as np
import torch

from orl.embed_maps import masks_on_map, rois_on_map


def test_the_mean_inside_a_mask_counts_positions_by_their_pixels_inside() -> None:
    generator = torch.Generator().manual_seed(0)
    feature_map = torch.randn((1, 5, 3, 4), generator=generator)
    masks = np.random.default_rng(0).random((3, 12, 16)) > 0.6
    masks[2] = False
    found, is_filled = masks_on_map(feature_map, masks)
    for mask, mean in zip(masks[:2], found):
        total, weight = torch.zeros(5), 0.0
        for y in range(12):
            for x in range(16):
                if mask[y, x]:  # each position of the map covers 4x4 pixels
                    total += feature_map[0, :, y // 4, x // 4]
                    weight += 1
        torch.testing.assert_close(mean, total / weight)
    assert is_filled.tolist() == [True, True, False]
    assert not found[2].any()


def test_a_mask_of_the_complete_image_is_the_mean_of_the_map() -> None:
    feature_map = torch.arange(24.0).reshape(1, 2, 3, 4)
    found, _ = masks_on_map(feature_map, np.ones((1, 30, 40), dtype=bool))
    torch.testing.assert_close(found, feature_map.mean(dim=(2, 3)))


def test_boxes_on_a_constant_map_have_its_value() -> None:
    boxes = np.array([[0, 0, 40, 30], [3, 4, 9, 20]], dtype=np.float32)
    torch.testing.assert_close(rois_on_map(torch.full((1, 2, 3, 4), 7.0), boxes, (40, 30)), torch.full((2, 2), 7.0))
