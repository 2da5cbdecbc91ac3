"""Linear and semi-supervised classification from images to the JSON."""

import copy
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as multiprocessing
from PIL import Image
from tests.evaluation.classification.small import flat_images
from tests.ports import free_port

from orl.datasets.classified import ClassifiedImages
from orl.evaluation.classification import schedule as course_module
from orl.evaluation.classification.classifier import hold_unreached
from orl.evaluation.classification.configs import LinearConfig, SemiConfig, class_deviations
from orl.evaluation.classification.linear import build_optimiser as build_linear_optimiser
from orl.evaluation.classification.linear import evaluate_linear, linear_course
from orl.evaluation.classification.samples import AREA_RANGE, ASPECT_RATIO_RANGE, TestImages, training_colours
from orl.evaluation.classification.semi import build_optimiser, evaluate_semi, semi_course, weight_decay
from orl.evaluation.evaluated_backbone import EvaluatedBackbone, load_evaluated_backbone
from orl.evaluation.output import EvaluationOutput
from orl.networks.sync_bn import ProcessBatchNorm
from orl.processes import Processes, joined_processes
from orl.provenance import StaleResultError
from orl.training.interrupts import Stopped
from orl.training.supervised import SupervisedStep

LINEAR = LinearConfig(dataset="folder", epochs=6, batch_size=6, base_lr=2.0, size_px=32, jitter=0.0)
SEMI = SemiConfig(dataset="folder", fraction=0.5, epochs=4, batch_size=6, backbone_lr=0.05, head_lr=0.5, size_px=32)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[ClassifiedImages, ClassifiedImages]:
    root = tmp_path_factory.mktemp("flat")
    return flat_images(root, "train", 8), flat_images(root, "val", 4)


@pytest.fixture(scope="module")
def subject() -> EvaluatedBackbone:
    return load_evaluated_backbone(Path("random"), "resnet10")


def place(tmp_path: Path, **others: Any) -> EvaluationOutput:
    return EvaluationOutput(
        **{"result": tmp_path / "result.json", "device": "cpu", "workers": 0, "quiet": True, **others}
    )


