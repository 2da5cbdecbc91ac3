"""Layouts of weights files: the names that other programs give to a ResNet, its projector and its predictor."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from orl.weights.names import from_detectron2
from orl.weights.opening import OpenedFile, Weights

SEQUENTIAL = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
"""Parts of a ResNet by number in `nn.Sequential(*resnet.children())`; 2 and 3 are ReLU and pooling."""
RESNET_NAME = re.compile(
    r"(conv1\.weight|bn1\.\w+|layer\d+\.\d+\.((conv|bn)\d+|downsample\.[01])\.\w+)(?<!num_batches_tracked)"
)
WRAPPERS = ("module.", "_orig_mod.")
AVERAGES = ("momentum", "target", "teacher", "ema", "encoder_k", "_k.")
CLASSIFIERS = ("fc", "classifier", "head", "heads", "linear", "last_linear")


def as_torchvision(name: str) -> str:
    return name


def from_sequential(name: str) -> str:
    """Translate a name whose part is a number, such as '4.0.conv1.weight', to torchvision."""
    part, _, rest = name.partition(".")
    if part not in SEQUENTIAL:
        raise ValueError(f"{name!r} is not a weight of a ResNet's numbered parts")
    return f"{SEQUENTIAL[part]}.{rest}"


NAMINGS = (
    (as_torchvision, "conv1.weight", "layer1.0.conv1.weight"),
    (from_sequential, "0.weight", "4.0.conv1.weight"),
    (from_detectron2, "stem.conv1.weight", "res2.0.conv1.weight"),
)
"""Naming schemes of ResNets: the translation to torchvision, and the names of two weights."""


@dataclass(frozen=True)
class Layout:
    """The prefixes under which a program stores each part."""

    name: str
    backbone: str
    """Prefix of the backbone's weights."""
    required_prefixes: tuple[str, ...] = ()
    """Prefixes that must occur in such a file besides the backbone's."""
    projector: str = ""
    """Prefix of the projector's weights; empty if the layout has none, or one that orl cannot build."""
    predictor: str = ""
    averages: tuple[str, ...] = ()
    """Prefixes of the moving average's weights."""
    translate: Callable[[str], str] = as_torchvision
    """Translation of the backbone's names to torchvision; raises a ValueError for any other name."""


