"""Intervals of ranks by the jackknife."""

import numpy as np
import pytest
import torch

from orl.evaluation.objects.feature_rank import MEASURES, NUM_GROUPS, jackknife, rank_rows


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = torch.from_numpy(np.random.default_rng(0).normal(size=(400, 1)))
    found = jackknife(values, np.arange(400), lambda rows: rows.mean(), seed=0)
    assert found.value == pytest.approx(values.mean().item())
    width = 1.96 * values.std().item() / 400**0.5
    # 20 groups estimate a std to about a sixth.
    assert (found.high - found.low) / 2 == pytest.approx(width, rel=0.5)


def test_equal_rows_have_rank_one_without_width() -> None:
    rows = {row.name: row.estimate for row in rank_rows("crop", np.ones((60, 5), np.float32), np.arange(60), 0)}
    assert set(rows) == {f"crop, {name}" for name in MEASURES}
    assert rows["crop, rank"].value == pytest.approx(1.0)
    assert rows["crop, rank"].high - rows["crop, rank"].low == pytest.approx(0, abs=1e-5)
    assert rows["crop, std"].value == pytest.approx(0, abs=1e-5)


def test_boxes_of_one_image_leave_together() -> None:
    seen = []

    def count(rows: torch.Tensor) -> torch.Tensor:
        seen.append(sorted(rows[:, 0].int().tolist()))
        return rows.mean()

    image_rows = np.repeat(np.arange(NUM_GROUPS), 3)
    jackknife(torch.from_numpy(image_rows[:, None].astype(np.float64)), image_rows, count, seed=0)
    assert all(rows.count(image) in (0, 3) for rows in seen for image in range(NUM_GROUPS))
    assert [len(rows) for rows in seen] == [3 * (NUM_GROUPS - 1)] * NUM_GROUPS + [3 * NUM_GROUPS]
