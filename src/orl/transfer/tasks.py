"""One function a judge: from a subject and labelled photos to the JSON that is written."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
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
from orl.transfer.judge import Features, Keep, embed_labelled, judge_knn, judge_low_shot, judge_svm
from orl.transfer.knn import check_votes
from orl.transfer.low_shot import check_shots
from orl.transfer.place import Place, finished, write_result
from orl.transfer.scores import unseen_classes
from orl.transfer.settings import KnnSettings, LowShotSettings, SvmSettings
from orl.transfer.subject import Subject
from orl.transfer.svm import unusable_classes
from orl.transfer.voc_photos import LabelledPhotos, VocPhotos

logger = logging.getLogger(__name__)

VOC07_PHOTOS = (5011, 4952)
"""Of trainval and of test."""
VOC07_CLASSES = 20

Result = dict[str, Any]
Settings = SvmSettings | LowShotSettings | KnnSettings


def run_svm(subject: Subject, photos: VocPhotos, settings: SvmSettings, place: Place) -> Result:
    """The VOC07 protocol: linear SVMs on frozen features; `judge_svm`."""

    def judge(features: Features) -> Result:
        return judge_svm(
            features, subject.label, solver=settings.solver, workers=place.workers, seed=place.seed, quiet=place.quiet
        )

    is_drawn = settings.solver == "liblinear"
    return _judge_photos(subject, photos, place, judge, settings, seed=place.seed if is_drawn else None)


def run_low_shot(subject: Subject, photos: VocPhotos, settings: LowShotSettings, place: Place) -> Result:
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

    return _judge_photos(subject, photos, place, judge, settings, seed=place.seed)


def run_knn(subject: Subject, photos: VocPhotos, settings: KnnSettings, place: Place) -> Result:
    """Weighted nearest neighbours; `judge_knn`."""

    def judge(features: Features) -> Result:
        return judge_knn(features, subject.label, k=settings.k, temperature=settings.temperature, quiet=place.quiet)

    return _judge_photos(subject, photos, place, judge, settings, seed=None)


def run_linear(
    subject: Subject, data: Path, settings: LinearSettings, place: Place, processes: Processes
) -> Result | None:
    """A linear layer on frozen features, with ImageNet's, Places205's or iNaturalist's epochs; `judge_linear`."""
    train, val = read_pair(data, settings.dataset)
    return judge_linear(subject, train, val, settings, place, processes)


def run_estimate(subject: Subject, data: Path, settings: LinearSettings, place: Place) -> Result:
    """The fast estimate of the linear score, from features that are computed once; `estimate_linear`."""
    train, val = read_pair(data, settings.dataset)
    return estimate_linear(subject, train, val, place, dataset=settings.dataset, size_px=settings.size_px)


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


def check_photos(train: LabelledPhotos, test: LabelledPhotos, settings: Settings) -> dict[str, str]:
    """Whether a judge can work on these photos, known from their labels alone.

    Returns:
        Classes that it will leave out, with the reason.

    Raises:
        ValueError: if it cannot work.
    """
    if isinstance(settings, SvmSettings):
        return unusable_classes(train.labels, test.labels, train.classes)
    if isinstance(settings, LowShotSettings):
        check_shots(train.labels, train.classes, settings.shots, settings.num_samples)
    else:
        check_votes(settings.k, settings.temperature, len(train.names))
    return unseen_classes(test.labels, train.classes)


def _judge_photos(
    subject: Subject,
    photos: VocPhotos,
    place: Place,
    judge: Callable[[Features], Result],
    settings: Settings,
    seed: int | None,
) -> Result:
    """Refuse what cannot be judged, embed what is not embedded yet, judge, write."""
    check_photos(*photos.listed, settings)
    made_from = {
        "backbone": subject.digest,
        "photos": [each.identity for each in photos.listed],
        "size_px": photos.settings.size_px,
        **asdict(settings),
        **({} if seed is None else {"seed": seed}),
    }
    found = finished(place, made_from)
    if found is not None:
        return found
    train, test = photos.readable
    for name, reason in check_photos(train, test, settings).items():
        logger.warning("class %r is left out: %s", name, reason)
    size_px = photos.settings.size_px
    folder = place.result.with_name(f"features_{photos.data.resolve().name}_{size_px}px_{subject.digest[:8]}")
    features = embed_labelled(
        subject.network,
        train,
        test,
        size_px=size_px,
        device=compute_device(place.device),
        workers=place.workers,
        quiet=place.quiet,
        keep=Keep(folder=folder, digest=subject.digest, overwrite=place.overwrite),
    )
    result = judge(features)
    departures = [*subject.departures, *_departures(photos, settings, result)]
    return write_result(place, {**result, "departures": departures}, made_from)


def _departures(photos: VocPhotos, settings: Settings, result: Mapping[str, Any]) -> list[str]:
    """What is not as in the protocol."""
    train, test = photos.readable
    size_px, usual_px = photos.settings.size_px, type(photos.settings).size_px
    found = [] if size_px == usual_px else [f"{size_px} px, not {usual_px}"]
    if len(train.classes) != VOC07_CLASSES:
        found.append(f"{len(train.classes)} classes, not {VOC07_CLASSES}")
    counts = (len(train.names), len(test.names))
    if counts != VOC07_PHOTOS:
        found.append(f"{counts[0]:,} photos to learn from and {counts[1]:,} to be scored, not VOC07's 5,011 and 4,952")
    for name, value, usual in (
        (field.name, getattr(settings, field.name), field.default) for field in fields(settings)
    ):
        # Other shots are other columns and another k another table; either solver finds the same SVMs.
        if value != usual and name not in ("shots", "k", "solver"):
            found.append(f"{name} {value:g}, not {usual:g}")
    if result["skipped"]:
        found.append(f"{len(result['skipped'])} classes without a score: {', '.join(sorted(result['skipped'])[:3])}")
    if result["num_rejected"]:
        found.append(f"{result['num_rejected']} photos that cannot be read")
    if result.get("num_unconverged"):
        found.append(f"{result['num_unconverged']} fits stopped by the limit on iterations")
    return found
