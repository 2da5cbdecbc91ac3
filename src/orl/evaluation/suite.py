"""Every judge that the data at hand allows, for one backbone after the other, and the comparison of them."""

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from orl.datasets.class_folders import read_train_val
from orl.datasets.classified import ClassifiedImages
from orl.evaluation.classification.linear import evaluate_linear
from orl.evaluation.classification.semi import evaluate_semi, find_part
from orl.evaluation.comparison import write_comparison
from orl.evaluation.configs import JudgeSettings, Sets
from orl.evaluation.detection.datasets import DetectionDataset, read_coco_detection, read_voc_detection
from orl.evaluation.detection.evaluate import evaluate_detection, evaluate_voc_detection
from orl.evaluation.evaluated_backbone import RANDOM, EvaluatedBackbone, load_evaluated_backbone
from orl.evaluation.evaluations import Result, check_images, run_knn, run_low_shot, run_svm
from orl.evaluation.output import EvaluationOutput
from orl.evaluation.voc_dataset import VocDataset
from orl.processes import Processes
from orl.training.interrupts import Stopped
from orl.weights.find import find_weights_file

logger = logging.getLogger(__name__)

ERRORS = (ValueError, OSError, RuntimeError, ImportError)
"""What a judge fails by; anything else is a fault of ours."""

Run = Callable[[EvaluatedBackbone, EvaluationOutput, Processes], Result | None]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One judge on one labelled set."""

    name: str
    """Of the JSON file, without its ending."""
    check: Callable[[], object]
    """Reads the labels; fails if the judge cannot work on them."""
    run: Run
    in_first: bool = False
    """Whether the first process does it alone."""


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The weights to compare, each as a judge takes it."""

    backbones: Sequence[Path]
    architecture: str | None = None
    """What network they are of, where the files do not tell."""
    seed: int = 0
    """Of random weights."""

    def check(self) -> None:
        """See that they are there, before one of them is judged for hours.

        Raises:
            FileNotFoundError, ValueError: as `find_weights_file`.
        """
        for backbone in self.backbones:
            if backbone != RANDOM:
                find_weights_file(backbone)

    def load(self, backbone: Path) -> EvaluatedBackbone:
        """One of them."""
        return load_evaluated_backbone(backbone, self.architecture, self.seed)


def plan(sets: Sets, settings: JudgeSettings, *, workers: int = 1, seed: int = 0) -> list[Step]:
    """The judges that the sets allow, the quick ones first.

    Args:
        sets: at hand.
        settings: of the judges.
        workers: processes that look at images beforehand.
        seed: of what is drawn.

    Raises:
        ValueError: if no set is given, or one list for two shares.
    """
    if settings.semi.list is not None:
        raise ValueError(
            f"{settings.semi.list} lists one share of ImageNet, and both 1% and 10% are judged: give "
            "--imagenet-1percent and --imagenet-10percent in place of --semi.list"
        )
    images = [] if sets.voc07 is None else _image_steps(VocDataset(sets.voc07, settings.voc, workers), settings)
    steps = [*images, *_class_steps(sets, settings, seed), *_detection_steps(sets, settings)]
    if not steps:
        raise ValueError(
            "no labelled set is given, so nothing can be judged; give one or more of --voc07, --imagenet, --places205, "
            "--inat18, --classes, --coco, --voc-detection"
        )
    return steps


def run_suite(
    candidates: Candidates,
    steps: Sequence[Step],
    folder: Path,
    place_at: Callable[[Path], EvaluationOutput],
    processes: Processes,
) -> Path | None:
    """Let every judge look at every candidate and write the comparison; what is judged already is kept.

    All that can be known to be wrong beforehand is refused beforehand. A judge that cannot work later does not keep the
    others from it; but of several processes all end where one fails while they train together.

    Args:
        candidates: what is judged.
        steps: what `plan` gave.
        folder: for all results and the comparison.
        place_at: makes the place of a result in it.
        processes: joined already; judges that do not train leave the work to the first.

    Returns:
        The path of the comparison; none in a process that is not the first.

    Raises:
        ValueError: before anything is judged, if labelled sets or weights are not as they must be.
        RuntimeError: after all else is done, if a judge could not work; the message says why.
        Stopped: after Ctrl-C or a signal; the same call goes on.
    """
    refusals = processes.from_first(partial(_refusals, candidates, steps), "the check of the labelled sets")
    if refusals:
        told = "; ".join(refusals)
        raise ValueError(f"nothing is judged yet: {told}. A judge's options begin with its name, as --low-shot.shots")
    results: list[Result] = []
    failures: list[str] = []
    for backbone in candidates.backbones:
        try:
            subject = candidates.load(backbone)
        except ERRORS as error:
            if processes.count > 1:
                raise
            failures.append(_told("load", str(backbone), error))
            continue
        for step in steps:
            logger.info("%s: %s", subject.label, step.name)
            own = place_at(folder / f"{file_name(subject.label)}_{subject.digest[:8]}" / f"{step.name}.json")
            attempt = partial(_attempt, step, subject, own, processes)
            found, failure = processes.from_first(attempt, f"the judge {step.name}") if step.in_first else attempt()
            results += [found] if found is not None else []
            failures += [failure] if failure is not None else []
    path = write_comparison(folder, results) if processes.is_first and results else None
    if failures:
        raise RuntimeError(f"{len(failures)} judges could not work, the others are done: " + "; ".join(failures))
    return path


