import pytest
import torch

from orl.networks.backbones import BUILDERS, build_backbone
from orl.weights.names import from_detectron2, from_efficientnet_lite0, to_detectron2


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("conv1.weight", "stem.conv1.weight"),
        ("bn1.running_mean", "stem.conv1.norm.running_mean"),
        ("layer1.0.conv1.weight", "res2.0.conv1.weight"),
        ("layer4.2.bn3.bias", "res5.2.conv3.norm.bias"),
        ("layer3.22.bn2.running_var", "res4.22.conv2.norm.running_var"),
        ("layer2.0.downsample.0.weight", "res3.0.shortcut.weight"),
        ("layer2.0.downsample.1.weight", "res3.0.shortcut.norm.weight"),
    ],
)
def test_names_written_out_by_hand(ours: str, theirs: str) -> None:
    assert to_detectron2(ours) == theirs
    assert from_detectron2(theirs) == ours


@pytest.mark.parametrize("name", BUILDERS)
def test_every_weight_name_survives_the_round_trip_to_detectron2(name: str) -> None:
    with torch.device("meta"):
        names = [key for key in build_backbone(name).state_dict() if not key.endswith("num_batches_tracked")]
    theirs = [to_detectron2(key) for key in names]
    assert len(set(theirs)) == len(names)
    assert [from_detectron2(key) for key in theirs] == names
    assert all(key.startswith(("stem.conv1.", "res2.", "res3.", "res4.", "res5.")) for key in theirs)


@pytest.mark.parametrize(
    "name", ["fc.weight", "layer5.0.conv1.weight", "layer1.0.conv4.weight", "xlayer1.0.conv1.weight"]
)
def test_a_name_that_torchvision_does_not_use_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is not a weight of torchvision"):
        to_detectron2(name)


def test_a_batch_count_has_no_name_in_detectron2() -> None:
    with pytest.raises(ValueError, match=r"does not store layer1\.0\.bn1\.num_batches_tracked"):
        to_detectron2("layer1.0.bn1.num_batches_tracked")


@pytest.mark.parametrize("name", ["res1.0.conv1.weight", "res2.0.bn1.weight", "conv1.weight", "res2.0.conv1.bias"])
def test_a_name_that_detectron2_does_not_use_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is not a weight of Detectron2"):
        from_detectron2(name)


@pytest.mark.parametrize(
    ("theirs", "timms"),
    [
        ("_conv_stem.weight", "conv_stem.weight"),
        ("_bn1.bias", "bn2.bias"),
        ("_blocks.0._project_conv.weight", "blocks.0.0.conv_pw.weight"),
        ("_blocks.2._expand_conv.weight", "blocks.1.1.conv_pw.weight"),
        ("_blocks.15._bn2.running_mean", "blocks.6.0.bn3.running_mean"),
    ],
)
def test_names_of_efficientnet_lite0_written_out_by_hand(theirs: str, timms: str) -> None:
    assert from_efficientnet_lite0(theirs) == timms


@pytest.mark.parametrize("name", ["_blocks.16._bn2.bias", "_blocks.1._se_reduce.weight", "conv1.weight"])
def test_a_name_that_efficientnet_lite0_does_not_use_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is not a weight of EfficientNet-Lite0"):
        from_efficientnet_lite0(name)
