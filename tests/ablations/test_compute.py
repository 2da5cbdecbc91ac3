from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from orl import tables
from orl.ablations.compute import (
    compute_matched_epochs,
    discover_pixels,
    stage1_pixels,
    stage3_pixels,
    uses_stage1,
)
from orl.config import RunConfig
from orl.recipes import demo
from orl.rundir import RunDir


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """The demo's config, views of 64 px and RoIs of 32, with 4 images of 3 RoIs each."""
    config = demo(Path("images"), tmp_path)
    for name, num_rows in (("embeddings", 4), ("rois", 12)):
        folder = RunDir(tmp_path).table(name)
        tables.begin(folder, {}, 1)
        tables.write_shard(folder, 0, {"value": np.zeros(num_rows, dtype=np.float32)})
    return config


def test_an_image_costs_its_views_in_stage_1_and_also_its_roi_pairs_in_stage_3(config: RunConfig) -> None:
    assert stage1_pixels(config) == 2 * 64 * 64
    assert stage3_pixels(config) == 2 * 64 * 64 + 4 * 32 * 32


@pytest.mark.parametrize(("weights", "pixels"), [((1, 0, 0), 8192), ((0, 1, 1), 4096), ((1, 0, 2), 10240)])
def test_a_term_that_is_left_out_costs_nothing(
    config: RunConfig, weights: tuple[float, float, float], pixels: int
) -> None:
    used = dict(zip(("global_weight", "intra_weight", "inter_weight"), weights))
    assert stage3_pixels(replace(config, objects=replace(config.objects, **used))) == pixels


def test_discovery_costs_a_forward_pass_of_the_image_and_of_each_roi(config: RunConfig) -> None:
    assert discover_pixels(config) == (96 * 96 + 3 * 64 * 64) / 4
    alone = replace(config.objects, intra_weight=0.0, inter_weight=0.0)
    assert discover_pixels(replace(config, objects=alone)) == 0, "the global term needs no pairs"


def test_matched_compute_counts_all_three_stages_and_is_rounded_up(config: RunConfig) -> None:
    # 20 + (5376 + 20 * 12288) / 8192 = 50.66
    assert compute_matched_epochs(config) == 51


def test_matched_compute_leaves_out_stage_1_with_a_feature_extractor_from_outside(config: RunConfig) -> None:
    outside = replace(config, discover=replace(config.discover, feature_extractor=Path("strong.pth")))
    assert compute_matched_epochs(outside) == 31
    warm = replace(outside, objects=replace(outside.objects, warm_start=True))
    assert compute_matched_epochs(warm) == 51, "stage 3 starts from stage 1"


@pytest.mark.parametrize(
    ("weights", "warm", "outside", "depends"),
    [
        ((1, 1, 1), False, None, True),
        ((1, 0, 0), False, None, False),
        ((1, 0, 0), True, None, True),
        ((0, 1, 0), False, Path("strong.pth"), False),
        ((0, 1, 0), True, Path("strong.pth"), True),
    ],
)
def test_stage_3_depends_on_stage_1_by_its_start_or_its_pairs(
    config: RunConfig, weights: tuple[float, float, float], warm: bool, outside: Path | None, depends: bool
) -> None:
    used = dict(zip(("global_weight", "intra_weight", "inter_weight"), weights))
    objects = replace(config.objects, warm_start=warm, **used)
    found = replace(config, objects=objects, discover=replace(config.discover, feature_extractor=outside))
    assert uses_stage1(found) is depends
