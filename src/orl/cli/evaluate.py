"""Command that scores backbones on labelled data: `orl evaluate TASK`, one task for each evaluation."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes

from orl.cli.options import check_verb, finish
from orl.networks.names import DeviceName, Precision

if TYPE_CHECKING:
    from orl.evaluation.output import EvaluationOutput
    from orl.evaluation.protocol import Evaluation, Result


@dataclass(frozen=True, kw_only=True)
class BackboneOptions:
    """The backbone to score."""

    backbone: Path
    """Folder of a run, a backbone.safetensors, an export, another project's weights, or 'random'."""
    architecture: str | None = None
    """Architecture of the weights, where the file does not name it; resnet50 for 'random' if not given."""
    seed: int = 0
    """Seed of random weights and of all sampling."""


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """The file of the result."""

    out: Path | None = None
    """JSON file to write; if not given, a file in a folder beside the weights."""
    overwrite: bool = False
    """Replace a result that was made from other weights, data or options."""


@dataclass(frozen=True, kw_only=True)
class MachineOptions:
    """The machine; these options do not change the result."""

    workers: int = 2
    """Worker processes that read images, for each main process."""
    device: DeviceName = "auto"
    """Device to compute on; auto takes a GPU if there is one."""


@dataclass(frozen=True, kw_only=True)
class TrainingMachineOptions(MachineOptions):
    """The machine, and the arithmetic of training."""

    precision: Precision = "32-true"
    """Arithmetic of training; 16-mixed needs a GPU."""
    checkpoint_minutes: float = 10.0
    """Time between two checkpoints of a training, minutes."""


