"""Conversion of recognised weights into a backbone, a projector and a predictor of orl."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

import torch
import torchvision.models.resnet as resnets
from torch import Tensor, nn

from orl.networks.backbones import BUILDERS, Backbone, build_backbone, check_weights
from orl.networks.mlp import build_mlp
from orl.weights.names import from_detectron2
from orl.weights.opening import Weights
from orl.weights.recognise import RecognisedWeights

Shapes = dict[str, tuple[int, ...]]

OTHER_RESNETS: dict[str, Callable[[], nn.Module]] = {
    "resnet152": resnets.resnet152,
    "resnext50_32x4d": resnets.resnext50_32x4d,
    "resnext101_32x8d": resnets.resnext101_32x8d,
    "resnext101_64x4d": resnets.resnext101_64x4d,
    "wide_resnet101_2": resnets.wide_resnet101_2,
}
"""ResNets of torchvision that are not backbones of orl; the error message names them."""
BATCH_COUNT = "num_batches_tracked"


@dataclass(frozen=True)
class ImportedWeights:
    """The networks of a converted file, in evaluation mode."""

    layout: str
    """Name of the layout, such as 'MoCo v2'."""
    backbone: Backbone
    projector: nn.Sequential | None
    predictor: nn.Sequential | None
    notes: tuple[str, ...]
    """One sentence for each thing that was left out or changed."""
    choice: str = ""
    """Sentence that names the network taken and those left; empty if the file has one network."""


def convert(found: RecognisedWeights, expected: str | None = None) -> ImportedWeights:
    """Build backbone, projector and predictor with the given weights.

    Args:
        found: the weights by part.
        expected: required name of the backbone; any if not given.

    Raises:
        ValueError: if the backbone is not the expected one, a weight is missing, unknown or of another shape, or a
            value is not a finite real number.
    """
    notes: list[str] = []
    weights = as_float32(found.backbone, notes)
    name = infer_architecture(shapes_of(weights), expected)
    with torch.random.fork_rng(devices=[]):
        backbone = build_backbone(name)
    backbone.load_state_dict(with_batch_counts(weights))
    projector = _build_head(found.projector, backbone.num_channels, "projector", notes)
    predictor = _build_head(found.predictor, None, "predictor", notes)
    if found.layout.translate is from_detectron2:
        notes.append(
            "Detectron2's weights do not record the position of a block's stride or the normalisation of images: the "
            "result is right only if they were trained with STRIDE_IN_1X1 False, on RGB images"
        )
    notes += _notes_on_left_out(found)
    unique = tuple(dict.fromkeys(notes))
    return ImportedWeights(found.layout.name, backbone.eval(), projector, predictor, unique, found.choice)


def as_float32(weights: Weights, notes: list[str]) -> Weights:
    """Return the weights in float32; a conversion is appended to the notes.

    Raises:
        ValueError: if a weight is complex, an integer, NaN or infinite, or a variance is negative.
    """
    converted = {}
    for name, value in weights.items():
        if name.endswith(BATCH_COUNT):
            converted[name] = value.to(torch.int64)
            continue
        if not value.is_floating_point():
            raise ValueError(f"{name} has dtype {_type_of(value)}; weights must be floating-point numbers")
        converted[name] = value.to(torch.float32)
        if value.dtype != torch.float32:
            notes.append(f"its weights were converted from {_type_of(value)} to float32")
    check_weights(converted)
    return converted


def _type_of(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def infer_architecture(shapes: Shapes, expected: str | None = None) -> str:
    """Return the name of the backbone whose weights have these names and shapes.

    Args:
        shapes: shapes of all weights except batch counts, by name.
        expected: required name; any if not given.

    Raises:
        ValueError: if no backbone fits, or another than the expected one; the message gives the differences from the
            nearest backbone.
    """
    fits = next((name for name in BUILDERS if shapes == shapes_of_backbone(name)), None)
    if expected is not None and expected not in BUILDERS:
        raise ValueError(f"no backbone is called {expected!r}; there are {', '.join(BUILDERS)}")
    if fits and expected in (None, fits):
        return fits
    if fits:
        raise ValueError(f"its backbone is a {fits} ({_blocks(shapes)}), not a {expected}")
    for name, build in OTHER_RESNETS.items():
        if shapes == _shapes_of_other(name, build):
            raise ValueError(
                f"its network is torchvision's {name} ({_blocks(shapes)}), which orl cannot train; backbones are "
                f"{', '.join(BUILDERS)}. As a feature extractor it can be used with --architecture {name}"
            )
    nearest = expected or min(BUILDERS, key=lambda name: len(shape_differences(shapes, shapes_of_backbone(name))))
    differences = shape_differences(shapes, shapes_of_backbone(nearest))
    raise ValueError(
        f"its network has {_blocks(shapes)}, and is none of {', '.join(BUILDERS)}. From {nearest} it differs in "
        f"{len(differences)} weights: {'; '.join(differences[:3])}"
    )


def shapes_of(weights: Weights) -> Shapes:
    """Return the shape of each weight by name, without batch counts."""
    return {name: tuple(value.shape) for name, value in weights.items() if not name.endswith(BATCH_COUNT)}


@lru_cache(maxsize=16)
def shapes_of_backbone(name: str) -> Shapes:
    """Return the shapes of a backbone's weights by name."""
    with torch.device("meta"):
        return shapes_of(build_backbone(name).state_dict())


