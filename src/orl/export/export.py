"""The table of export formats, and the function that writes an export."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

from orl import files
from orl.export.detectron2 import detectron2_files
from orl.export.hub_folder import hub_folder
from orl.export.mmdet import mmdet_files
from orl.export.model_card import Origin, read_origin
from orl.export.onnx import onnx_files
from orl.export.safetensors import safetensors_files
from orl.export.timm import timm_files
from orl.export.torchvision import torchvision_files
from orl.networks.backbones import Backbone, read_backbone_file
from orl.weights.find import find_weights_file

Format = Literal["torchvision", "timm", "detectron2", "mmdet", "onnx", "safetensors", "hub-folder"]

WRITERS: dict[Format, Callable[[Backbone, Origin], dict[str, bytes]]] = {
    "torchvision": torchvision_files,
    "timm": timm_files,
    "detectron2": detectron2_files,
    "mmdet": mmdet_files,
    "onnx": onnx_files,
    "safetensors": safetensors_files,
    "hub-folder": hub_folder,
}
"""For each format a function that returns the contents of the files by name, the weights first."""


def export(source: Path, to: Format, out: Path, *, stage: str | None = None, overwrite: bool = False) -> list[Path]:
    """Write a backbone in the format of another project: the weights, a card on how to load them, a ready config.

    Equal weights give equal bytes. Each file is written completely or not at all.

    Args:
        source: folder of a run, or a backbone.safetensors.
        to: name of the format.
        out: folder for the files, created if missing.
        stage: 'stage1' or 'stage3' of a run; the last finished stage if not given.
        overwrite: replace existing files.

    Returns:
        The files, the weights first.

    Raises:
        FileNotFoundError: if there is no backbone.
        ValueError: if the format is unknown, the other project has no such network, or a file exists already.
        ModuleNotFoundError: if the format is ONNX and onnx is not installed.
    """
    if to not in WRITERS:
        raise ValueError(f"no format is called {to!r}; there are {', '.join(get_args(Format))}")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give a folder for the exported files")
    backbone_file = find_weights_file(source, stage)
    contents = WRITERS[to](read_backbone_file(backbone_file), read_origin(backbone_file))
    present = [name for name in contents if (out / name).exists()]
    if present and not overwrite:
        raise ValueError(
            f"{out} already holds {', '.join(present)}; give another folder, or replace them with --overwrite"
        )
    for name, content in contents.items():
        files.write_atomically(out / name, content)
    return [out / name for name in contents]
