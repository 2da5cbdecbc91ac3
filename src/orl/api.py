"""The verbs of the command line as Python functions.

Every function checks its arguments first and resumes interrupted work. It runs in one process or, started by torchrun
or srun, in several.

Example:
    >>> import orl
    >>> weights = orl.pretrain(images="images", out="runs/mine", recipe="demo", epochs=1, batch_size=4)
    >>> backbone = orl.load_backbone(weights)
    >>> backbone.num_channels
    512
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from orl.config import ImageMethod, RunConfig, one_of
from orl.evaluation.evaluations import OBJECT_EVALUATIONS, default_result, find_evaluation, run_evaluation
from orl.evaluation.objects.run_scoreboard import plan_scoreboard
from orl.evaluation.output import EvaluationOutput
from orl.evaluation.suite import Candidates
from orl.networks.backbones import read_backbone_file, register_backbone
from orl.networks.device import compute_device
from orl.networks.names import DeviceName
from orl.pipeline.compare import FewLabelledObjects, compare_backbones, default_folder
from orl.pipeline.run import run_all, run_discover, run_pretrain
from orl.processes import joined_processes
from orl.recipes import METHODS, REQUIRED, start_config, with_changes, with_fields
from orl.rundir import RunDir

AnyPath = str | Path


def pretrain(
    *,
    out: AnyPath,
    images: AnyPath | None = None,
    method: ImageMethod | Literal["orl"] = "byol",
    backbone: str | nn.Module | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    recipe: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Path:
    """Train one stage: stage 1 by an image-level method, or stage 3 by 'orl'.

    Args:
        out: folder of the run. Its config is the start where there is one.
        images: a folder (any tree), a list file, a COCO JSON, a VOC devkit or a pack; that of the run if None.
        method: 'byol', 'mocov2', 'simclr', 'densecl', 'selfemd'; or 'orl', which needs the finished `discover`.
        backbone: name of a ResNet, or a module from images `(N, 3, H, W)` to feature maps `(N, C, h, w)`. A module is
            trained from its own weights, and has the trained weights afterwards. Other processes register it with
            `orl.register_backbone`. The backbone of the recipe if None.
        epochs: passes over the images; those of the recipe if None.
        batch_size: images per step, over all processes; that of the recipe if None.
        recipe: name of a recipe or path of a YAML file; that of the run, or 'quick', if None.
        options: other fields of `RunConfig` by their dotted names, such as `{"seed": 1, "stage1.base_lr": 0.3}`.

    Returns:
        The path of the trained backbone, for `orl.load_backbone`.

    Raises:
        ValueError: if a value is wrong, or the run in `out` has another config.

    Example:
        >>> orl.pretrain(images="images", out="runs/mine", recipe="demo", epochs=1, batch_size=4).name
        'backbone.safetensors'
    """
    if method != "orl" and method not in METHODS:
        raise ValueError(f"method must be {one_of([*METHODS, 'orl'], method)}")
    stage = "stage3" if method == "orl" else "stage1"
    changes = {"method": None if method == "orl" else method, "stages": (stage,)}
    config = _config(recipe, out, images, options, backbone, epochs=epochs, batch_size=batch_size, **changes)
    run_pretrain(config, stage)
    return _trained(config, stage, backbone)


def discover(
    *,
    out: AnyPath,
    images: AnyPath | None = None,
    feature_extractor: AnyPath | None = None,
    recipe: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Path:
    """Find neighbours, proposals, RoIs and correspondences: stage 2.

    Args:
        out: folder of the run. Its config is the start where there is one.
        images: the images, as `pretrain` takes them; those of the run if None.
        feature_extractor: weights of any CNN to embed with; the backbone of stage 1 if None.
        recipe: name of a recipe or path of a YAML file; that of the run, or 'quick', if None.
        options: other fields of `RunConfig` by their dotted names.

    Returns:
        The folder of the table of correspondences.

    Raises:
        FileNotFoundError: if stage 1 is not finished and no feature extractor is given.
        ValueError: if a value is wrong, or the run in `out` has another config.

    Example:
        >>> orl.discover(out="runs/mine").name
        'correspondences'
    """
    if feature_extractor is not None:
        options = {"discover.feature_extractor": feature_extractor, **(options or {})}
    config = _config(recipe, out, images, options)
    run_discover(config)
    return RunDir(config.out).table("correspondences")


def run(
    *,
    out: AnyPath,
    images: AnyPath | None = None,
    method: ImageMethod | None = None,
    backbone: str | nn.Module | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    eval_data: AnyPath | None = None,
    recipe: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Path:
    """Run all three stages, the evaluations and the report, which is `report/index.html` in `out`.

    Args:
        out: folder of the run. Its config is the start where there is one.
        images: the images, as `pretrain` takes them; those of the run if None.
        method: image-level method of stage 1; that of the recipe if None.
        backbone: a name or a module, as `pretrain` takes it. A module initialises stages 1 and 3, and has the weights
            of stage 3 afterwards.
        epochs: passes over the images in each training stage.
        batch_size: images per step in each training stage, over all processes.
        eval_data: labelled data set for the evaluations, in the layout of a VOC devkit.
        recipe: name of a recipe or path of a YAML file; that of the run, or 'quick', if None.
        options: other fields of `RunConfig` by their dotted names.

    Returns:
        The path of stage 3's backbone, for `orl.load_backbone`.

    Raises:
        ValueError: if a value is wrong, or the run in `out` has another config.
    """
    if eval_data is not None:
        options = {"eval_data": eval_data, **(options or {})}
    config = _config(recipe, out, images, options, backbone, method=method, epochs=epochs, batch_size=batch_size)
    run_all(config)
    return _trained(config, "stage3", backbone)


def evaluate(
    backbone: AnyPath,
    data: AnyPath,
    task: str = "svm",
    *,
    architecture: str | None = None,
    out: AnyPath | None = None,
    seed: int = 0,
    workers: int = 2,
    device: DeviceName = "auto",
    overwrite: bool = False,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Score a backbone on labelled data.

    Args:
        backbone: folder of a run, a file of weights, or 'random'.
        data: the labelled data set.
        task: a task of `orl evaluate`, such as 'svm', 'knn', 'linear', 'detect', 'roi-knn' or 'dense-retrieval'.
        architecture: network of the weights, where the file does not name it.
        out: JSON file of the result; in a folder beside the weights if None.
        seed: seed of random weights and of all sampling.
        workers: worker processes that read images.
        device: device to compute on.
        overwrite: replace a result of other weights, data or options.
        options: options of the task, as `orl evaluate TASK --help` shows them: `{"size_px": 96}`.

    Returns:
        The result as in the JSON file; None in all processes but the first.

    Raises:
        ValueError: if there is no such task or option, or the data do not fit the task.

    Example:
        >>> result = orl.evaluate("runs/mine", "images", "knn", options={"size_px": 32, "k": 5})
        >>> 0 <= result["mean_ap"] <= 1
        True
    """
    evaluation = find_evaluation(task)
    parts = (evaluation.data, evaluation.config)
    labelled, config = _split_options(parts, {"data": Path(data), **(options or {})})
    source = Path(backbone)
    result = Path(out) if out else default_result(evaluation, source, architecture, labelled.data, config)
    output = EvaluationOutput(result=result, seed=seed, workers=workers, device=device, overwrite=overwrite)
    return run_evaluation(evaluation, source, architecture, labelled, config, output)


