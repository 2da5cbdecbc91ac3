"""Weights from any source to a network that gives feature maps: runs, exports, files of other projects."""

import importlib
import json
import logging
from collections import OrderedDict
from pathlib import Path
from typing import Any

from torch import nn
from torchvision.ops import FrozenBatchNorm2d, StochasticDepth

from orl.networks.backbones import BUILDERS, Backbone, read_backbone_file, read_notes
from orl.weights.architectures import (
    EXAMPLES,
    ExternalBackbone,
    ImageNetInputBackbone,
    architecture_from_file_name,
    architecture_from_shapes,
    fill_external,
)
from orl.weights.convert import convert
from orl.weights.find import find_weights_file
from orl.weights.names import from_efficientnet_lite0
from orl.weights.opening import OpenedFile, open_weights
from orl.weights.recognise import recognise, strip_wrappers
from orl.weights.transform import Transform

logger = logging.getLogger(__name__)


class FeatureMaps(nn.Sequential):
    """Images to feature maps: `(N, 3, H, W)` to `(N, num_channels, h, w)`.

    The parts of a ResNet are conv1 to layer4 under torchvision's names, so that torchvision's `BackboneWithFPN` takes
    it. Any other network is one part, `body`.
    """

    def __init__(
        self, parts: OrderedDict[str, nn.Module], *, name: str, num_channels: int, transform: Transform
    ) -> None:
        super().__init__(parts)
        self.name = name
        self.num_channels = num_channels
        self.out_channels = num_channels  # torchvision's detectors read it from a backbone without FPN
        self.transform = transform


def load_backbone(
    source: str | Path, *, stage: str | None = None, architecture: str | None = None, frozen: bool = True
) -> FeatureMaps:
    """Load a network from images to feature maps, for a detector or any other use.

    Args:
        source: folder of a run; any output of `orl export` but ONNX; or weights of another project: a file that
            `orl import` reads, or a CNN of torchvision or timm.
        stage: 'stage1' or 'stage3' of a run; the last finished stage if not given.
        architecture: name of the network (of orl, torchvision or timm) if it cannot be inferred from the weights.
        frozen: keep features as they are, also while a detector around the network is trained: evaluation mode, no
            gradients, `FrozenBatchNorm2d`, no dropout. Features change by float rounding. Otherwise all weights are
            trainable and the network is in training mode.

    Returns:
        The network, with `name`, `num_channels` and `transform`. The transform takes a Pillow image, bytes, or floats
        in [0, 1], and gives a normalised tensor.

    Raises:
        FileNotFoundError: if the source does not exist, or the run has not finished the stage.
        ValueError: if the weights cannot be opened safely, or fit no known network.
    """
    network = load_network(Path(source), architecture, stage)
    if isinstance(network, ExternalBackbone):
        parts = OrderedDict[str, nn.Module](body=network)
        transform = Transform(mean=network.mean, std=network.std)
    else:
        parts = OrderedDict(network.named_children())
        transform = Transform()
    loaded = FeatureMaps(parts, name=network.name, num_channels=network.num_channels, transform=transform)
    if not frozen:
        return loaded.requires_grad_(True).train()
    _freeze_batch_norm(loaded)
    _disable_dropout(loaded)
    return loaded.requires_grad_(False).eval()


def load_eval_network(source: Path, architecture: str | None = None) -> Backbone | ImageNetInputBackbone:
    """Load a network that takes images normalised by ImageNet's mean and std, in evaluation mode.

    Args:
        source: as for `load_backbone`.
        architecture: as for `load_backbone`.

    Raises:
        FileNotFoundError: if the source does not exist, or holds no weights.
        ValueError: if the weights cannot be opened safely, or fit no known network.
    """
    network = load_network(source, architecture)
    return ImageNetInputBackbone(network).eval() if isinstance(network, ExternalBackbone) else network


