"""Networks of torchvision and timm, cut before the pooling so that they give feature maps."""

import contextlib
import re
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torchvision
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import DenseNet, MNASNet, RegNet, ResNet, ShuffleNetV2, SwinTransformer

from orl.networks.backbones import BUILDERS, Backbone, build_backbone
from orl.views.colour import IMAGENET_MEAN, IMAGENET_STD
from orl.weights.convert import Shapes, as_float32, shape_differences, shapes_of, with_batch_counts
from orl.weights.opening import Weights

ChannelValues = tuple[float, float, float]
"""One number each for red, green and blue."""

TORCHVISION_CLASSIFIERS = ("classifier.", "fc.", "head.")
"""Prefixes of the classifier's weights in torchvision."""
UNSUPPORTED = ("googlenet", "inception_v3")
"""Networks of torchvision with auxiliary classifiers and with another normalisation of images."""
EXAMPLES = "such as resnet50, mobilenet_v3_large (torchvision's) or timm/efficientnet_lite0"


class ExternalBackbone(nn.Module):
    """A network of torchvision or timm: images `(N, 3, H, W)` to feature maps `(N, num_channels, h, w)`."""

    def __init__(
        self, network: nn.Module, name: str, num_channels: int, mean: ChannelValues, std: ChannelValues
    ) -> None:
        """Wrap a network.

        Args:
            network: images to feature map.
            name: 'torchvision/...' or 'timm/...'.
            num_channels: channels of the feature map.
            mean: mean by which the network expects its images, in [0, 1], to be normalised.
            std: standard deviation of that normalisation.
        """
        super().__init__()
        self.network, self.name, self.num_channels = network, name, num_channels
        self.mean, self.std = mean, std

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c i j"]:
        return self.network(images)