def compare(
    data: AnyPath,
    backbones: Sequence[AnyPath],
    *,
    baseline: AnyPath | None = None,
    architecture: str | None = None,
    out: AnyPath | None = None,
    only: Sequence[str] = (),
    seed: int = 0,
    workers: int = 2,
    device: DeviceName = "auto",
    overwrite: bool = False,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Compare backbones on labelled objects: paired differences, and one verdict for each score.

    Args:
        data: the labelled data set: boxes, masks or both.
        backbones: two or more, as `evaluate` takes them.
        baseline: the one that all others are compared with; the first if None.
        architecture: network of the weights, where the files do not name it; 'random' has that of the first other
            backbone if None.
        out: folder of comparison.html, comparison.json and all results; `evaluation/compare_SET` if None.
        only: object evaluations to run; all that the data set allows if empty.
        seed: seed of random weights, of all sampling and of the bootstrap.
        workers: worker processes that read images.
        device: device to compute on.
        overwrite: replace results of other weights, data or options.
        options: options of the data, such as `{"max_images": 100}`, and of evaluations, such as `{"roi-knn.k": 5}`.

    Returns:
        The comparison as in the JSON file; None in all processes but the first.

    Raises:
        ValueError: if there are fewer than two backbones, or no such option, or the data do not fit.

    Example:
        >>> backbones = ["random", "runs/mine"]
        >>> options = {"roi-knn.k": 5, "roi-knn.map_px": 0, "roi-knn.crop_px": 32}
        >>> found = orl.compare("images", backbones, only=["roi-knn"], options=options)
        >>> found["sentences"][0].startswith("runs/mine")
        True
    """
    plain = {name: value for name, value in (options or {}).items() if "." not in name}
    (labelled,) = _split_options((FewLabelledObjects,), {"data": Path(data), **plain})
    dotted = {name: value for name, value in (options or {}).items() if "." in name}
    plan = plan_scoreboard(labelled, _object_configs(dotted), only)
    folder = Path(out) if out else default_folder(labelled)

    def output_at(path: Path) -> EvaluationOutput:
        return EvaluationOutput(result=path, seed=seed, workers=workers, device=device, overwrite=overwrite)

    candidates = Candidates(backbones=[Path(each) for each in backbones], architecture=architecture, seed=seed)
    chosen = None if baseline is None else Path(baseline)
    with joined_processes(compute_device(device)) as processes:
        found = compare_backbones(candidates, plan, folder, output_at, processes, chosen)
    return None if found is None else found.to_json()


def _object_configs(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configs of object evaluations that options such as 'roi-knn.k' change."""
    names = [evaluation.name for evaluation in OBJECT_EVALUATIONS]
    changes: dict[str, dict[str, Any]] = {}
    for option, value in options.items():
        name, _, field = option.partition(".")
        if name not in names:
            raise ValueError(f"the evaluation of option {option!r} must be {one_of(names, name)}")
        changes.setdefault(name, {})[field] = value
    return {name: _split_options((find_evaluation(name).config,), own)[0] for name, own in changes.items()}


def _config(
    recipe: str | None,
    out: AnyPath,
    images: AnyPath | None,
    options: Mapping[str, Any] | None,
    backbone: str | nn.Module | None = None,
    **changes: Any,
) -> RunConfig:
    """Return the config of a call; `changes` are other arguments of `with_changes`."""
    name = register_backbone(backbone) if isinstance(backbone, nn.Module) else backbone
    config = with_changes(start_config(recipe, Path(out)), backbone=name, **changes)
    config = replace(config, out=Path(out), images=config.images if images is None else Path(images))
    if config.images == REQUIRED:
        raise ValueError(f"images must be given: there is no run in {out} yet")
    return with_fields(config, options or {})


def _trained(config: RunConfig, stage: str, backbone: str | nn.Module | None) -> Path:
    """Return the path of the trained backbone, and load its weights into the given module."""
    path = RunDir(config.out).backbone(stage)
    if isinstance(backbone, nn.Module):
        body = read_backbone_file(path).get_submodule("body")
        backbone.load_state_dict(body.state_dict())
    return path


def _split_options(parts: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    """Divide options between dataclasses, such as that of the data and that of the protocol."""
    names = [{item.name for item in fields(part) if item.init} for part in parts]
    known = set().union(*names)
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ValueError(f"the task has no option {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    return [part(**{name: value for name, value in options.items() if name in own}) for part, own in zip(parts, names)]
