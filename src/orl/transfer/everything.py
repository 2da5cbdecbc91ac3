"""Every judge that the data at hand allows, for one backbone after the other, and the comparison of them."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orl.processes import Processes
from orl.training.interrupts import Stopped
from orl.transfer.compare import write_comparison
from orl.transfer.place import Place
from orl.transfer.settings import JudgeSettings, Sets
from orl.transfer.subject import Subject
from orl.transfer.tasks import (
    Result,
    run_detect,
    run_detect_voc,
    run_knn,
    run_linear,
    run_low_shot,
    run_semi,
    run_svm,
)

logger = logging.getLogger(__name__)

SHARES = (0.01, 0.1)

Run = Callable[[Subject, Place, Processes], Result | None]


@dataclass(frozen=True)
class Step:
    """One judge on one labelled set."""

    name: str
    """Of the JSON file, without its ending."""
    run: Run


def plan(sets: Sets, settings: JudgeSettings) -> list[Step]:
    """The judges that the sets allow, the quick ones first.

    Raises:
        ValueError: if no set is given.
    """
    steps = [*_photo_steps(sets, settings), *_class_steps(sets, settings), *_detection_steps(sets, settings)]
    if not steps:
        raise ValueError(
            "no labelled set is given, so nothing can be judged; give one or more of --voc07, --imagenet, --places205, "
            "--inat18, --classes, --coco, --voc-detection"
        )
    return steps


def judge_all(
    subjects: Sequence[Callable[[], Subject]],
    steps: Sequence[Step],
    place: Place,
    processes: Processes,
) -> Path | None:
    """Let every judge look at every subject and write the comparison; what is judged already is kept.

    A judge that cannot work does not keep the others from it.

    Args:
        subjects: loads each network when its turn comes.
        steps: what `plan` gave.
        place: `result` is the folder for all of it.
        processes: joined already; judges that do not train leave the work to the first.

    Returns:
        The path of the comparison; none in a process that is not the first.

    Raises:
        RuntimeError: after all else is done, if a judge could not work; the message says why.
        Stopped: after Ctrl-C or a signal; the same call goes on.
    """
    results: list[Result] = []
    failures: list[str] = []
    for number, load in enumerate(subjects):
        subject = load()
        for step in steps:
            own = replace(place, result=place.result / f"{number}_{file_name(subject.label)}" / f"{step.name}.json")
            logger.info("%s: %s", subject.label, step.name)
            try:
                found = step.run(subject, own, processes)
            except Stopped:
                raise
            except (ValueError, OSError, RuntimeError) as error:
                logger.error("%s of %s failed: %s", step.name, subject.label, error)
                failures.append(f"{step.name} of {subject.label}: {error}")
                continue
            results += [found] if found is not None else []
    path = write_comparison(place.result, results) if processes.is_first and results else None
    if failures:
        raise RuntimeError(f"{len(failures)} judges could not work, the others are done: " + "; ".join(failures))
    return path


def file_name(label: str) -> str:
    """A label as a part of a path."""
    kept = [part for part in Path(label).with_suffix("").parts[-3:] if part != "/"]
    return "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in "_".join(kept))


def _in_first(run: Callable[[Subject, Place], Result]) -> Run:
    def in_first(subject: Subject, place: Place, processes: Processes) -> Result | None:
        return run(subject, place) if processes.is_first else None

    return in_first


def _photo_steps(sets: Sets, settings: JudgeSettings) -> list[Step]:
    data, voc = sets.voc07, settings.voc
    if data is None:
        return []
    return [
        Step("svm", _in_first(lambda subject, place: run_svm(subject, data, voc, settings.svm, place))),
        Step("knn", _in_first(lambda subject, place: run_knn(subject, data, voc, settings.knn, place))),
        Step("low-shot", _in_first(lambda subject, place: run_low_shot(subject, data, voc, settings.low_shot, place))),
    ]


def _class_steps(sets: Sets, settings: JudgeSettings) -> list[Step]:
    steps = []
    named: Mapping[Any, Path | None] = {
        "imagenet": sets.imagenet,
        "places205": sets.places205,
        "inat18": sets.inat18,
        "folder": sets.classes,
    }
    for dataset, data in named.items():
        if data is not None:
            steps.append(Step(f"linear_{dataset}", _linear(data, replace(settings.linear, dataset=dataset))))
    if sets.imagenet is not None:
        for share in SHARES:
            steps.append(Step(f"semi_{100 * share:g}", _semi(sets.imagenet, replace(settings.semi, share=share))))
    return steps


def _linear(data: Path, settings: Any) -> Run:
    return lambda subject, place, processes: run_linear(subject, data, settings, place, processes)


def _semi(data: Path, settings: Any) -> Run:
    return lambda subject, place, processes: run_semi(subject, data, settings, place, processes)


def _detection_steps(sets: Sets, settings: JudgeSettings) -> list[Step]:
    steps, detect, coco, voc = [], settings.detect, sets.coco, sets.voc_detection
    if coco is not None:
        steps.append(
            Step(
                "detect",
                lambda subject, place, processes: run_detect(
                    subject, coco, settings.detect_splits, detect, place, processes
                ),
            )
        )
    if voc:
        splits = (settings.voc.train_split, settings.voc.test_split)
        steps.append(
            Step(
                "detect-voc",
                lambda subject, place, processes: run_detect_voc(
                    subject, voc, voc[0], splits, detect, place, processes
                ),
            )
        )
    return steps
