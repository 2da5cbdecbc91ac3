"""Published scores to compare ours with, each with its source."""

from dataclasses import dataclass

ORL_PAPER = "ORL (NeurIPS 2021)"
LOST_PAPER = "LOST (BMVC 2021), VOC07 trainval"
OWN_REPRODUCTION = "ORL's authors' own training, supplementary Table 1"
LOW_SHOT_SHOTS = (1, 2, 4, 8, 16, 32, 64, 96)
LOW_SHOT_ORL = (42.25, 51.81, 63.46, 72.16, 77.86, 81.17, 83.73, 84.59)


@dataclass(frozen=True)
class PublishedRow:
    """One line of a published table, per cent."""

    comparison: str
    """Title of our table of the same protocol."""
    backbone: str
    scores: dict[str, float]
    source: str


def _detection(backbone: str, source: str, box: float, mask: float | None = None) -> PublishedRow:
    scores = {"box AP": box} | ({"mask AP": mask} if mask is not None else {})
    return PublishedRow("COCO detection, 1x", backbone, scores, source)


def _linear(backbone: str, top_1: float) -> PublishedRow:
    return PublishedRow("ImageNet linear, feat5", backbone, {"top-1": top_1}, ORL_PAPER)


def _corloc(backbone: str, score: float) -> PublishedRow:
    return PublishedRow("Objects: corloc", backbone, {"CorLoc": score}, LOST_PAPER)


PUBLISHED = (
    _detection("random weights", ORL_PAPER, 31.0, 28.5),
    _detection("supervised on ImageNet", ORL_PAPER, 38.9, 35.4),
    _detection("MoCo v2 on COCO", ORL_PAPER, 38.5, 34.8),
    _detection("BYOL on COCO", ORL_PAPER, 38.8, 35.0),
    _detection("BYOL on COCO, trained again", OWN_REPRODUCTION, 39.5),
    _detection("Self-EMD on COCO", ORL_PAPER, 39.3),
    _detection("DenseCL on COCO", ORL_PAPER, 39.6, 35.7),
    _detection("ORL on COCO", ORL_PAPER, 40.3, 36.3),
    _linear("random weights", 13.7),
    _linear("supervised on ImageNet", 75.9),
    _linear("SimCLR on COCO", 50.9),
    _linear("MoCo v2 on COCO", 55.1),
    _linear("BYOL on COCO", 57.8),
    _linear("ORL on COCO", 59.0),
    PublishedRow(
        "VOC07 low-shot, feat5, cost by test labels",
        "ORL on COCO",
        {f"k={shots}": score for shots, score in zip(LOW_SHOT_SHOTS, LOW_SHOT_ORL)},
        "ORL's published weights",
    ),
    PublishedRow("VOC07 SVM, feat5", "supervised on ImageNet", {"mAP": 87.17}, "torchvision's ResNet-50 weights"),
    _corloc("ResNet-50, supervised on ImageNet", 33.5),
    _corloc("ResNet-50, DINO on ImageNet", 36.8),
    _corloc("ViT-S/16, DINO on ImageNet", 61.9),
)
"""Scores of ResNet-50 if nothing else is said; "on COCO" means 800 epochs of train2017."""
