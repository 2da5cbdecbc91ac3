"""Layouts of weights files: the names that other programs give to a ResNet, its projector and its predictor."""

from collections.abc import Callable
from dataclasses import dataclass

from orl.weights.names import from_detectron2

SEQUENTIAL = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
"""Parts of a ResNet by number in `nn.Sequential(*resnet.children())`; 2 and 3 are ReLU and pooling."""


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
    averages: tuple[tuple[str, str], ...] = ()
    """Prefixes of backbone and projector of each moving average that such a file may have."""
    translate: Callable[[str], str] = as_torchvision
    """Translation of the backbone's names to torchvision; raises a ValueError for any other name."""


def _openmmlab_averages(head: str = "") -> tuple[tuple[str, str], ...]:
    """Return the averages of OpenSelfSup, and of MMSelfSup and MMPretrain, which wrap them once more."""
    names = ("target_net", "encoder_k", "momentum_encoder")
    return tuple((f"{name}{wrap}0.", f"{name}{wrap}1.{head}") for name in names for wrap in (".", ".module."))


_ORL_AVERAGE = (("target.backbone.", "target.projector."),)
_MOCO_AVERAGE = (("encoder_k.", "encoder_k.fc."),)
_LIGHTLY_AVERAGE = (("backbone_momentum.", "projection_head_momentum.layers."),)
LAYOUTS = (
    Layout(
        "orl checkpoint",
        "online.backbone.",
        ("predictors.",),
        "online.projector.",
        "predictors.global.",
        _ORL_AVERAGE,
    ),
    Layout(
        "orl checkpoint",
        "online.backbone.",
        (),
        "online.projector.",
        "predictor.",
        _ORL_AVERAGE,
    ),
    Layout(
        "ORL (published)",
        "online_net.0.",
        ("global_head.",),
        "online_net.1.",
        "global_head.predictor.",
        _openmmlab_averages(),
    ),
    Layout("OpenSelfSup BYOL", "online_net.0.", (), "online_net.1.", "head.predictor.", _openmmlab_averages()),
    Layout(
        "DenseCL",
        "encoder_q.0.",
        ("encoder_q.1.mlp2.",),
        "encoder_q.1.mlp.",
        averages=_openmmlab_averages("mlp."),
    ),
    Layout("OpenSelfSup MoCo", "encoder_q.0.", (), "encoder_q.1.", averages=_openmmlab_averages()),
    Layout("MoCo v2", "encoder_q.", ("encoder_q.fc.2.",), "encoder_q.fc.", averages=_MOCO_AVERAGE),
    Layout("MoCo v1", "encoder_q.", (), "encoder_q.fc.", averages=_MOCO_AVERAGE),
    Layout(
        "MoCo v3",
        "base_encoder.",
        (),
        "base_encoder.fc.",
        "predictor.",
        (("momentum_encoder.", "momentum_encoder.fc."),),
    ),
    Layout("SimSiam", "encoder.", ("encoder.fc.0.", "predictor."), "encoder.fc.", "predictor."),
    Layout("SwAV", "", ("projection_head.",), "projection_head."),
    Layout("DINO", "backbone.", ("head.last_layer.",)),
    Layout(
        "lightly",
        "backbone.",
        ("projection_head.layers.", "backbone.4.0.conv1."),
        "projection_head.layers.",
        "prediction_head.layers.",
        _LIGHTLY_AVERAGE,
        from_sequential,
    ),
    Layout(
        "lightly",
        "backbone.",
        ("projection_head.layers.",),
        "projection_head.layers.",
        "prediction_head.layers.",
        _LIGHTLY_AVERAGE,
    ),
    Layout(
        "solo-learn",
        "backbone.",
        ("classifier.", "projector."),
        "projector.",
        "predictor.",
        (("momentum_backbone.", "momentum_projector."),),
    ),
    Layout(
        "solo-learn (before 1.0.4)",
        "encoder.",
        ("classifier.", "projector."),
        "projector.",
        "predictor.",
        (("momentum_encoder.", "momentum_projector."),),
    ),
    Layout("Barlow Twins or VICReg", "backbone.", ("projector.",), "projector."),
    Layout("SimCLR", "backbone.", ("backbone.fc.0.",), "backbone.fc."),
    Layout("SimCLR or BYOL", "encoder.", ("projector.",), "projector.", "predictor."),
    # ODC has a ReLU after its projector, which no weight shows.
    Layout("OpenSelfSup ODC", "backbone.", ("neck.fc0.", "head.fc_cls.")),
    Layout("OpenSelfSup SimCLR", "backbone.", ("neck.fc0.",), "neck.", "head.predictor.", _openmmlab_averages()),
    Layout("OpenSelfSup", "backbone.", ("neck.mlp.",), "neck.mlp.", "head.predictor.", _openmmlab_averages("mlp.")),
    Layout("MMSelfSup SwAV", "backbone.", ("neck.projection_neck.",), "neck.projection_neck."),
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