def rates(folder: Path) -> list[float]:
    return [json.loads(line)["lr"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("dataset", "epochs", "falls"),
    [("imagenet", 28, (8, 16, 24)), ("places205", 14, (4, 8, 12)), ("inat18", 84, (24, 48, 72))],
)
def test_the_rate_of_every_step_is_that_of_the_recipe(dataset: Any, epochs: int, falls: tuple[int, ...]) -> None:
    course, steps_per_epoch = linear_course(LinearConfig(dataset=dataset)), 7
    at = course.schedules(steps_per_epoch).values_at
    assert (course.epochs, course.batch_size) == (epochs, 256)
    for step in range(epochs * steps_per_epoch):
        epoch = step // steps_per_epoch
        expected = 0.01 if epoch < falls[0] else 0.001 if epoch < falls[1] else 1e-4 if epoch < falls[2] else 1e-5
        assert at(step)["lr"] == pytest.approx(expected), step


def test_the_semi_supervised_rates_of_every_step_are_those_of_the_recipe(subject: EvaluatedBackbone) -> None:
    settings, steps_per_epoch = SemiConfig(), 50
    at = semi_course(settings).schedules(steps_per_epoch).values_at
    for step in range(20 * steps_per_epoch):
        epoch = step // steps_per_epoch
        expected = 0.01 if epoch < 12 else 0.002 if epoch < 16 else 0.0004
        assert at(step)["lr"] == pytest.approx(expected), step
    network = course_module.Classifier(
        subject.network, torch.nn.ModuleDict({"pooled": torch.nn.Linear(512, 3)}), is_frozen=False
    )
    backbone, head = build_optimiser(network, settings).param_groups
    assert backbone.get("lr_scale", 1.0) == 1.0
    assert head["lr_scale"] == pytest.approx(100.0)  # 1 where the backbone has 0.01
    assert sum(weight.numel() for weight in head["params"]) == 512 * 3 + 3


def test_the_linear_layer_has_the_optimiser_of_the_recipe(subject: EvaluatedBackbone) -> None:
    heads = torch.nn.ModuleDict({"pooled": torch.nn.Linear(512, 3)})
    frozen = course_module.Classifier(copy.deepcopy(subject.network), heads, is_frozen=True)
    optimiser = build_linear_optimiser(frozen, LinearConfig())
    (group,) = optimiser.param_groups
    assert (group["lr"], group["momentum"], group["nesterov"], group["weight_decay"]) == (0.01, 0.9, True, 1e-4)
    assert [weight.shape for weight in group["params"]] == [(3, 512), (3,)]


def test_training_crops_are_those_of_the_recipe() -> None:
    """RandomResizedCrop of 8% to 100% and 3:4 to 4:3, mirrored in half of the cases, jitter of 0.4 without hue."""
    assert (AREA_RANGE, ASPECT_RATIO_RANGE) == ((0.08, 1.0), (3 / 4, 4 / 3))
    colours = training_colours(LinearConfig().jitter)
    assert (colours.brightness, colours.contrast, colours.saturation, colours.hue) == (0.4, 0.4, 0.4, 0.0)
    assert (colours.flip_probability, colours.jitter_probability) == (0.5, 1.0)
    assert (colours.gray_probability, colours.blur_probability, colours.solarise_probability) == (0, 0, 0)
    assert training_colours(0.0).jitter_probability == 0


def test_per_image_is_scored_by_the_centre_of_its_resized_self(tmp_path: Path) -> None:
    """As torchvision's Resize(256) and CenterCrop(224), within what cutting first and resizing then changes."""
    ramp = np.stack(
        np.broadcast_arrays(np.linspace(0, 255, 320)[None], np.linspace(0, 255, 512)[:, None], 90.0), axis=2
    )
    Image.fromarray(ramp.astype(np.uint8)).save(tmp_path / "ramp.png")
    images = ClassifiedImages(
        root=tmp_path, split="val", classes=("a",), names=("ramp.png",), labels=np.zeros(1, dtype=np.int64)
    )
    crop, _ = TestImages(images, [0], 224)[0]
    assert isinstance(crop, torch.Tensor)
    resized = Image.open(tmp_path / "ramp.png").resize((256, 410), Image.Resampling.BICUBIC)
    left, top = (256 - 224) // 2, (410 - 224) // 2
    expected = np.asarray(resized.crop((left, top, left + 224, top + 224)), dtype=int).transpose(2, 0, 1)
    assert abs(crop.numpy().astype(int) - expected).max() <= 2  # of 182 and 111 that the ramps rise in the crop


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "--epochs is 0; it must be 1 or more"),
        ({"epochs": -3}, "--epochs is -3"),
        ({"batch_size": 0}, "--batch-size is 0; it must be 1 or more"),
        ({"size_px": 0}, "--size-px is 0; it must be 32 or more"),
        ({"sgd_momentum": -0.1}, "--sgd-momentum is -0.1"),
        ({"weight_decay": float("nan")}, "--weight-decay is nan"),
        ({"base_lr": 0.0}, "--base-lr is 0.0; it must be above 0"),
        ({"head_lr": -1.0}, "--head-lr is -1.0; it must be above 0"),
    ],
)
def test_settings_out_of_range_are_refused_before_anything(
    images: tuple[ClassifiedImages, ClassifiedImages],
    subject: EvaluatedBackbone,
    tmp_path: Path,
    changes: dict[str, Any],
    message: str,
) -> None:
    judges: list[tuple[Any, Any]] = [(evaluate_linear, LINEAR), (evaluate_semi, SEMI)]
    of_it = [(judge, settings) for judge, settings in judges if hasattr(settings, next(iter(changes)))]
    assert of_it
    for judge, settings in of_it:
        with pytest.raises(ValueError, match=message):
            judge(subject, *images, replace(settings, **changes), place(tmp_path), Processes())
    assert not list(tmp_path.iterdir())


