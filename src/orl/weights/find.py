"""Search for the weights file of a run, an export, an imported folder or a path."""

from pathlib import Path

from orl.files import regular_file
from orl.rundir import TRAINED_STAGES, RunDir

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of weights in a folder from the Hugging Face hub; the first that exists is taken."""
EXPORT_SUFFIXES = (".pth", ".pkl", ".safetensors")
"""File name endings of exported weights."""


def find_weights_file(source: Path, stage: str | None = None) -> Path:
    """Return the weights file of a source.

    Args:
        source: folder of a run, of `orl import`, of `orl export` or of the Hugging Face hub; or a file of weights.
        stage: 'stage1' or 'stage3' of a run; the last finished stage if not given.

    Raises:
        FileNotFoundError: if the source does not exist, holds no weights, or the run has not finished the stage.
        ValueError: if the source is ONNX, a pipe or a device, or a stage is given for anything but a run.
    """
    if stage is not None and stage not in TRAINED_STAGES:
        raise ValueError(f"no stage {stage!r} leaves a backbone; give {' or '.join(TRAINED_STAGES)}")
    if source.suffix == ".onnx":
        raise ValueError(
            f"{source} is a graph for inference, without the weights as they were trained: run it with onnxruntime, or "
            "load the run that it was exported from"
        )
    if not source.exists():
        raise FileNotFoundError(f"nothing at {source}; give the folder of a run or a file of weights")
    regular_file(source)
    single, run = _single_file(source), RunDir(source)
    if stage is None and single is not None:
        return single
    finished = [name for name in TRAINED_STAGES if run.backbone(name).exists()]
    if single is not None and not finished:
        raise ValueError(f"{source} is one backbone ({single.name}) and has no {stage!r}; leave the stage out")
    if finished and stage in (None, *finished):
        return run.backbone(stage or finished[-1])
    missing = f"no {stage}/backbone.safetensors" if stage else "no backbone.safetensors of any stage"
    way_out = f"there is {finished[0]}" if finished else "finish it with 'orl run', or give the folder of another run"
    raise FileNotFoundError(f"{source} has {missing}: {way_out}")


def _single_file(source: Path) -> Path | None:
    """Return the file itself, or the one backbone in a folder of `orl import`, `orl export` or the hub."""
    if source.is_file():
        return source
    hub_files = [source / name for name in HUB_FILES if (source / name).exists()]
    if hub_files and (source / "config.json").exists():
        return hub_files[0]
    if (source / "backbone.safetensors").exists():
        return source / "backbone.safetensors"
    exported = [path for path in source.glob("[!.]*.*") if path.suffix in EXPORT_SUFFIXES]
    return exported[0] if len(exported) == 1 else None
