"""Networks from outside as feature maps: torchvision's and timm's convolutional networks, to serve as a prior."""

import contextlib
import json
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
from orl.weights.convert import Shapes, as_single_precision, convert, shape_differences, shapes_of, with_counts
from orl.weights.names import from_efficientnet_lite0
from orl.weights.opening import Opened, Weights, open_weights
from orl.weights.recognise import recognise, unwrapped

Triple = tuple[float, float, float]

FILES = ("model.safetensors", "pytorch_model.bin")
"""The weights in a folder of the Hugging Face hub, the first that is there."""
CLASSIFIERS = ("classifier.", "fc.", "head.")
"""What the names of the classifier's weights begin with in torchvision."""
UNCUT = ("googlenet", "inception_v3")
"""Networks of torchvision with other classifiers on the way, and with other normalised images."""
EXAMPLES = "such as resnet50, mobilenet_v3_large (torchvision's) or timm/efficientnet_lite0"


class OutsideBackbone(nn.Module):
    """Images in, feature map out: `(N, 3, H, W)` to `(N, num_channels, h, w)`."""

    def __init__(self, network: nn.Module, name: str, num_channels: int, mean: Triple, std: Triple) -> None:
        """Hold a network.

        Args:
            network: images to feature map.
            name: 'torchvision/...' or 'timm/...'.
            num_channels: of the feature map.
            mean: which its images, in [0, 1], have subtracted.
            std: by which they are divided then.
        """
        super().__init__()
        self.network, self.name, self.num_channels = network, name, num_channels
        self.mean, self.std = mean, std

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c i j"]:
        return self.network(images)


class _TimmFeatures(nn.Module):
    """A network of timm up to its pooling, under timm's own names below 'network'."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network: Any = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.forward_features(images)


def build_architecture(name: str) -> Backbone | OutsideBackbone:
    """A network by name, with random weights, in evaluation mode.

    Args:
        name: a backbone of ours; a convolutional network of torchvision, bare or after 'torchvision/'; or one of
            timm after 'timm/'.

    Raises:
        ValueError: if there is none of this name, or it gives no feature map, as a transformer.
        ModuleNotFoundError: if timm is asked for and not installed.
    """
    family, _, model = name.rpartition("/")
    if family not in ("", "torchvision", "timm"):
        raise ValueError(f"no architecture is called {name!r}; give one {EXAMPLES}")
    with torch.random.fork_rng(devices=[]):
        if family == "timm":
            return _build_timm(model).eval()
        return build_backbone(model).eval() if model in BUILDERS else _build_torchvision(model).eval()


def load_outside(path: Path, architecture: str | None = None) -> Backbone | OutsideBackbone:
    """A network with the weights of a file, in evaluation mode; the classifier is left out.

    Args:
        path: a file of weights, or a folder of the Hugging Face hub with one.
        architecture: its name, as `build_architecture` takes it. Without one it is found out, from the names and
            shapes of the weights, a config.json beside the file, or the name of the file.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if it cannot be opened without running code, if its architecture is not known, or if the weights
            do not fit it all.
    """
    file = _file_of(path)
    opened = open_weights(file)
    weights = unwrapped(opened.weights)
    try:
        if architecture is None and "_conv_stem.weight" in weights:
            renamed = {from_efficientnet_lite0(name): value for name, value in weights.items()}
            return _fill(build_architecture("timm/tf_efficientnet_lite0"), renamed)
        backbone = _load(opened, weights, file, architecture)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    _update_normalisation(backbone, file)
    return backbone


def _load(opened: Opened, weights: Weights, file: Path, architecture: str | None) -> Backbone | OutsideBackbone:
    if architecture is not None and architecture.removeprefix("torchvision/") in BUILDERS:
        return convert(recognise(opened), architecture.removeprefix("torchvision/")).backbone
    if architecture is not None:
        return _fill(build_architecture(architecture), weights)
    try:
        return convert(recognise(opened)).backbone
    except ValueError as error:
        name = _from_config(file) or _from_shapes(weights) or _from_file_name(file)
        if name is None:
            raise ValueError(
                f"its architecture is not known; give it with --architecture, {EXAMPLES}. As a ResNet: {error}"
            ) from error
    return _fill(build_architecture(name), weights)


def _file_of(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = next((path / name for name in FILES if (path / name).exists()), None)
    if found is None:
        raise FileNotFoundError(f"no {' or '.join(FILES)} in the folder {path}; give the file of weights")
    return found


def _build_torchvision(model: str) -> OutsideBackbone:
    if model not in torchvision.models.list_models(module=torchvision.models, exclude=UNCUT):
        raise ValueError(
            f"torchvision has no network called {model!r}; give one {EXAMPLES}, for timm's with 'timm/' before it"
        )
    network = _cut(torchvision.models.get_model(model, weights=None), model).eval()
    with torch.no_grad():
        num_channels = network(torch.zeros(1, 3, 64, 64)).shape[1]
    return OutsideBackbone(network, f"torchvision/{model}", num_channels, IMAGENET_MEAN, IMAGENET_STD)


def _cut(network: nn.Module, model: str) -> nn.Sequential:
    """A network of torchvision up to its pooling; the weights keep their names."""
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
        raise ValueError(f"{model} gives no feature map that orl knows how to take; give a ResNet or one {EXAMPLES}")
    cut = nn.Sequential(OrderedDict((name, parts[name]) for name in kept))
    if isinstance(network, DenseNet):
        # Its last ReLU is a function there and no part.
        cut.append(nn.ReLU(inplace=True))
    return cut


def _build_timm(model: str) -> OutsideBackbone:
    timm = _import_timm()
    if not timm.is_model(model):
        raise ValueError(f"timm has no network called {model!r}; timm.list_models() in Python lists its names")
    network = timm.create_model(model, num_classes=0, global_pool="").eval()
    about = network.pretrained_cfg
    features = _TimmFeatures(network)
    with torch.no_grad():
        # Not a feature map: tokens of a transformer, or channels last.
        feature_map = features(torch.zeros(1, *about["input_size"]))
    if not isinstance(feature_map, Tensor) or feature_map.ndim != 4 or feature_map.shape[1] != network.num_features:
        raise ValueError(f"timm's {model} gives no feature map (a transformer?); give a convolutional network of timm")
    return OutsideBackbone(features, f"timm/{model}", network.num_features, about["mean"], about["std"])


def _import_timm() -> Any:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("networks of timm need timm: pip install 'orl[timm]'") from error
    return timm


def _fill(backbone: Backbone | OutsideBackbone, weights: Weights) -> Backbone | OutsideBackbone:
    """Put the weights of a file into a network, all but the classifier's."""
    assert isinstance(backbone, OutsideBackbone)
    holder = backbone.network.network if isinstance(backbone.network, _TimmFeatures) else backbone.network
    classifiers = _classifiers(backbone.network)
    kept = {name: value for name, value in weights.items() if not name.startswith(classifiers)}
    wrong = shape_differences(shapes_of(kept), shapes_of(holder.state_dict()))
    if wrong:
        raise ValueError(
            f"its weights are not those of {backbone.name}: {len(wrong)} differ ({'; '.join(wrong[:3])}); give the "
            "right name with --architecture"
        )
    holder.load_state_dict(with_counts(as_single_precision(kept, [])))
    return backbone


