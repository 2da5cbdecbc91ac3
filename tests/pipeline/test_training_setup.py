"""The methods and schedules that a config builds, in the sizes of the recipe `coco`."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from orl.config import ImageMethod, RunConfig
from orl.networks.backbones import build_backbone
from orl.pipeline.training_setup import build_image_method, build_orl, build_schedules
from orl.recipes import METHODS, coco, with_method


def narrow(config: RunConfig) -> RunConfig:
    """The config with a small backbone."""
    return replace(config, network=replace(config.network, backbone="resnet10"))


def trained_layers(network: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    return {
        name: part
        for name, part in network.named_modules()
        if isinstance(part, nn.Conv2d | nn.Linear) and part.weight.requires_grad
    }


def assert_published(name: str, layer: nn.Conv2d | nn.Linear) -> None:
    weight = layer.weight.detach()
    expected = math.sqrt(2 / weight[0].numel())
    assert float(weight.std()) == pytest.approx(expected, rel=5 / math.sqrt(2 * weight.numel())), name
    assert layer.bias is None or not layer.bias.any(), name


@pytest.mark.parametrize("name", METHODS)
def test_every_method_of_coco_starts_from_the_published_weights(name: ImageMethod) -> None:
    torch.manual_seed(0)
    config = narrow(with_method(coco("images", "run"), name))
    method = build_image_method(replace(config, method=small_queue(config)))
    layers = trained_layers(method)
    assert {"byol": 16, "simclr": 14, "mocov2": 14, "densecl": 16, "selfemd": 20}[name] == len(layers)
    for label, layer in layers.items():
        assert_published(label, layer)
    if hasattr(method, "target"):
        online, target = method.online.state_dict(), method.target.state_dict()
        assert all(torch.equal(value, target[key]) for key, value in online.items())


def small_queue(config: RunConfig):  # type: ignore[no-untyped-def]
    return replace(config.method, queue_size=256) if hasattr(config.method, "queue_size") else config.method


def test_orl_of_coco_starts_from_the_published_weights_in_all_three_predictors() -> None:
    torch.manual_seed(0)
    layers = trained_layers(build_orl(narrow(coco("images", "run"))))
    assert sum("predictor" in label for label in layers) == 6
    for label, layer in layers.items():
        assert_published(label, layer)
    # The projector's first layer, 512 -> 4096, and its last.
    assert layers["online.projector.3"].weight.detach().std().item() == pytest.approx(math.sqrt(2 / 4096), rel=0.01)


def test_given_weights_are_not_sampled_again() -> None:
    given = build_backbone("resnet10")
    method = build_image_method(narrow(coco("images", "run")), given)
    assert torch.equal(method.online.backbone.get_parameter("conv1.weight"), given.get_parameter("conv1.weight"))
    assert_published("projector", method.online.projector[0])


@pytest.mark.parametrize("num_epochs", [10, 800])
@pytest.mark.parametrize("stage", ["stage1", "stage3"])
def test_coco_has_the_published_values_at_every_epoch(num_epochs: int, stage: str) -> None:
    train = replace(getattr(coco("images", "run"), stage), epochs=num_epochs)
    values_at = build_schedules(train, steps_per_epoch=232).values_at
    for epoch in range(num_epochs):
        # mmcv's cosine by epoch, and its warm-up in the first 4 epochs; BYOL's hook: m by iteration.
        lr = 0.4 * (1 + math.cos(math.pi * epoch / num_epochs)) / 2
        lr *= 1 - (1 - min(epoch / 4, 1)) * (1 - 1e-4)
        momentum = 1 - 0.01 * (math.cos(math.pi * epoch / num_epochs) + 1) / 2
        assert values_at(232 * epoch) == pytest.approx({"lr": lr, "ema_momentum": momentum}, rel=1e-12)


@pytest.mark.parametrize("name", ["mocov2", "densecl"])
def test_moco_has_a_cosine_by_epoch_without_warm_up(name: ImageMethod) -> None:
    values_at = build_schedules(with_method(coco("images", "run"), name).stage1, steps_per_epoch=462).values_at
    for epoch in range(0, 800, 50):
        lr = 0.3 * (1 + math.cos(math.pi * epoch / 800)) / 2
        assert values_at(462 * epoch + 100) == pytest.approx({"lr": lr, "ema_momentum": 0.999}, rel=1e-12)


def test_simclr_warms_up_for_ten_epochs() -> None:
    values_at = build_schedules(with_method(coco("images", "run"), "simclr").stage1, steps_per_epoch=232).values_at
    for epoch in range(20):
        lr = 0.6 * (1 + math.cos(math.pi * epoch / 800)) / 2 * (1 - (1 - min(epoch / 10, 1)) * (1 - 1e-4))
        assert values_at(232 * epoch)["lr"] == pytest.approx(lr, rel=1e-12)
