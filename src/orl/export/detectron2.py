"""A backbone for Detectron2: a pickle of arrays, and the paper's detection protocol as a ready config."""

import pickle
from typing import Any

import yaml

from orl.export.model_card import Origin, write_card
from orl.networks.backbones import Backbone
from orl.views.colour import IMAGENET_MEAN, IMAGENET_STD
from orl.weights.names import to_detectron2

DETECTRON2_RESNETS: dict[str, dict[str, int]] = {
    "resnet18": {"DEPTH": 18, "RES2_OUT_CHANNELS": 64, "WIDTH_PER_GROUP": 64},
    "resnet34": {"DEPTH": 34, "RES2_OUT_CHANNELS": 64, "WIDTH_PER_GROUP": 64},
    "resnet50": {"DEPTH": 50, "RES2_OUT_CHANNELS": 256, "WIDTH_PER_GROUP": 64},
    "resnet101": {"DEPTH": 101, "RES2_OUT_CHANNELS": 256, "WIDTH_PER_GROUP": 64},
    "wide_resnet50_2": {"DEPTH": 50, "RES2_OUT_CHANNELS": 256, "WIDTH_PER_GROUP": 128},
}
"""Options of Detectron2's `build_resnet_backbone` for each backbone."""
FPN_LEVELS = ["res2", "res3", "res4", "res5"]
ARRAY_MODULES = (b"numpy._core.multiarray\n", b"numpy.core.multiarray\n")
"""Modules of the function that rebuilds an array, in numpy 2 and in numpy 1."""


def detectron2_files(backbone: Backbone, origin: Origin) -> dict[str, bytes]:
    """Return the pickle, a config of Mask R-CNN with FPN for 90,000 iterations, and the card.

    Raises:
        ValueError: if Detectron2 has no such network.

    Source:
        Detectron2's `modeling/backbone/resnet.py` and `configs/Base-RCNN-FPN.yaml`; the protocol is that of the
        paper's supplementary.
    """
    if backbone.name not in DETECTRON2_RESNETS:
        raise ValueError(
            f"Detectron2 builds ResNets of depth 18, 34, 50, 101 and 152, and no {backbone.name}; export it to "
            "torchvision, timm or onnx"
        )
    file, config = f"{backbone.name}_detectron2.pkl", f"{backbone.name}_detectron2.yaml"
    code = f"""\
# python tools/train_net.py --num-gpus 8 --config-file {config}    (MODEL.WEIGHTS is relative: run it here, or give it)
from detectron2.config import get_cfg

cfg = get_cfg()
cfg.merge_from_file("{config}")"""
    content = (
        "The weights have Detectron2's names, and `matching_heuristics` finds them below `backbone.bottom_up`. The "
        "config needs no other file: Mask R-CNN with FPN on COCO 2017, 90,000 iterations at 16 images, nothing frozen, "
        "batch statistics over all GPUs (SyncBN) in backbone, FPN and heads, images as RGB."
    )
    return {
        file: _pickle(backbone),
        config: yaml.safe_dump(_config(backbone, file), sort_keys=False, default_flow_style=None).encode(),
        f"{backbone.name}_detectron2.md": write_card(backbone, origin, code, content),
    }


def _pickle(backbone: Backbone) -> bytes:
    weights = {
        to_detectron2(name): value.detach().cpu().numpy()
        for name, value in backbone.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    pickled = {"model": weights, "__author__": "orl", "matching_heuristics": True}
    # Protocol 3 writes function names as plain text, so the name can be replaced by numpy 1's, which numpy 2 still
    # reads: Detectron2 is often installed with numpy 1.
    return pickle.dumps(pickled, protocol=3).replace(b"c" + ARRAY_MODULES[0], b"c" + ARRAY_MODULES[1])


def _config(backbone: Backbone, file: str) -> dict[str, Any]:
    return {
        "VERSION": 2,
        "MODEL": _model(backbone, file),
        "INPUT": {
            "FORMAT": "RGB",
            "MASK_FORMAT": "polygon",
            "MIN_SIZE_TRAIN": list(range(640, 801, 32)),
            "MIN_SIZE_TRAIN_SAMPLING": "choice",
            "MAX_SIZE_TRAIN": 1333,
            "MIN_SIZE_TEST": 800,
            "MAX_SIZE_TEST": 1333,
        },
        "DATASETS": {"TRAIN": ["coco_2017_train"], "TEST": ["coco_2017_val"]},
        "SOLVER": {
            "IMS_PER_BATCH": 16,
            "BASE_LR": 0.02,
            "MOMENTUM": 0.9,
            "WEIGHT_DECAY": 0.0001,
            "GAMMA": 0.1,
            "WARMUP_ITERS": 1000,
            "STEPS": [60000, 80000],
            "MAX_ITER": 90000,
        },
        "TEST": {"PRECISE_BN": {"ENABLED": True}},
    }


def _model(backbone: Backbone, file: str) -> dict[str, Any]:
    return {
        "META_ARCHITECTURE": "GeneralizedRCNN",
        "WEIGHTS": file,
        "MASK_ON": True,
        "PIXEL_MEAN": [round(255 * value, 3) for value in IMAGENET_MEAN],
        "PIXEL_STD": [round(255 * value, 3) for value in IMAGENET_STD],
        "BACKBONE": {"NAME": "build_resnet_fpn_backbone", "FREEZE_AT": 0},
        "RESNETS": {
            "OUT_FEATURES": FPN_LEVELS[:],
            "NORM": "SyncBN",
            "STRIDE_IN_1X1": False,
            **DETECTRON2_RESNETS[backbone.name],
        },
        "FPN": {"IN_FEATURES": FPN_LEVELS[:], "NORM": "SyncBN"},
        "ANCHOR_GENERATOR": {"SIZES": [[32], [64], [128], [256], [512]], "ASPECT_RATIOS": [[0.5, 1.0, 2.0]]},
        "RPN": {
            "IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
            "PRE_NMS_TOPK_TRAIN": 2000,
            "PRE_NMS_TOPK_TEST": 1000,
            "POST_NMS_TOPK_TRAIN": 1000,
            "POST_NMS_TOPK_TEST": 1000,
        },
        "ROI_HEADS": {"NAME": "StandardROIHeads", "IN_FEATURES": ["p2", "p3", "p4", "p5"]},
        "ROI_BOX_HEAD": {
            "NAME": "FastRCNNConvFCHead",
            "NUM_CONV": 4,
            "NUM_FC": 1,
            "NORM": "SyncBN",
            "POOLER_RESOLUTION": 7,
        },
        "ROI_MASK_HEAD": {
            "NAME": "MaskRCNNConvUpsampleHead",
            "NUM_CONV": 4,
            "NORM": "SyncBN",
            "POOLER_RESOLUTION": 14,
        },
    }
