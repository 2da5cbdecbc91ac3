"""The suite: all evaluations that the data sets allow, a failing one among them, and the comparison."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.ports import free_port
from torch import multiprocessing

from orl.evaluation.classification.semi import SemiConfig
from orl.evaluation.evaluated_backbone import RANDOM, EvaluatedBackbone
from orl.evaluation.evaluations import OBJECT_EVALUATIONS
from orl.evaluation.objects.object_result import _shared_dataset
from orl.evaluation.output import EvaluationOutput, finished, write_result
from orl.evaluation.protocol import Datasets, Evaluation
from orl.evaluation.suite import Candidates, Step, file_name, plan_suite, run_suite, suite_configs
from orl.evaluation.voc_dataset import VocDataset, VocOptions
from orl.networks.backbones import build_backbone, save_backbone
from orl.processes import Processes, joined_processes
from orl.synthetic.scenes import draw_scenes
from orl.training.interrupts import Stopped

HERE = Path("data")
ONE_RANDOM = Candidates(backbones=[RANDOM], architecture="resnet10")


def output_at(result: Path) -> EvaluationOutput:
    return EvaluationOutput(result=result, device="cpu", workers=0, quiet=True)


def step(
    name: str,
    calls: list[str],
    fails: Exception | None = None,
    check: Callable[[], object] = int,
) -> Step:
    """Return a step that notes its call and scores 0.25, or fails."""

    def run(
        backbone: EvaluatedBackbone, data: None, config: None, output: EvaluationOutput, processes: Processes
    ) -> dict[str, Any] | None:
        inputs = {"backbone": backbone.digest}
        if (result := finished(output, inputs)) is not None:
            return result
        if fails is not None:
            raise fails
        calls.append(f"{name} of {backbone.label}")
        return write_result(output, {"task": "svm", "backbone": backbone.label, "mean_ap": 0.25}, inputs)

    return as_step(name, run, check)


def as_step(name: str, run: Any, check: Callable[[], object] = int, one_process: bool = False) -> Step:
    evaluation = Evaluation(
        name=name,
        label=name,
        help=name,
        data=type(None),
        config=type(None),
        check=lambda data, config: check(),
        run=run,
        tables=lambda result: {},
        one_process=one_process,
    )
    return Step(name=name, evaluation=evaluation, data=None, config=None)


def refuse(message: str) -> Callable[[], object]:
    def check() -> None:
        raise ValueError(message)

    return check


@pytest.fixture
def two(tmp_path: Path) -> Candidates:
    """Return two files of weights of one name, in two folders."""
    paths = [tmp_path / name / "backbone.safetensors" for name in ("a", "b")]
    for seed, path in enumerate(paths):
        torch.manual_seed(seed)
        save_backbone(build_backbone("resnet10"), path)
    return Candidates(backbones=paths)


def test_the_suite_has_the_evaluations_of_the_given_data_sets() -> None:
    names = [step.name for step in plan_suite(Datasets(voc07=HERE, imagenet=HERE, coco=HERE))]
    assert names == ["svm", "knn", "low-shot", "linear_imagenet", "semi_1", "semi_10", "detect"]
    more = Datasets(places205=HERE, inat18=HERE, classes=HERE, voc_detection=(HERE,))
    assert [step.name for step in plan_suite(more)] == [
        "linear_places205",
        "linear_inat18",
        "linear_folder",
        "detect-voc",
    ]


def test_no_data_set_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no labelled data set is given.*--voc07"):
        plan_suite(Datasets())


def test_one_list_for_two_fractions_is_refused() -> None:
    configs = {"semi": SemiConfig(list=Path("1percent.txt"))}
    with pytest.raises(ValueError, match=r"1percent\.txt lists one fraction.*--imagenet-10percent"):
        plan_suite(Datasets(imagenet=HERE), configs)


def test_evaluations_of_one_data_set_read_its_labels_once() -> None:
    steps = {step.name: step for step in plan_suite(Datasets(voc07=HERE, imagenet=HERE, classes=HERE))}
    assert steps["svm"].data is steps["knn"].data is steps["low-shot"].data
    assert steps["linear_imagenet"].data is steps["semi_1"].data is steps["semi_10"].data


def test_both_detection_evaluations_have_one_group_of_options() -> None:
    on_objects = [evaluation.name.replace("-", "_") for evaluation in OBJECT_EVALUATIONS]
    assert list(suite_configs()) == ["svm", "knn", "low_shot", *on_objects, "linear", "semi", "detect"]


def test_a_set_of_objects_has_the_evaluations_that_it_allows(tmp_path: Path) -> None:
    draw_scenes(tmp_path / "s", num_trainval=24, num_test=24, size_wh=(64, 48), quiet=True)
    names = [step.name for step in plan_suite(Datasets(objects=tmp_path / "s"))]
    assert names == [evaluation.name for evaluation in OBJECT_EVALUATIONS]
    (tmp_path / "s" / "SegmentationObject").rename(tmp_path / "masks")
    _shared_dataset.cache_clear()
    without = [step.name for step in plan_suite(Datasets(objects=tmp_path / "s"))]
    assert set(names) - set(without) == {"dense-retrieval", "linear-segmentation", "overclustering"}


def test_an_entry_of_the_suite_has_the_splits_and_size_of_the_data_sets() -> None:
    (svm, *_) = plan_suite(Datasets(voc07=HERE, voc=VocOptions(test_split="val", size_px=96)))
    assert svm.data == VocDataset(data=HERE, test_split="val", size_px=96)


def test_results_are_kept_and_compared_in_any_order_of_the_backbones(two: Candidates, tmp_path: Path) -> None:
    calls: list[str] = []
    folder = tmp_path / "all"
    for backbones in (two.backbones, two.backbones[::-1]):
        path = run_suite(Candidates(backbones=backbones), [step("svm", calls)], folder, output_at, Processes())
        lines = json.loads((folder / "comparison.json").read_text())
        assert [line["backbone"] for line in lines][:2] == [str(backbone) for backbone in backbones]
    assert calls == [f"svm of {backbone}" for backbone in two.backbones]
    assert path == folder / "comparison.md"
    assert path.read_text().count("| 25.00 | measured here |") == 2


def test_an_evaluation_that_fails_does_not_stop_the_others(two: Candidates, tmp_path: Path) -> None:
    calls: list[str] = []
    steps = [step("svm", calls, fails=ImportError("no faiss")), step("knn", calls)]
    with pytest.raises(RuntimeError, match=r"2 evaluations failed.*svm of .*backbone.safetensors: no faiss"):
        run_suite(two, steps, tmp_path, output_at, Processes())
    assert calls == [f"knn of {backbone}" for backbone in two.backbones]
    assert (tmp_path / "comparison.md").exists()


def test_weights_that_cannot_be_opened_do_not_stop_the_others(two: Candidates, tmp_path: Path) -> None:
    calls: list[str] = []
    two.backbones[0].write_bytes(b"no weights")
    with pytest.raises(RuntimeError, match=r"1 evaluations failed.*load of .*a/backbone"):
        run_suite(two, [step("svm", calls)], tmp_path, output_at, Processes())
    assert calls == [f"svm of {two.backbones[1]}"]


def test_all_errors_are_named_at_once_before_any_evaluation(two: Candidates, tmp_path: Path) -> None:
    calls: list[str] = []
    lost = Candidates(backbones=[*two.backbones, tmp_path / "lost.safetensors"])
    steps = [
        step("svm", calls),
        step("linear", calls, check=refuse("no train folder")),
        step("semi", calls, check=refuse("no train folder")),
        step("detect", calls, check=refuse("no masks")),
    ]
    message = r"weights: nothing at .*lost\.safetensors.*; linear, semi: no train folder; detect: no masks\. The opt"
    with pytest.raises(ValueError, match=rf"^nothing is evaluated yet: {message}"):
        run_suite(lost, steps, tmp_path / "all", output_at, Processes())
    assert calls == []
    assert not (tmp_path / "all").exists()


def test_a_list_of_another_fraction_is_refused_beforehand(tmp_path: Path) -> None:
    names = [f"{label}/{number}.jpg" for label in ("cat", "dog") for number in range(20)]
    for split in ("train", "val"):
        for name in names:
            (tmp_path / split / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / split / name).touch()
    listed = tmp_path / "10percent.txt"
    listed.write_text("\n".join([*names[:2], *names[20:22]]))
    semi_1, semi_10 = (
        step
        for step in plan_suite(Datasets(imagenet=tmp_path, imagenet_1percent=listed, imagenet_10percent=listed))
        if step.name.startswith("semi")
    )
    semi_10.check()
    with pytest.raises(
        ValueError, match=r"lists 4 of 40 images, which is 10\.00% and not 1\.00%: give --fraction 0\.1"
    ):
        semi_1.check()


def test_a_signal_stops_the_suite(two: Candidates, tmp_path: Path) -> None:
    calls: list[str] = []
    steps = [step("linear", calls, fails=Stopped(2, "stopped after step 3")), step("knn", calls)]
    with pytest.raises(Stopped, match="after step 3"):
        run_suite(two, steps, tmp_path, output_at, Processes())
    assert calls == []


def test_labels_become_names_of_folders() -> None:
    assert file_name("/runs/mine/stage3/backbone.safetensors") == "mine_stage3_backbone"
    assert file_name("random resnet50, seed 0") == "random_resnet50__seed_0"
    assert file_name(".") == file_name(str(Path.cwd()))


def _fail_one_process(rank: int, one_process: bool, port: int, folder: Path) -> None:
    """Run an evaluation that fails in the first process only, and one in which both processes meet."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", RANK=str(rank))

    def fail(backbone: Any, data: None, config: None, output: EvaluationOutput, processes: Processes) -> None:
        if processes.is_first:
            raise ValueError("stale")

    def meet(
        backbone: EvaluatedBackbone, data: None, config: None, output: EvaluationOutput, processes: Processes
    ) -> dict[str, Any] | None:
        processes.wait("the other")
        (folder / f"met_{rank}").touch()
        made = {"task": "svm", "backbone": backbone.label, "mean_ap": 0.25}
        return write_result(output, made, {}) if processes.is_first else None

    steps = [
        as_step("first", fail, one_process=one_process),
        as_step("together", meet),
    ]
    with joined_processes(torch.device("cpu")) as processes:
        try:
            run_suite(ONE_RANDOM, steps, folder, output_at, processes)
        except (RuntimeError, ValueError) as error:
            (folder / f"error_{rank}").write_text(str(error))
            # As of a command: the process ends, and the other notices.
            if not one_process:
                os._exit(0)


def _both(one_process: bool, folder: Path) -> tuple[str, str]:
    multiprocessing.spawn(_fail_one_process, (one_process, free_port(), folder), nprocs=2)
    first, second = ((folder / f"error_{rank}").read_text() for rank in range(2))
    return first, second


def test_all_processes_know_a_failure_of_the_first_and_continue_together(tmp_path: Path) -> None:
    first, second = _both(True, tmp_path)
    assert first == second == "1 evaluations failed, the others are finished: first of random resnet10, seed 0: stale"
    assert (tmp_path / "met_0").exists()
    assert (tmp_path / "met_1").exists()
    assert (tmp_path / "comparison.md").exists()


def test_a_failure_of_one_process_ends_all_that_train_together(tmp_path: Path) -> None:
    first, second = _both(False, tmp_path)
    assert first == "stale"
    assert "another process ended" in second
    assert not (tmp_path / "met_1").exists()
