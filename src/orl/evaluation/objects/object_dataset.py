"""Labelled data for the evaluations of objects: boxes and masks of a training and a test split."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int64
from numpy import ndarray

from orl.datasets.class_folders import read_classified
from orl.datasets.class_lists import require_images
from orl.datasets.coco import read_coco
from orl.datasets.labelled_fingerprint import labelled_fingerprint
from orl.datasets.labels import LabelledSplit
from orl.datasets.semantic_masks import SemanticMasks, read_semantic_masks
from orl.datasets.voc import read_voc, voc_folder

COMPLETE_IMAGE = (0.0, 0.0, 1e6, 1e6)
"""Box of an image in a folder of crops; it is clipped to the image."""
SAMPLE_SEED = 0
"""Seed of the sample of `max_images`, the same for all backbones."""


@dataclass(frozen=True, kw_only=True)
class ObjectBoxes:
    """The images of one split with labelled boxes."""

    split: str
    root: Path
    """Folder that the names start from."""
    names: tuple[str, ...]
    """Path of each image below the root, with forward slashes; sorted, unique."""
    classes: tuple[str, ...]
    boxes: tuple[Float32[ndarray, "_ 4"], ...]
    """Boxes `xyxy` of each image, pixels."""
    box_classes: tuple[Int64[ndarray, "_"], ...]
    """Class of each box, an index into `classes`."""
    scored: tuple[Bool[ndarray, "_"], ...]
    """True for boxes that count: neither difficult nor smaller than the limit."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file of each image."""
        return tuple(self.root / name for name in self.names)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of images, boxes and classes; see `labelled_fingerprint`."""
        labels = [*self.boxes, *self.box_classes, *self.scored]
        return labelled_fingerprint(self.root, self.names, self.classes, labels)

    @property
    def num_scored(self) -> int:
        """Number of boxes that count."""
        return sum(int(each.sum()) for each in self.scored)

    def select(self, rows: list[int]) -> "ObjectBoxes":
        """Return the images of some rows."""
        return replace(
            self,
            names=tuple(self.names[row] for row in rows),
            boxes=tuple(self.boxes[row] for row in rows),
            box_classes=tuple(self.box_classes[row] for row in rows),
            scored=tuple(self.scored[row] for row in rows),
        )


@dataclass(frozen=True, kw_only=True)
class BoxSplits:
    """Boxes to train on and boxes to score."""

    train: ObjectBoxes
    test: ObjectBoxes

    def __iter__(self) -> Iterator[ObjectBoxes]:
        return iter((self.train, self.test))


@dataclass(frozen=True, kw_only=True)
class MaskSplits:
    """Masks to train on and masks to score."""

    train: SemanticMasks
    test: SemanticMasks

    def __iter__(self) -> Iterator[SemanticMasks]:
        return iter((self.train, self.test))


@dataclass(frozen=True, kw_only=True)
class ObjectDataset:
    """Labelled data set: a VOC devkit, synthetic scenes, COCO, folders of masks, or folders of crops."""

    data: Path
    """VOC devkit, synthetic scenes, folder of COCO, images/ and masks/ of class indices, or train/CLASS of crops."""
    train_split: str | None = None
    """Split to train on; trainval, train2017 or train if not given, by the layout."""
    test_split: str | None = None
    """Split to score; test, val2017 or val if not given, by the layout."""
    min_box_px: int = 16
    """Shorter side from which a box is scored, pixels of the image file."""
    max_images: int | None = None
    """Images of each split, sampled by a fixed seed; None for all."""
    void: int | None = None
    """Value of class-index masks that is ignored, beside 255."""

    def __post_init__(self) -> None:
        if self.min_box_px < 1:
            raise ValueError(f"min_box_px is {self.min_box_px}; give 1 or more")
        if self.max_images is not None and self.max_images < 2:
            raise ValueError(f"max_images is {self.max_images}; give 2 or more, or None for all")

    @cached_property
    def boxes(self) -> BoxSplits:
        """Labelled boxes of both splits; images without a box are left out, and no image is opened.

        Raises:
            ValueError: if the data set has no boxes, a split has no box that counts, or the splits do not fit.
        """
        train, test = (self._read_boxes(train=train) for train in (True, False))
        _check_splits(train, test, self.data)
        for each in (train, test):
            if not each.num_scored:
                raise ValueError(
                    f"split {each.split!r} of {self.data} has no box of {self.min_box_px} px or more that is not "
                    "difficult; give another split or a smaller --min-box-px"
                )
        return BoxSplits(train=train, test=test)

    @cached_property
    def masks(self) -> MaskSplits:
        """Masks of both splits; no image is opened.

        Raises:
            ValueError: if the data set has no masks, or the splits do not fit.
        """
        splits: list[SemanticMasks] = []
        for is_train, split in ((True, self.train_split), (False, self.test_split)):
            found = read_semantic_masks(self.data, split, train=is_train, void=self.void)
            if found is None:
                raise ValueError(
                    f"{self.data} has no masks: neither SegmentationClass of a VOC devkit, nor synthetic scenes, nor "
                    "COCO's instances, nor folders images/ and masks/"
                )
            splits.append(found)
        train, test = splits
        if train.classes != test.classes:
            # Folders without class names know only the values that occur.
            longer = max(train.classes, test.classes, key=len)
            train, test = replace(train, classes=longer), replace(test, classes=longer)
        _check_splits(train, test, self.data)
        return MaskSplits(
            train=train.select(sampled_rows(len(train), self.max_images)),
            test=test.select(sampled_rows(len(test), self.max_images)),
        )

    def _read_boxes(self, *, train: bool) -> ObjectBoxes:
        split = self.train_split if train else self.test_split
        if not self.data.exists():
            raise FileNotFoundError(f"no data set at {self.data}: there is no such folder")
        if voc_folder(self.data) is not None:
            split = split or ("trainval" if train else "test")
            labels = read_voc(self.data, split)
        elif (self.data / "annotations").is_dir():
            name = split or ("train2017" if train else "val2017")
            path = self.data / "annotations" / f"instances_{name}.json"
            if not path.is_file():
                raise ValueError(f"{self.data} has no {path.relative_to(self.data)}; give another split")
            labels, split = read_coco(path), name
        elif (self.data / "train").is_dir():
            return self._read_crops(split or ("train" if train else "val"))
        else:
            raise ValueError(
                f"{self.data} has no labelled boxes: it is neither a VOC devkit, nor COCO, nor folders of crops "
                "(train/CLASS and val/CLASS)"
            )
        require_images(labels.root, labels.names, f"split {split!r} of {self.data}")
        return self._from_labels(labels, split)

    def _from_labels(self, labels: LabelledSplit, split: str) -> ObjectBoxes:
        found = ObjectBoxes(
            split=split,
            root=labels.root,
            names=labels.names,
            classes=labels.classes,
            boxes=labels.boxes,
            box_classes=labels.box_classes,
            scored=tuple(
                ~difficult & ((own[:, 2:] - own[:, :2]).min(axis=1, initial=np.inf) >= self.min_box_px)
                for own, difficult in zip(labels.boxes, labels.box_difficult)
            ),
        )
        found = found.select([row for row, own in enumerate(found.boxes) if len(own)])
        if not len(found):
            raise ValueError(f"split {split!r} of {self.data} has no labelled boxes; give another split")
        return found.select(sampled_rows(len(found), self.max_images))

    def _read_crops(self, split: str) -> ObjectBoxes:
        """Read a folder of crops, whose complete images are the boxes."""
        images = read_classified(self.data, "folder", "train" if split == "train" else "val")
        box = np.array([COMPLETE_IMAGE], dtype=np.float32)
        found = ObjectBoxes(
            split=split,
            root=images.root,
            names=images.names,
            classes=images.classes,
            boxes=(box,) * len(images),
            box_classes=tuple(images.labels[row : row + 1] for row in range(len(images))),
            scored=(np.ones(1, dtype=bool),) * len(images),
        )
        return found.select(sampled_rows(len(found), self.max_images))


def sampled_rows(num_images: int, max_images: int | None) -> list[int]:
    """Return a fixed random sample of the images in rising order; all of them if they are not more than the limit."""
    if max_images is None or num_images <= max_images:
        return list(range(num_images))
    generator = np.random.default_rng(SAMPLE_SEED)
    return np.sort(generator.permutation(num_images)[:max_images]).tolist()


def _check_splits(train: ObjectBoxes | SemanticMasks, test: ObjectBoxes | SemanticMasks, data: Path) -> None:
    """Check that what is learned on one split can be scored on the other.

    Raises:
        ValueError: if the two have different classes or share an image.
    """
    if train.classes != test.classes:
        differing = sorted(set(train.classes) ^ set(test.classes))
        raise ValueError(
            f"splits {train.split!r} and {test.split!r} of {data} differ in classes {differing[:5]}; give both the same"
        )
    if train.root == test.root and (shared := sorted(set(train.names) & set(test.names))):
        raise ValueError(
            f"{len(shared)} images are in split {train.split!r} and in {test.split!r} of {data}, such as {shared[0]}; "
            "training images must not be scored: give two splits that share none"
        )
