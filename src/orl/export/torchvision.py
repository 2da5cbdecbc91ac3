"""A backbone as a state dict that torchvision's network loads strictly."""

import torch

from orl.export.model_card import Origin, write_card
from orl.export.torch_file import torch_bytes
from orl.networks.backbones import Backbone, cpu_weights

NUM_IMAGENET_CLASSES = 1000
"""Classes of torchvision's classifier, without which its strict loading fails."""
IMPORT_AND_CALL = {
    "resnet10": ("BasicBlock, ResNet", "ResNet(BasicBlock, [1, 1, 1, 1])  # torchvision has no resnet10()"),
}
"""Import and call for backbones without a function in torchvision."""


def torchvision_files(backbone: Backbone, origin: Origin) -> dict[str, bytes]:
    """Return the state dict and its card; the classifier, which orl does not train, is filled with zeros."""
    file = f"{backbone.name}_torchvision.pth"
    weights = cpu_weights(backbone)
    weights["fc.weight"] = torch.zeros(NUM_IMAGENET_CLASSES, backbone.num_channels)
    weights["fc.bias"] = torch.zeros(NUM_IMAGENET_CLASSES)
    imported, call = IMPORT_AND_CALL.get(backbone.name, (backbone.name, f"{backbone.name}()"))
    code = f"""\
import torch
from torchvision.models.resnet import {imported}

network = {call}
network.load_state_dict(torch.load("{file}", weights_only=True), strict=True)
network.fc = torch.nn.Identity()  # embeddings; or a torch.nn.Linear({backbone.num_channels}, ...) of your own"""
    content = (
        f"All weights of torchvision's network. **`fc`, the classifier of {NUM_IMAGENET_CLASSES} classes, is all "
        "zeros**: training without labels gives none. It is there only because strict loading needs it; replace it."
    )
    return {file: torch_bytes(weights), f"{backbone.name}_torchvision.md": write_card(backbone, origin, code, content)}
