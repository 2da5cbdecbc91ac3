"""Detection on VOC 07+12: Faster R-CNN with FPN, all weights trained."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from orl.evaluation.detection.config import VOC_SCHEDULE, DetectionConfig
from orl.evaluation.detection.datasets import DetectionDataset, read_voc_detection
from orl.evaluation.detection.detections import Detections
from orl.evaluation.detection.evaluate import DetectionBenchmark, check_detection_splits, evaluate_detector
from orl.evaluation.detection.voc_metrics import voc_scores
from orl.evaluation.evaluated_backbone import EvaluatedBackbone
from orl.evaluation.output import EvaluationOutput
from orl.evaluation.protocol import Datasets, Evaluation, Result, SuiteEntry, Tables
from orl.processes import Processes

YEARS_BY_AREA = ("VOC2010", "VOC2011", "VOC2012")
"""Devkits scored by the area under the curve; earlier ones are scored at 11 recalls."""


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

    @cached_property
    def splits(self) -> tuple[DetectionDataset, DetectionDataset]:
        """The training images, difficult objects included, and the test images."""
        train = read_voc_detection((self.data, *self.more_train), self.train_split)
        return with_difficult(train), read_voc_detection((self.data,), self.test_split)


def with_difficult(train: DetectionDataset) -> DetectionDataset:
    """Return the images with no object ignored.

    Source:
        Detectron2, which trains on difficult objects too.
    """
    return replace(train, ignored=tuple(np.zeros_like(ignored) for ignored in train.ignored))


def check(data: VocDetectionData, config: DetectionConfig) -> None:
    """Read the annotations and check that they allow the training and the scores."""
    check_detection_splits(*data.splits, replace(config, masks=False))


def run(
    backbone: EvaluatedBackbone,
    data: VocDetectionData,
    config: DetectionConfig,
    output: EvaluationOutput,
    processes: Processes,
) -> Result | None:
    """Train Faster R-CNN from a backbone and compute AP of boxes.

    The schedule is MoCo's 24,000 steps, but with COCO's feature pyramid where MoCo takes the fourth stage (R50-C4):
    scores are not comparable with MoCo's.

    Source:
        MoCo (arXiv 1911.05722), Section 4.2.1, for schedule and sizes.
    """
    train, test = data.splits
    return evaluate_detector(VOC, backbone, train, test, replace(config, masks=False), output, processes)


def _scores(images: DetectionDataset, detections: Detections, has_masks: bool) -> dict[str, Any]:
    assert not has_masks
    eleven_points = images.root.name not in YEARS_BY_AREA
    scores = voc_scores(images, detections, eleven_points=eleven_points)
    return {"box": scores, "average_precision": "at 11 recalls" if eleven_points else "area under the curve"}


def tables(result: Result) -> Tables:
    """Return the AP of boxes."""
    return {f"VOC detection, {result['schedule']}": {f"box {name}": value for name, value in result["box"].items()}}


def suite_entries(
    datasets: Datasets, config: DetectionConfig
) -> Sequence[SuiteEntry[VocDetectionData, DetectionConfig]]:
    """Return one entry if VOC devkits for detection are given."""
    if not datasets.voc_detection:
        return []
    first, *more = datasets.voc_detection
    data = VocDetectionData(
        data=first,
        more_train=tuple(more),
        train_split=datasets.voc.train_split,
        test_split=datasets.voc.test_split,
    )
    return [SuiteEntry(name="detect-voc", data=data, config=config)]


VOC = DetectionBenchmark(
    name="detect-voc", schedule=VOC_SCHEDULE, score=_scores, num_train=16_551, num_test=4_952, num_classes=20
)
DETECT_VOC = Evaluation(
    name="detect-voc",
    label="VOC detection",
    help="Faster R-CNN with FPN on VOC devkits, all weights trained; AP of boxes.",
    data=VocDetectionData,
    config=DetectionConfig,
    check=check,
    run=run,
    tables=tables,
    trains=True,
    suite_entries=suite_entries,
    suite_option="detect",
)
