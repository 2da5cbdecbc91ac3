"""Training, detection and scoring of a detector, common to COCO and VOC: checks, resume, result."""

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from orl import provenance
from orl.datasets.labelled_fingerprint import labelled_fingerprint
from orl.evaluation.detection.config import DetectionConfig, DetectionSchedule, TrainingPlan, plan_training
from orl.evaluation.detection.datasets import DetectionDataset, without_empty
from orl.evaluation.detection.detections import Detections
from orl.evaluation.detection.model import require_resnet
from orl.evaluation.detection.predict import predict
from orl.evaluation.detection.results_file import read_detections, write_detections
from orl.evaluation.detection.samples import check_sizes
from orl.evaluation.detection.train import DetectorTraining, build_training_step, train_detector
from orl.evaluation.evaluated_backbone import EvaluatedBackbone
from orl.evaluation.output import EvaluationOutput, finished, write_result
from orl.evaluation.protocol import Result
from orl.processes import Processes, local_device
from orl.training.fabric import launch_fabric


@dataclass(frozen=True, kw_only=True)
class DetectionBenchmark:
    """A published benchmark of detection."""

    name: str
    """Name of the evaluation."""
    schedule: DetectionSchedule
    score: Callable[[DetectionDataset, Detections, bool], dict[str, Any]]
    """Function from images, detections and whether there are masks to the scores of the result."""
    num_train: int
    num_test: int
    num_classes: int


def evaluate_detector(
    benchmark: DetectionBenchmark,
    backbone: EvaluatedBackbone,
    train: DetectionDataset,
    val: DetectionDataset,
    config: DetectionConfig,
    output: EvaluationOutput,
    processes: Processes,
) -> Result | None:
    """Train a detector on a backbone, detect in the images to score, and write the scores.

    Checkpoints and detections go to the output's folder; after an interruption the same call resumes from them.

    Args:
        benchmark: schedule, metrics and published sizes.
        backbone: an orl ResNet.
        train: images to train on; those whose objects are all ignored are left out.
        val: images to score.
        config: options of detector, training and test.
        output: file and options of the work.
        processes: joined processes, which train and detect together.

    Returns:
        The result; None in all processes but the first.

    Raises:
        ValueError: if backbone, data or config do not allow it, before the training.
        StaleResultError: if the output has a result of other inputs.
        RuntimeError: if training fails, or an image to score cannot be read.
        Stopped: after Ctrl-C or a signal; the same call resumes.
    """
    require_resnet(backbone.network)
    check_detection_splits(train, val, config)
    if config.batch_size % processes.count:
        raise ValueError(
            f"a batch of {config.batch_size} cannot be divided evenly over {processes.count} processes; give another "
            "--batch-size"
        )
    processes.from_first(lambda: check_sizes(val), "the check of the images to score")
    plan = plan_training(config, benchmark.schedule)
    training = DetectorTraining(images=without_empty(train), config=config, plan=plan, seed=output.seed)
    inputs = {
        "backbone": backbone.digest,
        "train": dataset_fingerprint(training.images),
        "val": dataset_fingerprint(val),
        "config": asdict(config),
        "seed": output.seed,
        "precision": output.precision,
    }
    result = processes.from_first(lambda: finished(output, inputs), "the search for a finished result")
    if result is not None:
        return result if processes.is_first else None
    started = time.monotonic()
    path = _train_and_detect(backbone, training, val, inputs, output, processes)
    if not processes.is_first:
        return None
    # Always read from the file, so that an interrupted evaluation gives the same scores to the last bit.
    detections = read_detections(path, val)
    result = {
        "task": benchmark.name,
        **benchmark.score(val, detections, config.masks),
        "backbone": backbone.label,
        "data": str(val.root),
        "schedule": schedule_name(config, plan),
        **asdict(plan),
        "config": asdict(config),
        "protocol_deviations": [
            *backbone.protocol_deviations,
            *_dataset_deviations(benchmark, training.images, val),
        ],
        "num_train": len(training.images),
        "num_test": len(val),
        "num_processes": processes.count,
        "elapsed_s": round(time.monotonic() - started, 1),
    }
    return write_result(output, result, inputs)


