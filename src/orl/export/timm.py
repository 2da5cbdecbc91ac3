"""A backbone as a state dict that timm's model without a classifier loads strictly."""

from typing import Any

from orl.export.model_card import Origin, write_card
from orl.export.torch_file import torch_bytes
from orl.networks.backbones import Backbone, cpu_weights

TIMM_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet10": ("resnet18", {"layers": [1, 1, 1, 1]}),
    **{name: (name, {}) for name in ("resnet18", "resnet34", "resnet50", "resnet101", "wide_resnet50_2")},
}
"""timm's model for each backbone, and its arguments; timm's own resnet10t has another stem."""


def timm_files(backbone: Backbone, origin: Origin) -> dict[str, bytes]:
    """Return the state dict and its card."""
    file, (model, arguments) = f"{backbone.name}_timm.pth", TIMM_MODELS[backbone.name]
    more = "".join(f", {name}={value}" for name, value in arguments.items())
    code = f"""\
import timm

network = timm.create_model("{model}", num_classes=0, checkpoint_path="{file}"{more})
feature_map = network.forward_features(images)
# With a classifier of your own, which is then random:
network = timm.create_model("{model}", pretrained=True, num_classes=20, pretrained_cfg_overlay={{"file": "{file}", \
"num_classes": 0}}{more})"""
    content = (
        f"All weights of timm's `{model}` with `num_classes=0`{' and `layers=[1, 1, 1, 1]`' if arguments else ''}."
    )
    return {
        file: torch_bytes(cpu_weights(backbone)),
        f"{backbone.name}_timm.md": write_card(backbone, origin, code, content),
    }