def load_network(
    source: Path, architecture: str | None = None, stage: str | None = None
) -> Backbone | ExternalBackbone:
    """Load a network in evaluation mode, without its classifier; images are normalised by its `mean` and `std`.

    Args:
        source: as for `load_backbone`.
        architecture: as for `build_architecture`. If not given, it is inferred from the names and shapes of the
            weights, a config.json beside the file, or the file name.
        stage: as for `load_backbone`.

    Raises:
        FileNotFoundError: if the source does not exist, or holds no weights.
        ValueError: if the file cannot be opened without running code, its architecture cannot be inferred, or a
            weight does not fit.
    """
    file = find_weights_file(source, stage)
    if read_notes(file).get("kind") == "backbone":
        return _read_own(file, architecture)
    opened = open_weights(file)
    try:
        network = _load_foreign(opened, file, architecture)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    if isinstance(network, ExternalBackbone) and opened.others:
        logger.info("%s: the weights %s were taken, and %s left", file, opened.container, " and ".join(opened.others))
    config = _config_beside(file).get("pretrained_cfg")
    if isinstance(network, ExternalBackbone) and isinstance(config, dict) and {"mean", "std"} <= set(config):
        # Weights of one architecture may differ in how their images were normalised.
        network.mean, network.std = tuple(config["mean"]), tuple(config["std"])
    return network


def _read_own(file: Path, architecture: str | None) -> Backbone:
    backbone = read_backbone_file(file)
    if architecture is not None and architecture.removeprefix("torchvision/") != backbone.name:
        raise ValueError(f"{file}: its backbone is a {backbone.name}, and not a {architecture}")
    return backbone


def _load_foreign(opened: OpenedFile, file: Path, architecture: str | None) -> Backbone | ExternalBackbone:
    weights = strip_wrappers(opened.weights)
    if architecture is None and "_conv_stem.weight" in weights:
        renamed = {from_efficientnet_lite0(name): value for name, value in weights.items()}
        return fill_external("timm/tf_efficientnet_lite0", renamed)
    if architecture is not None and architecture.removeprefix("torchvision/") in BUILDERS:
        return _convert_resnet(opened, file, architecture.removeprefix("torchvision/"))
    if architecture is not None:
        return fill_external(architecture, weights)
    try:
        return _convert_resnet(opened, file, None)
    except ValueError as error:
        configured = _config_beside(file).get("architecture")
        name = f"timm/{configured}" if isinstance(configured, str) else architecture_from_shapes(weights)
        name = name or architecture_from_file_name(file)
        if name is None:
            raise ValueError(
                f"its architecture is not known; give it with --architecture, {EXAMPLES}. As a ResNet: {error}"
            ) from error
    return fill_external(name, weights)


def _convert_resnet(opened: OpenedFile, file: Path, expected: str | None) -> Backbone:
    imported = convert(recognise(opened), expected)
    if imported.choice:
        logger.info("%s: %s", file, imported.choice)
    return imported.backbone


def _config_beside(file: Path) -> dict[str, Any]:
    """Return the Hugging Face hub's config.json beside weights of a timm network; an empty dictionary if none."""
    try:
        config = json.loads((file.parent / "config.json").read_text())
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _freeze_batch_norm(network: nn.Module) -> None:
    """Replace batch normalisation by torchvision's frozen one, which has no training mode."""
    for module in list(network.modules()):
        for key, part in module.named_children():
            if type(part) is nn.BatchNorm2d:
                module.add_module(key, _frozen(part))
    left = [part for part in network.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    if any(type(part).__module__.startswith("timm.") for part in left):
        # timm's normalisation includes an activation, which only timm's own function preserves.
        importlib.import_module("timm.layers").freeze_batch_norm_2d(network)


def _frozen(norm: nn.BatchNorm2d) -> FrozenBatchNorm2d:
    frozen = FrozenBatchNorm2d(norm.num_features, eps=norm.eps)
    weights = {name: value for name, value in norm.state_dict().items() if name != "num_batches_tracked"}
    # Without affine weights the frozen one keeps its initial ones and zeros.
    frozen.load_state_dict(weights, strict=False)
    return frozen


def _disable_dropout(network: nn.Module) -> None:
    for part in network.modules():
        if isinstance(part, nn.Dropout | nn.Dropout2d | StochasticDepth):
            part.p = 0.0
