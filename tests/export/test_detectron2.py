import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tests.export.exported import random_backbone, real_images, synthetic_images, write_backbone
from tests.reference.detectron2_resnet import Detectron2ResNet

from orl.export.export import export
from orl.networks.backbones import build_backbone
from orl.weights.names import to_detectron2

BUILT_THERE = ("resnet18", "resnet34", "resnet50", "resnet101", "wide_resnet50_2")

# The settings that Detectron2's config reference lists, of those parts that an export speaks of.
KNOWN_KEYS = {
    "": {"VERSION", "MODEL", "INPUT", "DATASETS", "SOLVER", "TEST"},
    "MODEL": {
        *("META_ARCHITECTURE", "WEIGHTS", "MASK_ON", "PIXEL_MEAN", "PIXEL_STD", "BACKBONE", "RESNETS", "FPN"),
        *("ANCHOR_GENERATOR", "RPN", "ROI_HEADS", "ROI_BOX_HEAD", "ROI_MASK_HEAD"),
    },
    "MODEL.BACKBONE": {"NAME", "FREEZE_AT"},
    "MODEL.FPN": {"IN_FEATURES", "OUT_CHANNELS", "NORM", "FUSE_TYPE"},
    "MODEL.RESNETS": {
        *("DEPTH", "OUT_FEATURES", "NUM_GROUPS", "NORM", "WIDTH_PER_GROUP", "STRIDE_IN_1X1", "RES5_DILATION"),
        *("RES2_OUT_CHANNELS", "STEM_OUT_CHANNELS"),
    },
    "MODEL.ANCHOR_GENERATOR": {"NAME", "SIZES", "ASPECT_RATIOS", "ANGLES", "OFFSET"},
    "MODEL.RPN": {
        *("IN_FEATURES", "PRE_NMS_TOPK_TRAIN", "PRE_NMS_TOPK_TEST", "POST_NMS_TOPK_TRAIN", "POST_NMS_TOPK_TEST"),
        *("HEAD_NAME", "NMS_THRESH"),
    },
    "MODEL.ROI_HEADS": {"NAME", "IN_FEATURES", "NUM_CLASSES"},
    "MODEL.ROI_BOX_HEAD": {"NAME", "NUM_CONV", "CONV_DIM", "NUM_FC", "FC_DIM", "NORM", "POOLER_RESOLUTION"},
    "MODEL.ROI_MASK_HEAD": {"NAME", "NUM_CONV", "CONV_DIM", "NORM", "POOLER_RESOLUTION"},
    "INPUT": {
        *("MIN_SIZE_TRAIN", "MIN_SIZE_TRAIN_SAMPLING", "MAX_SIZE_TRAIN", "MIN_SIZE_TEST", "MAX_SIZE_TEST"),
        *("FORMAT", "MASK_FORMAT", "RANDOM_FLIP"),
    },
    "DATASETS": {"TRAIN", "TEST"},
    "SOLVER": {
        *("IMS_PER_BATCH", "BASE_LR", "MOMENTUM", "WEIGHT_DECAY", "GAMMA", "WARMUP_ITERS", "STEPS", "MAX_ITER"),
        *("LR_SCHEDULER_NAME", "CHECKPOINT_PERIOD"),
    },
    "TEST": {"PRECISE_BN", "EVAL_PERIOD"},
    "TEST.PRECISE_BN": {"ENABLED", "NUM_ITER"},
}


