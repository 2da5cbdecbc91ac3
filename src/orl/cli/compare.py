"""Command that compares backbones on labelled data of one's own: `orl compare`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from orl.cli.evaluate import MachineOptions, object_options_class, option_values
from orl.cli.options import finish


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """The backbones to compare, and the folder of the page."""

    backbones: tuple[Path, ...]
    """Two or more: folders of runs, files of weights, or 'random'. The first is the baseline."""
    baseline: Path | None = None
    """Another of the backbones that all others are compared with."""
    out: Path | None = None
    """Folder of the page, the JSON file and all results; evaluation/compare_SET if not given."""
    only: tuple[str, ...] = ()
    """Evaluations to run, such as roi-knn corloc; if not given, all that the data set allows."""
    architecture: str | None = None
    """Architecture of the weights, where the files do not name it; if not given, 'random' has that of the first other
    backbone, or resnet50."""
    seed: int = 0
    """Seed of random weights, of all sampling and of the bootstrap."""
    overwrite: bool = False
    """Replace results that were made from other weights, data or options."""


def command_compare(arguments: Sequence[str]) -> None:
    """Compare backbones on labelled objects with few labels: which one is ahead, with paired intervals.

    orl compare --data LABELLED --backbones random resnet50.pth runs/mine
    """
    from orl.pipeline.compare import FewLabelledObjects

    about = (
        "All object evaluations on few labels, for several backbones. Each is compared with the first on the same "
        "images: one verdict a row, 'ahead', 'behind' or 'cannot be told apart', on a page and in a JSON file."
    )
    kind = object_options_class(("comparison", CompareOptions), FewLabelledObjects, about)
    _compare(**option_values(tyro.cli(kind, args=list(arguments), prog="orl compare")))


def _compare(comparison: CompareOptions, data: Any, machine: MachineOptions, **protocols: Any) -> None:
    from orl.evaluation.objects.run_scoreboard import plan_scoreboard
    from orl.evaluation.output import EvaluationOutput
    from orl.evaluation.suite import Candidates
    from orl.networks.device import compute_device
    from orl.pipeline.compare import PAGE, compare_backbones, default_folder
    from orl.processes import joined_processes

    def output_at(path: Path) -> EvaluationOutput:
        return EvaluationOutput(
            result=path, seed=comparison.seed, overwrite=comparison.overwrite, **option_values(machine)
        )

    configs = {name.replace("_", "-"): config for name, config in protocols.items()}
    candidates = Candidates(backbones=comparison.backbones, architecture=comparison.architecture, seed=comparison.seed)
    folder = comparison.out or default_folder(data)
    with joined_processes(compute_device(machine.device)) as processes:
        plan = plan_scoreboard(data, configs, comparison.only)
        found = compare_backbones(candidates, plan, folder, output_at, processes, comparison.baseline)
    if found is not None:
        finish("comparison", folder / PAGE)
        for sentence in found.sentences:
            print(sentence)
