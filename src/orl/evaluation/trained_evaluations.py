"""The evaluations that train on class folders or on images with boxes, as entries of the list of evaluations."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from orl.datasets.class_folders import read_train_val
from orl.datasets.classified import ClassifiedImages
from orl.evaluation.classification.configs import Dataset, LinearConfig, SemiConfig
from orl.evaluation.classification.linear import evaluate_linear
from orl.evaluation.classification.linear_estimate import estimate_linear
from orl.evaluation.classification.semi import evaluate_semi, find_part
from orl.evaluation.detection.configs import DetectionConfig
from orl.evaluation.detection.datasets import DetectionDataset, read_coco_detection, read_voc_detection
from orl.evaluation.detection.evaluate import evaluate_detection, evaluate_voc_detection
from orl.evaluation.evaluated_backbone import EvaluatedBackbone
from orl.evaluation.output import EvaluationOutput
from orl.evaluation.protocol import Datasets, Evaluation, Result, SuiteEntry, Tables
from orl.processes import Processes

DATASET_NAMES = {"imagenet": "ImageNet", "places205": "Places205", "inat18": "iNaturalist18", "folder": "own classes"}


@dataclass(frozen=True, kw_only=True)
class ClassData:
    """Images of one class each."""

    data: Path
    """Folder of ImageNet, Places205 or iNaturalist 2018, or with train/CLASS and val/CLASS."""
    _splits: dict[str, tuple[ClassifiedImages, ClassifiedImages]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def splits(self, dataset: Dataset) -> tuple[ClassifiedImages, ClassifiedImages]:
        """Return the images to train on and to score; labels are read once."""
        if dataset not in self._splits:
            self._splits[dataset] = read_train_val(self.data, dataset)
        return self._splits[dataset]


@dataclass(frozen=True, kw_only=True)
class EstimateConfig:
    """Logistic regression on features that are computed once, without augmentation."""

    dataset: Dataset = "imagenet"
    """Layout of the folder; 'folder' for train/CLASS and val/CLASS."""
    size_px: int = 224
    """Side of the centre crop, pixels."""


@dataclass(frozen=True, kw_only=True)
class CocoData:
    """Images with boxes and masks in COCO's layout."""

    data: Path
    """Folder with annotations/instances_*.json."""
    train_split: str = "train2017"
    """Split to train on: annotations/instances_TRAIN.json."""
    val_split: str = "val2017"
    """Split to score: annotations/instances_VAL.json."""
    _splits: dict[bool, tuple[DetectionDataset, DetectionDataset]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def splits(self, *, needs_masks: bool) -> tuple[DetectionDataset, DetectionDataset]:
        """Return the images to train on and to score; annotations are read once."""
        if needs_masks not in self._splits:
            train, val = (
                read_coco_detection(self.data, split, needs_masks=needs_masks)
                for split in (self.train_split, self.val_split)
            )
            self._splits[needs_masks] = train, val
        return self._splits[needs_masks]


@dataclass(frozen=True, kw_only=True)
class VocDetectionData:
    """Images with boxes in VOC devkits."""

    data: Path
    """VOC devkit whose test split is scored, and whose train split is trained on."""
    more_train: tuple[Path, ...] = ()
    """VOC devkits whose train split is trained on as well, such as VOC2012."""
    train_split: str = "trainval"
    """Split to train on."""
    test_split: str = "test"
    """Split to score."""
    _splits: list[tuple[DetectionDataset, DetectionDataset]] = field(
        default_factory=list, init=False, repr=False, compare=False
    )

    def splits(self) -> tuple[DetectionDataset, DetectionDataset]:
        """Return the images to train on and to score; annotations are read once."""
        if not self._splits:
            train = read_voc_detection((self.data, *self.more_train), self.train_split)
            self._splits.append((train, read_voc_detection((self.data,), self.test_split)))
        return self._splits[0]


def _class_datasets(datasets: Datasets) -> list[tuple[Dataset, ClassData]]:
    paths: dict[Dataset, Path | None] = {
        "imagenet": datasets.imagenet,
        "places205": datasets.places205,
        "inat18": datasets.inat18,
        "folder": datasets.classes,
    }
    return [(name, ClassData(data=path)) for name, path in paths.items() if path is not None]


def _accuracies(result: Result) -> dict[str, float | None]:
    return {"top-1": result["top1"], "top-5": result.get("top5")}


def _run_linear(
    backbone: EvaluatedBackbone,
    data: ClassData,
    config: LinearConfig,
    output: EvaluationOutput,
    processes: Processes,
) -> Result | None:
    return evaluate_linear(backbone, *data.splits(config.dataset), config, output, processes)


def _linear_entries(datasets: Datasets, config: LinearConfig) -> Sequence[SuiteEntry[ClassData, LinearConfig]]:
    return [
        SuiteEntry(name=f"linear_{name}", data=data, config=replace(config, dataset=name))
        for name, data in _class_datasets(datasets)
    ]


def _linear_tables(result: Result) -> Tables:
    name = DATASET_NAMES[result["dataset"]]
    if result.get("levels"):
        levels = {level: scores["top1"] for level, scores in result["levels"].items()}
        return {f"{name} linear, top-1 of each level": levels}
    return {f"{name} linear": _accuracies(result)}


LINEAR = Evaluation(
    name="linear",
    label="Linear classifier",
    help=(
        "A linear layer trained on frozen features: ImageNet, Places205, iNaturalist 2018 or own class folders. "
        "With --cached-features it is linear-estimate."
    ),
    data=ClassData,
    config=LinearConfig,
    check=lambda data, config: data.splits(config.dataset),
    run=_run_linear,
    tables=_linear_tables,
    trains=True,
    file_stem=lambda config: "linear-levels" if config.levels else "linear",
    suite_entries=_linear_entries,
)


def _run_estimate(
    backbone: EvaluatedBackbone,
    data: ClassData,
    config: EstimateConfig,
    output: EvaluationOutput,
    processes: Processes,
) -> Result:
    train, val = data.splits(config.dataset)
    return estimate_linear(backbone, train, val, output, dataset=config.dataset, size_px=config.size_px)


LINEAR_ESTIMATE = Evaluation(
    name="linear-estimate",
    label="Linear classifier, estimate",
    help=(
        "A fast estimate of linear, from features that are computed once without augmentation; not the score of the "
        "protocol."
    ),
    data=ClassData,
    config=EstimateConfig,
    check=lambda data, config: data.splits(config.dataset),
    run=_run_estimate,
    tables=lambda result: {
        f"{DATASET_NAMES[result['dataset']]}, fast estimate by cached features (not the linear protocol)": _accuracies(
            result
        )
    },
    one_process=True,
    trains=True,
)


def _run_semi(
    backbone: EvaluatedBackbone,
    data: ClassData,
    config: SemiConfig,
    output: EvaluationOutput,
    processes: Processes,
) -> Result | None:
    return evaluate_semi(backbone, *data.splits(config.dataset), config, output, processes)


def _semi_entries(datasets: Datasets, config: SemiConfig) -> Sequence[SuiteEntry[ClassData, SemiConfig]]:
    if config.list is not None:
        raise ValueError(
            f"{config.list} lists one fraction of ImageNet, but the suite evaluates 1% and 10%: give "
            "--imagenet-1percent and --imagenet-10percent in place of --semi.list"
        )
    if datasets.imagenet is None:
        return []
    lists = {0.01: datasets.imagenet_1percent, 0.1: datasets.imagenet_10percent}
    return [
        SuiteEntry(
            name=f"semi_{100 * fraction:g}",
            data=ClassData(data=datasets.imagenet),
            config=replace(config, dataset="imagenet", fraction=fraction, list=path),
        )
        for fraction, path in lists.items()
    ]


SEMI = Evaluation(
    name="semi",
    label="Semi-supervised",
    help="All weights trained on 1% or 10% of the labels; top-1 and top-5.",
    data=ClassData,
    config=SemiConfig,
    # The seed decides which labels are sampled, not whether they can be.
    check=lambda data, config: find_part(data.splits(config.dataset)[0], config, seed=0),
    run=_run_semi,
    tables=lambda result: {
        f"{DATASET_NAMES[result['dataset']]} semi-supervised, {100 * result['fraction']:g}% of the labels": _accuracies(
            result
        )
    },
    trains=True,
    file_stem=lambda config: f"semi-{100 * config.fraction:g}percent",
    suite_entries=_semi_entries,
)


def _run_detect(
    backbone: EvaluatedBackbone,
    data: CocoData,
    config: DetectionConfig,
    output: EvaluationOutput,
    processes: Processes,
) -> Result | None:
    return evaluate_detection(backbone, *data.splits(needs_masks=config.masks), config, output, processes)


def _detect_entries(datasets: Datasets, config: DetectionConfig) -> Sequence[SuiteEntry[CocoData, DetectionConfig]]:
    if datasets.coco is None:
        return []
    train_split, val_split = datasets.detect_splits
    data = CocoData(data=datasets.coco, train_split=train_split, val_split=val_split)
    return [SuiteEntry(name="detect", data=data, config=config)]


def _detect_tables(result: Result) -> Tables:
    scores = {f"box {name}": value for name, value in result["box"].items()}
    scores |= {f"mask {name}": value for name, value in (result.get("mask") or {}).items()}
    return {f"COCO detection, {result['schedule']}": scores}


DETECT = Evaluation(
    name="detect",
    label="COCO detection",
    help="Mask R-CNN with FPN on a data set in COCO's layout, all weights trained; AP of boxes and masks.",
    data=CocoData,
    config=DetectionConfig,
    check=lambda data, config: data.splits(needs_masks=config.masks),
    run=_run_detect,
    tables=_detect_tables,
    trains=True,
    suite_entries=_detect_entries,
)


def _run_detect_voc(
    backbone: EvaluatedBackbone,
    data: VocDetectionData,
    config: DetectionConfig,
    output: EvaluationOutput,
    processes: Processes,
) -> Result | None:
    return evaluate_voc_detection(backbone, *data.splits(), config, output, processes)


def _detect_voc_entries(
    datasets: Datasets, config: DetectionConfig
) -> Sequence[SuiteEntry[VocDetectionData, DetectionConfig]]:
    if not datasets.voc_detection:
        return []
    first, *more = datasets.voc_detection
    splits = datasets.voc
    data = VocDetectionData(
        data=first, more_train=tuple(more), train_split=splits.train_split, test_split=splits.test_split
    )
    return [SuiteEntry(name="detect-voc", data=data, config=config)]


DETECT_VOC = Evaluation(
    name="detect-voc",
    label="VOC detection",
    help="Faster R-CNN with FPN on VOC devkits, all weights trained; AP of boxes.",
    data=VocDetectionData,
    config=DetectionConfig,
    check=lambda data, config: data.splits(),
    run=_run_detect_voc,
    tables=lambda result: {
        f"VOC detection, {result['schedule']}": {f"box {name}": value for name, value in result["box"].items()}
    },
    trains=True,
    suite_entries=_detect_voc_entries,
    suite_option="detect",
)
