"""One function a judge: from a subject and labelled images to the JSON that is written."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from orl.datasets.class_folders import read_train_val
from orl.evaluation.average_precision import unseen_classes
from orl.evaluation.classification.configs import LinearConfig, SemiConfig
from orl.evaluation.classification.linear import evaluate_linear
from orl.evaluation.classification.linear_estimate import estimate_linear
from orl.evaluation.classification.semi import evaluate_semi
from orl.evaluation.configs import KnnSettings, LowShotSettings, SvmSettings
from orl.evaluation.detection.configs import DetectionConfig
from orl.evaluation.detection.datasets import read_coco_detection, read_voc_detection
from orl.evaluation.detection.evaluate import evaluate_detection, evaluate_voc_detection
from orl.evaluation.evaluated_backbone import EvaluatedBackbone
from orl.evaluation.knn import check_votes
from orl.evaluation.low_shot import check_shots
from orl.evaluation.output import EvaluationOutput, finished, write_result
from orl.evaluation.svm import unusable_classes
from orl.evaluation.voc07 import FeatureCache, Features, embed_labelled, evaluate_knn, evaluate_low_shot, evaluate_svm
from orl.evaluation.voc_dataset import LabelledImages, VocDataset
from orl.networks.device import compute_device
from orl.processes import Processes

logger = logging.getLogger(__name__)

VOC07_IMAGES = (5011, 4952)
"""Of trainval and of test."""
VOC07_CLASSES = 20

Result = dict[str, Any]
Settings = SvmSettings | LowShotSettings | KnnSettings


def run_svm(subject: EvaluatedBackbone, images: VocDataset, settings: SvmSettings, place: EvaluationOutput) -> Result:
    """The VOC07 protocol: linear SVMs on frozen features; `judge_svm`."""

    def judge(features: Features) -> Result:
        return evaluate_svm(
            features, subject.label, solver=settings.solver, workers=place.workers, seed=place.seed, quiet=place.quiet
        )

    is_drawn = settings.solver == "liblinear"
    return _judge_images(subject, images, place, judge, settings, seed=place.seed if is_drawn else None)


def run_low_shot(
    subject: EvaluatedBackbone, images: VocDataset, settings: LowShotSettings, place: EvaluationOutput
) -> Result:
    """The VOC07 protocol with few images of each class; `judge_low_shot`."""

    def judge(features: Features) -> Result:
        return evaluate_low_shot(
            features,
            subject.label,
            shots=settings.shots,
            num_samples=settings.num_samples,
            seed=place.seed,
            quiet=place.quiet,
        )

    return _judge_images(subject, images, place, judge, settings, seed=place.seed)


def run_knn(subject: EvaluatedBackbone, images: VocDataset, settings: KnnSettings, place: EvaluationOutput) -> Result:
    """Weighted nearest neighbours; `judge_knn`."""

    def judge(features: Features) -> Result:
        return evaluate_knn(features, subject.label, k=settings.k, temperature=settings.temperature, quiet=place.quiet)

    return _judge_images(subject, images, place, judge, settings, seed=None)


def run_linear(
    subject: EvaluatedBackbone, data: Path, settings: LinearConfig, place: EvaluationOutput, processes: Processes
) -> Result | None:
    """A linear layer on frozen features, with ImageNet's, Places205's or iNaturalist's epochs; `judge_linear`."""
    train, val = read_train_val(data, settings.dataset)
    return evaluate_linear(subject, train, val, settings, place, processes)


def run_estimate(subject: EvaluatedBackbone, data: Path, settings: LinearConfig, place: EvaluationOutput) -> Result:
    """The fast estimate of the linear score, from features that are computed once; `estimate_linear`."""
    train, val = read_train_val(data, settings.dataset)
    return estimate_linear(subject, train, val, place, dataset=settings.dataset, size_px=settings.size_px)


def run_semi(
    subject: EvaluatedBackbone, data: Path, settings: SemiConfig, place: EvaluationOutput, processes: Processes
) -> Result | None:
    """All weights trained on a share of the labels; `judge_semi`."""
    train, val = read_train_val(data, settings.dataset)
    return evaluate_semi(subject, train, val, settings, place, processes)


