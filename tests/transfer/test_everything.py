"""All judges that the data allows, a failing one among them, and the comparison at the end."""

import json
from pathlib import Path
from typing import Any

import pytest

from orl.processes import Processes
from orl.training.interrupts import Stopped
from orl.transfer.everything import Step, file_name, judge_all, plan
from orl.transfer.place import Place, finished, write_result
from orl.transfer.settings import JudgeSettings, Sets
from orl.transfer.subject import Subject, load_subject

HERE = Path("data")


def subjects() -> list[Any]:
    return [lambda seed=seed: load_subject(Path("random"), "resnet10", seed) for seed in (0, 1)]


def step(name: str, calls: list[str], fails: Exception | None = None) -> Step:
    def run(subject: Subject, place: Place, processes: Processes) -> dict[str, Any] | None:
        made_from = {"backbone": subject.digest}
        if (found := finished(place, made_from)) is not None:
            return found
        if fails is not None:
            raise fails
        calls.append(f"{name} of {subject.label}")
        return write_result(place, {"task": "svm", "backbone": subject.label, "mean_ap": 0.25}, made_from)

    return Step(name, run)


def test_the_plan_has_the_judges_of_the_sets_that_are_given() -> None:
    names = [step.name for step in plan(Sets(voc07=HERE, imagenet=HERE, coco=HERE), JudgeSettings())]
    assert names == ["svm", "knn", "low-shot", "linear_imagenet", "semi_1", "semi_10", "detect"]
    more = Sets(places205=HERE, inat18=HERE, classes=HERE, voc_detection=(HERE,))
    assert [step.name for step in plan(more, JudgeSettings())] == [
        "linear_places205",
        "linear_inat18",
        "linear_folder",
        "detect-voc",
    ]


def test_no_set_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no labelled set is given.*--voc07"):
        plan(Sets(), JudgeSettings())


def test_results_are_kept_and_compared(tmp_path: Path) -> None:
    calls: list[str] = []
    place = Place(result=tmp_path / "all")
    for _ in range(2):
        path = judge_all(subjects(), [step("svm", calls)], place, Processes())
    assert calls == ["svm of random resnet10, seed 0", "svm of random resnet10, seed 1"]
    assert path == tmp_path / "all" / "comparison.md"
    assert path.read_text().count("| 25.00 | measured here |") == 2
    lines = json.loads((tmp_path / "all" / "comparison.json").read_text())
    assert [line["backbone"] for line in lines][:2] == ["random resnet10, seed 0", "random resnet10, seed 1"]


def test_a_judge_that_fails_keeps_no_other_from_its_work(tmp_path: Path) -> None:
    calls: list[str] = []
    steps = [step("svm", calls, fails=ValueError("12 photos are missing")), step("knn", calls)]
    with pytest.raises(RuntimeError, match=r"2 judges could not work.*svm of random .*12 photos are missing"):
        judge_all(subjects(), steps, Place(result=tmp_path), Processes())
    assert calls == ["knn of random resnet10, seed 0", "knn of random resnet10, seed 1"]
    assert (tmp_path / "comparison.md").exists()


def test_a_stop_ends_everything(tmp_path: Path) -> None:
    calls: list[str] = []
    steps = [step("linear", calls, fails=Stopped(2, "stopped after step 3")), step("knn", calls)]
    with pytest.raises(Stopped, match="after step 3"):
        judge_all(subjects(), steps, Place(result=tmp_path), Processes())
    assert calls == []


def test_labels_become_names_of_folders() -> None:
    assert file_name("/runs/mine/stage3/backbone.safetensors") == "mine_stage3_backbone"
    assert file_name("random resnet50, seed 0") == "random_resnet50__seed_0"
