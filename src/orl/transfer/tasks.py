"""One function a judge: from a subject and a path to the JSON that is written."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orl.images.class_folders import read_pair
from orl.networks.device import compute_device
from orl.processes import Processes
from orl.transfer.classification.cached import estimate_linear
from orl.transfer.classification.linear import judge_linear
from orl.transfer.classification.semi import judge_semi
from orl.transfer.classification.settings import LinearSettings, SemiSettings
from orl.transfer.detection.judge import judge_detection, judge_voc_detection
from orl.transfer.detection.photos import read_coco_detection, read_voc_detection
from orl.transfer.detection.settings import DetectSettings
from orl.transfer.judge import (
    Features,
    Keep,
    LabelledPhotos,
    check_same_classes,
    embed_labelled,
    judge_knn,
    judge_low_shot,
    judge_svm,
    read_labelled,
)
from orl.transfer.knn import check_neighbours
from orl.transfer.low_shot import check_shots
from orl.transfer.place import Place, finished, write_result
from orl.transfer.settings import KnnSettings, LowShotSettings, SvmSettings, VocSettings
from orl.transfer.subject import Subject

VOC07_PHOTOS = (5011, 4952)
"""Of trainval and of test."""

Judge = Callable[[Features], dict[str, Any]]
Result = dict[str, Any]


def run_svm(subject: Subject, data: Path, voc: VocSettings, settings: SvmSettings, place: Place) -> Result:
    """The VOC07 protocol: linear SVMs on frozen features; `judge_svm`."""

    def judge(features: Features) -> Result:
        return judge_svm(
            features, subject.label, solver=settings.solver, workers=place.workers, seed=place.seed, quiet=place.quiet
        )

    return _judge_photos(subject, data, voc, place, judge, asdict(settings))


def run_low_shot(subject: Subject, data: Path, voc: VocSettings, settings: LowShotSettings, place: Place) -> Result:
    """The VOC07 protocol with few photos of each class; `judge_low_shot`."""

    def judge(features: Features) -> Result:
        return judge_low_shot(
            features,
            subject.label,
            shots=settings.shots,
            num_samples=settings.num_samples,
            seed=place.seed,
            quiet=place.quiet,
        )

    def check(train: LabelledPhotos) -> None:
        check_shots(train.labels, train.classes, settings.shots)

    return _judge_photos(subject, data, voc, place, judge, asdict(settings), check)


def run_knn(subject: Subject, data: Path, voc: VocSettings, settings: KnnSettings, place: Place) -> Result:
    """Weighted nearest neighbours; `judge_knn`."""

    def judge(features: Features) -> Result:
        return judge_knn(features, subject.label, k=settings.k, temperature=settings.temperature, quiet=place.quiet)

    def check(train: LabelledPhotos) -> None:
        check_neighbours(settings.k, len(train.paths))

    return _judge_photos(subject, data, voc, place, judge, asdict(settings), check)


def run_linear(
    subject: Subject, data: Path, settings: LinearSettings, place: Place, processes: Processes
) -> Result | None:
    """A linear layer on frozen features, with ImageNet's, Places205's or iNaturalist's epochs; `judge_linear`."""
    train, val = read_pair(data, settings.dataset)
    return judge_linear(subject, train, val, settings, place, processes)


def run_estimate(subject: Subject, data: Path, settings: LinearSettings, place: Place) -> Result:
    """The fast estimate of the linear score, from features that are computed once; `estimate_linear`."""
    train, val = read_pair(data, settings.dataset)
    return estimate_linear(subject, train, val, place, size_px=settings.size_px)


def run_semi(subject: Subject, data: Path, settings: SemiSettings, place: Place, processes: Processes) -> Result | None:
    """All weights trained on a share of the labels; `judge_semi`."""
    train, val = read_pair(data, settings.dataset)
    return judge_semi(subject, train, val, settings, place, processes)


def run_detect(
    subject: Subject, data: Path, splits: tuple[str, str], settings: DetectSettings, place: Place, processes: Processes
) -> Result | None:
    """Mask R-CNN on a set in COCO's layout; `judge_detection`."""
    train, val = (read_coco_detection(data, split, needs_masks=settings.masks) for split in splits)
    return judge_detection(subject, train, val, settings, place, processes)


def run_detect_voc(
    subject: Subject,
    train_data: tuple[Path, ...],
    test_data: Path,
    splits: tuple[str, str],
    settings: DetectSettings,
    place: Place,
    processes: Processes,
) -> Result | None:
    """Faster R-CNN on VOC devkits; `judge_voc_detection`."""
    train, test = read_voc_detection(train_data, splits[0]), read_voc_detection((test_data,), splits[1])
    return judge_voc_detection(subject, train, test, settings, place, processes)


def _judge_photos(
    subject: Subject,
    data: Path,
    voc: VocSettings,
    place: Place,
    judge: Judge,
    settings: Mapping[str, Any],
    check: Callable[[LabelledPhotos], None] = lambda train: None,
) -> Result:
    """Read both splits, refuse what cannot be judged, embed what is not embedded yet, judge, write."""
    train, test = (
        read_labelled(data, split, workers=place.workers, quiet=place.quiet)
        for split in (voc.train_split, voc.test_split)
    )
    check_same_classes(train, test)
    check(train)
    made_from = {"backbone": subject.digest, "photos": [_identity(train), _identity(test)], "size_px": voc.size_px}
    made_from |= {"seed": place.seed, **settings}
    found = finished(place, made_from)
    if found is not None:
        return found
    folder = place.result.with_name(f"features_{data.resolve().name}_{voc.size_px}px")
    features = embed_labelled(
        subject.network,
        train,
        test,
        size_px=voc.size_px,
        device=compute_device(place.device),
        workers=place.workers,
        quiet=place.quiet,
        keep=Keep(folder=folder, digest=subject.digest, overwrite=place.overwrite),
    )
    return write_result(place, {**judge(features), "departures": _departures(train, test, voc)}, made_from)


def _departures(train: LabelledPhotos, test: LabelledPhotos, voc: VocSettings) -> list[str]:
    """What is not as in the protocol."""
    found = [] if voc.size_px == VocSettings.size_px else [f"{voc.size_px} px, not {VocSettings.size_px}"]
    counts = (len(train.paths), len(test.paths))
    if counts != VOC07_PHOTOS:
        found.append(f"{counts[0]:,} photos to learn from and {counts[1]:,} to be scored, not VOC07's 5,011 and 4,952")
    return found


def _identity(photos: LabelledPhotos) -> str:
    digest = hashlib.sha256("\n".join([*photos.classes, *(path.name for path in photos.paths)]).encode())
    digest.update(photos.labels.tobytes())
    return digest.hexdigest()