def run_detect(
    subject: EvaluatedBackbone,
    data: Path,
    splits: tuple[str, str],
    settings: DetectionConfig,
    place: EvaluationOutput,
    processes: Processes,
) -> Result | None:
    """Mask R-CNN on a set in COCO's layout; `judge_detection`."""
    train, val = (read_coco_detection(data, split, needs_masks=settings.masks) for split in splits)
    return evaluate_detection(subject, train, val, settings, place, processes)


def run_detect_voc(
    subject: EvaluatedBackbone,
    train_data: tuple[Path, ...],
    test_data: Path,
    splits: tuple[str, str],
    settings: DetectionConfig,
    place: EvaluationOutput,
    processes: Processes,
) -> Result | None:
    """Faster R-CNN on VOC devkits; `judge_voc_detection`."""
    train, test = read_voc_detection(train_data, splits[0]), read_voc_detection((test_data,), splits[1])
    return evaluate_voc_detection(subject, train, test, settings, place, processes)


def check_images(train: LabelledImages, test: LabelledImages, settings: Settings) -> dict[str, str]:
    """Whether a judge can work on these images, known from their labels alone.

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


def _judge_images(
    subject: EvaluatedBackbone,
    images: VocDataset,
    place: EvaluationOutput,
    judge: Callable[[Features], Result],
    settings: Settings,
    seed: int | None,
) -> Result:
    """Refuse what cannot be judged, embed what is not embedded yet, judge, write."""
    check_images(*images.listed, settings)
    inputs = {
        "backbone": subject.digest,
        "images": [each.fingerprint for each in images.listed],
        "size_px": images.settings.size_px,
        **asdict(settings),
        **({} if seed is None else {"seed": seed}),
    }
    found = finished(place, inputs)
    if found is not None:
        return found
    train, test = images.readable
    for name, reason in check_images(train, test, settings).items():
        logger.warning("class %r is left out: %s", name, reason)
    size_px = images.settings.size_px
    folder = place.result.with_name(f"features_{images.data.resolve().name}_{size_px}px_{subject.digest[:8]}")
    features = embed_labelled(
        subject.network,
        train,
        test,
        size_px=size_px,
        device=compute_device(place.device),
        workers=place.workers,
        quiet=place.quiet,
        keep=FeatureCache(folder=folder, digest=subject.digest, overwrite=place.overwrite),
    )
    result = judge(features)
    protocol_deviations = [*subject.protocol_deviations, *_protocol_deviations(images, settings, result)]
    return write_result(place, {**result, "protocol_deviations": protocol_deviations}, inputs)


def _protocol_deviations(images: VocDataset, settings: Settings, result: Mapping[str, Any]) -> list[str]:
    """What is not as in the protocol."""
    train, test = images.readable
    size_px, usual_px = images.settings.size_px, type(images.settings).size_px
    found = [] if size_px == usual_px else [f"{size_px} px, not {usual_px}"]
    if len(train.classes) != VOC07_CLASSES:
        found.append(f"{len(train.classes)} classes, not {VOC07_CLASSES}")
    counts = (len(train.names), len(test.names))
    if counts != VOC07_IMAGES:
        found.append(f"{counts[0]:,} images to learn from and {counts[1]:,} to be scored, not VOC07's 5,011 and 4,952")
    for name, value, usual in (
        (field.name, getattr(settings, field.name), field.default) for field in fields(settings)
    ):
        # Other shots are other columns and another k another table; either solver finds the same SVMs.
        if value != usual and name not in ("shots", "k", "solver"):
            found.append(f"{name} {value:g}, not {usual:g}")
    if result["skipped"]:
        found.append(f"{len(result['skipped'])} classes without a score: {', '.join(sorted(result['skipped'])[:3])}")
    if result["num_rejected"]:
        found.append(f"{result['num_rejected']} images that cannot be read")
    if result.get("num_unconverged"):
        found.append(f"{result['num_unconverged']} fits stopped by the limit on iterations")
    return found
