"""All judges that the data allows, a failing one among them, and the comparison at the end."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from orl.evaluation.configs import JudgeSettings, Sets
from tests.ports import free_port
from torch import multiprocessing

from orl.evaluation.classification.configs import SemiConfig
from orl.evaluation.evaluated_backbone import RANDOM, EvaluatedBackbone
from orl.evaluation.output import EvaluationOutput, finished, write_result
from orl.evaluation.suite import Candidates, Step, file_name, plan, run_suite
from orl.networks.backbones import build_backbone, save_backbone
from orl.processes import Processes, joined_processes
from orl.training.interrupts import Stopped

HERE = Path("data")
ONE_RANDOM = Candidates(backbones=[RANDOM], architecture="resnet10")


def place_at(result: Path) -> EvaluationOutput:
    return EvaluationOutput(result=result, device="cpu", workers=0, quiet=True)


def step(
    name: str,
    calls: list[str],
    fails: Exception | None = None,
    check: Callable[[], object] = int,
    in_first: bool = False,
) -> Step:
    def run(subject: EvaluatedBackbone, place: EvaluationOutput, processes: Processes) -> dict[str, Any] | None:
        inputs = {"backbone": subject.digest}
        if (found := finished(place, inputs)) is not None:
            return found
        if fails is not None:
            raise fails
        calls.append(f"{name} of {subject.label}")
        return write_result(place, {"task": "svm", "backbone": subject.label, "mean_ap": 0.25}, inputs)

    return Step(name=name, check=check, run=run, in_first=in_first)


def refuse(message: str) -> Callable[[], object]:
    def check() -> None:
        raise ValueError(message)

    return check


@pytest.fixture
def two(tmp_path: Path) -> Candidates:
    """Two files of weights of one name, in two folders."""
    paths = [tmp_path / name / "backbone.safetensors" for name in ("a", "b")]
    for seed, path in enumerate(paths):
        torch.manual_seed(seed)
        save_backbone(build_backbone("resnet10"), path)
    return Candidates(backbones=paths)


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


def test_one_list_for_two_shares_is_refused() -> None:
    settings = JudgeSettings(semi=SemiConfig(list=Path("1percent.txt")))
    with pytest.raises(ValueError, match=r"1percent\.txt lists one share.*--imagenet-10percent"):
        plan(Sets(imagenet=HERE), settings)


def test_results_are_kept_and_compared_in_any_order_of_the_backbones(two: Candidates, tmp_path: Path) -> None:
    calls: list[str] = []
    folder = tmp_path / "all"
    for backbones in (two.backbones, two.backbones[::-1]):
        path = run_suite(Candidates(backbones=backbones), [step("svm", calls)], folder, place_at, Processes())
        lines = json.loads((folder / "comparison.json").read_text())
        assert [line["backbone"] for line in lines][:2] == [str(backbone) for backbone in backbones]
    assert calls == [f"svm of {backbone}" for backbone in two.backbones]
    assert path == folder / "comparison.md"
    assert path.read_text().count("| 25.00 | measured here |") == 2


def test_a_judge_that_fails_keeps_no_other_from_its_work(two: Candidates, tmp_path: Path) -> None:
    calls: list[str] = []
    steps = [step("svm", calls, fails=ImportError("no faiss")), step("knn", calls)]
    with pytest.raises(RuntimeError, match=r"2 judges could not work.*svm of .*backbone.safetensors: no faiss"):
        run_suite(two, steps, tmp_path, place_at, Processes())
    assert calls == [f"knn of {backbone}" for backbone in two.backbones]
    assert (tmp_path / "comparison.md").exists()


def test_weights_that_cannot_be_opened_keep_no_other_from_being_judged(two: Candidates, tmp_path: Path) -> None:
    calls: list[str] = []
    two.backbones[0].write_bytes(b"no weights")
    with pytest.raises(RuntimeError, match=r"1 judges could not work.*load of .*a/backbone"):
        run_suite(two, [step("svm", calls)], tmp_path, place_at, Processes())
    assert calls == [f"svm of {two.backbones[1]}"]


def test_all_that_is_wrong_is_told_at_once_and_before_anything_is_judged(two: Candidates, tmp_path: Path) -> None:
    calls: list[str] = []
    lost = Candidates(backbones=[*two.backbones, tmp_path / "lost.safetensors"])
    steps = [
        step("svm", calls),
        step("linear", calls, check=refuse("no train folder")),
        step("semi", calls, check=refuse("no train folder")),
        step("detect", calls, check=refuse("no masks")),
    ]
    told = r"weights: nothing at .*lost\.safetensors.*; linear, semi: no train folder; detect: no masks\. A judge's"
    with pytest.raises(ValueError, match=rf"^nothing is judged yet: {told}"):
        run_suite(lost, steps, tmp_path / "all", place_at, Processes())
    assert calls == []
    assert not (tmp_path / "all").exists()


def test_a_list_of_another_share_is_refused_beforehand(tmp_path: Path) -> None:
    names = [f"{label}/{number}.jpg" for label in ("cat", "dog") for number in range(20)]
    for split in ("train", "val"):
        for name in names:
            (tmp_path / split / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / split / name).touch()
    listed = tmp_path / "10percent.txt"
    listed.write_text("\n".join([*names[:2], *names[20:22]]))
    semi_1, semi_10 = (
        step
        for step in plan(Sets(imagenet=tmp_path, imagenet_1percent=listed, imagenet_10percent=listed), JudgeSettings())
        if step.name.startswith("semi")
    )
    semi_10.check()
    with pytest.raises(
        ValueError, match=r"lists 4 of 40 images, which is 10\.00% and not 1\.00%: give --fraction 0\.1"
    ):
        semi_1.check()


def test_a_stop_ends_everything(two: Candidates, tmp_path: Path) -> None:
    calls: list[str] = []
    steps = [step("linear", calls, fails=Stopped(2, "stopped after step 3")), step("knn", calls)]
    with pytest.raises(Stopped, match="after step 3"):
        run_suite(two, steps, tmp_path, place_at, Processes())
    assert calls == []


def test_labels_become_names_of_folders() -> None:
    assert file_name("/runs/mine/stage3/backbone.safetensors") == "mine_stage3_backbone"
    assert file_name("random resnet50, seed 0") == "random_resnet50__seed_0"
    assert file_name(".") == file_name(str(Path.cwd()))


def _fail_in_first(rank: int, in_first: bool, port: int, folder: Path) -> None:
    """A judge that only the first process cannot do, and one in which both meet."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", RANK=str(rank))

    def fail(subject: EvaluatedBackbone, place: EvaluationOutput, processes: Processes) -> None:
        if processes.is_first:
            raise ValueError("stale")

    def meet(subject: EvaluatedBackbone, place: EvaluationOutput, processes: Processes) -> dict[str, Any] | None:
        processes.wait("the other")
        (folder / f"met_{rank}").touch()
        made = {"task": "svm", "backbone": subject.label, "mean_ap": 0.25}
        return write_result(place, made, {}) if processes.is_first else None

    steps = [
        Step(name="first", check=int, run=fail, in_first=in_first),
        Step(name="together", check=int, run=meet),
    ]
    with joined_processes(torch.device("cpu")) as processes:
        try:
            run_suite(ONE_RANDOM, steps, folder, place_at, processes)
        except (RuntimeError, ValueError) as error:
            (folder / f"error_{rank}").write_text(str(error))
            # As of a command: the process ends, and the other notices.
            if not in_first:
                os._exit(0)


def _both(in_first: bool, folder: Path) -> tuple[str, str]:
    multiprocessing.spawn(_fail_in_first, (in_first, free_port(), folder), nprocs=2)
    first, second = ((folder / f"error_{rank}").read_text() for rank in range(2))
    return first, second


def test_a_failure_of_what_the_first_process_does_alone_is_known_to_all_who_go_on_together(tmp_path: Path) -> None:
    first, second = _both(True, tmp_path)
    assert first == second == "1 judges could not work, the others are done: first of random resnet10, seed 0: stale"
    assert (tmp_path / "met_0").exists()
    assert (tmp_path / "met_1").exists()
    assert (tmp_path / "comparison.md").exists()


def test_a_failure_of_one_process_ends_all_where_they_work_together(tmp_path: Path) -> None:
    first, second = _both(False, tmp_path)
    assert first == "stale"
    assert "another process ended" in second
    assert not (tmp_path / "met_1").exists()
