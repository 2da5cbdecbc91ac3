"""VOC07 by a weighted kNN: an evaluation of pooled features without training."""

import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from orl.config import EvaluationConfig, check_numbers
from orl.evaluation.arrays import unit_rows
from orl.evaluation.average_precision import average_precision, classes_without_positives, mean_average_precision
from orl.evaluation.evaluated_backbone import EvaluatedBackbone
from orl.evaluation.output import EvaluationOutput, finished, write_result
from orl.evaluation.pooling import feature_kind
from orl.evaluation.protocol import Evaluation, Result, Tables, config_deviations
from orl.evaluation.voc07 import describe_result, embed_voc07, result_inputs, voc07_entries
from orl.evaluation.voc_dataset import LabelledImages, VocDataset
from orl.processes import Processes
from orl.progress import progress_bar

BLOCK_SIZE = 256


@dataclass(frozen=True, kw_only=True)
class KnnConfig:
    """Weighted vote of the nearest training images."""

    k: int = 20
    """Neighbours that vote."""
    temperature: float = 0.07
    """Temperature of a vote's weight, exp(cosine / temperature)."""

    def __post_init__(self) -> None:
        check_numbers(self)


@dataclass(frozen=True, kw_only=True)
class KnnResult:
    """Average precision of the votes on the test images."""

    per_class_ap: dict[str, float]
    skipped: dict[str, str]
    """Classes that could not be scored, with the reason."""
    k: int
    temperature: float
    num_train: int
    num_test: int
    elapsed_s: float

    @property
    def mean_ap(self) -> float:
        """Mean over the classes that could be scored."""
        return mean_average_precision(self.per_class_ap)

    def to_json(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        return {"task": "knn", "mean_ap": self.mean_ap, **asdict(self)}


def check(data: VocDataset, config: KnnConfig) -> None:
    """Read the labels and check that every test image has k neighbours and some class can be scored."""
    _unscored_classes(*data.listed, config)


def run(
    backbone: EvaluatedBackbone, data: VocDataset, config: KnnConfig, output: EvaluationOutput, processes: Processes
) -> Result:
    """Score a backbone by the votes of the nearest training images, and write the result."""
    check(data, config)
    inputs = result_inputs(backbone, data, config)
    if (result := finished(output, inputs)) is not None:
        return result
    features = embed_voc07(backbone, data, output, "pooled", partial(_unscored_classes, config=config))
    score = score_knn(
        *features.arrays, features.train.classes, k=config.k, temperature=config.temperature, quiet=output.quiet
    )
    # Another k is another table.
    deviations = config_deviations(config, ignored=("k",))
    return write_result(output, describe_result(score.to_json(), backbone, features, deviations), inputs)


def _unscored_classes(train: LabelledImages, test: LabelledImages, config: KnnConfig) -> dict[str, str]:
    check_neighbours(config.k, config.temperature, len(train.names))
    return classes_without_positives(test.labels, train.classes)


def check_neighbours(k: int, temperature: float, num_images: int) -> None:
    """Check the options before any long computation.

    Raises:
        ValueError: if k is below 1 or above the number of training images, or the temperature is not above 0.
    """
    if not 1 <= k <= num_images:
        raise ValueError(f"k is {k}, but there are {num_images} training images; give 1 to that many")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; give one above 0")


def weighted_votes(
    train_features: Float[ndarray, "n d"],
    train_labels: Int[ndarray, "n c"],
    test_features: Float[ndarray, "m d"],
    *,
    k: int = 20,
    temperature: float = 0.07,
    block_size: int = BLOCK_SIZE,
    quiet: bool = True,
) -> Float[ndarray, "m c"]:
    """Compute the fraction of the k nearest training images that show a class, weighted by exp(cosine / temperature).

    A neighbour whose label of a class is 0 has no vote on that class. Among equally near images the first counts.
    Where each image shows one class, given as 1 among -1, the class with the largest fraction is the prediction.

    Args:
        train_features: one row per image, as embedded.
        train_labels: 1 present, -1 absent, 0 ignored.
        test_features: one row per image, as embedded.
        k: neighbours that vote.
        temperature: the smaller, the more the nearest ones count.
        block_size: test images whose cosines are in memory at once.
        quiet: show no progress bar.

    Returns:
        In [0, 1]; 0 where no neighbour has a vote.

    Raises:
        ValueError: if k or the temperature is out of range, or a feature is not finite.

    Source:
        Instance discrimination (arXiv 1805.01978), Section 3.4, for several labels per image.
    """
    check_neighbours(k, temperature, len(train_features))
    train_units, test_units = unit_rows(train_features, 0.0), unit_rows(test_features, 0.0)
    positive, known = (train_labels == 1).astype(np.float64), (train_labels != 0).astype(np.float64)
    votes = np.zeros((len(test_features), train_labels.shape[1]))
    with progress_bar(total=len(votes), title="nearest neighbours", unit="images", quiet=quiet) as bar:
        for start in range(0, len(votes), block_size):
            block = slice(start, start + block_size)
            cosines = test_units[block] @ train_units.T
            nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
            # The nearest has weight 1: only ratios count, and exp(1 / temperature) may overflow.
            near_cosines = np.take_along_axis(cosines, nearest, axis=1)
            weights = np.exp((near_cosines - near_cosines[:, :1]) / temperature)
            num_known = np.einsum("bk,bkc->bc", weights, known[nearest])
            num_positive = np.einsum("bk,bkc->bc", weights, positive[nearest])
            np.divide(num_positive, num_known, out=votes[block], where=num_known > 0)
            bar.update(len(nearest))
    return votes


def score_knn(
    train_features: Float[ndarray, "n d"],
    train_labels: Int[ndarray, "n c"],
    test_features: Float[ndarray, "m d"],
    test_labels: Int[ndarray, "m c"],
    classes: tuple[str, ...],
    *,
    k: int = 20,
    temperature: float = 0.07,
    quiet: bool = False,
) -> KnnResult:
    """Score the votes of `weighted_votes` on the test images by average precision.

    Args:
        train_features: one row per image, as embedded.
        train_labels: 1 present, -1 absent, 0 ignored.
        test_features: one row per image, as embedded.
        test_labels: 1 present, -1 absent, 0 ignored.
        classes: names of the columns of the labels.
        k: neighbours that vote.
        temperature: the smaller, the more the nearest ones count.
        quiet: show no progress bar.

    Raises:
        ValueError: if no class has a positive test image, k or the temperature is out of range, or a feature is not
            finite.
    """
    started = time.perf_counter()
    votes = weighted_votes(train_features, train_labels, test_features, k=k, temperature=temperature, quiet=quiet)
    skipped = classes_without_positives(test_labels, classes)
    return KnnResult(
        per_class_ap={
            name: average_precision(votes[:, index], test_labels[:, index])
            for index, name in enumerate(classes)
            if name not in skipped
        },
        skipped=skipped,
        k=k,
        temperature=temperature,
        num_train=len(train_labels),
        num_test=len(test_labels),
        elapsed_s=time.perf_counter() - started,
    )


def _tables(result: Result) -> Tables:
    return {f"VOC07 kNN, {feature_kind(result)}, k = {result['k']}": {"mAP": result["mean_ap"]}}


def _run_config(config: EvaluationConfig) -> KnnConfig:
    return KnnConfig(k=config.knn_neighbours, temperature=config.knn_temperature)


KNN = Evaluation(
    name="knn",
    label="Weighted kNN",
    help="VOC07 by the weighted vote of the nearest training images; mean AP on test, without training.",
    data=VocDataset,
    config=KnnConfig,
    check=check,
    run=run,
    tables=_tables,
    one_process=True,
    suite_entries=partial(voc07_entries, "knn"),
    run_config=_run_config,
)
