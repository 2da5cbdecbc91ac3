"""The linear layer: equal to a 1x1 convolution on resized maps, trained as by torch on full maps."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from orl import tables
from orl.datasets.semantic_masks import VOID
from orl.evaluation.objects import linear_segmentation
from orl.evaluation.objects.linear_segmentation import (
    LinearSegmentationConfig,
    layer_logits,
    miou_sums,
    nearest_resize,
    train_layer,
)
from orl.evaluation.objects.object_features import FeatureMaps16


def stored(folder: Path, maps: np.ndarray) -> FeatureMaps16:
    """Write maps to a table of two shards."""
    half = len(maps) // 2
    tables.begin(folder, {"test": "maps"}, 2)
    for index, part in enumerate((maps[:half], maps[half:])):
        tables.write_shard(folder, index, {"map": part.reshape(len(part), -1).astype(np.float16)})
    return FeatureMaps16(table=tables.finish_table(folder), shape=maps.shape[1:])


def test_a_1x1_convolution_and_bilinear_resizing_commute() -> None:
    generator = torch.Generator().manual_seed(0)
    maps, weight = (torch.randn(shape, generator=generator) for shape in ((2, 6, 5, 5), (3, 6)))
    bias = torch.randn(3, generator=generator)
    resized = F.interpolate(maps, (20, 20), mode="bilinear", align_corners=False)
    expected = F.conv2d(resized, weight[:, :, None, None], bias)
    torch.testing.assert_close(layer_logits(maps, weight, bias, 20), expected)


@pytest.mark.parametrize("chunk", [2, 100])
def test_training_equals_sgd_on_full_maps(tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_segmentation, "CHUNK_SIZE", chunk)
    generator = np.random.default_rng(0)
    maps = generator.normal(size=(6, 4, 3, 3)).astype(np.float16)
    labels = generator.integers(0, 3, (6, 8, 8)).astype(np.uint8)
    labels[0, :5] = VOID
    config = LinearSegmentationConfig(mask_px=8, epochs=3, decay_epoch=2, batch_size=4, lr=0.1)
    weight, bias = train_layer(stored(tmp_path / "maps", maps), labels, 3, config, seed=5)

    draws = torch.Generator().manual_seed(5)
    layer = nn.Conv2d(4, 3, 1)
    with torch.no_grad():
        layer.weight.copy_(((torch.rand(3, 4, generator=draws) * 2 - 1) * 0.5)[:, :, None, None])
        layer.bias.copy_((torch.rand(3, generator=draws) * 2 - 1) * 0.5)  # type: ignore[union-attr]
    for epoch in range(3):
        optimiser_lr = 0.1 if epoch < 2 else 0.01
        if epoch == 0:
            optimiser = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        optimiser.param_groups[0]["lr"] = optimiser_lr
        order = torch.randperm(6, generator=draws)
        for rows in order.split(4):
            optimiser.zero_grad()
            full = F.interpolate(torch.from_numpy(maps).float()[rows], (8, 8), mode="bilinear", align_corners=False)
            F.cross_entropy(layer(full), torch.from_numpy(labels).long()[rows], ignore_index=VOID).backward()
            optimiser.step()
    torch.testing.assert_close(weight, layer.weight.detach()[:, :, 0, 0])
    torch.testing.assert_close(bias, layer.bias.detach())  # type: ignore[union-attr]


def test_masks_are_resized_by_the_nearest_pixel() -> None:
    mask = np.arange(16, dtype=np.uint8).reshape(4, 4)
    assert nearest_resize(mask, 2).tolist() == [[5, 7], [13, 15]]
    np.testing.assert_array_equal(nearest_resize(mask, 8), mask.repeat(2, axis=0).repeat(2, axis=1))


def test_miou_by_hand_over_draws() -> None:
    labels = np.array([[[0, 1], [1, VOID]]], dtype=np.uint8)
    perfect = [np.array([[0, 1], [1, 0]], dtype=np.uint8)]
    wrong = [np.array([[1, 1], [1, 0]], dtype=np.uint8)]
    # The second draw has no pixel of class 0 right, and two of three of class 1.
    assert miou_sums(("a",), [perfect, wrong], labels, 2).value == pytest.approx((1 + (0 + 2 / 3) / 2) / 2)


def test_a_diverged_layer_is_refused(tmp_path: Path) -> None:
    maps = np.full((2, 2, 2, 2), 60000, dtype=np.float16)
    config = LinearSegmentationConfig(mask_px=4, epochs=60, lr=1e9)
    with pytest.raises(RuntimeError, match=r"diverged at a learning rate of 1e\+09"):
        train_layer(stored(tmp_path / "maps", maps), np.zeros((2, 4, 4), np.uint8), 2, config)