def check_detection_splits(train: DetectionDataset, val: DetectionDataset, config: DetectionConfig) -> None:
    """Check that a detector can be trained on one split and scored on the other.

    Raises:
        ValueError: if the splits differ in classes or share images, masks are missing, the batch is larger than the
            training split, or no object to score counts.
    """
    for images in (train, val):
        if config.masks and images.segmentations is None:
            raise ValueError(f"the images of {images.root} have no masks; detect boxes alone with --no-masks")
    if train.classes != val.classes:
        differing = sorted({*train.classes} ^ {*val.classes})
        raise ValueError(
            f"the classes of {train.root} and {val.root} differ: "
            f"{', '.join(differing[:5]) or 'they are in another order'}; give two splits of one data set"
        )
    names = [{f"{images.root.resolve()}/{name}" for name in images.names} for images in (train, val)]
    if shared := sorted(names[0] & names[1]):
        raise ValueError(
            f"{len(shared)} images are trained on and scored, such as {shared[0]}: give two splits that share none"
        )
    num_train = len(without_empty(train))
    if config.batch_size > num_train:
        raise ValueError(
            f"a batch of {config.batch_size} needs as many images, but {num_train} of {train.root} have objects; give "
            "a smaller --batch-size"
        )
    if all(ignored.all() for ignored in val.ignored):
        raise ValueError(
            f"0 of the {len(val)} images to score in {val.root} have an object that counts; give another split"
        )


def _train_and_detect(
    backbone: EvaluatedBackbone,
    training: DetectorTraining,
    val: DetectionDataset,
    inputs: Mapping[str, Any],
    output: EvaluationOutput,
    processes: Processes,
) -> Path:
    """Train and detect, if that is not finished; return the file of the detections, which the first process writes."""
    if processes.is_first:
        # Test images are no input of the training: they may be repaired after it.
        training_inputs = {key: value for key, value in inputs.items() if key != "val"}
        provenance.claim(output.folder, training_inputs, output.overwrite)
    processes.wait("the folder of the detector")
    path = output.folder / f"detections_{provenance.fingerprint({'val': inputs['val']})}.json"
    if not processes.gather(int(path.exists()))[0][0]:
        fabric = launch_fabric(local_device(output.device), output.precision, processes)
        training_step = build_training_step(backbone.network, training, fabric)
        hint = "Start more processes, or use a smaller --batch-size, which lr and steps follow"
        options = output.train_options("detector", len(training.images), hint)
        train_detector(training_step, training, options, processes)
        detections = predict(
            training_step.network, val, training.config, processes, workers=output.workers, quiet=output.quiet
        )
        if processes.is_first:
            write_detections(path, detections, val)
    return path


def _dataset_deviations(benchmark: DetectionBenchmark, train: DetectionDataset, val: DetectionDataset) -> list[str]:
    counts = (
        ("images with objects to train on", len(train), benchmark.num_train),
        ("images to score", len(val), benchmark.num_test),
        ("classes", len(val.classes), benchmark.num_classes),
    )
    return [f"{count:,} {counted}, not {published:,}" for counted, count, published in counts if count != published]


def schedule_name(config: DetectionConfig, plan: TrainingPlan) -> str:
    """Return '1x' or '2x' if all other options are the protocol's, so that only such scores are comparable."""
    protocol = DetectionConfig(schedule=config.schedule, batch_size=config.batch_size)
    is_protocol = replace(config, masks=protocol.masks) == protocol
    return config.schedule if is_protocol else f"own options, {plan.num_steps} steps"


def dataset_fingerprint(images: DetectionDataset) -> str:
    """Compute a fingerprint of the images and their annotations, independent of their folder."""
    numbers = np.array([*zip(images.image_ids, *zip(*images.sizes_wh))])
    labels = (numbers, *images.boxes, *images.box_classes, *images.ignored, *(images.areas or ()))
    masks = hashlib.sha256(repr(images.segmentations).encode()).hexdigest()
    return f"{labelled_fingerprint(images.root, images.names, images.classes, labels)} {masks}"