class Partly(torch.nn.Module):
    """A backbone with weights that its features do not come from."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.used(images)


def test_weights_that_no_feature_comes_from_are_held() -> None:
    backbone = Partly()
    hold_unreached(backbone, 32)
    assert {name: weight.requires_grad for name, weight in backbone.named_parameters()} == {
        "used.weight": True,
        "used.bias": True,
        "unused.weight": False,
        "unused.bias": False,
    }
    assert all(weight.grad is None for weight in backbone.parameters())


def test_a_set_of_other_classes_than_the_published_one_departs() -> None:
    assert class_deviations(LinearConfig(dataset="imagenet"), 1000) == []
    assert class_deviations(LinearConfig(dataset="inat18"), 8142) == []
    assert class_deviations(LinearConfig(dataset="folder"), 7) == []
    assert class_deviations(SemiConfig(), 100) == ["100 classes, not 1,000"]


def test_weights_decay_by_the_share_of_the_labels() -> None:
    assert [weight_decay(SemiConfig(fraction=fraction)) for fraction in (0.01, 0.1)] == [0.0, 1e-4]
    assert weight_decay(SemiConfig(weight_decay=0.5)) == 0.5


def test_a_linear_layer_learns_and_leaves_the_backbone_to_the_bit(
    images: tuple[ClassifiedImages, ClassifiedImages], subject: EvaluatedBackbone, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in subject.network.state_dict().items()}
    where = place(tmp_path)
    result = evaluate_linear(subject, *images, LINEAR, where, Processes())
    assert result is not None
    assert result["top1"] > 0.8
    assert result["top5"] is None
    assert (result["num_train"], result["num_val"], result["dataset"]) == (24, 12, "folder")
    assert "32 px, not 224" in result["protocol_deviations"]
    assert "resnet10, not resnet50" in result["protocol_deviations"]
    assert json.loads(where.result.read_text())["top1"] == result["top1"]
    newest = max((where.folder / "checkpoints").iterdir())
    state = torch.load(newest, weights_only=True)["network"]
    for name, value in before.items():
        assert torch.equal(state[f"backbone.{name}"], value), name
    # 24 steps, and falls after 2/7, 4/7 and 6/7 of them.
    assert rates(where.folder) == pytest.approx(
        [2.0 * 6 / 256 * 0.1 ** sum(s >= m for m in (7, 14, 21)) for s in range(24)], abs=1e-6
    )


def test_all_weights_learn_from_half_the_labels(
    images: tuple[ClassifiedImages, ClassifiedImages], subject: EvaluatedBackbone, tmp_path: Path
) -> None:
    where = place(tmp_path)
    result = evaluate_semi(subject, *images, SEMI, where, Processes())
    assert result is not None
    assert result["top1"] > 0.6
    assert result["num_train"] == 12
    assert "4 images of each class drawn with seed 0" in result["train_split"]
    state = torch.load(max((where.folder / "checkpoints").iterdir()), weights_only=True)["network"]
    start = subject.network.state_dict()
    assert not torch.equal(state["backbone.conv1.weight"], start["conv1.weight"])
    assert not torch.equal(state["backbone.bn1.running_mean"], start["bn1.running_mean"])


def test_a_listed_part_is_taken_and_told(
    images: tuple[ClassifiedImages, ClassifiedImages], subject: EvaluatedBackbone, tmp_path: Path
) -> None:
    listed = tmp_path / "half.txt"
    listed.write_text("".join(f"{name}\n" for name in images[0].names[::2]))
    result = evaluate_semi(subject, *images, replace(SEMI, list=listed, epochs=1), place(tmp_path), Processes())
    assert result is not None
    assert "half.txt" in result["train_split"]
    assert not [departure for departure in result["protocol_deviations"] if "drawn" in departure]


def test_a_result_is_kept_and_one_of_other_settings_refused(
    images: tuple[ClassifiedImages, ClassifiedImages], subject: EvaluatedBackbone, tmp_path: Path
) -> None:
    settings, where = replace(LINEAR, epochs=1), place(tmp_path)
    first = evaluate_linear(subject, *images, settings, where, Processes())
    changed = where.result.stat().st_mtime_ns
    assert evaluate_linear(subject, *images, settings, where, Processes()) == first
    assert where.result.stat().st_mtime_ns == changed
    with pytest.raises(StaleResultError, match="course"):
        evaluate_linear(subject, *images, replace(settings, base_lr=1.0), where, Processes())
    again = evaluate_linear(
        subject, *images, replace(settings, base_lr=1.0), place(tmp_path, overwrite=True), Processes()
    )
    assert again is not None
    assert again["base_lr"] == 1.0


def test_a_stopped_training_goes_on_to_the_same_bits(
    images: tuple[ClassifiedImages, ClassifiedImages],
    subject: EvaluatedBackbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    straight, stopped = place(tmp_path / "straight"), place(tmp_path / "stopped")
    expected = evaluate_semi(subject, *images, SEMI, straight, Processes())
    gather = Processes.gather

    def stop_after_five(self: Processes, *numbers: int) -> list[tuple[int, ...]]:
        if (stopped.folder / "metrics.jsonl").exists() and len(rates(stopped.folder)) == 5:
            return [(2,) * len(numbers)] if numbers == (0,) else gather(self, *numbers)
        return gather(self, *numbers)

    monkeypatch.setattr(Processes, "gather", stop_after_five)
    with pytest.raises(Stopped, match="stopped after step 5 of 8"):
        evaluate_semi(subject, *images, SEMI, stopped, Processes())
    monkeypatch.undo()
    assert not stopped.result.exists()
    found = evaluate_semi(subject, *images, SEMI, stopped, Processes())
    assert found is not None
    assert expected is not None
    assert found["top1"] == expected["top1"]
    states = [
        torch.load(max((where.folder / "checkpoints").iterdir()), weights_only=True)["network"]
        for where in (straight, stopped)
    ]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def _judge_fraction(rank: int, port: int, judge: Any, settings: Any, images: Any, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", RANK=str(rank))
    os.environ.update(LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2")
    subject = load_evaluated_backbone(Path("random"), "resnet10")
    with joined_processes(torch.device("cpu")) as processes:
        where = place(folder, precision="64-true")
        found = judge(subject, *images, settings, where, processes)
        assert (found is None) == (rank > 0)


@pytest.mark.parametrize(
    ("judge", "settings"),
    [(evaluate_semi, SEMI), (evaluate_linear, replace(LINEAR, epochs=2, levels=True, jitter=0.4))],
)
def test_two_processes_learn_what_one_does(
    images: tuple[ClassifiedImages, ClassifiedImages],
    subject: EvaluatedBackbone,
    tmp_path: Path,
    judge: Any,
    settings: Any,
) -> None:
    one, two = place(tmp_path / "one", precision="64-true"), place(tmp_path / "two")
    expected = judge(subject, *images, settings, one, Processes())
    multiprocessing.spawn(_judge_fraction, (free_port(), judge, settings, images, tmp_path / "two"), nprocs=2)
    found = json.loads(two.result.read_text())
    assert expected is not None
    for score in ("top1", "levels", "num_val"):
        assert found.get(score) == expected.get(score)
    states = [
        torch.load(max((where.folder / "checkpoints").iterdir()), weights_only=True)["network"] for where in (one, two)
    ]
    for name, value in states[0].items():
        # Sums of gradients are added in another order.
        torch.testing.assert_close(states[1][name], value, rtol=1e-7, atol=1e-10, msg=name)


def test_unreadable_images_are_left_out_told_and_refused_when_they_are_many(
    images: tuple[ClassifiedImages, ClassifiedImages],
    subject: EvaluatedBackbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train = images[0]
    val = flat_images(tmp_path / "broken", "val", 4)
    (val.root / val.names[0]).write_bytes(b"not an image")
    settings, where = replace(LINEAR, epochs=1), place(tmp_path)
    with pytest.raises(RuntimeError, match=r"1 of 12 images of 'val' cannot be read, such as val/blue/0\.png"):
        evaluate_linear(subject, train, val, settings, where, Processes())
    monkeypatch.setattr(course_module, "MAX_UNREADABLE_FRACTION", 0.1)
    result = evaluate_linear(subject, train, val, settings, where, Processes())
    assert result is not None
    assert result["num_val"] == 11
    assert list(result["unreadable"]) == ["val/blue/0.png"]


def test_images_to_score_may_be_mended_when_all_is_learnt(
    images: tuple[ClassifiedImages, ClassifiedImages],
    subject: EvaluatedBackbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings, where, val = replace(LINEAR, epochs=1), place(tmp_path), flat_images(tmp_path / "broken", "val", 4)
    whole = (val.root / val.names[0]).read_bytes()
    (val.root / val.names[0]).write_bytes(b"not an image")
    with pytest.raises(RuntimeError, match="mend them and give the same command again: training is kept"):
        evaluate_linear(subject, images[0], val, settings, where, Processes())
    (val.root / val.names[0]).write_bytes(whole)
    monkeypatch.setattr(SupervisedStep, "update", None)
    result = evaluate_linear(
        subject, images[0], flat_images(tmp_path / "mended", "val", 4), settings, where, Processes()
    )
    assert result is not None
    assert result["num_val"] == 12


def test_weights_that_are_held_stay_held_and_a_frozen_backbone_keeps_its_statistics(subject: EvaluatedBackbone) -> None:
    heads = torch.nn.ModuleDict({"pooled": torch.nn.Sequential(torch.nn.BatchNorm1d(512), torch.nn.Linear(512, 3))})
    for is_frozen in (False, True):
        backbone = copy.deepcopy(subject.network)
        backbone.conv1.requires_grad_(False)
        network = course_module.Classifier(backbone, copy.deepcopy(heads), is_frozen=is_frozen)
        network.synchronise(torch.device("cpu"))
        assert not network.backbone.conv1.weight.requires_grad
        assert network.backbone.layer4[0].conv1.weight.requires_grad is not is_frozen
        assert isinstance(network.heads["pooled"][0], ProcessBatchNorm)
        assert isinstance(network.backbone.bn1, ProcessBatchNorm) is not is_frozen


def test_a_batch_that_is_larger_than_the_images_is_refused_before_anything(
    images: tuple[ClassifiedImages, ClassifiedImages], subject: EvaluatedBackbone, tmp_path: Path
) -> None:
    where = place(tmp_path)
    with pytest.raises(ValueError, match=r"a batch of 256 needs as many images, and there are 24.*--batch-size"):
        evaluate_linear(subject, *images, LinearConfig(dataset="folder"), where, Processes())
    assert not where.folder.exists()


def test_splits_of_other_classes_are_refused(
    images: tuple[ClassifiedImages, ClassifiedImages], subject: EvaluatedBackbone, tmp_path: Path
) -> None:
    val = replace(images[1], classes=("blue", "green", "violet"))
    with pytest.raises(ValueError, match=r"differ in classes.*'red'.*'violet'"):
        evaluate_linear(subject, images[0], val, LINEAR, place(tmp_path), Processes())


def test_a_backbone_that_shall_not_learn_is_refused_for_semi(
    images: tuple[ClassifiedImages, ClassifiedImages], subject: EvaluatedBackbone, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"--backbone-lr is 0\.0.*judged by 'linear'"):
        evaluate_semi(subject, *images, replace(SEMI, backbone_lr=0.0), place(tmp_path), Processes())


def test_five_levels_are_judged_at_once(
    images: tuple[ClassifiedImages, ClassifiedImages], subject: EvaluatedBackbone, tmp_path: Path
) -> None:
    result = evaluate_linear(subject, *images, replace(LINEAR, levels=True, epochs=2), place(tmp_path), Processes())
    assert result is not None
    assert list(result["levels"]) == ["conv1", "res2", "res3", "res4", "res5"]
    # A third are right by chance.
    assert {name: scores["top1"] for name, scores in result["levels"].items() if not scores["top1"] > 0.5} == {}
