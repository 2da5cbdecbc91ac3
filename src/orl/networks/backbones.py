"""Backbones: torchvision's networks cut before the pooling, under torchvision's own weight names."""

import copy
import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torchvision.models.resnet import (
    BasicBlock,
    ResNet,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    wide_resnet50_2,
)

from orl import files, provenance
from orl.networks.initial_weights import initialise
from orl.networks.names import OWN_MODULE, InitialWeights


def resnet10() -> ResNet:
    """Build a ResNet with one basic block per stage: half of ResNet-18, for demonstrations on a laptop's CPU."""
    return ResNet(BasicBlock, [1, 1, 1, 1])


BUILDERS = {
    "resnet10": resnet10,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet101": resnet101,
    "wide_resnet50_2": wide_resnet50_2,
}


class Backbone(nn.Sequential):
    """A network from images `(N, 3, H, W)` to a feature map `(N, num_channels, H / 32, W / 32)`."""

    def __init__(self, parts: OrderedDict[str, nn.Module], name: str, num_channels: int) -> None:
        super().__init__(parts)
        self.name = name
        self.num_channels = num_channels


def build_backbone(name: str, initial_weights: InitialWeights = "torchvision") -> Backbone:
    """Build a backbone with random weights from torch's global generator.

    Args:
        name: one of `BUILDERS`, or the name that `register_backbone` returned: that module keeps its own weights.
        initial_weights: rule of `orl.networks.initial_weights`.

    Raises:
        ValueError: if there is no such backbone.
    """
    if name.startswith(OWN_MODULE):
        return _copy_own_module(name)
    if name not in BUILDERS:
        raise ValueError(f"no backbone is called {name!r}; choose one of {', '.join(BUILDERS)}")
    network = BUILDERS[name]()
    parts = OrderedDict((key, part) for key, part in network.named_children() if key not in ("avgpool", "fc"))
    return initialise(Backbone(parts, name, network.fc.in_features), initial_weights)


_own_modules: dict[str, Backbone] = {}


def register_backbone(module: nn.Module) -> str:
    """Register a user-defined module as a backbone of this process, and return its name.

    Every network of that name starts from the module's present weights. A saved backbone of it can be read in any
    process that has registered a module of the same class.

    Args:
        module: a network from images `(N, 3, H, W)` to a feature map `(N, C, h, w)`.

    Raises:
        ValueError: if its output is no feature map.
    """
    was_training = module.training
    device = next((weight.device for weight in module.parameters()), torch.device("cpu"))
    with torch.no_grad():
        output = module.eval()(torch.zeros(2, 3, 64, 64, device=device))
    module.train(was_training)
    if not isinstance(output, Tensor) or output.ndim != 4 or len(output) != 2:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"a backbone gives a feature map (N, C, h, w), and {type(module).__name__} gave {shape}")
    digest = hashlib.sha256(save(cpu_weights(module))).hexdigest()
    name = f"{OWN_MODULE}{type(module).__name__}@{digest[:8]}"
    _own_modules[name] = Backbone(OrderedDict(body=copy.deepcopy(module).cpu()), name, output.shape[1])
    return name


def _copy_own_module(name: str) -> Backbone:
    same_class = name.partition("@")[0] + "@"
    found = _own_modules.get(name) or next(
        (own for key, own in _own_modules.items() if key.startswith(same_class)), None
    )
    if found is None:
        raise ValueError(
            f"{name} is a module that was given from Python: register one of its class with orl.register_backbone first"
        )
    own = copy.deepcopy(found).train()
    own.name = name
    return own


def pool(feature_map: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c"]:
    """Compute the mean over all positions: the embedding of an image or an RoI."""
    return feature_map.mean(dim=(2, 3))


def cpu_weights(network: nn.Module) -> dict[str, Tensor]:
    """Return the weights on the CPU, under the network's own names, to be written to a file."""
    return {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}


def check_weights(weights: Mapping[str, Tensor]) -> None:
    """Refuse values that no training leaves.

    Raises:
        ValueError: if a weight is NaN or infinite, or a variance is negative.
    """
    for name, value in weights.items():
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name} holds NaN or infinity; its training diverged, or the file is damaged")
        if name.endswith("running_var") and bool((value < 0).any()):
            raise ValueError(f"{name} holds the negative variance {float(value.min()):.3g}; the file is damaged")


def save_backbone(backbone: Backbone, path: Path, notes: Mapping[str, Any] | None = None) -> None:
    """Write the weights under torchvision's names, and the backbone's name, as safetensors."""
    about = {"kind": "backbone", "backbone": backbone.name, **(notes or {})}
    # One entry only: safetensors writes several in random order, and equal weights must give equal files.
    files.write_atomically(path, save(cpu_weights(backbone), {"orl": json.dumps(about, sort_keys=True)}))


def network_digest(weights: str, name: str, seen: Any = None) -> str:
    """Compute a fingerprint of a network: its weights, its name and the normalisation of its images.

    The weights alone are not enough: networks that differ only in padding can share one file.

    Args:
        weights: digest of the weights file.
        name: name of the network.
        seen: factor and shift of the images as JSON values, if it differs from orl's.
    """
    return provenance.fingerprint({"weights": weights, "network": name, "seen": seen})


def read_backbone_file(path: Path) -> Backbone:
    """Read the file that `save_backbone` wrote; return the backbone in evaluation mode.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if the file is damaged, comes from another program, lacks weights, or has values that cannot be.
    """
    if not path.exists():
        raise FileNotFoundError(f"no backbone at {path}; give the path of a backbone.safetensors")
    try:
        with safe_open(files.regular_file(path), framework="pt") as file:
            notes = _notes(file.metadata())
            weights: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is not a complete safetensors file ({error}); 'orl import' converts files of other projects"
        ) from error
    if notes.get("kind") != "backbone":
        raise ValueError(
            f"{path} was not written by orl as a backbone (first keys {', '.join(list(weights)[:3])}); 'orl import' "
            "converts files of other projects"
        )
    with torch.random.fork_rng(devices=[]):
        backbone = build_backbone(notes["backbone"])
    try:
        backbone.load_state_dict(weights)
        check_weights(weights)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit a {notes['backbone']}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return backbone.eval()


def read_notes(path: Path) -> dict[str, Any]:
    """Return the notes in the header of a file that `save_backbone` wrote; an empty dictionary for any other file."""
    try:
        with safe_open(files.regular_file(path), framework="np") as file:
            return _notes(file.metadata())
    except (SafetensorError, OSError, ValueError):
        return {}


def _notes(metadata: Mapping[str, str] | None) -> dict[str, Any]:
    try:
        notes = json.loads((metadata or {}).get("orl", "{}"))
    except ValueError:
        return {}
    return notes if isinstance(notes, dict) else {}
