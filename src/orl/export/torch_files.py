"""Weights under torchvision's names: as torchvision and timm load them strictly, and as safetensors."""

import io
import json
from typing import Any

import torch
from safetensors.torch import save

from orl.export.model_card import Origin, write_card
from orl.networks.backbones import Backbone, own_weights
from orl.views.colour import IMAGENET_MEAN, IMAGENET_STD

NUM_CLASSES = 1000
"""Of torchvision's classifier, which its strict loading asks for."""
TORCHVISION_MODELS = {
    "resnet10": ("BasicBlock, ResNet", "ResNet(BasicBlock, [1, 1, 1, 1])  # torchvision has no resnet10()"),
}
"""What to import and how to build those of our backbones that torchvision has no name for."""
TIMM_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet10": ("resnet18", {"layers": [1, 1, 1, 1]}),
    **{name: (name, {}) for name in ("resnet18", "resnet34", "resnet50", "resnet101", "wide_resnet50_2")},
}
"""timm's model for each of our backbones, with the arguments that it takes; timm's own resnet10t has another stem."""


def torchvision_files(backbone: Backbone, origin: Origin) -> dict[str, bytes]:
    """A state dict that torchvision's network loads strictly: its classifier, which we have not, is of zeros."""
    file = f"{backbone.name}_torchvision.pth"
    weights = own_weights(backbone)
    weights["fc.weight"] = torch.zeros(NUM_CLASSES, backbone.num_channels)
    weights["fc.bias"] = torch.zeros(NUM_CLASSES)
    needed, build = TORCHVISION_MODELS.get(backbone.name, (backbone.name, f"{backbone.name}()"))
    how = f"""\
import torch
from torchvision.models.resnet import {needed}

network = {build}
network.load_state_dict(torch.load("{file}", weights_only=True), strict=True)
network.fc = torch.nn.Identity()  # embeddings; or a torch.nn.Linear({backbone.num_channels}, ...) of your own"""
    about = (
        f"All weights of torchvision's network. **`fc`, the classifier of {NUM_CLASSES} classes, is all zeros**: "
        "training without labels gives none. It is there only because strict loading asks for it; replace it."
    )
    return {file: torch_bytes(weights), f"{backbone.name}_torchvision.md": write_card(backbone, origin, how, about)}


def timm_files(backbone: Backbone, origin: Origin) -> dict[str, bytes]:
    """A state dict that timm's model without a classifier loads strictly."""
    file, (model, arguments) = f"{backbone.name}_timm.pth", TIMM_MODELS[backbone.name]
    more = "".join(f", {name}={value}" for name, value in arguments.items())
    how = f"""\
import timm

network = timm.create_model("{model}", num_classes=0, checkpoint_path="{file}"{more})
feature_map = network.forward_features(images)
# With a classifier of your own, which is then random:
network = timm.create_model("{model}", pretrained=True, num_classes=20, pretrained_cfg_overlay={{"file": "{file}", \
"num_classes": 0}}{more})"""
    about = f"All weights of timm's `{model}` with `num_classes=0`{' and `layers=[1, 1, 1, 1]`' if arguments else ''}."
    content = torch_bytes(own_weights(backbone))
    return {file: content, f"{backbone.name}_timm.md": write_card(backbone, origin, how, about)}


def safetensors_files(backbone: Backbone, origin: Origin) -> dict[str, bytes]:
    """Weights under torchvision's names, with the architecture and the normalisation in the file's metadata."""
    file = f"{backbone.name}.safetensors"
    about = {
        "kind": "backbone",
        "backbone": backbone.name,
        "architecture": backbone.name,
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
        "source_digest": origin.digest,
    }
    # One entry only: safetensors writes several in random order, and equal weights shall be equal files.
    content = save(own_weights(backbone), {"orl": json.dumps(about, sort_keys=True)})
    how = f"""\
from safetensors.torch import load_file

weights = load_file("{file}")  # torchvision's names, without fc

from orl import load_backbone

backbone = load_backbone("{file}")  # images to feature maps"""
    told = "All weights before the pooling. The metadata entry `orl` is JSON: `architecture`, `mean`, `std`."
    return {file: content, f"{backbone.name}_safetensors.md": write_card(backbone, origin, how, told)}


def torch_bytes(content: dict[str, Any]) -> bytes:
    """What `torch.save` writes; the same for equal content, as no file name goes into it."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()
