from pathlib import Path

import numpy as np
import pytest

from orl import tables
from orl.config import ViewConfig
from orl.images.colour import ColourDistribution
from orl.networks.device import compute_device
from orl.recipes import coco
from orl.stages.pretrain import object_table, view_rules


def write_table(folder: Path, columns: dict[str, np.ndarray]) -> tables.Table:
    tables.begin(folder, {}, 1)
    tables.write_shard(folder, 0, columns)
    return tables.load(folder)


def test_the_object_table_groups_correspondences_by_photo_and_neighbour(tmp_path: Path) -> None:
    rois = {"image_id": np.array([0, 0, 1, 2], dtype=np.int32), "box": np.arange(16, dtype=np.float32).reshape(4, 4)}
    pairs = {
        "image_id": np.array([0, 0, 0, 1, 2, 2], dtype=np.int32),
        "neighbour_id": np.array([1, 1, 2, 2, 0, 1], dtype=np.int32),
        "roi": np.array([0, 1, 1, 2, 3, 3]),
        "neighbour_roi": np.array([2, 2, 3, 3, 0, 2]),
        "similarity": np.ones(6, dtype=np.float32),
    }
    found = object_table(write_table(tmp_path / "rois", rois), write_table(tmp_path / "pairs", pairs), 3)
    assert found.roi_starts.tolist() == [0, 2, 3, 4]
    assert found.pairs.tolist() == [[0, 2], [1, 2], [1, 3], [2, 3], [3, 0], [3, 2]]
    assert [group.tolist() for group in found.pair_groups] == [[[0, 2], [2, 3]], [[3, 4]], [[4, 5], [5, 6]]]
    assert found.rois[3].tolist() == [12, 13, 14, 15]


def test_two_photos_with_one_common_neighbour_do_not_run_into_one_group(tmp_path: Path) -> None:
    rois = {"image_id": np.arange(3, dtype=np.int32), "box": np.zeros((3, 4), dtype=np.float32)}
    pairs = {
        "image_id": np.array([0, 1, 2], dtype=np.int32),
        "neighbour_id": np.array([2, 2, 1], dtype=np.int32),
        "roi": np.arange(3),
        "neighbour_roi": np.array([2, 2, 1]),
        "similarity": np.ones(3, dtype=np.float32),
    }
    found = object_table(write_table(tmp_path / "rois", rois), write_table(tmp_path / "pairs", pairs), 3)
    assert [group.tolist() for group in found.pair_groups] == [[[0, 1]], [[1, 2]], [[2, 3]]]


def test_the_papers_views_are_byols() -> None:
    rules = view_rules(coco(Path("photos"), Path("run")).views)
    assert (rules.size_px, rules.area_range) == (224, (0.08, 1.0))
    assert rules.colours[0] == ColourDistribution()
    assert rules.colours[1] == ColourDistribution(blur_probability=0.1, solarise_probability=0.2)


def test_jitter_strength_scales_all_four_ranges() -> None:
    half = view_rules(ViewConfig(jitter_strength=0.5)).colours[0]
    assert (half.brightness, half.contrast, half.saturation, half.hue) == (0.2, 0.2, 0.1, 0.05)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match="torch sees no GPU here"):
        compute_device("cuda")
    assert compute_device("auto").type == "cpu"
