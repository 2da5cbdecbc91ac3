"""The scores of a run: results of all evaluations, by data set and backbone."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orl import files
from orl.evaluation.evaluations import EVALUATIONS, OBJECT_EVALUATIONS, RUN_EVALUATIONS
from orl.evaluation.output import results_folder
from orl.evaluation.pooling import feature_kind
from orl.evaluation.protocol import Evaluation
from orl.rundir import RunDir

BACKBONE_TITLES = {
    "random": "Random weights",
    "stage1": "Stage 1, image level",
    "stage3": "Stage 3, object level",
}


@dataclass(frozen=True, kw_only=True)
class Score:
    """The result of one evaluation of one backbone of a run."""

    evaluation: Evaluation[Any, Any]
    backbone: str
    """A key of `BACKBONE_TITLES`."""
    dataset: str
    """The labelled data: only scores on the same data are comparable."""
    result: Mapping[str, Any]
    columns: Mapping[str, float | None]
    """Name of a column of the report -> score in [0, 1]."""

    @property
    def label(self) -> str:
        """Short name of the evaluation, with its features."""
        return _label(self.evaluation, self.result)


def read_scores(run: RunDir) -> list[Score]:
    """Read the results of a run on images: its own first, then those of `orl evaluate` beside its weights.

    Results on objects are read by `read_object_results`. If two results have the same evaluation, data set and
    backbone, the first counts.

    Raises:
        ValueError: if a file is damaged.
    """
    found: dict[tuple[str, str, tuple[str, ...]], Score] = {}
    for evaluation, backbone, path in _result_files(run):
        if evaluation in OBJECT_EVALUATIONS:
            continue
        result = files.read_json(path)
        columns = _columns(evaluation, result, path)
        dataset = name_dataset(result)
        score = Score(evaluation=evaluation, backbone=backbone, dataset=dataset, result=result, columns=columns)
        found.setdefault((dataset, backbone, tuple(columns)), score)
    return list(found.values())


@dataclass(frozen=True, kw_only=True)
class ObjectScores:
    """The result of one object evaluation of one backbone of a run."""

    task: str
    backbone: str
    """A key of `BACKBONE_TITLES`."""
    dataset: str
    result: Mapping[str, Any]


def read_object_results(run: RunDir) -> list[ObjectScores]:
    """Read the results of a run on objects, as `read_scores` reads those on images.

    Raises:
        ValueError: if a file is damaged.
    """
    found: dict[tuple[str, str, str], ObjectScores] = {}
    for evaluation, backbone, path in _result_files(run):
        if evaluation in OBJECT_EVALUATIONS:
            result = files.read_json(path)
            if not isinstance(result.get("rows"), list):
                raise ValueError(f"{path} is not a result of {evaluation.name}: it lacks 'rows'; delete it and repeat")
            # Images with boxes and images with masks may differ in number, and each evaluation has its own sizes.
            splits = " to ".join(str(result[key]) for key in ("train_split", "test_split") if result.get(key))
            dataset = f"{Path(str(result.get('data') or 'the labelled data set')).name}, {splits}"
            scores = ObjectScores(task=evaluation.name, backbone=backbone, dataset=dataset, result=result)
            found.setdefault((dataset, backbone, evaluation.name), scores)
    return list(found.values())


def name_dataset(result: Mapping[str, Any]) -> str:
    """Return the labelled data of a result: data set, splits with their numbers of images, and size of the images."""
    name = Path(str(result.get("data") or "the labelled data set")).name
    splits = [
        str(result[f"{part}_split"]) + (f" ({result[f'num_{part}']:,} images)" if result.get(f"num_{part}") else "")
        for part in ("train", "test")
        if result.get(f"{part}_split")
    ]
    size = [f"{result['size_px']} px"] if result.get("size_px") else []
    return ", ".join([name, *([" to ".join(splits)] if splits else []), *size])


def _result_files(run: RunDir) -> Iterator[tuple[Evaluation[Any, Any], str, Path]]:
    for evaluation in RUN_EVALUATIONS:
        for backbone in BACKBONE_TITLES:
            path = run.evaluation(evaluation.name, backbone)
            if path.exists():
                yield evaluation, backbone, path
    by_name = {evaluation.name: evaluation for evaluation in EVALUATIONS}
    for backbone in BACKBONE_TITLES:
        if run.backbone(backbone).exists():
            for path in sorted(results_folder(run.backbone(backbone)).glob("[!.]*.json")):
                task = files.read_json(path).get("task")
                if task in by_name:
                    yield by_name[task], backbone, path


def _label(evaluation: Evaluation[Any, Any], result: Mapping[str, Any]) -> str:
    return f"{evaluation.label} ({feature_kind(result)})" if evaluation in RUN_EVALUATIONS else evaluation.label


def _columns(evaluation: Evaluation[Any, Any], result: Mapping[str, Any], path: Path) -> dict[str, float | None]:
    """Return the scores by column; evaluations of a run are named by label, others by protocol and data set."""
    try:
        tables = evaluation.tables(dict(result))
    except KeyError as error:
        raise ValueError(
            f"{path} is not a result of {evaluation.name}: it lacks {error}; delete it and evaluate again"
        ) from error
    if evaluation in RUN_EVALUATIONS:
        label = _label(evaluation, result)
        return {f"{label} {name}": score for scores in tables.values() for name, score in scores.items()}
    return {f"{title}, {name}": score for title, scores in tables.items() for name, score in scores.items()}