def _refusals(candidates: Candidates, steps: Sequence[Step]) -> list[str]:
    """What is wrong and for whom, each once: several judges may look at one set."""
    refused: dict[str, list[str]] = defaultdict(list)
    for name, check in [("weights", candidates.check), *((step.name, step.check) for step in steps)]:
        try:
            check()
        except ERRORS as error:
            refused[str(error)].append(name)
    return [f"{', '.join(names)}: {error}" for error, names in refused.items()]


def _attempt(
    step: Step, subject: EvaluatedBackbone, place: EvaluationOutput, processes: Processes
) -> tuple[Result | None, str | None]:
    """The result, or why there is none."""
    try:
        return step.run(subject, place, processes), None
    except Stopped:
        raise
    except ERRORS as error:
        if processes.count > 1 and not step.in_first:
            # The others are on their way to where they wait for this one.
            raise
        return None, _told(step.name, subject.label, error)


def _told(what: str, label: str, error: Exception) -> str:
    logger.error("%s of %s failed: %s", what, label, error)
    return f"{what} of {label}: {error}"


def file_name(label: str) -> str:
    """A label as a part of a path."""
    path = Path(label)
    # The folder that one is in has no name of its own.
    path = path.resolve() if path.name in ("", "..") else path
    kept = [part for part in path.with_suffix("").parts[-3:] if part != "/"]
    return "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in "_".join(kept))


def _image_steps(images: VocDataset, settings: JudgeSettings) -> list[Step]:
    judges: Mapping[str, tuple[Any, Callable[..., Result]]] = {
        "svm": (settings.svm, run_svm),
        "knn": (settings.knn, run_knn),
        "low-shot": (settings.low_shot, run_low_shot),
    }

    def step(name: str, own: Any, judge: Callable[..., Result]) -> Step:
        return Step(
            name=name,
            check=lambda: check_images(*images.listed, own),
            run=lambda subject, place, processes: judge(subject, images, own, place),
            in_first=True,
        )

    return [step(name, *judge) for name, judge in judges.items()]


def _class_steps(sets: Sets, settings: JudgeSettings, seed: int) -> list[Step]:
    steps = []
    named: Mapping[Any, Path | None] = {
        "imagenet": sets.imagenet,
        "places205": sets.places205,
        "inat18": sets.inat18,
        "folder": sets.classes,
    }
    for dataset, data in named.items():
        if data is not None:
            read = cache(partial(read_train_val, data, dataset))
            steps.append(_linear(f"linear_{dataset}", read, replace(settings.linear, dataset=dataset)))
            if dataset == "imagenet":
                for fraction, listed in ((0.01, sets.imagenet_1percent), (0.1, sets.imagenet_10percent)):
                    semi = replace(settings.semi, dataset=dataset, fraction=fraction, list=listed)
                    steps.append(_semi(f"semi_{100 * fraction:g}", read, semi, seed))
    return steps


Pair = Callable[[], tuple[ClassifiedImages, ClassifiedImages]]
"""Train and val, read once in each process."""


def _linear(name: str, read: Pair, settings: Any) -> Step:
    def run(subject: EvaluatedBackbone, place: EvaluationOutput, processes: Processes) -> Result | None:
        return evaluate_linear(subject, *read(), settings, place, processes)

    return Step(name=name, check=read, run=run)


def _semi(name: str, read: Pair, settings: Any, seed: int) -> Step:
    def run(subject: EvaluatedBackbone, place: EvaluationOutput, processes: Processes) -> Result | None:
        return evaluate_semi(subject, *read(), settings, place, processes)

    return Step(name=name, check=lambda: find_part(read()[0], settings, seed), run=run)


def _detection_steps(sets: Sets, settings: JudgeSettings) -> list[Step]:
    steps, detect = [], settings.detect
    if (coco := sets.coco) is not None:

        @cache
        def read_coco() -> tuple[DetectionDataset, DetectionDataset]:
            train, val = (
                read_coco_detection(coco, split, needs_masks=detect.masks) for split in settings.detect_splits
            )
            return train, val

        def run_coco(subject: EvaluatedBackbone, place: EvaluationOutput, processes: Processes) -> Result | None:
            return evaluate_detection(subject, *read_coco(), detect, place, processes)

        steps.append(Step(name="detect", check=read_coco, run=run_coco))
    if voc := sets.voc_detection:

        @cache
        def read_voc() -> tuple[DetectionDataset, DetectionDataset]:
            train_split, test_split = settings.voc.train_split, settings.voc.test_split
            return read_voc_detection(voc, train_split), read_voc_detection(voc[:1], test_split)

        def run_voc(subject: EvaluatedBackbone, place: EvaluationOutput, processes: Processes) -> Result | None:
            return evaluate_voc_detection(subject, *read_voc(), detect, place, processes)

        steps.append(Step(name="detect-voc", check=read_voc, run=run_voc))
    return steps