@lru_cache(maxsize=16)
def _shapes_of_other(name: str, build: Callable[[], nn.Module]) -> Shapes:
    with torch.device("meta"):
        return {key: shape for key, shape in shapes_of(build().state_dict()).items() if not key.startswith("fc.")}


def shape_differences(found: Shapes, expected: Shapes) -> list[str]:
    """Return a phrase for each weight that is missing, unknown or of another shape."""
    missing = [f"it lacks {name}" for name in expected if name not in found]
    extra = [f"it has {name}" for name in found if name not in expected]
    changed = [
        f"{name} is {_by(found[name])} and not {_by(expected[name])}"
        for name in expected
        if name in found and found[name] != expected[name]
    ]
    return [*missing, *extra, *changed]


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "one number"


def _blocks(shapes: Shapes) -> str:
    """Return a description such as '3, 4, 6, 3 bottleneck blocks'."""
    blocks = {tuple(name.split(".")[:2]) for name in shapes if name.startswith("layer")}
    counts = Counter(layer for layer, _ in blocks)
    kind = "bottleneck" if any(".conv3." in name for name in shapes) else "basic"
    return f"{', '.join(str(counts[layer]) for layer in sorted(counts)) or 'no'} {kind} blocks"


def with_batch_counts(weights: Weights) -> Weights:
    """Return the weights with a batch count for every batch normalisation; a missing one, as in Detectron2, is 0."""
    counted = {name: value for name, value in weights.items() if not name.endswith(BATCH_COUNT)}
    for name in list(counted):
        layer = name.removesuffix(".running_mean")
        if layer != name:
            count = weights.get(f"{layer}.{BATCH_COUNT}")
            counted[f"{layer}.{BATCH_COUNT}"] = (
                count.reshape(()) if count is not None and count.numel() == 1 else torch.tensor(0)
            )
    return counted


def _build_head(weights: Weights, num_inputs: int | None, role: str, notes: list[str]) -> nn.Sequential | None:
    """Build a projector or predictor; return None, with a note, for one that orl cannot build.

    Raises:
        ValueError: if a weight is NaN or infinite, or a variance is negative.
    """
    if not weights:
        return None
    check_weights(weights)
    try:
        numbered = numbered_layers(as_float32(weights, notes))
        layers = build_mlp(_with_affine(with_batch_counts(numbered)))
        _check_sizes(layers, num_inputs)
    except ValueError as error:
        notes.append(f"its {role} was left out: {error}")
        return None
    return layers.eval()


def numbered_layers(weights: Weights) -> Weights:
    """Rename a head's weights to the layer numbers of an `nn.Sequential`.

    Args:
        weights: named by layer number already, also below 'mlp.'; named 'weight' and 'bias', also below 'fc.', for a
            single linear layer; or named 'fc0', 'bn0', 'fc1', 'bn1' with a ReLU between, as in the published ORL.
    """
    numbered = {}
    for name, value in weights.items():
        layer, _, entry = name.removeprefix("mlp.").rpartition(".")
        if layer in ("", "fc"):
            layer = "0"
        elif layer[:2] in ("fc", "bn") and layer[2:].isdigit():
            layer = str(3 * int(layer[2:]) + (layer[:2] == "bn"))
        numbered[f"{layer}.{entry}"] = value
    return numbered


def _with_affine(weights: Weights) -> Weights:
    """Add weight 1 and bias 0 to each batch normalisation without them, which computes the same."""
    filled = dict(weights)
    for name, mean in weights.items():
        layer = name.removesuffix(".running_mean")
        if layer != name:
            filled.setdefault(f"{layer}.weight", torch.ones_like(mean))
            filled.setdefault(f"{layer}.bias", torch.zeros_like(mean))
    return filled


def _check_sizes(layers: Iterable[nn.Module], num_inputs: int | None) -> None:
    for number, layer in enumerate(layers):
        if isinstance(layer, nn.Linear):
            if num_inputs not in (None, layer.in_features):
                raise ValueError(f"layer {number} expects {layer.in_features} inputs, got {num_inputs}")
            num_inputs = layer.out_features
        elif isinstance(layer, nn.BatchNorm1d) and num_inputs not in (None, layer.num_features):
            raise ValueError(f"layer {number} expects {layer.num_features} inputs, got {num_inputs}")


def _notes_on_left_out(found: RecognisedWeights) -> list[str]:
    parts = Counter(name.removeprefix(found.layout.backbone).partition(".")[0] for name in found.left_out)
    counted = ", ".join(f"{part} ({count})" for part, count in parts.items())
    return [f"left out, with the number of weights: {counted}"] if counted else []
