"""Linear and semi-supervised classification, from images to the JSON file."""

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
from tests.evaluation.classification.small import class_data, flat_images
from tests.ports import free_port

from orl.datasets.classified import ClassifiedImages
from orl.evaluation.classification import training
from orl.evaluation.classification.class_data import class_count_deviations
from orl.evaluation.classification.classifier import (
    Classifier,
    features_of_heads,
    freeze_unused_parameters,
    normalised_heads,
    pooled_head,
)
from orl.evaluation.classification.linear import (
    LINEAR,
    LinearConfig,
    build_linear_optimiser,
    linear_deviations,
    linear_schedule,
)
from orl.evaluation.classification.samples import (
    CROP_AREA_RANGE,
    CROP_ASPECT_RATIO_RANGE,
    TestImages,
    add_lighting,
    sample_lighting,
    training_colours,
)
from orl.evaluation.classification.semi import SEMI, SemiConfig, build_semi_optimiser, semi_schedule, weight_decay
from orl.evaluation.evaluated_backbone import EvaluatedBackbone, load_evaluated_backbone
from orl.evaluation.evaluations import find_evaluation
from orl.evaluation.output import EvaluationOutput
from orl.networks.backbones import build_backbone
from orl.networks.sync_bn import ProcessBatchNorm
from orl.processes import Processes, joined_processes
from orl.provenance import StaleResultError
from orl.training.interrupts import Stopped
from orl.training.supervised import SupervisedStep
from orl.views.colour import IMAGENET_MEAN, IMAGENET_STD

