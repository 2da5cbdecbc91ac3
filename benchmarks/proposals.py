"""Our selective search against OpenCV's, alternating image by image: equality of boxes, images/s, several threads.

`--images` takes whatever `orl run --images` takes; with a COCO JSON or a VOC devkit the objects found are compared too.
Every image gives one pair of times on one core: OpenCV once, and ours the median of three. OpenCV runs in a process of
its own, alternating with ours: our search makes malloc keep freed memory, which would speed up OpenCV's too.
"""

import multiprocessing
import statistics
import time
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import compare
import numpy as np
import torch

from orl import boxes as box_arithmetic
from orl.datasets.decode import load_image
from orl.datasets.sources import find_images, read_labels
from orl.discovery.opencv_search import opencv_selective_search
from orl.discovery.proposal_filter import filter_proposals
from orl.discovery.selective_search import compile_search, selective_search

SEED = 1
MIN_SIDE_FRACTION = 0.2
"""Minimum side of the box filter over the short side of the image: 96 px of 480."""


def main(argv: list[str] | None = None) -> None:
    """Check that the boxes agree, time both, and write the result."""
    parser = compare.arguments(__doc__.splitlines()[0], num_images=40, threads=2)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    root, names = find_images(options.images)
    names = names[:: max(1, len(names) // options.num_images)][: options.num_images]
    images = [load_image(root / name) for name in names]
    objects = _objects(options, names)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as opencv:
        opencv.submit(_opencv, images[0]).result()  # forked before our search is compiled
        compile_search()
        results = [_against_opencv(images, objects, scale, opencv) for scale in (1.0, 0.5)]
    results.append(_threads(images, options.threads))
    compare.finish(results, options.json)


def _objects(options: Any, names: list[str]) -> list[np.ndarray] | None:
    """Read the labelled objects of each image, if the source has labels."""
    labels = read_labels(options.images)
    if labels is None:
        return None
    rows = {name: row for row, name in enumerate(labels.names)}
    return [labels.boxes[rows[name]] for name in names]


def _opencv(image: np.ndarray) -> tuple[np.ndarray, float]:
    return _timed(lambda: opencv_selective_search(image, SEED))


def _against_opencv(
    images: list[np.ndarray], objects: list[np.ndarray] | None, scale: float, opencv: Executor
) -> dict[str, Any]:
    ours_s, opencv_s, pairs = [], [], []
    for image in images:
        theirs, seconds = opencv.submit(_opencv, image).result()
        opencv_s.append(seconds)
        tries = [_timed(lambda image=image: selective_search(image, SEED, scale)) for _ in range(3)]
        ours_s.append(statistics.median(seconds for _, seconds in tries))
        pairs.append((tries[0][0], theirs))
    return compare.result(
        f"selective search, one core, scale {scale:g}",
        "OpenCV's",
        compare.ratios(ours_s, opencv_s),
        _agreement(images, pairs, objects),
        scale=scale,
        images=len(images),
        median_megapixels=round(statistics.median(image.shape[0] * image.shape[1] for image in images) / 1e6, 3),
        ours_images_per_s=round(len(images) / sum(ours_s), 2),
        opencv_images_per_s=round(len(images) / sum(opencv_s), 3),
    )


def _agreement(
    images: list[np.ndarray], pairs: list[tuple[np.ndarray, np.ndarray]], objects: list[np.ndarray] | None
) -> dict[str, Any]:
    """Compare the boxes as sets, in their order, after the box filter, and in the objects that they cover."""
    jaccard, same_order, kept_overlaps, kept_fractions = [], [], [], []
    for image, (ours, theirs) in zip(images, pairs):
        mine, others = set(map(tuple, ours.tolist())), set(map(tuple, theirs.tolist()))
        jaccard.append(len(mine & others) / len(mine | others))
        same_order.append(np.array_equal(ours, theirs))
        kept, their_kept = _filtered(ours, image), _filtered(theirs, image)
        best = box_arithmetic.iou(their_kept, ours).max(axis=1)
        kept_overlaps.append(best.mean())
        kept_fractions.append(len(kept) / len(their_kept))
    found = {
        "jaccard_mean": round(float(np.mean(jaccard)), 5),
        "jaccard_min": round(float(np.min(jaccard)), 5),
        "images_with_identical_sets": int(sum(value == 1 for value in jaccard)),
        "images_with_identical_order": int(sum(same_order)),
        "images": len(images),
        "their_rois_best_overlap_mean": round(float(np.mean(kept_overlaps)), 4),
        "rois_over_theirs_mean": round(float(np.mean(kept_fractions)), 4),
    }
    if objects is not None:
        for name, which in (("ours", 0), ("opencv", 1)):
            best = [_best_overlaps(pair[which], wanted) for pair, wanted in zip(pairs, objects)]
            found[f"objects_best_overlap_{name}"] = round(float(np.concatenate(best).mean()), 5)
            rois = [_filtered(pair[which], image) for image, pair in zip(images, pairs)]
            best = [_best_overlaps(kept, wanted) for kept, wanted in zip(rois, objects)]
            found[f"objects_best_overlap_after_filter_{name}"] = round(float(np.concatenate(best).mean()), 5)
        found["objects"] = int(sum(map(len, objects)))
    return found


def _filtered(boxes: np.ndarray, image: np.ndarray) -> np.ndarray:
    height, width, _ = image.shape
    return filter_proposals(boxes, (width, height), min_side_px=MIN_SIDE_FRACTION * min(height, width))


def _best_overlaps(boxes: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return box_arithmetic.iou(wanted, boxes).max(axis=1) if len(wanted) else np.empty(0)


def _threads(images: list[np.ndarray], num_threads: int) -> dict[str, Any]:
    """Time the same images with one thread and with several."""

    def search_all(threads: int) -> list[np.ndarray]:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(lambda image: selective_search(image, SEED), images))

    same = all(map(np.array_equal, search_all(1), search_all(num_threads)))
    many_s, one_s = compare.interleaved(lambda: search_all(num_threads), lambda: search_all(1), runs=3)
    return compare.result(
        f"selective search, {num_threads} threads",
        "one thread",
        compare.ratios(many_s, one_s),
        {"identical": same},
        threads=num_threads,
        images=len(images),
    )


def _timed(search: Any) -> tuple[np.ndarray, float]:
    started = time.perf_counter()
    found = search()
    return found, time.perf_counter() - started


if __name__ == "__main__":
    main()
