"""Names of weights in other programs: Detectron2's ResNets, both ways, and EfficientNet-Lite0.

For ResNets mmdet, timm and orl use torchvision's names.
"""

import re

_LAYER = re.compile(r"layer([1-4])\.(\d+)\.(.+)")
_STAGE = re.compile(r"res([2-5])\.(\d+)\.(.+)")
_NORM_ENTRIES = ("weight", "bias", "running_mean", "running_var")
_STEM = {"conv1.weight": "stem.conv1.weight", **{f"bn1.{x}": f"stem.conv1.norm.{x}" for x in _NORM_ENTRIES}}
_BLOCK = {
    **{f"conv{i}.weight": f"conv{i}.weight" for i in (1, 2, 3)},
    **{f"bn{i}.{x}": f"conv{i}.norm.{x}" for i in (1, 2, 3) for x in _NORM_ENTRIES},
    "downsample.0.weight": "shortcut.weight",
    **{f"downsample.1.{x}": f"shortcut.norm.{x}" for x in _NORM_ENTRIES},
}
_STEM_BACK = {theirs: ours for ours, theirs in _STEM.items()}
_BLOCK_BACK = {theirs: ours for ours, theirs in _BLOCK.items()}


def to_detectron2(name: str) -> str:
    """Translate a name from torchvision to Detectron2: 'layer1.0.bn1.bias' is 'res2.0.conv1.norm.bias'.

    Raises:
        ValueError: if the name is not a weight of a ResNet without classifier, or is a batch count, which Detectron2
            does not store.

    Source:
        Detectron2's `modeling/backbone/resnet.py` and its `tools/convert-torchvision-to-d2.py`.
    """
    found = _LAYER.fullmatch(name)
    if found and found[3] in _BLOCK:
        return f"res{int(found[1]) + 1}.{found[2]}.{_BLOCK[found[3]]}"
    if name in _STEM:
        return _STEM[name]
    if name.endswith(".num_batches_tracked"):
        raise ValueError(f"Detectron2 does not store {name}; leave num_batches_tracked out")
    raise ValueError(f"{name!r} is not a weight of torchvision's ResNets before the pooling")


def from_detectron2(name: str) -> str:
    """Translate a name from Detectron2, without a prefix such as 'backbone.bottom_up.', to torchvision.

    Raises:
        ValueError: if the name is not a weight of Detectron2's ResNet.
    """
    found = _STAGE.fullmatch(name)
    if found and found[3] in _BLOCK_BACK:
        return f"layer{int(found[1]) - 1}.{found[2]}.{_BLOCK_BACK[found[3]]}"
    if name in _STEM_BACK:
        return _STEM_BACK[name]
    raise ValueError(f"{name!r} is not a weight of Detectron2's ResNet, such as 'res2.0.conv1.weight'")


_LITE_OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_LITE_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_LITE_LATER = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_LITE_BLOCKS = [(stage, block) for stage, count in enumerate((1, 2, 2, 3, 3, 4, 1)) for block in range(count)]


def from_efficientnet_lite0(name: str) -> str:
    """Translate a name of EfficientNet-Lite0 from the package efficientnet-lite-pytorch to timm.

    Timm numbers blocks within stages, and a block's layers in the order of computing.

    Raises:
        ValueError: if EfficientNet-Lite0 has no such weight; larger variants and squeeze-and-excite have more.
    """
    found = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    layer, _, entry = name.partition(".")
    if found is None and layer in _LITE_OUTER:
        return f"{_LITE_OUTER[layer]}.{entry}"
    if found is not None and int(found[1]) < len(_LITE_BLOCKS):
        layers = _LITE_LATER if int(found[1]) else _LITE_FIRST
        if found[2] in layers:
            stage, block = _LITE_BLOCKS[int(found[1])]
            return f"blocks.{stage}.{block}.{layers[found[2]]}.{found[3]}"
    raise ValueError(f"{name!r} is not a weight of EfficientNet-Lite0; for other variants give timm's weights")