LINEAR_CONFIG = LinearConfig(dataset="folder", epochs=6, batch_size=6, base_lr=2.0, size_px=32, jitter=0.0)
SEMI_CONFIG = SemiConfig(
    dataset="folder", fraction=0.5, epochs=4, batch_size=6, backbone_lr=0.05, head_lr=0.5, size_px=32
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[ClassifiedImages, ClassifiedImages]:
    root = tmp_path_factory.mktemp("flat")
    return flat_images(root, "train", 8), flat_images(root, "val", 4)


@pytest.fixture(scope="module")
def backbone() -> EvaluatedBackbone:
    return load_evaluated_backbone(Path("random"), "resnet10")


def output(tmp_path: Path, **others: Any) -> EvaluationOutput:
    return EvaluationOutput(
        **{"result": tmp_path / "result.json", "device": "cpu", "workers": 0, "quiet": True, **others}
    )


def rates(folder: Path) -> list[float]:
    return [json.loads(line)["lr"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("dataset", "epochs", "falls"),
    [("imagenet", 28, (8, 16, 24)), ("places205", 14, (4, 8, 12)), ("inat18", 84, (24, 48, 72))],
)
def test_linear_has_the_published_learning_rates(dataset: Any, epochs: int, falls: tuple[int, ...]) -> None:
    schedule, steps_per_epoch = linear_schedule(LinearConfig(dataset=dataset)), 7
    at = schedule.schedules(steps_per_epoch).values_at
    assert (schedule.epochs, schedule.batch_size) == (epochs, 256)
    for step in range(epochs * steps_per_epoch):
        epoch = step // steps_per_epoch
        expected = 0.01 if epoch < falls[0] else 0.001 if epoch < falls[1] else 1e-4 if epoch < falls[2] else 1e-5
        assert at(step)["lr"] == pytest.approx(expected), step


def test_semi_has_the_published_learning_rates(backbone: EvaluatedBackbone) -> None:
    config, steps_per_epoch = SemiConfig(), 50
    at = semi_schedule(config).schedules(steps_per_epoch).values_at
    for step in range(20 * steps_per_epoch):
        epoch = step // steps_per_epoch
        expected = 0.01 if epoch < 12 else 0.002 if epoch < 16 else 0.0004
        assert at(step)["lr"] == pytest.approx(expected), step
    network = Classifier(backbone.network, pooled_head(512, 3), is_frozen=False)
    backbone, head = build_semi_optimiser(network, config).param_groups
    assert backbone.get("lr_scale", 1.0) == 1.0
    assert head["lr_scale"] == pytest.approx(100.0)  # 1 where the backbone has 0.01
    assert sum(weight.numel() for weight in head["params"]) == 512 * 3 + 3


def test_linear_has_the_published_optimiser(backbone: EvaluatedBackbone) -> None:
    heads = pooled_head(512, 3)
    frozen = Classifier(copy.deepcopy(backbone.network), heads, is_frozen=True)
    optimiser = build_linear_optimiser(frozen, LinearConfig())
    (group,) = optimiser.param_groups
    assert (group["lr"], group["momentum"], group["nesterov"], group["weight_decay"]) == (0.01, 0.9, True, 1e-4)
    assert [weight.shape for weight in group["params"]] == [(3, 512), (3,)]


def test_training_crops_have_the_published_augmentation() -> None:
    """RandomResizedCrop of 8% to 100% and 3:4 to 4:3, mirrored in half of the cases, jitter of 0.4 without hue."""
    assert (CROP_AREA_RANGE, CROP_ASPECT_RATIO_RANGE) == ((0.08, 1.0), (3 / 4, 4 / 3))
    colours = training_colours(linear_schedule(LinearConfig()).jitter)
    assert (colours.brightness, colours.contrast, colours.saturation, colours.hue) == (0.4, 0.4, 0.4, 0.0)
    assert (colours.flip_probability, colours.jitter_probability) == (0.5, 1.0)
    assert (colours.gray_probability, colours.blur_probability, colours.solarise_probability) == (0, 0, 0)
    assert training_colours(0.0).jitter_probability == 0


@pytest.mark.parametrize(
    ("dataset", "jitter", "lighting"), [("imagenet", 0.4, 0.1), ("places205", 0, 0), ("inat18", 0, 0)]
)
def test_colours_change_on_imagenet_only(dataset: Any, jitter: float, lighting: float) -> None:
    """ColorJitter and Lighting are in ORL's imagenet/r50_multihead_28ep.py, and not in the configs of the other two."""
    schedule = linear_schedule(LinearConfig(dataset=dataset))
    assert (schedule.jitter, schedule.lighting) == (jitter, lighting)
    given = linear_schedule(LinearConfig(dataset=dataset, jitter=0.2, lighting=0.3))
    assert (given.jitter, given.lighting) == (0.2, 0.3)
    assert linear_deviations(LinearConfig(dataset=dataset)) == []
    assert linear_deviations(LinearConfig(dataset=dataset, lighting=0.3)) == [f"lighting 0.3, not {lighting:g}"]


def test_lighting_is_noise_along_the_principal_components_of_the_colours() -> None:
    """OpenSelfSup's Lighting: (eigvec * alpha * eigval).sum(1), alpha from N(0, 0.1), added before normalisation."""
    alpha = 0.1 * np.random.default_rng(0).standard_normal(3)
    vectors = [(-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203)]
    values = (0.2175, 0.0188, 0.0045)
    expected = [sum(row[k] * alpha[k] * values[k] for k in range(3)) for row in vectors]
    shift = sample_lighting(0.1, np.random.default_rng(0))
    np.testing.assert_allclose(shift, expected, rtol=1e-6)
    image = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(each)[:, None, None] for each in (IMAGENET_MEAN, IMAGENET_STD))
    found = add_lighting((image - mean) / std, torch.from_numpy(shift)[None])
    torch.testing.assert_close(found, (image + torch.from_numpy(shift)[:, None, None] - mean) / std)
    assert not sample_lighting(0.0, np.random.default_rng(0)).any()


def test_the_head_of_linear_is_the_published_one() -> None:
    """ORL's configs: MultiClsHead with SyncBN, affine=False, of the 8,192 numbers that MultiPooling gives for feat5."""
    network = build_backbone("resnet50")
    heads = normalised_heads(network, ["feat5"], 3, 224)
    normalise, _, linear = heads["feat5"]
    assert (normalise.affine, normalise.num_features, linear.in_features) == (False, 2048, 8192)
    torch.manual_seed(0)
    features = torch.rand(6, 2048, 2, 2)
    mean, variance = features.mean(dim=(0, 2, 3)), features.var(dim=(0, 2, 3), correction=0)
    expected = (features - mean[:, None, None]) / (variance + 1e-5).sqrt()[:, None, None]
    torch.testing.assert_close(heads["feat5"](features), linear(expected.flatten(1)))


def test_the_head_of_semi_is_a_linear_layer_on_pooled_features(backbone: EvaluatedBackbone) -> None:
    """ORL's configs: ClsHead with with_avg_pool=True."""
    views = torch.rand(2, 3, 64, 64)
    _, linear = pooled_head(512, 3)["pooled"]
    with torch.no_grad():
        features = features_of_heads(backbone.network, views, ["pooled"])["pooled"]
        torch.testing.assert_close(features.flatten(1), backbone.network(views).mean(dim=(2, 3)))
    assert linear.in_features == 512


def test_features_without_effect_are_refused() -> None:
    with pytest.raises(ValueError, match="--features pooled has no effect with --levels"):
        LinearConfig(levels=True, features="pooled")


def test_test_crops_equal_resize_and_centre_crop(tmp_path: Path) -> None:
    """Compare with Pillow at the sizes of torchvision's Resize(256) and CenterCrop(224)."""
    ramp = np.stack(
        np.broadcast_arrays(np.linspace(0, 255, 320)[None], np.linspace(0, 255, 512)[:, None], 90.0), axis=2
    )
    Image.fromarray(ramp.astype(np.uint8)).save(tmp_path / "ramp.png")
    images = ClassifiedImages(
        root=tmp_path, split="val", classes=("a",), names=("ramp.png",), labels=np.zeros(1, dtype=np.int64)
    )
    crop, _ = TestImages(images, [0], 224)[0]
    assert isinstance(crop, torch.Tensor)
    resized = Image.open(tmp_path / "ramp.png").resize((256, 409), Image.Resampling.BILINEAR)
    left, top = (256 - 224) // 2, round((409 - 224) / 2)
    expected = np.asarray(resized.crop((left, top, left + 224, top + 224)), dtype=int).transpose(2, 0, 1)
    assert abs(crop.numpy().astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "--epochs is 0; it must be 1 or more"),
        ({"epochs": -3}, "--epochs is -3"),
        ({"batch_size": 0}, "--batch-size is 0; it must be 1 or more"),
        ({"size_px": 0}, "--size-px is 0; it must be 32 or more"),
        ({"sgd_momentum": -0.1}, "--sgd-momentum is -0.1"),
        ({"weight_decay": float("nan")}, "weight_decay must be a finite number, not nan"),
        ({"base_lr": 0.0}, "--base-lr is 0.0; it must be above 0"),
        ({"head_lr": -1.0}, "--head-lr is -1.0; it must be above 0"),
    ],
)
def test_config_values_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    configs: list[Any] = [config for config in (LINEAR_CONFIG, SEMI_CONFIG) if hasattr(config, next(iter(changes)))]
    assert configs
    for config in configs:
        with pytest.raises(ValueError, match=message):
            replace(config, **changes)