def _classifiers(network: nn.Module) -> tuple[str, ...]:
    if isinstance(network, _TimmFeatures):
        # Some have two, of which one was distilled.
        about = network.network.pretrained_cfg.get("classifier") or ()
        return tuple(f"{part}." for part in ((about,) if isinstance(about, str) else about))
    return CLASSIFIERS


def _from_shapes(weights: Weights) -> str | None:
    """The network of torchvision with these names and shapes, the classifier's left out."""
    found = {name: shape for name, shape in shapes_of(weights).items() if not name.startswith(CLASSIFIERS)}
    for model in torchvision.models.list_models(module=torchvision.models, exclude=UNCUT):
        if found == _shapes_of_torchvision(model):
            return f"torchvision/{model}"
    return None


@lru_cache(maxsize=128)
def _shapes_of_torchvision(model: str) -> Shapes:
    """Empty for those that cannot be cut, and for RegNets, which compute with tensors while they are built."""
    try:
        with torch.device("meta"):
            network = torchvision.models.get_model(model, weights=None)
        return shapes_of(_cut(network, model).state_dict())
    except (ValueError, NotImplementedError):
        return {}


def _config_beside(file: Path) -> dict[str, Any]:
    """The config.json of the Hugging Face hub that lies beside the weights of a network of timm; empty for none."""
    try:
        about = json.loads((file.parent / "config.json").read_text())
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def _from_config(file: Path) -> str | None:
    name = _config_beside(file).get("architecture")
    return f"timm/{name}" if isinstance(name, str) else None


def _update_normalisation(backbone: Backbone | OutsideBackbone, file: Path) -> None:
    """Weights of one architecture differ in how their images were normalised; the config beside them says how."""
    about = _config_beside(file).get("pretrained_cfg")
    if isinstance(backbone, OutsideBackbone) and isinstance(about, dict) and {"mean", "std"} <= set(about):
        backbone.mean, backbone.std = tuple(about["mean"]), tuple(about["std"])


def _from_file_name(file: Path) -> str | None:
    """The longest name of a network that the file's name begins with, as in 'mobilenet_v3_large-8738ca79.pth'."""
    names = [f"torchvision/{name}" for name in torchvision.models.list_models(module=torchvision.models)]
    with contextlib.suppress(ModuleNotFoundError):
        names += [f"timm/{name}" for name in _import_timm().list_models()]
    models = {name: name.partition("/")[2] for name in names}
    # What is named as a backbone of ours and was refused as one is no other network.
    fitting = [
        name
        for name, model in models.items()
        if model not in BUILDERS and re.match(rf"{re.escape(model)}(?![a-zA-Z0-9])", file.name)
    ]
    return max(fitting, key=lambda name: len(models[name]), default=None)
