"""A backbone as a folder of the Hugging Face hub, which timm loads: weights, config and model card."""

import json

from safetensors.torch import save

from orl.export.model_card import HUB_HEADER, Origin, write_card
from orl.export.timm import TIMM_MODELS
from orl.networks.backbones import Backbone, cpu_weights
from orl.views.colour import IMAGENET_MEAN, IMAGENET_STD
from orl.views.crops import CROP_PX, RESIZE_PX


def hub_folder(backbone: Backbone, origin: Origin) -> dict[str, bytes]:
    """Return `model.safetensors`, `config.json` and `README.md`, the model card."""
    weights = save(cpu_weights(backbone), {"format": "pt"})
    code = """\
import timm

network = timm.create_model("local-dir:FOLDER", pretrained=True)  # on the hub: "hf-hub:USER/NAME"
feature_map = network.forward_features(images)

from orl import load_backbone

backbone = load_backbone("FOLDER")"""
    content = "`model.safetensors` holds all weights before the pooling, under torchvision's and timm's names."
    return {
        "model.safetensors": weights,
        "config.json": _timm_config(backbone),
        "README.md": write_card(backbone, origin, code, content, header=HUB_HEADER),
    }


def _timm_config(backbone: Backbone) -> bytes:
    model, arguments = TIMM_MODELS[backbone.name]
    config = {
        "architecture": model,
        "num_classes": 0,
        "num_features": backbone.num_channels,
        "global_pool": "avg",
        **({"model_args": arguments} if arguments else {}),
        "pretrained_cfg": {
            "tag": "orl",
            "custom_load": False,
            "input_size": [3, CROP_PX, CROP_PX],
            "fixed_input_size": False,
            "pool_size": [CROP_PX // 32, CROP_PX // 32],
            "interpolation": "bilinear",
            "crop_pct": CROP_PX / RESIZE_PX,
            "crop_mode": "center",
            "mean": IMAGENET_MEAN,
            "std": IMAGENET_STD,
            "num_classes": 0,
            "first_conv": "conv1",
            "classifier": "fc",
        },
    }
    return (json.dumps(config, indent=2) + "\n").encode()
