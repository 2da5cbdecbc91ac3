"""The protocol that every evaluation follows: one file each, and one line in `orl.evaluation.evaluations`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

from orl.config import EvaluationConfig
from orl.evaluation.evaluated_backbone import EvaluatedBackbone
from orl.evaluation.output import EvaluationOutput
from orl.evaluation.voc_dataset import VocOptions
from orl.processes import Processes

Result = dict[str, Any]
"""Result of an evaluation, as its JSON file holds it; the key `task` is the name of the evaluation."""
Tables = dict[str, dict[str, float | None]]
"""Scores of a result: title of a table -> name of a column -> fraction in [0, 1], None where there is no score.

Published scores of the same protocol have the same title and column (`orl.evaluation.published_scores`)."""


Data = TypeVar("Data")
"""Options that name labelled data: a frozen dataclass with the folder `data`, which reads the labels once."""
Config = TypeVar("Config")


@dataclass(frozen=True, kw_only=True)
class DatasetPaths:
    """Labelled data sets; every evaluation that they allow is run."""

    voc07: Path | None = None
    """VOC devkit of 2007, or a synthetic data set: svm, knn, low-shot."""
    imagenet: Path | None = None
    """ImageNet: linear, and semi with 1% and 10% of the labels."""
    imagenet_1percent: Path | None = None
    """SimCLR's 1percent.txt: the images of the 1%; sampled by the seed if not given."""
    imagenet_10percent: Path | None = None
    """SimCLR's 10percent.txt: the images of the 10%; sampled by the seed if not given."""
    places205: Path | None = None
    """Places205: linear."""
    inat18: Path | None = None
    """iNaturalist 2018: linear."""
    classes: Path | None = None
    """Folders of own classes, train/CLASS and val/CLASS: linear."""
    objects: Path | None = None
    """Labelled objects (VOC, COCO, synthetic scenes, folders of masks or of crops): the evaluations of objects."""
    coco: Path | None = None
    """COCO, with annotations/instances_*.json: detection and segmentation."""
    voc_detection: tuple[Path, ...] = ()
    """VOC devkits to train a detector on, 2007 and 2012; the test split of the first one is scored."""
    detect_splits: tuple[str, str] = ("train2017", "val2017")
    """Splits of COCO to train on and to score."""


@dataclass(frozen=True, kw_only=True)
class Datasets(DatasetPaths):
    """Labelled data sets for the suite, and their options."""

    voc: VocOptions = field(default_factory=VocOptions)
    """Splits of VOC devkits, and the size of the images for svm, knn and low-shot."""


@dataclass(frozen=True, kw_only=True)
class SuiteEntry(Generic[Data, Config]):
    """One evaluation on one data set, as `orl evaluate all` runs it."""

    name: str
    """Name of the JSON file, without its suffix; unique in a suite."""
    data: Data
    config: Config


@dataclass(frozen=True, kw_only=True)
class Evaluation(Generic[Data, Config]):
    """A way to score a backbone on labelled data.

    The command line, the suite, the evaluations of a run, the report and the ablations iterate over the list
    `orl.evaluation.evaluations.EVALUATIONS` of these.
    """

    name: str
    """Verb of `orl evaluate`, and `task` of the result."""
    label: str
    """Short name for reports and figures."""
    help: str
    """One line for --help."""
    data: type[Data]
    """Dataclass of the options that name the labelled data: `data` and, for example, splits."""
    config: type[Config]
    """Dataclass of the options of the protocol; its defaults are the published ones."""
    check: Callable[[Data, Config], object]
    """Function that reads the labels and raises ValueError if they or the config do not allow the evaluation.

    It opens no image."""
    run: Callable[[EvaluatedBackbone, Data, Config, EvaluationOutput, Processes], Result | None]
    """Function that scores a backbone, writes the result and returns it; None in all processes but the first.

    A result made from the same inputs is read, not computed again."""
    tables: Callable[[Result], Tables]
    """Function that returns the scores of a result; the first score of the first table is the main one."""
    one_process: bool = False
    """Whether the evaluation runs in one process; otherwise all processes train together."""
    trains: bool = False
    """Whether a network is trained, so that precision and checkpoints have an effect."""
    file_stem: Callable[[Config], str] | None = None
    """Function that returns the first part of the default file name; the name of the evaluation if None."""
    suite_entries: Callable[[Datasets, Config], Sequence[SuiteEntry[Data, Config]]] | None = None
    """Function that returns its entries of `orl evaluate all` for given data sets; None if it is not in the suite."""
    suite_option: str = ""
    """Group of options in `orl evaluate all`, if two evaluations share one; its own name if empty."""
    run_config: Callable[[EvaluationConfig], Config | None] | None = None
    """Function that returns the config for the evaluations of a run; None where the run leaves it out.

    The data are the VOC devkit of the run. None for an evaluation that no run makes."""

    @property
    def suite_group(self) -> str:
        """Name of the group of its options in `orl evaluate all`."""
        return (self.suite_option or self.name).replace("-", "_")

    def result_stem(self, config: Config) -> str:
        """Return the first part of the default name of the result's file."""
        return self.name if self.file_stem is None else self.file_stem(config)


def config_deviations(config: Any, *, ignored: Sequence[str] = ()) -> list[str]:
    """List the fields of a config that differ from the published protocol, which are the defaults.

    Args:
        config: a dataclass of numbers.
        ignored: names of fields that do not count.
    """
    return [
        f"{item.name} {getattr(config, item.name):g}, not {item.default:g}"
        for item in fields(config)
        if item.name not in ignored and getattr(config, item.name) != item.default
    ]
