"""Judge a backbone by a detector that is trained on it: COCO with boxes and masks, VOC with boxes."""

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from orl import provenance
from orl.datasets.labelled_fingerprint import labelled_fingerprint
from orl.evaluation.detection.coco_metrics import coco_scores
from orl.evaluation.detection.configs import COCO, VOC, DetectionConfig, Plan, Protocol, plan_training
from orl.evaluation.detection.datasets import DetectionDataset, without_empty
from orl.evaluation.detection.detections import Detections
from orl.evaluation.detection.model import require_resnet
from orl.evaluation.detection.predict import predict
from orl.evaluation.detection.results_file import read_detections, write_detections
from orl.evaluation.detection.samples import TrainingRules, check_sizes
from orl.evaluation.detection.train import MAX_UNREADABLE_FRACTION, Course, build_training_step, train_detector
from orl.evaluation.detection.voc_metrics import voc_scores
from orl.evaluation.evaluated_backbone import EvaluatedBackbone
from orl.evaluation.output import EvaluationOutput, finished, write_result
from orl.processes import Processes, local_device
from orl.training.fabric import launch_fabric
from orl.training.loop import TrainOptions

YEARS_BY_AREA = ("VOC2010", "VOC2011", "VOC2012")
"""Devkits that take the area of the whole curve, where the earlier ones take 11 points."""

Result = dict[str, Any]
Score = Callable[[DetectionDataset, Detections, bool], Result]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What differs between COCO and VOC."""

    name: str
    protocol: Protocol
    score: Score
    size: tuple[int, int, int]
    """Of the published set: images to learn from, images to score, classes."""


def evaluate_detection(
    subject: EvaluatedBackbone,
    train: DetectionDataset,
    val: DetectionDataset,
    settings: DetectionConfig,
    place: EvaluationOutput,
    processes: Processes,
) -> Result | None:
    """COCO: Mask R-CNN trained from a backbone, AP of boxes and masks.

    Args:
        subject: a ResNet of ours.
        train: images to learn from; those without an object that is no crowd are left out.
        val: images to score.
        settings: of detector, training and test.
        place: where the result goes; checkpoints and detections go to the folder beside it.
        processes: train and detect together.

    Returns:
        What was written; none in a process that is not the first.

    Raises:
        ValueError: if the backbone, the sets or the settings do not allow it; before anything is trained.
        StaleResultError: if the place holds the result of something else.
        RuntimeError: as `train`.
        Stopped: after Ctrl-C or a signal; the same call goes on.

    Source:
        ORL's supplementary A; Detectron2's Mask R-CNN R50-FPN, with batch normalisation as in MoCo (arXiv 1911.05722).
    """
    task = Task(name="detect", protocol=COCO, score=_coco_result, size=(117_266, 5_000, 80))
    if settings.masks:
        for images in (train, val):
            if images.segmentations is None:
                raise ValueError(f"the images of {images.root} have no masks; detect boxes alone with --no-masks")
    return _judge(task, subject, train, val, settings, place, processes)


def evaluate_voc_detection(
    subject: EvaluatedBackbone,
    train: DetectionDataset,
    test: DetectionDataset,
    settings: DetectionConfig,
    place: EvaluationOutput,
    processes: Processes,
) -> Result | None:
    """VOC: Faster R-CNN trained from a backbone, AP of boxes; arguments and errors as of `judge_detection`.

    MoCo's protocol of 24,000 steps, with the feature pyramid of COCO's detector where MoCo takes the fourth stage
    (R50-C4): scores are not comparable with MoCo's.

    Source:
        MoCo (arXiv 1911.05722), Section 4.2.1, for schedule and sizes; Detectron2 for learning difficult objects too.
    """
    task = Task(name="detect-voc", protocol=VOC, score=_voc_result, size=(16_551, 4_952, 20))
    all_learnt = replace(train, ignored=tuple(np.zeros_like(ignored) for ignored in train.ignored))
    return _judge(task, subject, all_learnt, test, replace(settings, masks=False), place, processes)


def _judge(
    task: Task,
    subject: EvaluatedBackbone,
    train: DetectionDataset,
    val: DetectionDataset,
    settings: DetectionConfig,
    place: EvaluationOutput,
    processes: Processes,
) -> Result | None:
    require_resnet(subject.network)
    plan = plan_training(settings, task.protocol)
    rules = TrainingRules(
        short_sides_px=plan.short_sides_px,
        longest_px=settings.longest_px,
        masks=settings.masks,
    )
    learnt = without_empty(train)
    course = Course(images=learnt, settings=settings, plan=plan, rules=rules, seed=place.seed)
    _check(course, val, processes)
    processes.from_first(lambda: check_sizes(val), "the look at the images to score")
    inputs = {
        "backbone": subject.digest,
        "train": _fingerprint(learnt),
        "val": _fingerprint(val),
        "settings": asdict(settings),
        "seed": place.seed,
        "precision": place.precision,
    }
    found = processes.from_first(lambda: finished(place, inputs), "the result that may be there")
    if found is not None:
        return found if processes.is_first else None
    started = time.monotonic()
    path = _detect(subject, course, val, inputs, place, processes)
    if not processes.is_first:
        return None
    # As read from the file always, so that a judge that went on from there scores the same to the last bit.
    detections = read_detections(path, val)
    result = {
        "task": task.name,
        **task.score(val, detections, settings.masks),
        "backbone": subject.label,
        "data": str(val.root),
        "schedule": _schedule(settings, plan),
        **asdict(plan),
        "settings": asdict(settings),
        "protocol_deviations": [*subject.protocol_deviations, *_dataset_deviations(task.size, learnt, val)],
        "num_train": len(learnt),
        "num_test": len(val),
        "num_processes": processes.count,
        "elapsed_s": round(time.monotonic() - started, 1),
    }
    return write_result(place, result, inputs)


def _detect(
    subject: EvaluatedBackbone,
    course: Course,
    val: DetectionDataset,
    inputs: Mapping[str, Any],
    place: EvaluationOutput,
    processes: Processes,
) -> Path:
    """Train and detect, if that is not done; the file of the detections, which the first process has written."""
    learnt_from = {key: value for key, value in inputs.items() if key != "val"}
    if processes.is_first:
        # Images to be scored may be mended when all is learnt.
        provenance.claim(place.folder, learnt_from, place.overwrite)
    processes.wait("the folder of the detector")
    path = place.folder / f"detections_{provenance.fingerprint({'val': inputs['val']})}.json"
    if not processes.gather(int(path.exists()))[0][0]:
        fabric = launch_fabric(local_device(place.device), place.precision, processes)
        training_step = build_training_step(subject.network, course, fabric)
        options = TrainOptions(
            folder=place.folder,
            title="detector",
            workers=place.workers,
            checkpoint_minutes=place.checkpoint_minutes,
            unreadable_hint=f"{MAX_UNREADABLE_FRACTION:.0%} of them, or one",
            max_unreadable=math.ceil(MAX_UNREADABLE_FRACTION * len(course.images)),
            out_of_memory_hint="Start more processes, or take a smaller --batch-size, which lr and steps follow",
        )
        train_detector(training_step, course, options, processes)
        settings, workers = course.settings, place.workers
        found = predict(training_step.network, val, settings, processes, workers=workers, quiet=place.quiet)
        if processes.is_first:
            write_detections(path, found, val)
    return path


def _dataset_deviations(size: tuple[int, int, int], learnt: DetectionDataset, val: DetectionDataset) -> list[str]:
    parts = ("images with objects to learn from", "images to score", "classes")
    own = (len(learnt), len(val), len(val.classes))
    return [f"{count:,} {part}, not {usual:,}" for count, part, usual in zip(own, parts, size) if count != usual]


def _schedule(settings: DetectionConfig, plan: Plan) -> str:
    """Its name where all else is the protocol's too, so that nothing else stands beside published scores."""
    protocol = DetectionConfig(schedule=settings.schedule, batch_size=settings.batch_size)
    is_protocol = replace(settings, masks=protocol.masks) == protocol
    return settings.schedule if is_protocol else f"own settings, {plan.num_steps} steps"