def exported(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """The pickle as Detectron2 opens it, the config, and the path of the pickle."""
    weights, config, _ = export(write_backbone(folder / "from", name), "detectron2", folder / "to")
    with open(weights, "rb") as file:
        return pickle.load(file, encoding="latin1"), yaml.safe_load(config.read_text()), weights


def read_there(config: dict[str, Any], content: dict[str, Any]) -> Detectron2ResNet:
    network = Detectron2ResNet(config["MODEL"]["RESNETS"])
    weights = {name: torch.from_numpy(array) for name, array in content["model"].items()}
    counts = {name for name in network.state_dict() if name.endswith("num_batches_tracked")}
    missing, unexpected = network.load_state_dict(weights, strict=False)
    assert unexpected == []
    assert set(missing) <= counts
    return network.eval()


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_detectron2s_network_reads_every_weight_and_gives_equal_features(tmp_path: Path, name: str) -> None:
    content, config, _ = exported(tmp_path, name)
    images = synthetic_images()
    with torch.no_grad():
        torch.testing.assert_close(
            read_there(config, content)(images)["res5"], random_backbone(name)(images), rtol=1e-5, atol=1e-5
        )


def test_all_levels_of_real_images_equal_detectron2s(tmp_path: Path, real_data: Path) -> None:
    content, config, _ = exported(tmp_path, "resnet18")
    theirs, ours = read_there(config, content), random_backbone("resnet18")
    with torch.no_grad():
        for image in real_images(real_data):
            maps = ours.maxpool(ours.relu(ours.bn1(ours.conv1(image))))
            for number, found in enumerate(theirs(image).values(), start=1):
                maps = ours.get_submodule(f"layer{number}")(maps)
                torch.testing.assert_close(found, maps, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", BUILT_THERE)
def test_names_and_shapes_are_those_of_the_network_that_the_config_builds(name: str) -> None:
    from orl.export.detectron2 import DETECTRON2_RESNETS

    with torch.device("meta"):
        theirs = Detectron2ResNet({**DETECTRON2_RESNETS[name], "STRIDE_IN_1X1": False}).state_dict()
        ours = build_backbone(name).state_dict()
    kept = {to_detectron2(key): value.shape for key, value in ours.items() if not key.endswith("tracked")}
    assert kept == {key: value.shape for key, value in theirs.items() if not key.endswith("tracked")}


def test_the_pickle_has_plain_float_arrays_and_asks_for_matching_by_name(tmp_path: Path) -> None:
    content, _, _ = exported(tmp_path, "resnet18")
    assert content["__author__"] == "orl"
    assert content["matching_heuristics"] is True
    arrays = content["model"].values()
    assert all(array.dtype == np.float32 and array.flags.c_contiguous for array in arrays)
    torch.testing.assert_close(
        torch.from_numpy(content["model"]["res2.0.conv1.norm.running_var"]),
        random_backbone("resnet18").state_dict()["layer1.0.bn1.running_var"],
    )


def test_the_pickle_refers_only_to_array_functions_under_numpy_1_names(tmp_path: Path) -> None:
    _, _, path = exported(tmp_path, "resnet18")
    named = [argument for operation, argument, _ in pickletools.genops(path.read_bytes()) if operation.name == "GLOBAL"]
    assert set(named) == {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"}
    assert not any(operation.name == "STACK_GLOBAL" for operation, _, _ in pickletools.genops(path.read_bytes()))


def test_the_config_is_the_protocol_of_the_paper(tmp_path: Path) -> None:
    _, config, path = exported(tmp_path, "resnet50")
    model, solver = config["MODEL"], config["SOLVER"]
    assert "_BASE_" not in config
    assert model["WEIGHTS"] == path.name
    assert model["MASK_ON"] is True
    assert (model["BACKBONE"]["NAME"], model["BACKBONE"]["FREEZE_AT"]) == ("build_resnet_fpn_backbone", 0)
    assert {model[part]["NORM"] for part in ("RESNETS", "FPN", "ROI_BOX_HEAD", "ROI_MASK_HEAD")} == {"SyncBN"}
    assert model["RESNETS"]["STRIDE_IN_1X1"] is False
    assert model["RESNETS"]["DEPTH"] == 50
    box_head = model["ROI_BOX_HEAD"]
    assert (box_head["NAME"], box_head["NUM_CONV"], box_head["NUM_FC"]) == ("FastRCNNConvFCHead", 4, 1)
    assert config["INPUT"]["FORMAT"] == "RGB"
    assert model["PIXEL_MEAN"] == pytest.approx([123.675, 116.28, 103.53])
    assert model["PIXEL_STD"] == pytest.approx([58.395, 57.12, 57.375])
    assert config["INPUT"]["MIN_SIZE_TRAIN"] == [640, 672, 704, 736, 768, 800]
    assert config["INPUT"]["MIN_SIZE_TEST"] == 800
    assert (solver["IMS_PER_BATCH"], solver["BASE_LR"], solver["WARMUP_ITERS"]) == (16, 0.02, 1000)
    assert (solver["STEPS"], solver["MAX_ITER"], solver["GAMMA"]) == ([60000, 80000], 90000, 0.1)
    assert config["TEST"]["PRECISE_BN"]["ENABLED"] is True
    assert (config["DATASETS"]["TRAIN"], config["DATASETS"]["TEST"]) == (["coco_2017_train"], ["coco_2017_val"])


def test_every_config_key_is_documented_by_detectron2(tmp_path: Path) -> None:
    _, config, _ = exported(tmp_path, "resnet18")

    def check(part: dict[str, Any], where: str) -> None:
        assert set(part) <= KNOWN_KEYS[where], where
        for name, value in part.items():
            if isinstance(value, dict):
                check(value, f"{where}.{name}".lstrip("."))

    check(config, "")


def test_a_network_that_detectron2_does_not_build_is_refused(tmp_path: Path) -> None:
    source = write_backbone(tmp_path)
    with pytest.raises(ValueError, match="depth 18, 34, 50, 101 and 152, and no resnet10; export it to"):
        export(source, "detectron2", tmp_path / "to")
    assert not (tmp_path / "to").exists()
