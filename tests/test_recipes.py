from dataclasses import replace
from pathlib import Path

import pytest

from orl.config import ImageMethod, to_plain
from orl.recipes import METHODS, RECIPES, demo, training_deviations, with_changes, with_method


def test_a_recipe_takes_paths_as_text_and_expands_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    for recipe in RECIPES.values():
        config = recipe("images", "~/runs/x")
        assert (config.images, config.out) == (Path("images"), Path("/home/somebody/runs/x"))


def test_each_method_has_the_numbers_of_its_paper_in_recipe_coco() -> None:
    configs = {name: with_method(RECIPES["coco"](Path("images"), Path("run")), name) for name in METHODS}
    assert {config.stage1.epochs for config in configs.values()} == {800}
    assert all(config.stage3 == configs["byol"].stage3 for config in configs.values())
    for name in ("mocov2", "densecl"):
        stage1, method = configs[name].stage1, configs[name].method
        assert (stage1.batch_size, stage1.base_lr, stage1.warmup_epochs, stage1.weight_decay) == (256, 0.3, 0, 1e-4)
        assert (stage1.ema_momentum, stage1.ema_rises, stage1.optimiser) == (0.999, False, "sgd")
        assert (stage1.lr_schedule, stage1.drop_last) == ("per-epoch", True)
        assert (method.queue_size, method.temperature, method.num_groups) == (65_536, 0.2, 8)
        assert (stage1.hidden_features, stage1.projection_features) == (2048, 128)
        assert (stage1.views.area_range, stage1.views.jitter) == ((0.2, 1.0), (0.4, 0.4, 0.4, 0.1))
        assert (stage1.views.blur_probabilities, stage1.views.solarise_probabilities) == ((0.5, 0.5), (0.0, 0.0))
    assert configs["densecl"].method.dense_weight == 0.5
    stage1 = configs["simclr"].stage1
    assert (stage1.batch_size, stage1.base_lr * 2, stage1.warmup_epochs, stage1.weight_decay) == (512, 0.6, 10, 1e-6)
    assert (stage1.optimiser, configs["simclr"].method.temperature, stage1.join_views) == ("lars", 0.1, True)
    assert (stage1.hidden_features, stage1.projection_features) == (2048, 128)
    assert (stage1.lr_schedule, stage1.drop_last) == ("per-epoch", False)
    assert stage1.views.jitter == (0.8, 0.8, 0.8, 0.2)
    assert stage1.views.blur_probabilities == (0.5, 0.5)
    assert configs["selfemd"].stage1 == configs["byol"].stage1 == configs["byol"].stage3


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("method", METHODS)
def test_the_label_of_a_recipe_changes_no_number(recipe: str, method: ImageMethod) -> None:
    config = RECIPES[recipe]("images", "run")
    renamed = with_method(replace(config, recipe="my coco" if recipe != "coco" else "mine"), method)
    assert to_plain(renamed) | {"recipe": recipe} == to_plain(with_method(config, method))


@pytest.mark.parametrize("name", METHODS)
def test_every_recipe_takes_every_method_and_warm_starts_where_it_can(name: ImageMethod) -> None:
    for recipe in RECIPES.values():
        start = recipe(Path("images"), Path("run"))
        warm = with_method(start, name).objects.warm_start
        assert warm == (start.objects.warm_start and name in ("byol", "selfemd"))


def test_fields_that_no_method_sets_are_kept_when_the_method_changes() -> None:
    config = demo(Path("images"), Path("run"))
    own = {"epochs": 3, "probe_epochs": 1, "checkpoint_minutes": 1.5, "accumulation_steps": 2}
    changed = replace(config.stage1, **own, views=replace(config.stage1.views, size_px=32))
    start = replace(config, stage1=changed)
    for first in METHODS:
        for second in METHODS:
            found = with_method(with_method(start, first), second).stage1
            assert {name: getattr(found, name) for name in own} == own
            assert found.views.size_px == 32
    assert with_method(with_method(start, "densecl"), "byol").stage1 == changed


def test_setting_the_same_method_again_keeps_later_changes() -> None:
    config = with_method(demo(Path("images"), Path("run")), "simclr")
    changed = replace(config, stage1=replace(config.stage1, base_lr=0.7))
    assert with_method(changed, "simclr") == changed
    assert with_method(changed, "byol").stage1 == config.stage3


def test_changes_reach_both_training_stages() -> None:
    config = with_changes(demo("images", "run"), method="simclr", backbone="resnet18", epochs=3, batch_size=16)
    assert [(stage.epochs, stage.batch_size) for stage in (config.stage1, config.stage3)] == [(3, 16), (3, 16)]
    assert (config.method.name, config.network.backbone) == ("simclr", "resnet18")
    assert with_changes(config) == config


@pytest.mark.parametrize("name", METHODS)
def test_coco_deviates_from_the_published_training_in_its_precision_alone(name: ImageMethod) -> None:
    config = with_method(RECIPES["coco"]("images", "run"), name)
    only = ["precision bf16-mixed, not 16-mixed"]
    assert training_deviations(config, "stage1") == only
    other = ["stage1 by another method than byol"] if name != "byol" else []
    assert training_deviations(config, "stage3") == only + other


def test_every_deviation_of_a_run_is_listed_once() -> None:
    config = demo("images", "run")
    found = training_deviations(replace(config, init_from=Path("w.pth")), "stage3")
    assert len(found) == len(set(found))
    assert "network.initial_weights torchvision, not fan-in" in found
    assert "stage1 and stage3 lr_schedule per-step, not per-epoch" in found
    assert "stage1 and stage3 drop_last True, not False" in found
    assert "stage1 and stage3 views.size_px 64, not 224" in found
    assert "objects.roi_size_px 32, not 96" in found
    assert "precision 32-true, not 16-mixed" in found
    assert found[-1] == "starts from given weights"
    assert not any("images" in line or "shard_size" in line or "keep_checkpoints" in line for line in found)
    assert "stage1 lr_schedule per-step, not per-epoch" in training_deviations(config, "stage1")
    assert not any(line.startswith(("discover", "objects")) for line in training_deviations(config, "stage1"))
    without = replace(config, discover=replace(config.discover, feature_extractor=Path("w.pth")))
    assert "stage3 epochs 20, not 800" in training_deviations(without, "stage3")
    assert "stage2 embeds with given weights" in training_deviations(without, "stage3")
