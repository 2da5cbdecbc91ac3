import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as multiprocessing
from lightning_fabric import Fabric
from tests.evaluation.detection.small import SMALL_CONFIG, draw_images
from tests.ports import free_port
from torch.testing import assert_close
from torchvision.models.detection._utils import Matcher

from orl.evaluation.detection.config import COCO_SCHEDULE, VOC_SCHEDULE, DetectionConfig, plan_training
from orl.evaluation.detection.datasets import DetectionDataset
from orl.evaluation.detection.train import DetectorTraining, build_training_step, learning_rate, train_detector
from orl.networks.backbones import Backbone, build_backbone
from orl.processes import Processes, joined_processes
from orl.training.fabric import launch_fabric
from orl.training.interrupts import Stopped
from orl.training.loop import TrainOptions
from orl.training.supervised import SupervisedStep


def training(images: DetectionDataset, config: DetectionConfig = SMALL_CONFIG) -> DetectorTraining:
    return DetectorTraining(images=images, config=config, plan=plan_training(config, COCO_SCHEDULE), seed=0)


def backbone() -> Backbone:
    torch.manual_seed(0)
    return build_backbone("resnet10")


def options(folder: Path, **others: Any) -> TrainOptions:
    return TrainOptions(**{"folder": folder, "title": "detector", "workers": 0, "checkpoint_minutes": 60.0, **others})


def test_1x_has_detectron2s_learning_rate_at_every_step() -> None:
    at = learning_rate(plan_training(DetectionConfig(), COCO_SCHEDULE)).values_at
    lrs = np.array([at(step)["lr"] for step in range(90_000)])
    assert_close(lrs[[0, 500, 999]], np.array([2e-5, 0.01001, 0.02 * (0.999 + 0.001 * 0.001)]), rtol=1e-12, atol=0)
    assert (lrs[1000:60_000] == 0.02).all()
    assert_close(lrs[60_000:80_000], np.full(20_000, 0.002))
    assert_close(lrs[80_000:], np.full(10_000, 0.0002))
    assert (np.diff(lrs[:1001]) > 0).all()


@pytest.mark.parametrize(
    ("config", "schedule", "expected"),
    [
        (
            DetectionConfig(schedule="2x"),
            COCO_SCHEDULE,
            {119_999: 0.02, 120_000: 0.002, 159_999: 0.002, 160_000: 0.0002},
        ),
        (DetectionConfig(batch_size=8), COCO_SCHEDULE, {2000: 0.01, 119_999: 0.01, 120_000: 0.001, 160_000: 0.0001}),
        (DetectionConfig(), VOC_SCHEDULE, {0: 2e-5, 100: 0.02, 17_999: 0.02, 18_000: 0.002, 22_000: 0.0002}),
    ],
)
def test_other_schedules_fall_at_their_own_milestones(
    config: DetectionConfig, schedule: Any, expected: dict[int, float]
) -> None:
    at = learning_rate(plan_training(config, schedule)).values_at
    assert {step: at(step)["lr"] for step in expected} == pytest.approx(expected, rel=1e-12)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    return draw_images(tmp_path_factory.mktemp("images"), 6)


def trained(images: DetectionDataset, folder: Path, **others: Any) -> SupervisedStep:
    training_step = build_training_step(backbone(), training(images), Fabric(accelerator="cpu", devices=1))
    train_detector(training_step, training(images), options(folder, **others), Processes())
    return training_step


class StoppedOnce:
    """A probe that sends the process a stop signal, as Ctrl-C does."""

    def __call__(self) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        return {}


def test_a_resumed_training_equals_an_uninterrupted_one(images: DetectionDataset, tmp_path: Path) -> None:
    complete = trained(images, tmp_path / "complete").network.state_dict()
    with pytest.raises(Stopped, match="after step 2 of 3"):
        trained(images, tmp_path / "parts", probe=StoppedOnce(), probe_steps=2)
    resumed = trained(images, tmp_path / "parts").network.state_dict()
    assert all(torch.equal(value, complete[name]) for name, value in resumed.items())
    again = trained(images, tmp_path / "complete").network.state_dict()  # only the batch statistics are recomputed
    assert all(torch.equal(value, complete[name]) for name, value in again.items())
    start = build_training_step(backbone(), training(images), Fabric(accelerator="cpu", devices=1)).network.state_dict()
    still = {name for name, value in start.items() if torch.equal(value, complete[name])}
    assert not [name for name in still if name.startswith("backbone.body")]


def test_precise_statistics_change_only_batch_statistics(images: DetectionDataset, tmp_path: Path) -> None:
    plain = training(images, replace(SMALL_CONFIG, precise_bn_iterations=0))
    training_step = build_training_step(backbone(), plain, Fabric(accelerator="cpu", devices=1))
    train_detector(training_step, plain, options(tmp_path / "plain"), Processes())
    precise = trained(images, tmp_path / "precise").network.state_dict()
    differing = {
        name.rsplit(".", 1)[1]
        for name, value in training_step.network.state_dict().items()
        if not torch.equal(value, precise[name])
    }
    assert differing == {"running_mean", "running_var", "num_batches_tracked"}


def without_sampling(training_step: SupervisedStep) -> SupervisedStep:
    """Remove all sampling and give every image equally many anchors and proposals: losses are means of means."""
    rpn, heads = training_step.network.rpn, training_step.network.roi_heads
    rpn.fg_bg_sampler.batch_size_per_image = heads.fg_bg_sampler.batch_size_per_image = 10**6
    rpn._post_nms_top_n = {"training": 10, "testing": 10}
    heads.fg_bg_sampler.positive_fraction = 1.0
    heads.proposal_matcher = Matcher(0.999, 0.999, allow_low_quality_matches=False)
    return training_step


def one_object(images: DetectionDataset) -> DetectionDataset:
    """Return images with one centred object each, so that a mirrored image has equally many anchors."""
    count, (width, height) = len(images), images.sizes_wh[0]
    assert images.segmentations is not None
    return replace(
        images,
        boxes=(np.array([[width / 4, height / 4, width * 3 / 4, height * 3 / 4]], dtype=np.float32),) * count,
        box_classes=tuple(labels[:1] for labels in images.box_classes),
        ignored=(np.array([False]),) * count,
        segmentations=tuple(masks[:1] for masks in images.segmentations),
    )


def train_evenly(fabric: Fabric, images: DetectionDataset, folder: Path, processes: Processes) -> SupervisedStep:
    config = replace(SMALL_CONFIG, short_sides_px=(64,), base_lr=0.02)
    own = training(one_object(images), config)
    training_step = without_sampling(build_training_step(backbone(), own, fabric))
    train_detector(training_step, own, options(folder), processes)
    return training_step


def one_of_two(rank: int, port: int, images: DetectionDataset, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1"
    )
    os.environ["MASTER_PORT"] = str(port)
    device = torch.device("cpu")
    with joined_processes(device) as processes:
        training_step = train_evenly(launch_fabric(device, "64-true", processes), images, folder, processes)
        torch.save(training_step.network.state_dict(), folder / f"{rank}.pt")


def test_two_processes_train_the_same_detector_as_one(images: DetectionDataset, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    together = tmp_path / "together"
    together.mkdir()
    fabric = launch_fabric(torch.device("cpu"), "64-true", Processes())
    expected = train_evenly(fabric, images, alone, Processes()).network.state_dict()
    multiprocessing.spawn(one_of_two, (free_port(), images, together), nprocs=2)
    for rank in range(2):
        found = torch.load(together / f"{rank}.pt")
        for name, value in expected.items():
            assert_close(found[name], value)
