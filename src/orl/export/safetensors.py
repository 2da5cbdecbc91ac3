"""A backbone as safetensors, with the architecture and the normalisation in the metadata."""

import json

from safetensors.torch import save

from orl.export.model_card import Origin, write_card
from orl.networks.backbones import Backbone, cpu_weights
from orl.views.colour import IMAGENET_MEAN, IMAGENET_STD


def safetensors_files(backbone: Backbone, origin: Origin) -> dict[str, bytes]:
    """Return the weights under torchvision's names and their card."""
    file = f"{backbone.name}.safetensors"
    metadata = {
        "kind": "backbone",
        "backbone": backbone.name,
        "architecture": backbone.name,
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
        "source_digest": origin.digest,
    }
    # One entry only: safetensors writes several in random order, and equal weights must give equal bytes.
    weights = save(cpu_weights(backbone), {"orl": json.dumps(metadata, sort_keys=True)})
    code = f"""\
from safetensors.torch import load_file

weights = load_file("{file}")  # torchvision's names, without fc

from orl import load_backbone

backbone = load_backbone("{file}")  # images to feature maps"""
    content = "All weights before the pooling. The metadata entry `orl` is JSON: `architecture`, `mean`, `std`."
    return {file: weights, f"{backbone.name}_safetensors.md": write_card(backbone, origin, code, content)}
