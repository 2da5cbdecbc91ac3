"""Data of the evaluations that classify images of one class each: options, layouts and names."""

from dataclasses import dataclass, field
from pathlib import Path

from orl.datasets.class_folders import ClassifiedDataset, read_train_val
from orl.datasets.classified import ClassifiedImages
from orl.evaluation.protocol import Datasets, Result

DATASET_NAMES: dict[str, str] = {
    "imagenet": "ImageNet",
    "places205": "Places205",
    "inat18": "iNaturalist18",
    "folder": "own classes",
}
NUM_PUBLISHED_CLASSES: dict[str, int] = {"imagenet": 1000, "places205": 205, "inat18": 8142}


@dataclass(frozen=True, kw_only=True)
class ClassData:
    """Images of one class each."""

    data: Path
    """Folder of ImageNet, Places205 or iNaturalist 2018, or with train/CLASS and val/CLASS."""
    _splits: dict[str, tuple[ClassifiedImages, ClassifiedImages]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def splits(self, dataset: ClassifiedDataset) -> tuple[ClassifiedImages, ClassifiedImages]:
        """Return the images to train on and to score; labels are read once."""
        if dataset not in self._splits:
            self._splits[dataset] = read_train_val(self.data, dataset)
        return self._splits[dataset]


def class_datasets(datasets: Datasets) -> list[tuple[ClassifiedDataset, ClassData]]:
    """Return the layout and the data of each given class data set."""
    paths: dict[ClassifiedDataset, Path | None] = {
        "imagenet": datasets.imagenet,
        "places205": datasets.places205,
        "inat18": datasets.inat18,
        "folder": datasets.classes,
    }
    return [(name, ClassData(data=path)) for name, path in paths.items() if path is not None]


def class_count_deviations(dataset: str, num_classes: int) -> list[str]:
    """Return the deviation of a data set with the layout of a published one, but another number of classes."""
    published = NUM_PUBLISHED_CLASSES.get(dataset, num_classes)
    return [] if num_classes == published else [f"{num_classes:,} classes, not {published:,}"]


def accuracy_columns(result: Result) -> dict[str, float | None]:
    """Return the columns of a table of accuracies."""
    return {"top-1": result["top1"], "top-5": result.get("top5")}