LAYOUTS = (
    Layout(
        "orl checkpoint", "online.backbone.", ("predictors.",), "online.projector.", "predictors.global.", ("target.",)
    ),
    Layout("orl checkpoint", "online.backbone.", (), "online.projector.", "predictor.", ("target.",)),
    Layout(
        "ORL (published)",
        "online_net.0.",
        ("global_head.",),
        "online_net.1.mlp.",
        "global_head.predictor.mlp.",
        ("target_net.",),
    ),
    Layout("OpenSelfSup BYOL", "online_net.0.", (), "online_net.1.mlp.", "head.predictor.mlp.", ("target_net.",)),
    Layout("DenseCL", "encoder_q.0.", ("encoder_q.1.mlp2.",), "encoder_q.1.mlp.", averages=("encoder_k.",)),
    Layout("OpenSelfSup MoCo", "encoder_q.0.", (), "encoder_q.1.mlp.", averages=("encoder_k.",)),
    Layout("MoCo v2", "encoder_q.", ("encoder_q.fc.2.",), "encoder_q.fc.", averages=("encoder_k.",)),
    Layout("MoCo v1", "encoder_q.", (), "encoder_q.fc.", averages=("encoder_k.",)),
    Layout("MoCo v3", "base_encoder.", (), "base_encoder.fc.", "predictor.", ("momentum_encoder.",)),
    Layout("SimSiam", "encoder.", ("encoder.fc.0.", "predictor."), "encoder.fc.", "predictor."),
    Layout("SwAV", "", ("projection_head.",), "projection_head."),
    Layout(
        "lightly",
        "backbone.",
        ("projection_head.layers.", "backbone.4.0.conv1."),
        "projection_head.layers.",
        "prediction_head.layers.",
        ("backbone_momentum.", "projection_head_momentum."),
        from_sequential,
    ),
    Layout(
        "lightly",
        "backbone.",
        ("projection_head.layers.",),
        "projection_head.layers.",
        "prediction_head.layers.",
        ("backbone_momentum.", "projection_head_momentum."),
    ),
    Layout(
        "solo-learn",
        "backbone.",
        ("classifier.", "projector."),
        "projector.",
        "predictor.",
        ("momentum_",),
    ),
    Layout(
        "solo-learn (before 1.0.4)",
        "encoder.",
        ("classifier.", "projector."),
        "projector.",
        "predictor.",
        ("momentum_",),
    ),
    Layout("Barlow Twins or VICReg", "backbone.", ("projector.",), "projector."),
    Layout("SimCLR", "backbone.", ("backbone.fc.0.",), "backbone.fc."),
    Layout("SimCLR or BYOL", "encoder.", ("projector.",), "projector.", "predictor."),
    Layout(
        "OpenSelfSup SimCLR", "backbone.", ("neck.fc0.",), "neck.", "head.predictor.", ("target_net.", "encoder_k.")
    ),
    Layout(
        "OpenSelfSup", "backbone.", ("neck.mlp.",), "neck.mlp.", "head.predictor.mlp.", ("target_net.", "encoder_k.")
    ),
    Layout("VISSL", "trunk._feature_blocks."),
    Layout("VISSL", "_feature_blocks."),
    Layout("Detectron2 detector", "backbone.bottom_up.", translate=from_detectron2),
    Layout("Detectron2", "", translate=from_detectron2),
    Layout("mmdet detector", "backbone.", ("neck.",)),
    Layout("torchvision detector", "backbone.body."),
    Layout("torchvision or timm", ""),
    Layout("numbered parts", "", translate=from_sequential),
    Layout("numbered parts", "backbone.", translate=from_sequential),
)
"""Ordered so that a layout with more required prefixes comes before one with fewer; the first that fits is used."""


@dataclass(frozen=True)
class RecognisedWeights:
    """The weights of a file, sorted by part."""

    layout: Layout
    backbone: Weights
    """Backbone weights under torchvision's names, without the classifier; names unknown to a ResNet are kept."""
    projector: Weights
    """Projector weights under the file's names without the prefix; empty if there is none."""
    predictor: Weights
    left_out: tuple[str, ...]
    """Names of weights that belong to no part."""


def recognise(opened: OpenedFile) -> RecognisedWeights:
    """Recognise which program wrote a file, and sort its weights by part.

    Raises:
        ValueError: if no layout fits; the message names the nearest one and the file's first names.
    """
    weights = strip_wrappers(opened.weights)
    layout = next((layout for layout in LAYOUTS if _fits(layout, weights)), None) or _layout_by_prefix(opened, weights)
    if layout is None:
        raise ValueError(_nearest(weights))
    return _sort(layout, weights)


def strip_wrappers(weights: Weights) -> Weights:
    """Remove the prefixes that DistributedDataParallel and torch.compile put before every name."""
    for wrapper in WRAPPERS:
        if all(name.startswith(wrapper) for name in weights):
            return strip_wrappers(_below(weights, wrapper))
    return weights


def _below(weights: Weights, prefix: str) -> Weights:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def _fits(layout: Layout, weights: Weights) -> bool:
    names = {_translated(layout, name) for name in weights}
    has_required = all(any(name.startswith(prefix) for name in weights) for prefix in layout.required_prefixes)
    return has_required and {"conv1.weight", "layer1.0.conv1.weight"} <= names


def _translated(layout: Layout, name: str) -> str | None:
    """Return a weight's name in torchvision; None if it is not part of the backbone."""
    if not name.startswith(layout.backbone):
        return None
    try:
        return layout.translate(name.removeprefix(layout.backbone))
    except ValueError:
        return None


