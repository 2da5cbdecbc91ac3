"""Settings of the judges; what is set by default is the protocol."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from orl.evaluation.classification.configs import LinearConfig, SemiConfig
from orl.evaluation.detection.configs import DetectionConfig

SHOTS = (1, 2, 4, 8, 16, 32, 64, 96)


@dataclass(frozen=True, kw_only=True)
class VocSettings:
    """Which images of a VOC devkit are learnt from and scored, and how they are seen."""

    train_split: str = "trainval"
    """Split to learn from."""
    test_split: str = "test"
    """Split to score."""
    size_px: int = 224
    """Side that an image is squeezed to, pixels."""


@dataclass(frozen=True, kw_only=True)
class SvmSettings:
    """One linear SVM a class, its cost by cross-validation."""

    solver: Literal["batched", "liblinear"] = "batched"
    """Ours, all classes, folds and costs at once; or LIBLINEAR, which it is checked against."""


@dataclass(frozen=True, kw_only=True)
class LowShotSettings:
    """Linear SVMs from few images."""

    shots: tuple[int, ...] = SHOTS
    """Images of each class to learn from."""
    num_samples: int = 5
    """Independent draws of those images, which scores are means of."""


@dataclass(frozen=True, kw_only=True)
class KnnSettings:
    """The weighted vote of the nearest training images."""

    k: int = 20
    """Neighbours that vote."""
    temperature: float = 0.07
    """Of a vote's weight, exp(cosine / temperature)."""


@dataclass(frozen=True, kw_only=True)
class Sets:
    """The labelled sets at hand; what one is missing for is left out."""

    voc07: Path | None = None
    """VOC devkit of 2007, or a drawn set: SVM, low-shot, kNN."""
    imagenet: Path | None = None
    """ImageNet: linear, and semi-supervised with 1% and 10% of the labels."""
    imagenet_1percent: Path | None = None
    """SimCLR's 1percent.txt: the images of those labels; drawn by the seed if not given."""
    imagenet_10percent: Path | None = None
    """Likewise 10percent.txt."""
    places205: Path | None = None
    """Places205: linear."""
    inat18: Path | None = None
    """iNaturalist 2018: linear."""
    classes: Path | None = None
    """Folders of own classes, train/CLASS and val/CLASS: linear."""
    coco: Path | None = None
    """COCO, with annotations/instances_*.json: detection and segmentation."""
    voc_detection: tuple[Path, ...] = ()
    """VOC devkits to train a detector on, 2007 and 2012; the first one's test split is scored."""


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """How each judge works."""

    voc: VocSettings = field(default_factory=VocSettings)
    """Splits and size of the images for SVM, low-shot and kNN."""
    svm: SvmSettings = field(default_factory=SvmSettings)
    """Linear SVMs."""
    low_shot: LowShotSettings = field(default_factory=LowShotSettings)
    """Linear SVMs from few images."""
    knn: KnnSettings = field(default_factory=KnnSettings)
    """Nearest neighbours."""
    linear: LinearConfig = field(default_factory=LinearConfig)
    """A linear layer on frozen features; its data set is that of the path."""
    semi: SemiConfig = field(default_factory=SemiConfig)
    """All weights on a share of the labels; of which share and list is that of the sets."""
    detect: DetectionConfig = field(default_factory=DetectionConfig)
    """Detectors."""
    detect_splits: tuple[str, str] = ("train2017", "val2017")
    """Splits of COCO to learn from and to score."""
