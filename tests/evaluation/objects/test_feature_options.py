"""Options of the features of boxes: precision, recalibration, and maps that are too small."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.evaluation.objects.made_boxes import made_boxes

from orl.datasets.decode import load_image
from orl.evaluation.evaluated_backbone import RANDOM, EvaluatedBackbone, load_evaluated_backbone
from orl.evaluation.objects import object_features
from orl.evaluation.objects.object_dataset import ObjectBoxes, ObjectDataset
from orl.evaluation.objects.object_features import ObjectFeatures, feature_inputs, open_object_features, square
from orl.evaluation.output import EvaluationOutput
from orl.networks.names import Precision
from orl.views.augment import normalise
from orl.views.crops import cut_boxes


@pytest.fixture(scope="module")
def backbone() -> EvaluatedBackbone:
    return load_evaluated_backbone(RANDOM, "resnet10")


@pytest.fixture
def boxes(tmp_path: Path) -> ObjectBoxes:
    """Draw three images of noise with one, two and two boxes."""
    found = replace(made_boxes([[0], [1, 2], [0, 1]]), root=tmp_path)
    generator = np.random.default_rng(0)
    for path in found.paths:
        Image.fromarray(generator.integers(0, 256, (40, 56, 3), dtype=np.uint8)).save(path.with_suffix(".png"))
    return replace(found, names=tuple(name.replace(".jpg", ".png") for name in found.names))


def features_at(backbone: EvaluatedBackbone, folder: Path, precision: Precision = "32-true") -> ObjectFeatures:
    output = EvaluationOutput(result=folder / "r.json", workers=0, device="cpu", quiet=True, precision=precision)
    return open_object_features(backbone, ObjectDataset(data=folder), output)


def test_bf16_features_agree_to_the_second_digit_and_have_a_cache_of_their_own(
    backbone: EvaluatedBackbone, boxes: ObjectBoxes, tmp_path: Path
) -> None:
    exact, half = features_at(backbone, tmp_path), features_at(backbone, tmp_path, "bf16-mixed")
    for compute in (
        lambda each: each.rois(boxes, cut="crop", size_px=64),
        lambda each: each.rois(boxes, cut="map", size_px=64),
        lambda each: each.images(boxes, size_px=64),
    ):
        first, second = compute(exact), compute(half)
        assert second.dtype == np.float32
        cosines = (first * second).sum(axis=1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
        assert cosines.min() > 0.999
        assert not np.array_equal(first, second)


def test_the_precision_is_an_input_of_the_result_and_64_bits_are_refused(backbone: EvaluatedBackbone) -> None:
    output = EvaluationOutput(result=Path("r.json"))
    assert feature_inputs(backbone, output) == {"backbone": backbone.digest}
    half = replace(output, precision="bf16-mixed")
    assert feature_inputs(backbone, half) == {"backbone": backbone.digest, "precision": "bf16-mixed"}
    with pytest.raises(ValueError, match="not computed in 64-true"):
        feature_inputs(backbone, replace(output, precision="64-true"))


def test_recalibration_for_maps_takes_complete_images(
    backbone: EvaluatedBackbone, boxes: ObjectBoxes, tmp_path: Path
) -> None:
    network = features_at(backbone, tmp_path)._recalibrated(boxes, 64, "map")
    views = normalise(torch.stack([square(load_image(path), 64) for path in boxes.paths]))
    with torch.no_grad():
        outputs = network.conv1(views)  # type: ignore[operator]
    variance, mean = torch.var_mean(outputs, (0, 2, 3), correction=0)
    torch.testing.assert_close(network.bn1.running_mean, mean)
    torch.testing.assert_close(network.bn1.running_var, variance)


def test_recalibration_leaves_out_boxes_that_do_not_count_and_a_last_batch_of_one_crop(
    backbone: EvaluatedBackbone, boxes: ObjectBoxes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(object_features.RECALIBRATION_BATCH_SIZES, "crop", 3)
    counted = replace(boxes, scored=(np.array([True]), np.array([True, False]), np.array([True, True])))
    # The map has one position: a batch of one crop has one value to a channel, which torch refuses.
    network = features_at(backbone, tmp_path)._recalibrated(counted, 32)
    order = np.random.default_rng(0).permutation(3).tolist()
    crops = torch.cat(
        [cut_boxes(load_image(boxes.paths[row]), boxes.boxes[row][counted.scored[row]], 32) for row in order]
    )
    with torch.no_grad():
        outputs = network.conv1(normalise(crops[:3]))  # type: ignore[operator]
    torch.testing.assert_close(network.bn1.running_mean, outputs.mean(dim=(0, 2, 3)))


def test_a_map_of_one_position_is_refused_before_an_image_is_read(
    backbone: EvaluatedBackbone, boxes: ObjectBoxes, tmp_path: Path
) -> None:
    missing = replace(boxes, names=("missing.png", *boxes.names[1:]))
    with pytest.raises(ValueError, match="at 16 px has 1x1 positions"):
        features_at(backbone, tmp_path).rois(missing, cut="map", size_px=16)