def _check(course: Course, val: DetectionDataset, processes: Processes) -> None:
    """Refuse what would fail after hours."""
    train, batch_size = course.images, course.settings.batch_size
    if train.classes != val.classes:
        raise ValueError(
            f"the classes of {train.root} and {val.root} differ: {_differing(train.classes, val.classes)}; give two "
            "splits of one set"
        )
    roots = train.root.resolve(), val.root.resolve()
    learnt, scored = ({f"{root}/{name}" for name in images.names} for root, images in zip(roots, (train, val)))
    if shared := sorted(learnt & scored):
        raise ValueError(
            f"{len(shared)} images are learnt from and scored, such as {shared[0]}: a score on images that were learnt "
            "from says nothing; give two splits that share none"
        )
    if batch_size > len(train):
        raise ValueError(
            f"a batch of {batch_size} needs as many images, and {len(train)} of {train.root} have objects; set a "
            "smaller --batch-size"
        )
    if batch_size % processes.count:
        raise ValueError(
            f"a batch of {batch_size} cannot be shared evenly by {processes.count} processes; set another --batch-size"
        )
    if all(ignored.all() for ignored in val.ignored):
        raise ValueError(
            f"0 of the {len(val)} images to score in {val.root} have an object that counts; take another split"
        )


def _differing(classes: tuple[str, ...], others: tuple[str, ...]) -> str:
    one_sided = sorted({*classes} ^ {*others})
    return ", ".join(one_sided[:5]) or "they are in another order"


def _fingerprint(images: DetectionDataset) -> str:
    """Changes with the images and with what is in them; not with their folder."""
    numbers = np.array([*zip(images.image_ids, *zip(*images.sizes_wh))])
    labels = (numbers, *images.boxes, *images.box_classes, *images.ignored, *(images.areas or ()))
    masks = hashlib.sha256(repr(images.segmentations).encode()).hexdigest()
    return f"{labelled_fingerprint(images.root, images.names, images.classes, labels)} {masks}"


def _coco_result(images: DetectionDataset, detections: Detections, with_masks: bool) -> Result:
    box, box_per_class = coco_scores(images, detections, "bbox")
    mask, mask_per_class = coco_scores(images, detections, "segm") if with_masks else (None, None)
    return {"box": box, "mask": mask, "box_per_class": box_per_class, "mask_per_class": mask_per_class}


def _voc_result(images: DetectionDataset, detections: Detections, with_masks: bool) -> Result:
    assert not with_masks
    by_points = images.root.name not in YEARS_BY_AREA
    scores = voc_scores(images, detections, eleven_points=by_points)
    return {"box": scores, "average_precision": "at 11 recalls" if by_points else "area of the curve"}
