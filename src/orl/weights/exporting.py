"""A trained backbone as the files that other projects read, each with what its user needs beside it."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

from orl import tables
from orl.networks.backbones import Backbone, load_backbone
from orl.rundir import TRAINED_STAGES, RunDir
from orl.weights.cards import Origin, read_origin
from orl.weights.detectron2_files import detectron2_files
from orl.weights.hub_folder import hub_folder
from orl.weights.mmdet_files import mmdet_files
from orl.weights.onnx_files import onnx_files
from orl.weights.torch_files import safetensors_files, timm_files, torchvision_files

Format = Literal["torchvision", "timm", "detectron2", "mmdet", "onnx", "safetensors", "hub-folder"]

Files = dict[str, bytes]
"""Contents by file name."""

WRITERS: dict[Format, Callable[[Backbone, Origin], Files]] = {
    "torchvision": torchvision_files,
    "timm": timm_files,
    "detectron2": detectron2_files,
    "mmdet": mmdet_files,
    "onnx": onnx_files,
    "safetensors": safetensors_files,
    "hub-folder": hub_folder,
}


def find_backbone(source: Path, stage: str | None = None) -> Path:
    """The backbone.safetensors that a run folder or a path stands for.

    Args:
        source: folder of a run, of 'orl import', or a backbone.safetensors.
        stage: 'stage1' or 'stage3' of a run; the last that is finished if not given.

    Raises:
        FileNotFoundError: if there is nothing there, or the run has not come so far.
        ValueError: if there is no such stage, or a stage is asked of a file.
    """
    if stage is not None and stage not in TRAINED_STAGES:
        raise ValueError(f"no stage {stage!r} leaves a backbone; give {' or '.join(TRAINED_STAGES)}")
    if not source.exists():
        raise FileNotFoundError(f"nothing at {source}; give the folder of a run or a backbone.safetensors")
    if source.is_file():
        return _require_own_file(source, stage)
    if (source / "backbone.safetensors").exists() and stage is None:
        return source / "backbone.safetensors"
    run = RunDir(source)
    found = [run.backbone(name) for name in TRAINED_STAGES if run.backbone(name).exists() and stage in (None, name)]
    if not found:
        wanted = f"no {stage}/backbone.safetensors" if stage else "no backbone.safetensors of any stage"
        there = [name for name in TRAINED_STAGES if run.backbone(name).exists()]
        way_out = f"there is {there[0]}" if there else "finish it with 'orl run', or give the folder of another run"
        raise FileNotFoundError(f"{source} has {wanted}: {way_out}")
    return found[-1]


def _require_own_file(source: Path, stage: str | None) -> Path:
    if stage is not None:
        raise ValueError(f"{source} is one file, of which no {stage!r} can be asked; leave the stage out")
    if source.suffix != ".safetensors":
        raise ValueError(f"{source} is no backbone.safetensors; 'orl import' makes one from files of other projects")
    return source


def export(source: Path, to: Format, out: Path, *, stage: str | None = None, overwrite: bool = False) -> list[Path]:
    """Write a backbone in the form of another project: the weights, a page on how to load them, a ready config.

    Equal weights give equal bytes. Each file is written whole or not at all.

    Args:
        source: folder of a run, or a backbone.safetensors.
        to: whose form.
        out: folder for the files, made if missing.
        stage: 'stage1' or 'stage3' of a run; the last that is finished if not given.
        overwrite: replace files that are there.

    Returns:
        The files, the weights first.

    Raises:
        FileNotFoundError: if there is no backbone.
        ValueError: if there is no such form, the other project has no such network, or a file is there already.
        ModuleNotFoundError: if ONNX is asked for and not installed.
    """
    if to not in WRITERS:
        raise ValueError(f"no form is called {to!r}; there are {', '.join(get_args(Format))}")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give a folder for the exported files")
    backbone_file = find_backbone(source, stage)
    files = WRITERS[to](load_backbone(backbone_file), read_origin(backbone_file))
    present = [name for name in files if (out / name).exists()]
    if present and not overwrite:
        raise ValueError(f"{out} holds {', '.join(present)} already; give another folder, or overwrite them")
    for name, content in files.items():
        tables.write_atomically(out / name, content)
    return [out / name for name in files]
