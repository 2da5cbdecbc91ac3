"""VOC07 protocol of linear SVMs: all classes and folds in one batch against LIBLINEAR, one fit at a time.

Both do all of it: 3 folds of 19 costs for 20 classes, the choice of costs, the final fits and the AP on test images.
The features are random, of the size of VOC07 by feat5 of a ResNet-50: not negative, of decaying spectrum, with noise in
features and labels, so that the AP of a class is between 0.2 and 0.95. The alternative takes half an hour: one pair is
the default, and `--alternative-classes 4` times it on four of the classes and multiplies the time by five.

    OMP_NUM_THREADS=1 python benchmarks/svm.py --json FILE
"""

import argparse
import time
from typing import Any

import compare
import numpy as np
import torch
from numpy import ndarray

from orl.evaluation.svm import SvmResult, score_svm

SEED = 0
NUM_FACTORS = 256
LABEL_NOISE = (1.0, 0.2)
"""Standard deviation of the label noise, from the first class (the rarest) to the last."""
AP_TOLERANCE = 1e-3
"""Largest difference of a class's AP on the test images that counts as agreement."""

Problem = tuple[ndarray, ndarray, ndarray, ndarray]


def main(argv: list[str] | None = None) -> None:
    """Time both programs on the same features, check that the scores agree, and write the result."""
    parser = compare.arguments(
        __doc__.splitlines()[0],
        **{"num_images": 5011, "test_images": 4952, "dims": 8192, "classes": 20},
        **{"workers": 1, "runs": 1, "alternative_classes": 0},
    )
    options = parser.parse_args(argv)
    problem = made_up_features(options)
    names = tuple(f"class {index}" for index in range(options.classes))
    num_timed = options.alternative_classes or options.classes
    timed = np.linspace(0, options.classes - 1, num_timed).round().astype(int)
    X, y, X_test, y_test = problem
    found: dict[str, SvmResult] = {}

    def batched() -> None:
        found["ours"] = score_svm(*problem, names, quiet=True)

    def one_by_one() -> None:
        own = (X, y[:, timed], X_test, y_test[:, timed], [names[index] for index in timed])
        found["theirs"] = score_svm(*own, solver="liblinear", workers=options.workers, quiet=True)

    # CPU time does not change with the load of the machine; it is the elapsed time of one thread.
    is_one_thread = options.workers == 1 and torch.get_num_threads() == 1
    clock = time.process_time if is_one_thread else time.perf_counter
    ours_s, theirs_s = compare.interleaved(batched, one_by_one, options.runs, clock)
    # LIBLINEAR fits one class after another.
    measured = compare.ratios(ours_s, [seconds * options.classes / num_timed for seconds in theirs_s])
    result = compare.result(
        f"linear SVMs of {options.num_images} images, {options.dims} features, {options.classes} classes, one batch",
        f"one LIBLINEAR fit after another, {options.workers} at a time",
        measured,
        agreement(found["ours"], found["theirs"]),
        images=options.num_images,
        test_images=options.test_images,
        dims=options.dims,
        classes=options.classes,
        fits=found["ours"].num_fits,
        workers_of_alternative=options.workers,
        timed_classes_of_alternative=num_timed,
        clock=clock.__name__,
    )
    compare.finish([result], options.json)


def made_up_features(options: argparse.Namespace) -> Problem:
    """Sample features and labels of training and test images; 2% of the labels are 'ignored'."""
    generator = np.random.default_rng(SEED)
    loadings = 0.8 * generator.normal(size=(NUM_FACTORS, options.dims))
    offsets = 0.5 * generator.normal(size=options.dims) - 0.2
    directions = generator.normal(size=(NUM_FACTORS, options.classes))
    noise = np.linspace(*LABEL_NOISE, options.classes)
    fractions = np.geomspace(0.04, 0.4, options.classes)

    def draw(num_images: int) -> tuple[ndarray, ndarray]:
        factors = generator.normal(size=(num_images, NUM_FACTORS)) / np.sqrt(np.arange(1, NUM_FACTORS + 1))
        features = factors @ loadings + offsets + 0.25 * generator.normal(size=(num_images, options.dims))
        signals = factors @ directions
        signals = signals / signals.std(axis=0) + noise * generator.normal(size=signals.shape)
        thresholds = [np.quantile(column, 1 - fraction) for column, fraction in zip(signals.T, fractions)]
        labels = np.where(signals > thresholds, 1, -1)
        labels[generator.random(labels.shape) < 0.02] = 0
        return np.maximum(features, 0).astype(np.float32), labels

    return (*draw(options.num_images), *draw(options.test_images))


def agreement(ours: SvmResult, theirs: SvmResult) -> dict[str, Any]:
    """Compare the scores and the chosen costs.

    Raises:
        RuntimeError: if a class differs in AP by more than the tolerance.
    """
    differences = {name: abs(ap - ours.per_class_ap[name]) for name, ap in theirs.per_class_ap.items()}
    worst = max(differences.values())
    if worst > AP_TOLERANCE:
        raise RuntimeError(f"the AP of a class differs by {worst}, above {AP_TOLERANCE}: the two are not the same")
    return {
        "same_costs": sum(cost == ours.costs[name] for name, cost in theirs.costs.items()),
        "classes": len(differences),
        "largest_ap_difference": round(worst, 6),
        "mean_ap_ours": round(float(np.mean([ours.per_class_ap[name] for name in differences])), 6),
        "mean_ap_alternative": round(theirs.mean_ap, 6),
        "unconverged_ours": ours.num_unconverged,
        "unconverged_alternative": theirs.num_unconverged,
    }


if __name__ == "__main__":
    main()
