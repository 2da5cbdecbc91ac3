import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from orl.config import DiscoverConfig, NetworkConfig, ObjectConfig, RunConfig, TrainConfig, ViewConfig
from orl.datasets.image_table import ImageTable
from orl.doctor.measure import (
    FoundRois,
    in_own_process,
    measure_discovery,
    measure_training,
    measured_batches,
    measured_object_table,
    sample_images,
)
from orl.synthetic.scenes import draw_scenes

SMALL = TrainConfig(hidden_features=32, projection_features=16, views=ViewConfig(size_px=32))
CONFIG = RunConfig(
    images=Path("images"),
    out=Path("out"),
    workers=1,
    device="cpu",
    network=NetworkConfig(backbone="resnet10"),
    stage1=SMALL,
    stage3=SMALL,
    objects=ObjectConfig(roi_size_px=16),
    discover=DiscoverConfig(proposals="grid", roi_embed_px=32, min_side=0.2),
)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    draw_scenes(folder, num_trainval=7, num_test=0, size_wh=(96, 72), quiet=True)
    return folder


@pytest.fixture(scope="module")
def images(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> ImageTable:
    return sample_images(scenes, None, 4, tmp_path_factory.mktemp("unused"))[0]


def test_images_are_taken_from_all_of_the_source(scenes: Path, tmp_path: Path) -> None:
    images, num_found = sample_images(scenes, "trainval", 3, tmp_path)
    assert [Path(name).stem for name in images.names] == ["000000", "000003", "000006"]
    assert num_found == 7
    assert len(sample_images(scenes, None, 100, tmp_path)[0]) == 7


def test_without_a_source_scenes_are_drawn(tmp_path: Path) -> None:
    images, num_found = sample_images(None, None, 2, tmp_path / "drawn")
    assert images.sizes_wh == ((640, 480), (640, 480))
    assert num_found == 0


def test_images_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    (tmp_path / "torn.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"none of 1 images .* can be used: torn\.jpg"):
        sample_images(tmp_path, None, 4, tmp_path)


def test_the_larger_batch_fills_the_pixels_and_has_six_images_at_least() -> None:
    assert measured_batches(2 * 96 * 96, "cpu", 64) == (5, 15)
    assert measured_batches(2 * 224 * 224, "cpu", 512) == (2, 6)
    assert measured_batches(2 * 224 * 224, "cuda", 512) == (31, 93)
    assert measured_batches(2 * 224 * 224, "cuda", 64) == (21, 63)
    assert measured_batches(1, "cpu", 2) == (2, 6)


def test_a_stage_is_measured_by_its_own_steps(images: ImageTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orl.doctor.measure.STEP_PIXELS", {"cpu": 20_000})
    cost = measure_training(CONFIG, "stage1", images, None)
    backbone = sum(weight.numel() for weight in torchvision_resnet10().parameters()) - (512 * 1000 + 1000)
    heads = (512 * 32 + 32 + 64 + 32 * 16) + (16 * 32 + 32 + 64 + 32 * 16)
    assert cost.parameters == backbone + heads
    # Two views of 32 x 32 in three channels.
    assert cost.sample_bytes == 2 * 3 * 32 * 32
    assert cost.batches == (3, 9)
    # Online and target networks and the momenta of one of them, and what normalisation gathers.
    assert cost.state_bytes == pytest.approx(4 * 3 * cost.parameters, rel=0.01)
    assert cost.memory.at(9) > 4 * 3 * cost.parameters
    assert cost.step.at(9) > 0
    assert cost.sample_s > 0


def torchvision_resnet10() -> torch.nn.Module:
    from torchvision.models.resnet import BasicBlock, ResNet

    return ResNet(BasicBlock, [1, 1, 1, 1])


def test_stage_3_is_measured_with_the_rois_that_were_found(images: ImageTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orl.doctor.measure.STEP_PIXELS", {"cpu": 20_000})
    discovery, found = measure_discovery(CONFIG, images)
    assert discovery.rois == len(found.boxes) / 4 > 1
    assert set(found.image_ids.tolist()) == {0, 1, 2, 3}
    # The limit is a fifth of the short side of 72 pixels.
    assert (found.boxes[:, 2:] - found.boxes[:, :2]).min() >= 0.2 * 72
    assert discovery.embedding_bytes == 2 * 512
    assert discovery.crop_s > 0
    cost = measure_training(CONFIG, "stage3", images, found)
    assert cost.sample_bytes == 3 * (2 * 32 * 32 + 4 * 16 * 16)
    stage1 = measure_training(CONFIG, "stage1", images, None)
    assert cost.parameters == stage1.parameters + 2 * (16 * 32 + 32 + 64 + 32 * 16)


def test_boxes_of_a_file_are_measured_on_a_grid(images: ImageTable, tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    path.write_text("{}")
    config = replace(CONFIG.discover, proposals="file", proposals_file=path)
    _, found = measure_discovery(replace(CONFIG, discover=config), images)
    _, on_a_grid = measure_discovery(CONFIG, images)
    np.testing.assert_array_equal(found.boxes, on_a_grid.boxes)


def test_boxes_of_the_feature_extractor_are_measured_with_the_network_to_train(images: ImageTable) -> None:
    config = replace(CONFIG.discover, proposals="extractor")
    discovery, found = measure_discovery(replace(CONFIG, discover=config), images)
    assert discovery.rois == len(found.boxes) / 4 >= 1
    assert discovery.proposals_s > 0


def test_each_image_corresponds_to_the_next() -> None:
    found = FoundRois(np.zeros((5, 4), np.float32), np.array([0, 0, 1, 2, 2], np.int32))
    table = measured_object_table(found, 3)
    assert table.roi_starts.tolist() == [0, 2, 3, 5]
    assert table.correspondences.tolist() == [[0, 2], [2, 3], [3, 0]]
    assert [groups.tolist() for groups in table.neighbour_slices] == [[[0, 1]], [[1, 2]], [[2, 3]]]


def test_another_process_gives_its_result_or_its_error() -> None:
    assert in_own_process(int, "17") == 17
    with pytest.raises(ValueError, match="invalid literal"):
        in_own_process(int, "x")


def test_a_killed_process_counts_as_out_of_memory() -> None:
    with pytest.raises(MemoryError, match="killed"):
        in_own_process(os._exit, 9)


def test_a_process_that_finds_no_memory_says_so() -> None:
    # More bytes than any address: refused at once.
    with pytest.raises(MemoryError, match="can't allocate memory"):
        in_own_process(torch.empty, 2**60)
