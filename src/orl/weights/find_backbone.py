"""The backbone file that a run folder or a path stands for."""

from pathlib import Path

from orl.rundir import TRAINED_STAGES, RunDir


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
