"""Features of labelled boxes by each way of cutting them, for the classifiers of boxes."""

from collections.abc import Iterator
from dataclasses import dataclass

from jaxtyping import Float32
from numpy import ndarray

from orl.config import EvaluationConfig, check_numbers
from orl.evaluation.objects.object_dataset import ObjectDataset
from orl.evaluation.objects.object_features import Cut, ObjectFeatures


@dataclass(frozen=True, kw_only=True)
class RoiConfig:
    """Cuts of labelled boxes."""

    crop_px: int = 224
    """Side of the square that a box is resized to, pixels; 0 for no crops."""
    map_px: int = 480
    """Short side of the image whose feature map RoIs are cut from, pixels; 0 for no maps."""
    recalibrate: bool = False
    """Also score features with batch-norm statistics of the training split: its crops, for maps its images."""

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.crop_px == self.map_px == 0:
            raise ValueError("crop_px and map_px are both 0, so no box is cut; give one of them")


@dataclass(frozen=True, kw_only=True)
class RoiFeatures:
    """Features of all boxes of both splits."""

    name: str
    """Cut of the boxes, and whether the statistics are recalibrated."""
    train: Float32[ndarray, "n d"]
    test: Float32[ndarray, "m d"]


def roi_features(features: ObjectFeatures, data: ObjectDataset, config: RoiConfig) -> Iterator[RoiFeatures]:
    """Yield the features of each cut that the config enables."""
    boxes = data.boxes
    cuts: list[tuple[Cut, int]] = [("crop", config.crop_px), ("map", config.map_px)]
    for cut, size_px in cuts:
        for recalibrated in (False, True) if config.recalibrate and size_px else (False,):
            if size_px:
                base = boxes.train if recalibrated else None
                train, test = (features.rois(each, cut=cut, size_px=size_px, recalibrate_on=base) for each in boxes)
                yield RoiFeatures(name=cut + (", recalibrated" if recalibrated else ""), train=train, test=test)


def statistics_text(config: RoiConfig) -> str:
    """Return which batch-norm statistics the features have."""
    own = "batch-norm statistics of the backbone"
    return (
        f"{own}; 'recalibrated': those of the training split's crops, for maps its images"
        if config.recalibrate
        else own
    )


def run_sizes(config: EvaluationConfig) -> tuple[int, int]:
    """Return the side of crops and of images for the evaluations of a run."""
    return config.roi_px or config.size_px, config.scene_px or 2 * config.size_px