class PartlyUsed(torch.nn.Module):
    """A backbone with parameters that do not affect its features."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.used(images)


def test_parameters_that_do_not_affect_features_are_frozen() -> None:
    backbone = PartlyUsed()
    freeze_unused_parameters(backbone, 32)
    assert {name: weight.requires_grad for name, weight in backbone.named_parameters()} == {
        "used.weight": True,
        "used.bias": True,
        "unused.weight": False,
        "unused.bias": False,
    }
    assert all(weight.grad is None for weight in backbone.parameters())


def test_another_number_of_classes_is_a_std() -> None:
    assert class_count_deviations("imagenet", 1000) == []
    assert class_count_deviations("inat18", 8142) == []
    assert class_count_deviations("folder", 7) == []
    assert class_count_deviations("imagenet", 100) == ["100 classes, not 1,000"]


def test_weight_decay_depends_on_the_fraction_of_labels() -> None:
    assert [weight_decay(SemiConfig(fraction=fraction)) for fraction in (0.01, 0.1)] == [0.0, 1e-4]
    assert weight_decay(SemiConfig(weight_decay=0.5)) == 0.5


def test_a_linear_layer_learns_and_the_backbone_is_unchanged(
    images: tuple[ClassifiedImages, ClassifiedImages], backbone: EvaluatedBackbone, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in backbone.network.state_dict().items()}
    where = output(tmp_path)
    result = LINEAR.run(backbone, class_data(*images), LINEAR_CONFIG, where, Processes())
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


def test_semi_trains_all_weights_on_half_of_the_labels(
    images: tuple[ClassifiedImages, ClassifiedImages], backbone: EvaluatedBackbone, tmp_path: Path
) -> None:
    where = output(tmp_path)
    result = SEMI.run(backbone, class_data(*images), SEMI_CONFIG, where, Processes())
    assert result is not None
    assert result["top1"] > 0.6
    assert result["num_train"] == 12
    assert "4 images of each class sampled with seed 0" in result["train_split"]
    state = torch.load(max((where.folder / "checkpoints").iterdir()), weights_only=True)["network"]
    start = backbone.network.state_dict()
    assert not torch.equal(state["backbone.conv1.weight"], start["conv1.weight"])
    assert not torch.equal(state["backbone.bn1.running_mean"], start["bn1.running_mean"])


def test_a_list_of_labels_is_used_and_named(
    images: tuple[ClassifiedImages, ClassifiedImages], backbone: EvaluatedBackbone, tmp_path: Path
) -> None:
    listed = tmp_path / "half.txt"
    listed.write_text("".join(f"{name}\n" for name in images[0].names[::2]))
    result = SEMI.run(
        backbone, class_data(*images), replace(SEMI_CONFIG, list=listed, epochs=1), output(tmp_path), Processes()
    )
    assert result is not None
    assert "half.txt" in result["train_split"]
    assert not [deviation for deviation in result["protocol_deviations"] if "sampled" in deviation]


def test_a_finished_result_is_read_and_one_of_another_config_refused(
    images: tuple[ClassifiedImages, ClassifiedImages], backbone: EvaluatedBackbone, tmp_path: Path
) -> None:
    config, where = replace(LINEAR_CONFIG, epochs=1), output(tmp_path)
    first = LINEAR.run(backbone, class_data(*images), config, where, Processes())
    changed = where.result.stat().st_mtime_ns
    assert LINEAR.run(backbone, class_data(*images), config, where, Processes()) == first
    assert where.result.stat().st_mtime_ns == changed
    with pytest.raises(StaleResultError, match="schedule"):
        LINEAR.run(backbone, class_data(*images), replace(config, base_lr=1.0), where, Processes())
    again = LINEAR.run(
        backbone, class_data(*images), replace(config, base_lr=1.0), output(tmp_path, overwrite=True), Processes()
    )
    assert again is not None
    assert again["base_lr"] == 1.0


def test_a_resumed_training_gives_the_same_weights_bit_for_bit(
    images: tuple[ClassifiedImages, ClassifiedImages],
    backbone: EvaluatedBackbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    straight, stopped = output(tmp_path / "straight"), output(tmp_path / "stopped")
    expected = SEMI.run(backbone, class_data(*images), SEMI_CONFIG, straight, Processes())
    gather = Processes.gather

    def stop_after_five(self: Processes, *numbers: int) -> list[tuple[int, ...]]:
        if (stopped.folder / "metrics.jsonl").exists() and len(rates(stopped.folder)) == 5:
            return [(2,) * len(numbers)] if numbers == (0,) else gather(self, *numbers)
        return gather(self, *numbers)

    monkeypatch.setattr(Processes, "gather", stop_after_five)
    with pytest.raises(Stopped, match="stopped after step 5 of 8"):
        SEMI.run(backbone, class_data(*images), SEMI_CONFIG, stopped, Processes())
    monkeypatch.undo()
    assert not stopped.result.exists()
    found = SEMI.run(backbone, class_data(*images), SEMI_CONFIG, stopped, Processes())
    assert found is not None
    assert expected is not None
    assert found["top1"] == expected["top1"]
    states = [
        torch.load(max((where.folder / "checkpoints").iterdir()), weights_only=True)["network"]
        for where in (straight, stopped)
    ]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def _evaluate_in_one_of_two(rank: int, port: int, evaluation: str, config: Any, images: Any, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", RANK=str(rank))
    os.environ.update(LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2")
    backbone = load_evaluated_backbone(Path("random"), "resnet10")
    with joined_processes(torch.device("cpu")) as processes:
        where = output(folder, precision="64-true")
        found = find_evaluation(evaluation).run(backbone, class_data(*images), config, where, processes)
        assert (found is None) == (rank > 0)


@pytest.mark.parametrize(
    ("evaluation", "config"),
    [("semi", SEMI_CONFIG), ("linear", replace(LINEAR_CONFIG, epochs=2, levels=True, jitter=0.4))],
)
def test_two_processes_give_the_weights_of_one(
    images: tuple[ClassifiedImages, ClassifiedImages],
    backbone: EvaluatedBackbone,
    tmp_path: Path,
    evaluation: str,
    config: Any,
) -> None:
    one, two = output(tmp_path / "one", precision="64-true"), output(tmp_path / "two")
    expected = find_evaluation(evaluation).run(backbone, class_data(*images), config, one, Processes())
    multiprocessing.spawn(
        _evaluate_in_one_of_two, (free_port(), evaluation, config, images, tmp_path / "two"), nprocs=2
    )
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


def test_unreadable_images_are_listed_and_refused_above_the_limit(
    images: tuple[ClassifiedImages, ClassifiedImages],
    backbone: EvaluatedBackbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train = images[0]
    val = flat_images(tmp_path / "broken", "val", 4)
    (val.root / val.names[0]).write_bytes(b"not an image")
    config, where = replace(LINEAR_CONFIG, epochs=1), output(tmp_path)
    with pytest.raises(RuntimeError, match=r"1 of 12 images of 'val' cannot be read, such as val/blue/0\.png"):
        LINEAR.run(backbone, class_data(train, val), config, where, Processes())
    monkeypatch.setattr(training, "MAX_UNREADABLE_FRACTION", 0.1)
    result = LINEAR.run(backbone, class_data(train, val), config, where, Processes())
    assert result is not None
    assert result["num_val"] == 11
    assert list(result["unreadable"]) == ["val/blue/0.png"]


def test_images_to_score_can_be_repaired_after_training(
    images: tuple[ClassifiedImages, ClassifiedImages],
    backbone: EvaluatedBackbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, where, val = replace(LINEAR_CONFIG, epochs=1), output(tmp_path), flat_images(tmp_path / "broken", "val", 4)
    content = (val.root / val.names[0]).read_bytes()
    (val.root / val.names[0]).write_bytes(b"not an image")
    with pytest.raises(RuntimeError, match="repair them and give the same command again: training is kept"):
        LINEAR.run(backbone, class_data(images[0], val), config, where, Processes())
    (val.root / val.names[0]).write_bytes(content)
    monkeypatch.setattr(SupervisedStep, "update", None)
    result = LINEAR.run(
        backbone, class_data(images[0], flat_images(tmp_path / "repaired", "val", 4)), config, where, Processes()
    )
    assert result is not None
    assert result["num_val"] == 12


def test_synchronising_keeps_frozen_parameters_and_a_frozen_backbone(backbone: EvaluatedBackbone) -> None:
    heads = normalised_heads(backbone.network, ["pooled"], 3, 32)
    for is_frozen in (False, True):
        trunk = copy.deepcopy(backbone.network)
        trunk.conv1.requires_grad_(False)
        network = Classifier(trunk, copy.deepcopy(heads), is_frozen=is_frozen)
        network.synchronise(torch.device("cpu"))
        assert not network.backbone.conv1.weight.requires_grad
        assert network.backbone.layer4[0].conv1.weight.requires_grad is not is_frozen
        assert isinstance(network.heads["pooled"][0], ProcessBatchNorm)
        assert isinstance(network.backbone.bn1, ProcessBatchNorm) is not is_frozen


def test_a_batch_larger_than_the_training_split_is_refused(
    images: tuple[ClassifiedImages, ClassifiedImages], backbone: EvaluatedBackbone, tmp_path: Path
) -> None:
    where = output(tmp_path)
    with pytest.raises(ValueError, match=r"a batch of 256 needs as many images, and there are 24.*--batch-size"):
        LINEAR.run(backbone, class_data(*images), LinearConfig(dataset="folder"), where, Processes())
    assert not where.folder.exists()


def test_splits_with_different_classes_are_refused(
    images: tuple[ClassifiedImages, ClassifiedImages], backbone: EvaluatedBackbone, tmp_path: Path
) -> None:
    val = replace(images[1], classes=("blue", "green", "violet"))
    with pytest.raises(ValueError, match=r"differ in classes.*'red'.*'violet'"):
        LINEAR.run(backbone, class_data(images[0], val), LINEAR_CONFIG, output(tmp_path), Processes())


def test_semi_refuses_a_backbone_without_learning_rate() -> None:
    with pytest.raises(ValueError, match=r"--backbone-lr is 0\.0.*'linear' evaluates a frozen backbone"):
        replace(SEMI_CONFIG, backbone_lr=0.0)


def test_five_levels_are_scored_at_once(
    images: tuple[ClassifiedImages, ClassifiedImages], backbone: EvaluatedBackbone, tmp_path: Path
) -> None:
    result = LINEAR.run(
        backbone, class_data(*images), replace(LINEAR_CONFIG, levels=True, epochs=2), output(tmp_path), Processes()
    )
    assert result is not None
    assert list(result["levels"]) == ["conv1", "res2", "res3", "res4", "res5"]
    # A third are right by chance.
    assert {name: scores["top1"] for name, scores in result["levels"].items() if not scores["top1"] > 0.5} == {}
