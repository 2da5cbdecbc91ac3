"""Features of boxes and images: equal to a direct computation, cached, and recalibrated on a copy."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from orl.datasets.decode import load_image
from orl.embed_maps import rois_on_map
from orl.evaluation.evaluated_backbone import RANDOM, EvaluatedBackbone, load_evaluated_backbone
from orl.evaluation.objects.object_dataset import ObjectDataset
from orl.evaluation.objects.object_features import ObjectFeatures, open_object_features
from orl.evaluation.output import EvaluationOutput
from orl.networks.dilation import dilate_last_stage
from orl.provenance import StaleResultError
from orl.views.augment import normalise
from orl.views.crops import cut_boxes


@pytest.fixture(scope="module")
def backbone() -> EvaluatedBackbone:
    return load_evaluated_backbone(RANDOM, "resnet10")


@pytest.fixture
def data(labelled_scenes: Path) -> ObjectDataset:
    return ObjectDataset(data=labelled_scenes, max_images=6)


@pytest.fixture
def features(backbone: EvaluatedBackbone, data: ObjectDataset, tmp_path: Path) -> ObjectFeatures:
    output = EvaluationOutput(result=tmp_path / "r.json", workers=0, device="cpu", quiet=True)
    return open_object_features(backbone, data, output)


def test_crops_are_pooled_features_of_the_resized_boxes(features: ObjectFeatures, data: ObjectDataset) -> None:
    boxes = data.boxes.test
    found = features.rois(boxes, cut="crop", size_px=32)
    with torch.no_grad():
        crops = [cut_boxes(load_image(path), own, 32) for path, own in zip(boxes.paths, boxes.boxes)]
        expected = features.backbone.network(normalise(torch.cat(crops))).mean(dim=(2, 3)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_rois_on_the_map_are_those_of_the_dilated_map(features: ObjectFeatures, data: ObjectDataset) -> None:
    boxes = data.boxes.test
    found = features.rois(boxes, cut="map", size_px=72)
    network = dilate_last_stage(features.backbone.network)
    assert network is not None
    image = torch.from_numpy(load_image(boxes.paths[0]).copy()).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = rois_on_map(network(normalise(image)), boxes.boxes[0], (96, 72)).numpy()
    np.testing.assert_allclose(found[: len(expected)], expected, rtol=1e-3, atol=1e-4)


def test_a_map_that_grows_linearly_gives_the_centre_of_each_box() -> None:
    # Cell i covers pixels 10 i to 10 i + 10 of an image of 80 x 60 px, and has its value at the centre.
    columns = torch.arange(8.0).expand(6, 8)
    rows = torch.arange(6.0)[:, None].expand(6, 8)
    feature_map = torch.stack([columns, rows])[None]
    boxes = np.array([[20, 10, 50, 40], [5, 5, 75, 55], [30, 20, 40, 30]], dtype=np.float32)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 / 10 - 0.5
    found = rois_on_map(feature_map, boxes, (80, 60))
    torch.testing.assert_close(found, torch.from_numpy(centres), rtol=0, atol=1e-4)


def test_maps_are_those_of_the_dilated_network_in_half_precision(features: ObjectFeatures, data: ObjectDataset) -> None:
    maps = features.maps(data.masks.test, size_px=64)
    assert (len(maps), maps.shape) == (6, (512, 4, 4))
    image = torch.from_numpy(load_image(data.masks.test.paths[2]).copy()).permute(2, 0, 1)[None]
    resized = F.interpolate(image, (64, 64), mode="bilinear", antialias=True)
    expected = features.encode_maps(resized)[0].numpy()
    np.testing.assert_allclose(maps.rows(2, 3)[0], expected, rtol=2e-3, atol=2e-3)


def test_the_same_features_again_come_from_the_cache(
    features: ObjectFeatures, data: ObjectDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = features.rois(data.boxes.test, cut="crop", size_px=32)
    images = features.images(data.boxes.test, size_px=32)
    monkeypatch.setattr(nn.Module, "__call__", lambda *_: pytest.fail("the network was run again"))
    np.testing.assert_array_equal(features.rois(data.boxes.test, cut="crop", size_px=32), first)
    np.testing.assert_array_equal(features.images(data.boxes.test, size_px=32), images)


def test_features_of_another_backbone_in_the_same_place_are_refused(
    features: ObjectFeatures, data: ObjectDataset
) -> None:
    features.images(data.boxes.test, size_px=32)
    other = replace(features, backbone=replace(features.backbone, digest="other"))
    with pytest.raises(StaleResultError):
        other.images(data.boxes.test, size_px=32)


def test_recalibration_uses_crops_of_the_training_split_and_changes_no_weight(
    features: ObjectFeatures, data: ObjectDataset
) -> None:
    before = {name: value.clone() for name, value in features.backbone.network.state_dict().items()}
    own = features.rois(data.boxes.test, cut="crop", size_px=32)
    found = features.rois(data.boxes.test, cut="crop", size_px=32, recalibrate_on=data.boxes.train)
    assert np.abs(found - own).max() > 0.1
    assert all(torch.equal(value, before[name]) for name, value in features.backbone.network.state_dict().items())
    # With its own statistics the first layer's outputs have mean 0 and variance 1 over the crops.
    trained = features._recalibrated(data.boxes.train, 32)
    crops = torch.cat(
        [
            cut_boxes(load_image(path), boxes[scored], 32)
            for path, boxes, scored in zip(data.boxes.train.paths, data.boxes.train.boxes, data.boxes.train.scored)
        ]
    )
    with torch.no_grad():
        outputs = trained.bn1(trained.conv1(normalise(crops)))
    variance, mean = torch.var_mean(outputs, (0, 2, 3), correction=0)
    torch.testing.assert_close(mean, torch.zeros(64), rtol=0, atol=1e-3)
    torch.testing.assert_close(variance, torch.ones(64), rtol=0, atol=1e-2)


def test_a_map_of_one_position_is_refused(features: ObjectFeatures, data: ObjectDataset) -> None:
    with pytest.raises(ValueError, match="at 16 px has 1x1 positions"):
        features.maps(data.masks.test, size_px=16)


def test_a_network_without_batch_normalisation_cannot_be_recalibrated(
    features: ObjectFeatures, data: ObjectDataset
) -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 3))
    plain.name = "plain"
    without = replace(features, backbone=replace(features.backbone, network=features.backbone.network))
    object.__setattr__(without.backbone, "network", plain)
    with pytest.raises(ValueError, match="plain has no batch normalisation"):
        without.rois(data.boxes.test, cut="crop", size_px=32, recalibrate_on=data.boxes.train)