@dataclass(frozen=True, kw_only=True)
class FeatureMachineOptions(MachineOptions):
    """The machine, and the arithmetic of frozen features."""

    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Arithmetic of features; bf16-mixed takes half the time on CPUs that have it, and changes the third digit."""


@dataclass(frozen=True, kw_only=True)
class SuiteOptions:
    """The backbones to compare, and the folder of the results."""

    backbone: tuple[Path, ...]
    """Weights to compare, in any form that a single task accepts; 'random' is allowed."""
    out: Path
    """Folder of all results and of the comparison."""
    architecture: str | None = None
    """Architecture where the files do not name it; 'random' has that of the first other backbone if not given."""
    seed: int = 0
    """Seed of random weights and of all sampling."""
    overwrite: bool = False
    """Replace results that were made from other weights, data or options."""


@dataclass(frozen=True, kw_only=True)
class ScoreboardOptions:
    """The backbones to score, and the folder of the results."""

    backbone: tuple[Path, ...]
    """Weights to score, in any form that a single task accepts; 'random' is allowed."""
    out: Path | None = None
    """Folder of all results and of the scoreboard; evaluation/objects_SET if not given."""
    only: tuple[str, ...] = ()
    """Evaluations to run, such as roi-knn rank; if not given, all that the data set allows."""
    architecture: str | None = None
    """Architecture where the files do not name it; 'random' has that of the first other backbone if not given."""
    seed: int = 0
    """Seed of random weights and of all sampling."""
    overwrite: bool = False
    """Replace results that were made from other weights, data or options."""


CACHED_FEATURES = "--cached-features"
"""Option of 'linear' that selects the task 'linear-estimate'."""


def command_evaluate(arguments: Sequence[str]) -> None:
    """Score a backbone on labelled data: `orl evaluate TASK`.

    svm, knn, low-shot        VOC07 classes from frozen features
    linear, linear-estimate   ImageNet, Places205, iNaturalist 2018 or own class folders from frozen features
    semi                      ImageNet with 1% or 10% of the labels, all weights trained
    detect, detect-voc        COCO or VOC detection, all weights trained
    objects                   the object scoreboard: all tasks below, for several backbones, in one table
    roi-knn, roi-linear       classes of labelled boxes from frozen features
    dense-retrieval           segmentation by the nearest patches of a memory bank
    linear-segmentation       segmentation by a linear layer on the frozen feature map
    overclustering            segmentation by clusters of patches
    corloc                    objects found without labels (LOST)
    proposals, pairs          boxes of any source, and correspondences between images
    rank                      effective rank and other numbers of the features, without labels
    all                       every task that the given data sets allow, for several backbones

    'orl evaluate TASK --help' shows the options of a task.
    """
    task, *options = arguments or ["--help"]
    if task in ("-h", "--help"):
        print(f"usage: orl evaluate TASK [options]\n\n{inspect.cleandoc(command_evaluate.__doc__ or '')}")
        return
    from orl.evaluation.evaluations import EVALUATIONS, find_evaluation

    check_verb("evaluate", task, [*(evaluation.name for evaluation in EVALUATIONS), *SUITES])
    if task == "linear" and CACHED_FEATURES in options:
        task, options = "linear-estimate", [given for given in options if given != CACHED_FEATURES]
    kind = SUITES[task][0]() if task in SUITES else _options_class(find_evaluation(task))
    given = option_values(tyro.cli(kind, args=options, prog=f"orl evaluate {task}"))
    if task in SUITES:
        SUITES[task][1](**given)
    else:
        _evaluate(find_evaluation(task), **given)


def _options_class(evaluation: "Evaluation[Any, Any]") -> type:
    """Return a dataclass of the options of an evaluation, in named groups."""
    from orl.evaluation.evaluations import OBJECT_EVALUATIONS

    machine: type[MachineOptions] = TrainingMachineOptions if evaluation.trains else MachineOptions
    if evaluation in OBJECT_EVALUATIONS:
        machine = FeatureMachineOptions
    groups = {
        "backbone": BackboneOptions,
        "data": evaluation.data,
        "protocol": evaluation.config,
        "output": OutputOptions,
        "machine": machine,
    }
    fields_of_groups = [(name, Annotated[kind, OmitArgPrefixes]) for name, kind in groups.items()]
    return make_dataclass("Options", fields_of_groups, namespace={"__doc__": evaluation.help})


def _evaluate(
    evaluation: "Evaluation[Any, Any]",
    backbone: BackboneOptions,
    data: Any,
    protocol: Any,
    output: OutputOptions,
    machine: MachineOptions,
) -> None:
    from orl.evaluation.evaluations import default_result, run_evaluation
    from orl.evaluation.output import EvaluationOutput

    weights, architecture = backbone.backbone, backbone.architecture
    path = output.out or default_result(evaluation, weights, architecture, data.data, protocol)
    evaluation_output = EvaluationOutput(
        result=path, seed=backbone.seed, overwrite=output.overwrite, **option_values(machine)
    )
    result = run_evaluation(evaluation, weights, architecture, data, protocol, evaluation_output)
    if result is not None:
        _print_scores(result, evaluation_output)


def _suite_options_class() -> type:
    """Return a dataclass of the options of the suite, with a group for each evaluation."""
    from orl.evaluation.protocol import DatasetPaths
    from orl.evaluation.suite import suite_configs
    from orl.evaluation.voc_dataset import VocOptions

    protocols = [(group, type(config), field(default=config)) for group, config in suite_configs().items()]
    groups: list[Any] = [
        ("suite", OmitArgPrefixes[SuiteOptions]),
        ("data", Annotated[DatasetPaths, OmitArgPrefixes]),
        ("voc", VocOptions, field(default_factory=VocOptions)),
        *protocols,
        ("machine", OmitArgPrefixes[TrainingMachineOptions]),
    ]
    about = "Every evaluation that the given data sets allow, and a table of them beside published scores."
    return make_dataclass("Options", groups, namespace={"__doc__": about}, kw_only=True)


def _evaluate_all(suite: SuiteOptions, data: Any, voc: Any, machine: MachineOptions, **protocols: Any) -> None:
    from orl.evaluation.output import EvaluationOutput
    from orl.evaluation.protocol import Datasets
    from orl.evaluation.suite import Candidates, plan_suite, run_suite
    from orl.networks.device import compute_device
    from orl.processes import joined_processes

    def output_at(path: Path) -> EvaluationOutput:
        return EvaluationOutput(result=path, seed=suite.seed, overwrite=suite.overwrite, **option_values(machine))

    steps = plan_suite(Datasets(voc=voc, **option_values(data)), protocols)
    candidates = Candidates(backbones=suite.backbone, architecture=suite.architecture, seed=suite.seed)
    with joined_processes(compute_device(machine.device)) as processes:
        finish("comparison", run_suite(candidates, steps, suite.out, output_at, processes))


def _scoreboard_options_class() -> type:
    """Return a dataclass of the options of the object scoreboard, with a group for each evaluation."""
    from orl.evaluation.objects.object_dataset import ObjectDataset

    return object_options_class(
        ("scoreboard", ScoreboardOptions),
        ObjectDataset,
        "The object scoreboard: all object evaluations that the data set allows, of several backbones, in one table.",
    )


def object_options_class(first: tuple[str, type], data: type, about: str) -> type:
    """Return a dataclass of options: a first group, the data, each object evaluation, and the machine."""
    from orl.evaluation.evaluations import OBJECT_EVALUATIONS

    protocols = [
        (each.name.replace("-", "_"), each.config, field(default=each.config())) for each in OBJECT_EVALUATIONS
    ]
    groups: list[Any] = [
        (first[0], Annotated[first[1], OmitArgPrefixes]),
        ("data", Annotated[data, OmitArgPrefixes]),
        *protocols,
        ("machine", OmitArgPrefixes[FeatureMachineOptions]),
    ]
    return make_dataclass("Options", groups, namespace={"__doc__": about}, kw_only=True)


def _evaluate_objects(scoreboard: ScoreboardOptions, data: Any, machine: MachineOptions, **protocols: Any) -> None:
    from orl.evaluation.objects.run_scoreboard import plan_scoreboard, run_scoreboard
    from orl.evaluation.objects.scoreboard import backbone_labels, scoreboard_lines, scoreboard_table
    from orl.evaluation.output import EvaluationOutput
    from orl.evaluation.suite import Candidates
    from orl.networks.device import compute_device
    from orl.processes import joined_processes

    def output_at(path: Path) -> EvaluationOutput:
        return EvaluationOutput(
            result=path, seed=scoreboard.seed, overwrite=scoreboard.overwrite, **option_values(machine)
        )

    configs = {name.replace("_", "-"): config for name, config in protocols.items()}
    plan = plan_scoreboard(data, configs, scoreboard.only)
    candidates = Candidates(backbones=scoreboard.backbone, architecture=scoreboard.architecture, seed=scoreboard.seed)
    folder = scoreboard.out or Path("evaluation") / f"objects_{data.data.resolve().name}"
    with joined_processes(compute_device(machine.device)) as processes:
        results = run_scoreboard(candidates, plan, folder, output_at, processes)
        if processes.is_first:
            finish("scoreboard", folder / "scoreboard.md")
            lines = scoreboard_lines(results)
            labels = backbone_labels(lines)
            _print_table(scoreboard_table(lines, [f"[{number}]" for number in range(1, len(labels) + 1)]))
            for number, label in enumerate(labels, start=1):
                print(f"[{number}] {label}")


SUITES: dict[str, tuple[Callable[[], type], Callable[..., None]]] = {
    "all": (_suite_options_class, _evaluate_all),
    "objects": (_scoreboard_options_class, _evaluate_objects),
}
"""Tasks that run several evaluations: function that returns their options, and function that runs them."""


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print a table with aligned columns: two of text, then numbers."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ]
        print("  ".join(cells).rstrip())


def option_values(options: Any) -> dict[str, Any]:
    return {item.name: getattr(options, item.name) for item in fields(options)}


def _print_scores(result: "Result", output: "EvaluationOutput") -> None:
    from orl.evaluation.comparison import table_lines

    finish("result", output.result)
    for line in table_lines(result):
        scores = ", ".join(f"{name} {value:.2f}" for name, value in line.scores.items() if value is not None)
        print(f"{line.comparison}: {scores}")
