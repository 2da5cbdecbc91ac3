"""Detection and segmentation on COCO: Mask R-CNN with FPN, all weights trained."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orl.evaluation.detection.coco_metrics import coco_scores
from orl.evaluation.detection.config import COCO_SCHEDULE, DetectionConfig
from orl.evaluation.detection.datasets import DetectionDataset, read_coco_detection
from orl.evaluation.detection.detections import Detections
from orl.evaluation.detection.evaluate import DetectionBenchmark, check_detection_splits, evaluate_detector
from orl.evaluation.evaluated_backbone import EvaluatedBackbone
from orl.evaluation.output import EvaluationOutput
from orl.evaluation.protocol import Datasets, Evaluation, Result, SuiteEntry, Tables
from orl.processes import Processes


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


def check(data: CocoData, config: DetectionConfig) -> None:
    """Read the annotations and check that they allow the training and the scores."""
    check_detection_splits(*data.splits(needs_masks=config.masks), config)


def run(
    backbone: EvaluatedBackbone, data: CocoData, config: DetectionConfig, output: EvaluationOutput, processes: Processes
) -> Result | None:
    """Train Mask R-CNN from a backbone and compute AP of boxes and masks.

    Source:
        ORL's supplementary A; Detectron2's Mask R-CNN R50-FPN, with batch normalisation as in MoCo (arXiv 1911.05722).
    """
    train, val = data.splits(needs_masks=config.masks)
    return evaluate_detector(COCO, backbone, train, val, config, output, processes)


def _scores(images: DetectionDataset, detections: Detections, has_masks: bool) -> dict[str, Any]:
    box, box_per_class = coco_scores(images, detections, "bbox")
    mask, mask_per_class = coco_scores(images, detections, "segm") if has_masks else (None, None)
    return {"box": box, "mask": mask, "box_per_class": box_per_class, "mask_per_class": mask_per_class}


def tables(result: Result) -> Tables:
    """Return the AP of boxes, and of masks if there are any."""
    scores = {f"box {name}": value for name, value in result["box"].items()}
    scores |= {f"mask {name}": value for name, value in (result.get("mask") or {}).items()}
    return {f"COCO detection, {result['schedule']}": scores}


def suite_entries(datasets: Datasets, config: DetectionConfig) -> Sequence[SuiteEntry[CocoData, DetectionConfig]]:
    """Return one entry if COCO is given."""
    if datasets.coco is None:
        return []
    train_split, val_split = datasets.detect_splits
    data = CocoData(data=datasets.coco, train_split=train_split, val_split=val_split)
    return [SuiteEntry(name="detect", data=data, config=config)]


COCO = DetectionBenchmark(
    name="detect", schedule=COCO_SCHEDULE, score=_scores, num_train=117_266, num_test=5_000, num_classes=80
)
DETECT = Evaluation(
    name="detect",
    label="COCO detection",
    help="Mask R-CNN with FPN on a data set in COCO's layout, all weights trained; AP of boxes and masks.",
    data=CocoData,
    config=DetectionConfig,
    check=check,
    run=run,
    tables=tables,
    trains=True,
    suite_entries=suite_entries,
)
