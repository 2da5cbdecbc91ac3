from pathlib import Path

import numpy as np
import pytest
import torch

from orl import boxes
from orl.ablations.baselines import labelled_boxes, random_feature_extractor
from orl.config import RunConfig
from orl.datasets.image_table import load_image_table
from orl.datasets.sources import read_labels
from orl.evaluation.evaluated_backbone import RANDOM, load_evaluated_backbone
from orl.networks.backbones import read_backbone_file
from orl.own_boxes.box_file import read_box_file
from orl.pipeline.preflight import preflight
from orl.pipeline.scan import scan
from orl.recipes import demo
from orl.rundir import RunDir
from orl.synthetic.scenes import draw_scenes


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    draw_scenes(tmp_path / "scenes", num_trainval=12, num_test=1, size_wh=(96, 72), seed=0, quiet=True)
    config = demo(tmp_path / "scenes", tmp_path / "seed0" / "base")
    config.out.mkdir(parents=True)
    scan(preflight(config))
    return config


def test_labelled_boxes_are_read_as_the_proposals_of_their_images(config: RunConfig, tmp_path: Path) -> None:
    images = load_image_table(RunDir(config.out).images)
    found = read_box_file(labelled_boxes(config), images, config.images, tmp_path)(slice(0, len(images)))
    labels = read_labels(config.images)
    assert labels is not None
    expected = dict(zip(labels.names, labels.boxes))
    for name, size_wh, own in zip(images.names, images.sizes_wh, found, strict=True):
        np.testing.assert_allclose(own.xyxy, boxes.clip(expected[name], size_wh), atol=1e-4)


def test_images_without_labels_have_no_labelled_boxes(config: RunConfig, tmp_path: Path) -> None:
    folder = config.images / "JPEGImages"
    with pytest.raises(ValueError, match=r"JPEGImages has no labelled boxes; give a VOC devkit"):
        labelled_boxes(demo(folder, tmp_path / "run"))


def test_the_random_feature_extractor_is_the_backbone_evaluated_as_random_weights(config: RunConfig) -> None:
    state = torch.get_rng_state()
    own = read_backbone_file(random_feature_extractor(config)).state_dict()
    evaluated = load_evaluated_backbone(RANDOM, config.network.backbone, config.seed).network.state_dict()
    assert all(torch.equal(own[name], evaluated[name]) for name in evaluated)
    assert torch.equal(torch.get_rng_state(), state), "the global generator is not used"
