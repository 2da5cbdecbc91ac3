"""One line from any weights to a network that gives feature maps: runs, exports, files of other projects."""

import importlib
from collections import OrderedDict
from pathlib import Path

from torch import nn
from torchvision.ops import FrozenBatchNorm2d, StochasticDepth

from orl.weights.architectures import OutsideBackbone, load_outside
from orl.weights.find_backbone import find_backbone
from orl.weights.transform import Transform

HUB_FILES = ("config.json", "model.safetensors")
WEIGHTS = (".pth", ".pkl", ".safetensors")
"""How files of weights that are exported end."""


class FeatureMaps(nn.Sequential):
    """Images in, feature map out: `(N, 3, H, W)` to `(N, num_channels, h, w)`.

    Of a ResNet the parts are conv1 to layer4 under torchvision's names, so that torchvision's `BackboneWithFPN` takes
    it; of another network there is one part, `body`.
    """

    def __init__(
        self, parts: OrderedDict[str, nn.Module], *, name: str, num_channels: int, transform: Transform
    ) -> None:
        super().__init__(parts)
        self.name = name
        self.num_channels = num_channels
        self.out_channels = num_channels  # what torchvision's detectors ask a backbone without FPN for
        self.transform = transform


def load_backbone(
    source: str | Path, *, stage: str | None = None, architecture: str | None = None, frozen: bool = True
) -> FeatureMaps:
    """A network from images to feature maps, for a detector or any other use.

    Args:
        source: folder of a run; anything that `orl export` writes, but ONNX; or weights of another project: what
            `orl import` reads, or a CNN of torchvision or timm.
        stage: 'stage1' or 'stage3' of a run; the last that is finished if not given.
        architecture: what network the weights are of, where that cannot be seen from them: a name of ours, of
            torchvision or of timm.
        frozen: for features that stay as they are, also where a detector around it is trained: in evaluation mode, no
            gradients, batch statistics held by `FrozenBatchNorm2d`, no dropout. That changes features by float
            rounding. Else all weights can be trained, and it is in training mode.

    Returns:
        The network, with `name`, `num_channels` and `transform`: a Pillow image, or bytes, or floats in [0, 1], to a
        normalised tensor.

    Raises:
        FileNotFoundError: if there is nothing, or the run has not come so far.
        ValueError: if the weights cannot be opened safely, or are of no network that is known.
    """
    network = load_outside(weights_file(Path(source), stage), architecture)
    if isinstance(network, OutsideBackbone):
        parts = OrderedDict[str, nn.Module](body=network)
        transform = Transform(mean=network.mean, std=network.std)
    else:
        parts = OrderedDict(network.named_children())
        transform = Transform()
    loaded = FeatureMaps(parts, name=network.name, num_channels=network.num_channels, transform=transform)
    if not frozen:
        return loaded.requires_grad_(True).train()
    _hold_batch_statistics(loaded)
    _hold_dropout(loaded)
    return loaded.requires_grad_(False).eval()


def weights_file(source: Path, stage: str | None = None) -> Path:
    """The file of weights that a run, an export or a path stands for.

    Args:
        source: as `load_backbone` takes it.
        stage: 'stage1' or 'stage3' of a run; the last that is finished if not given.

    Raises:
        FileNotFoundError: if there is nothing, or the run has not come so far.
        ValueError: if it is ONNX, or a stage is asked of what has none.
    """
    if source.suffix == ".onnx":
        raise ValueError(
            f"{source} is a graph for inference, without the weights as they were trained: run it with onnxruntime, or "
            "load the run that it was exported from"
        )
    if all((source / name).exists() for name in HUB_FILES):
        if stage is not None:
            raise ValueError(f"{source} is one exported backbone, of which no {stage!r} can be asked; leave it out")
        return source / HUB_FILES[1]
    if (source / "config.json").exists() and (source / "pytorch_model.bin").exists() and stage is None:
        return source / "pytorch_model.bin"
    exported = _only_weights(source)
    if exported is not None and stage is None:
        return exported
    if source.is_file() and stage is None:
        return source
    return find_backbone(source, stage)


def _only_weights(folder: Path) -> Path | None:
    """The backbone in a folder that 'orl import' or 'orl export' filled."""
    own = folder / "backbone.safetensors"
    if own.exists():
        return own
    found = [path for path in folder.glob("*.*") if path.suffix in WEIGHTS] if folder.is_dir() else []
    return found[0] if len(found) == 1 else None


def _hold_batch_statistics(network: nn.Module) -> None:
    """Put torchvision's frozen normalisation, which has no training mode, in the place of torch's."""
    for module in list(network.modules()):
        for key, part in module.named_children():
            if type(part) is nn.BatchNorm2d:
                module.add_module(key, _frozen(part))
    left = [part for part in network.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    if any(type(part).__module__.startswith("timm.") for part in left):
        # timm's normalisation holds an activation too, and timm knows how to keep it.
        importlib.import_module("timm.layers").freeze_batch_norm_2d(network)


def _frozen(norm: nn.BatchNorm2d) -> FrozenBatchNorm2d:
    frozen = FrozenBatchNorm2d(norm.num_features, eps=norm.eps)
    weights = {name: value for name, value in norm.state_dict().items() if name != "num_batches_tracked"}
    # Weights that a normalisation without them stands for are ones and zeros, as the frozen one has from the start.
    frozen.load_state_dict(weights, strict=False)
    return frozen


def _hold_dropout(network: nn.Module) -> None:
    for part in network.modules():
        if isinstance(part, nn.Dropout | nn.Dropout2d | StochasticDepth):
            part.p = 0.0