def _layout_by_prefix(opened: OpenedFile, weights: Weights) -> Layout | None:
    """Find a single ResNet under any prefix, as in a LightningModule with custom names."""
    for translate, stem, block in NAMINGS:
        ends = [name.removesuffix(block) for name in weights if name.endswith(block)]
        prefixes = [prefix for prefix in ends if prefix.endswith(".") and prefix + stem in weights]
        trained = [prefix for prefix in prefixes if not any(word in prefix for word in AVERAGES)]
        chosen = trained if len(trained) == 1 else prefixes
        if len(chosen) == 1:
            program = "PyTorch Lightning" if "pytorch-lightning_version" in opened.entries else "ResNet"
            others = tuple(prefix for prefix in prefixes if prefix != chosen[0])
            return Layout(f"{program} ({chosen[0].rstrip('.')})", chosen[0], averages=others, translate=translate)
    return None


def _sort(layout: Layout, weights: Weights) -> RecognisedWeights:
    projector = _below(weights, layout.projector) if layout.projector else {}
    predictor = _below(weights, layout.predictor) if layout.predictor else {}
    backbone: Weights = {}
    left_out: list[str] = []
    for name, value in weights.items():
        if any(part and name.startswith(part) for part in (layout.projector, layout.predictor)):
            continue
        ours = _translated(layout, name) or _untranslatable(layout, name)
        if ours is None or _is_other_part(layout, name, ours):
            left_out.append(name)
        else:
            backbone[ours] = value
    return RecognisedWeights(layout, backbone, projector, predictor, tuple(left_out))


def _untranslatable(layout: Layout, name: str) -> str | None:
    """Return the name of a backbone layer that torchvision's ResNets do not have."""
    rest = name.removeprefix(layout.backbone)
    is_ours = name.startswith(layout.backbone) and layout.translate is not as_torchvision
    # Detectron2's own script for torchvision's files names the classifier 'stem.fc'.
    return rest if is_ours and re.match(r"(stem\.(?!fc\.)|res\d+\.|[0-8]\.)", rest) else None


def _is_other_part(layout: Layout, name: str, ours: str) -> bool:
    """Return whether a name below the backbone's prefix belongs to another part."""
    others = (
        *layout.required_prefixes,
        *layout.averages,
        *(f"{word}." for word in CLASSIFIERS),
        "prototypes.",
        "queue",
    )
    return ours.startswith(others) if layout.backbone else name.startswith(others)


def _nearest(weights: Weights) -> str:
    first = ", ".join(list(weights)[:4])
    counts = [(sum(_is_of(layout, name) for name in weights), layout) for layout in LAYOUTS]
    count, layout = max(counts, key=lambda pair: pair[0])
    known = ", ".join(dict.fromkeys(layout.name for layout in LAYOUTS))
    near = "no known layout is near"
    if count:
        near = (
            f"the nearest is {layout.name}, which {count} of {len(weights)} names fit, but which needs "
            f"{_missing_names(layout, weights)}"
        )
    return f"its layout is unknown; {near}. Its first names are {first}. Known layouts are {known}"


def _is_of(layout: Layout, name: str) -> bool:
    ours = _translated(layout, name)
    others = tuple(filter(None, (layout.projector, layout.predictor, *layout.required_prefixes, *layout.averages)))
    return bool(ours and RESNET_NAME.fullmatch(ours)) or bool(others and name.startswith(others))


def _missing_names(layout: Layout, weights: Weights) -> str:
    names = {_translated(layout, name) for name in weights}
    missing = [
        f"{prefix}..." for prefix in layout.required_prefixes if not any(name.startswith(prefix) for name in weights)
    ]
    missing += [
        f"a backbone's {name} below '{layout.backbone}'"
        for name in ("conv1.weight", "layer1.0.conv1.weight")
        if name not in names
    ]
    return " and ".join(missing)