class ImageNetInputBackbone(nn.Module):
    """An external network behind a change of normalisation: takes images normalised by ImageNet's mean and std."""

    factor: Tensor
    shift: Tensor

    def __init__(self, network: ExternalBackbone) -> None:
        super().__init__()
        self.network, self.name, self.num_channels = network, network.name, network.num_channels
        mean, std = torch.tensor(network.mean), torch.tensor(network.std)
        self.register_buffer("factor", (torch.tensor(IMAGENET_STD) / std).view(3, 1, 1))
        self.register_buffer("shift", ((torch.tensor(IMAGENET_MEAN) - mean) / std).view(3, 1, 1))

    def forward(self, views: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c i j"]:
        return self.network(views * self.factor + self.shift)


class PatchMaps(nn.Module):
    """A vision transformer of timm as a network with a feature map: its patch tokens, after the last normalisation.

    The class token and registers are left out. An image whose sides are no multiple of the patch is padded at the
    right and bottom, and position embeddings are interpolated to its size.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network: Any = network

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c i j"]:
        return self._as_map(self.network.forward_features(images), images)

    def keys(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c i j"]:
        """Compute the keys of the last attention block, of all heads together, as a map.

        Raises:
            ValueError: if the block does not compute queries, keys and values by one layer.
        """
        layer = getattr(self.network.blocks[-1].attn, "qkv", None)
        if not isinstance(layer, nn.Linear):
            raise ValueError("the last attention block has no layer 'qkv'; its keys cannot be read")
        found: list[Tensor] = []
        with contextlib.closing(_Hook(layer.register_forward_hook(lambda *call: found.append(call[2])))):
            self.network.forward_features(images)
        return self._as_map(found[0].chunk(3, dim=2)[1], images)

    def _as_map(self, tokens: Float[Tensor, "n t c"], images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c i j"]:
        patch_hw = self.network.patch_embed.patch_size
        rows, columns = (-(-side // patch) for side, patch in zip(images.shape[2:], patch_hw))
        patches = tokens[:, self.network.num_prefix_tokens :]
        return patches.transpose(1, 2).unflatten(2, (rows, columns))


class _Hook:
    """A hook of torch that can be closed."""

    def __init__(self, handle: Any) -> None:
        self.close = handle.remove


class _TimmFeatures(nn.Module):
    """A network of timm up to its pooling; its weights have timm's names below 'network.'."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network: Any = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.forward_features(images)


def build_architecture(name: str) -> Backbone | ExternalBackbone:
    """Build a network by name, with random weights, in evaluation mode.

    Args:
        name: a backbone of orl; a convolutional network of torchvision, with or without the prefix 'torchvision/';
            or a network of timm, also a plain vision transformer, with the prefix 'timm/'.

    Raises:
        ValueError: if no network has this name, or the network gives no feature map (such as Swin).
        ModuleNotFoundError: if the name is timm's and timm is not installed.
    """
    family, _, model = name.rpartition("/")
    if family not in ("", "torchvision", "timm"):
        raise ValueError(f"no architecture is called {name!r}; give one {EXAMPLES}")
    with torch.random.fork_rng(devices=[]):
        if family == "timm":
            return _build_timm(model).eval()
        return build_backbone(model).eval() if model in BUILDERS else _build_torchvision(model).eval()


def fill_external(name: str, weights: Weights) -> ExternalBackbone:
    """Build a network of torchvision or timm with the given weights; weights of a classifier are left out.

    Args:
        name: as for `build_architecture`.
        weights: under the names that torchvision or timm gives them.

    Raises:
        ValueError: if a weight is missing, unknown, of another shape or not finite.
    """
    backbone = build_architecture(name)
    assert isinstance(backbone, ExternalBackbone)
    is_timm = isinstance(backbone.network, _TimmFeatures | PatchMaps)
    network: nn.Module = backbone.network.network if is_timm else backbone.network  # type: ignore[assignment]
    kept = {key: value for key, value in weights.items() if not key.startswith(_classifier_prefixes(backbone.network))}
    differences = shape_differences(shapes_of(kept), shapes_of(network.state_dict()))
    if differences:
        raise ValueError(
            f"its weights are not those of {backbone.name}: {len(differences)} differ ({'; '.join(differences[:3])}); "
            "give the right name with --architecture"
        )
    network.load_state_dict(with_batch_counts(as_float32(kept, [])))
    return backbone


def architecture_from_shapes(weights: Weights) -> str | None:
    """Return the name of torchvision's network whose weights, without the classifier, have these names and shapes."""
    found = {name: shape for name, shape in shapes_of(weights).items() if not name.startswith(TORCHVISION_CLASSIFIERS)}
    for model in torchvision.models.list_models(module=torchvision.models, exclude=UNSUPPORTED):
        if found == _shapes_of_torchvision(model):
            return f"torchvision/{model}"
    return None


def architecture_from_file_name(file: Path) -> str | None:
    """Return the longest network name that a file name begins with, as in 'mobilenet_v3_large-8738ca79.pth'."""
    names = [f"torchvision/{name}" for name in torchvision.models.list_models(module=torchvision.models)]
    with contextlib.suppress(ModuleNotFoundError):
        names += [f"timm/{name}" for name in _import_timm().list_models()]
    models = {name: name.partition("/")[2] for name in names}
    # Backbones of orl are left out: the file has already been refused as one.
    fitting = [
        name
        for name, model in models.items()
        if model not in BUILDERS and re.match(rf"{re.escape(model)}(?![a-zA-Z0-9])", file.name)
    ]
    return max(fitting, key=lambda name: len(models[name]), default=None)


def _build_torchvision(model: str) -> ExternalBackbone:
    if model not in torchvision.models.list_models(module=torchvision.models, exclude=UNSUPPORTED):
        raise ValueError(
            f"torchvision has no network called {model!r}; give one {EXAMPLES}, for timm's with 'timm/' before it"
        )
    network = _without_pooling(torchvision.models.get_model(model, weights=None), model).eval()
    with torch.no_grad():
        num_channels = network(torch.zeros(1, 3, 64, 64)).shape[1]
    return ExternalBackbone(network, f"torchvision/{model}", num_channels, IMAGENET_MEAN, IMAGENET_STD)


def _without_pooling(network: nn.Module, model: str) -> nn.Sequential:
    """Cut a network of torchvision before its pooling; the weights keep their names."""
    parts = OrderedDict(network.named_children())
    if isinstance(network, ResNet):
        kept = [name for name in parts if name not in ("avgpool", "fc")]
    elif isinstance(network, RegNet):
        kept = ["stem", "trunk_output"]
    elif isinstance(network, ShuffleNetV2):
        kept = [name for name in parts if name != "fc"]
    elif isinstance(network, MNASNet):
        kept = ["layers"]
    elif "features" in parts and not isinstance(network, SwinTransformer):
        kept = ["features"]
    else:
        raise ValueError(f"{model} gives no feature map that orl can take; give a ResNet or one {EXAMPLES}")
    cut = nn.Sequential(OrderedDict((name, parts[name]) for name in kept))
    if isinstance(network, DenseNet):
        # The last ReLU of a DenseNet is a function call in torchvision, not a module.
        cut.append(nn.ReLU(inplace=True))
    return cut


def _build_timm(model: str) -> ExternalBackbone:
    timm = _import_timm()
    if not timm.is_model(model):
        raise ValueError(f"timm has no network called {model!r}; timm.list_models() in Python lists its names")
    network = timm.create_model(model, num_classes=0, global_pool="").eval()
    features: _TimmFeatures | PatchMaps = _TimmFeatures(network)
    if isinstance(network, timm.models.VisionTransformer):
        any_size = {"dynamic_img_size": True, "dynamic_img_pad": True}
        network = timm.create_model(model, num_classes=0, global_pool="", **any_size).eval()
        features = PatchMaps(network)
    pretrained_config = network.pretrained_cfg
    with torch.no_grad():
        feature_map = features(torch.zeros(1, *pretrained_config["input_size"]))
    # Other transformers give tokens, or a map with the channels last.
    if not isinstance(feature_map, Tensor) or feature_map.ndim != 4 or feature_map.shape[1] != network.num_features:
        raise ValueError(
            f"timm's {model} gives no feature map; give a convolutional network of timm or a plain vision transformer"
        )
    mean, std = pretrained_config["mean"], pretrained_config["std"]
    return ExternalBackbone(features, f"timm/{model}", network.num_features, mean, std)


def _import_timm() -> Any:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("networks of timm need timm: pip install 'orl[timm]'") from error
    return timm


def _classifier_prefixes(network: nn.Module) -> tuple[str, ...]:
    if isinstance(network, _TimmFeatures | PatchMaps):
        # A distilled network has two classifiers.
        names = network.network.pretrained_cfg.get("classifier") or ()
        return tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))
    return TORCHVISION_CLASSIFIERS


@lru_cache(maxsize=128)
def _shapes_of_torchvision(model: str) -> Shapes:
    """Return names and shapes; none for networks that cannot be cut, or that compute while they are built (RegNet)."""
    try:
        with torch.device("meta"):
            network = torchvision.models.get_model(model, weights=None)
        return shapes_of(_without_pooling(network, model).state_dict())
    except (ValueError, NotImplementedError):
        return {}
