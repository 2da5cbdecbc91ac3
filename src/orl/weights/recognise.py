"""Layouts: under which names other programs keep the weights of a ResNet and of its projector."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from orl.weights.names import from_detectron2
from orl.weights.opening import OpenedFile, Weights

SEQUENTIAL = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
"""A ResNet's parts by their number in `nn.Sequential(*resnet.children())`, where 2 and 3 are ReLU and pooling."""
RESNET_NAME = re.compile(
    r"(conv1\.weight|bn1\.\w+|layer\d+\.\d+\.((conv|bn)\d+|downsample\.[01])\.\w+)(?<!num_batches_tracked)"
)
WRAPPERS = ("module.", "_orig_mod.")
AVERAGES = ("momentum", "target", "teacher", "ema", "encoder_k", "_k.")
CLASSIFIERS = ("fc", "classifier", "head", "heads", "linear", "last_linear")


def as_torchvision(name: str) -> str:
    return name


def from_sequential(name: str) -> str:
    """Torchvision's name of a weight whose part is called by its number: '4.0.conv1.weight'."""
    part, _, rest = name.partition(".")
    if part not in SEQUENTIAL:
        raise ValueError(f"{name!r} is no weight of a ResNet's numbered parts")
    return f"{SEQUENTIAL[part]}.{rest}"


NAMINGS = (
    (as_torchvision, "conv1.weight", "layer1.0.conv1.weight"),
    (from_sequential, "0.weight", "4.0.conv1.weight"),
    (from_detectron2, "stem.conv1.weight", "res2.0.conv1.weight"),
)
"""How a ResNet's weights are called: the way back to torchvision, and the names of two of them."""


@dataclass(frozen=True)
class Layout:
    """Where a program keeps each part."""

    name: str
    backbone: str
    """What the names of the backbone's weights begin with."""
    marks: tuple[str, ...] = ()
    """Beginnings of names that such a file has besides."""
    projector: str = ""
    """What the names of the projector's weights begin with; empty: the layout has none, or none of our form."""
    predictor: str = ""
    averages: tuple[str, ...] = ()
    """Beginnings of the moving average's names."""
    translate: Callable[[str], str] = as_torchvision
    """From the backbone's names there to torchvision's; a ValueError for a name that is not the backbone's."""


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
"""Those with more marks come before those whose names theirs include: the first that fits is taken."""


@dataclass(frozen=True)
class RecognisedWeights:
    """The weights of a file, by part."""

    layout: Layout
    backbone: Weights
    """Under torchvision's names, without the classifier; also what is no weight of a ResNet."""
    projector: Weights
    """Under the names in the file, less the prefix; empty where there is none."""
    predictor: Weights
    left_out: tuple[str, ...]
    """Names of the weights that belong to no part."""


def recognise(opened: OpenedFile) -> RecognisedWeights:
    """Find out which program wrote a file, and sort its weights by part.

    Raises:
        ValueError: if no layout fits; the message names the nearest one and the file's first names.
    """
    weights = strip_wrappers(opened.weights)
    layout = next((layout for layout in LAYOUTS if _fits(layout, weights)), None) or _wherever(opened, weights)
    if layout is None:
        raise ValueError(_nearest(weights))
    return _sort(layout, weights)


def strip_wrappers(weights: Weights) -> Weights:
    """Without what DistributedDataParallel and torch.compile put before every name."""
    for wrapper in WRAPPERS:
        if all(name.startswith(wrapper) for name in weights):
            return strip_wrappers(_below(weights, wrapper))
    return weights


def _below(weights: Weights, prefix: str) -> Weights:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def _fits(layout: Layout, weights: Weights) -> bool:
    names = {_translated(layout, name) for name in weights}
    has_marks = all(any(name.startswith(mark) for name in weights) for mark in layout.marks)
    return has_marks and {"conv1.weight", "layer1.0.conv1.weight"} <= names


def _translated(layout: Layout, name: str) -> str | None:
    """A weight's name in torchvision; None if it is not the backbone's."""
    if not name.startswith(layout.backbone):
        return None
    try:
        return layout.translate(name.removeprefix(layout.backbone))
    except ValueError:
        return None


def _wherever(opened: OpenedFile, weights: Weights) -> Layout | None:
    """A ResNet under any one prefix, as of a LightningModule that calls it as it likes."""
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
        if ours is None or _is_beside(layout, name, ours):
            left_out.append(name)
        else:
            backbone[ours] = value
    return RecognisedWeights(layout, backbone, projector, predictor, tuple(left_out))


def _untranslatable(layout: Layout, name: str) -> str | None:
    """The name of a layer that is one of the backbone's and that torchvision's ResNets have no name for."""
    rest = name.removeprefix(layout.backbone)
    is_ours = name.startswith(layout.backbone) and layout.translate is not as_torchvision
    # The classifier is 'stem.fc' in what Detectron2's own script makes of torchvision's files.
    return rest if is_ours and re.match(r"(stem\.(?!fc\.)|res\d+\.|[0-8]\.)", rest) else None


def _is_beside(layout: Layout, name: str, ours: str) -> bool:
    """Whether a name below the backbone's prefix is of another part all the same."""
    others = (*layout.marks, *layout.averages, *(f"{word}." for word in CLASSIFIERS), "prototypes.", "queue")
    return ours.startswith(others) if layout.backbone else name.startswith(others)


def _nearest(weights: Weights) -> str:
    first = ", ".join(list(weights)[:4])
    counts = [(sum(_is_of(layout, name) for name in weights), layout) for layout in LAYOUTS]
    count, layout = max(counts, key=lambda pair: pair[0])
    known = ", ".join(dict.fromkeys(layout.name for layout in LAYOUTS))
    near = "nor is any near"
    if count:
        near = (
            f"the nearest is {layout.name}, which {count} of {len(weights)} names fit, but which has "
            f"{_missing_mark(layout, weights)}"
        )
    return f"its layout is none that orl knows; {near}. Its first names are {first}. Known are {known}"


def _is_of(layout: Layout, name: str) -> bool:
    ours = _translated(layout, name)
    others = tuple(filter(None, (layout.projector, layout.predictor, *layout.marks, *layout.averages)))
    return bool(ours and RESNET_NAME.fullmatch(ours)) or bool(others and name.startswith(others))


def _missing_mark(layout: Layout, weights: Weights) -> str:
    names = {_translated(layout, name) for name in weights}
    wanted = [f"{mark}..." for mark in layout.marks if not any(name.startswith(mark) for name in weights)]
    wanted += [
        f"a backbone's {name} below '{layout.backbone}'"
        for name in ("conv1.weight", "layer1.0.conv1.weight")
        if name not in names
    ]
    return " and ".join(wanted)
