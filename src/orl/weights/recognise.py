"""Recognition of weights files by their layout, and of the networks in them."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from orl.weights.layouts import LAYOUTS, NAMINGS, Layout, as_torchvision
from orl.weights.opening import OpenedFile, Weights

RESNET_NAME = re.compile(
    r"(conv1\.weight|bn1\.\w+|layer\d+\.\d+\.((conv|bn)\d+|downsample\.[01])\.\w+)(?<!num_batches_tracked)"
)
WRAPPERS = ("module.", "_orig_mod.")
AVERAGES = ("momentum", "target", "teacher", "ema", "encoder_k", "_k.")
CLASSIFIERS = ("fc", "classifier", "head", "heads", "linear", "last_linear")


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
    choice: str = ""
    """Sentence that names the network taken and those left; empty if the file has one network."""


@dataclass(frozen=True)
class _Network:
    """One ResNet of a file."""

    container: str
    prefix: str
    translate: Callable[[str], str]

    @property
    def name(self) -> str:
        return ".".join(filter(None, (self.container, self.prefix.rstrip("."))))


def recognise(opened: OpenedFile, network: str | None = None) -> RecognisedWeights:
    """Recognise which program wrote a file, and sort its weights by part.

    Args:
        opened: content of the file.
        network: name of one of several networks in the file, such as 'target_net', or its first parts; the trained
            network if not given.

    Raises:
        ValueError: if no layout fits (the message names the nearest one and the file's first names), or the file has
            no network of that name.
    """
    containers = {name: strip_wrappers(weights) for name, weights in _all_containers(opened).items()}
    networks = [each for container, weights in containers.items() for each in _networks(container, weights)]
    if network is None:
        layout = _layout(opened, containers[opened.container])
        if layout is None:
            raise ValueError(_nearest(containers[opened.container], networks))
        taken = _Network(opened.container, layout.backbone, layout.translate)
    else:
        taken = _named(network, networks)
        layout = _layout_of(taken, containers[taken.container])
    others = [each for each in networks if each != taken]
    below_others = [
        each.prefix for each in others if each.container == taken.container and not taken.prefix.startswith(each.prefix)
    ]
    found = _sort(layout, containers[taken.container], tuple(below_others))
    different = [each for each in others if not _equal(each, taken, containers)]
    return replace(found, choice=_choice(taken, different)) if different else found


def _choice(taken: _Network, left: list[_Network]) -> str:
    names = " and ".join(each.name or "''" for each in left)
    return (
        f"the network {taken.name or repr('')} was taken, and {names} left; 'orl import --network NAME' takes another"
    )


def _all_containers(opened: OpenedFile) -> dict[str, Weights]:
    return {opened.container: opened.weights, **opened.others}


def _networks(container: str, weights: Weights) -> list[_Network]:
    """List the ResNets in a container."""
    return [
        _Network(container, prefix, translate)
        for translate, stem, block in NAMINGS
        for prefix in (name.removesuffix(block) for name in weights if name.endswith(block))
        if prefix + stem in weights and (not prefix or prefix.endswith("."))
    ]


def _named(name: str, networks: list[_Network]) -> _Network:
    exact = [network for network in networks if network.name == name]
    chosen = exact or [network for network in networks if f"{network.name}.".startswith(f"{name}.")]
    if len(chosen) == 1:
        return chosen[0]
    known = ", ".join(network.name or "''" for network in networks) or "no ResNet"
    raise ValueError(f"--network {name} names {len(chosen)} of its networks; it has {known}")


def _equal(other: _Network, taken: _Network, containers: dict[str, Weights]) -> bool:
    """Return whether two networks are one that a program registers twice."""
    ours, theirs = (_resnet_weights(each, containers[each.container]) for each in (taken, other))
    return ours.keys() == theirs.keys() and all(
        value.dtype == theirs[name].dtype and torch.equal(value, theirs[name]) for name, value in ours.items()
    )


def _resnet_weights(network: _Network, weights: Weights) -> Weights:
    layout = Layout("", network.prefix, translate=network.translate)
    named = {_translated(layout, name): value for name, value in weights.items()}
    return {name: value for name, value in named.items() if name and RESNET_NAME.fullmatch(name)}


def _layout(opened: OpenedFile, weights: Weights) -> Layout | None:
    return next((layout for layout in LAYOUTS if _fits(layout, weights)), None) or _layout_by_prefix(opened, weights)


def _layout_of(network: _Network, weights: Weights) -> Layout:
    """Return the layout of a chosen network: its own, or that of the network whose moving average it is."""
    for layout in LAYOUTS:
        if _fits(layout, weights):
            if layout.backbone == network.prefix:
                return layout
            for backbone, projector in layout.averages:
                if backbone == network.prefix:
                    return replace(
                        layout, backbone=backbone, required_prefixes=(), projector=projector, predictor="", averages=()
                    )
    return Layout(f"ResNet ({network.name})", network.prefix, translate=network.translate)


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
    networks = [network for network in _networks("", weights) if network.prefix]
    trained = [network for network in networks if not any(word in network.prefix for word in AVERAGES)]
    chosen = trained if len(trained) == 1 else networks
    if len(chosen) != 1:
        return None
    program = "PyTorch Lightning" if "pytorch-lightning_version" in opened.entries else "ResNet"
    return Layout(f"{program} ({chosen[0].name})", chosen[0].prefix, translate=chosen[0].translate)


def _sort(layout: Layout, weights: Weights, below_others: tuple[str, ...]) -> RecognisedWeights:
    """Sort the weights by part; those below the prefixes of other networks belong to none and are not listed."""
    projector = _below(weights, layout.projector) if layout.projector else {}
    predictor = _below(weights, layout.predictor) if layout.predictor else {}
    backbone: Weights = {}
    left_out: list[str] = []
    for name, value in weights.items():
        if any(part and name.startswith(part) for part in (layout.projector, layout.predictor, *below_others)):
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
        *(f"{word}." for word in CLASSIFIERS),
        "prototypes.",
        "queue",
    )
    return ours.startswith(others) if layout.backbone else name.startswith(others)


def _nearest(weights: Weights, networks: list[_Network]) -> str:
    if len(networks) > 1:
        names = ", ".join(each.name for each in networks)
        return f"its layout is unknown, and it has the networks {names}; give one of them with 'orl import --network'"
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
    others = tuple(
        filter(None, (layout.projector, layout.predictor, *layout.required_prefixes, *sum(layout.averages, ())))
    )
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
