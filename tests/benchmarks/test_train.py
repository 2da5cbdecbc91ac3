import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
FIELDS = {"claim", "alternative", "ratio_median", "ratio_p10", "ratio_p90", "agreement", "settings", "machine"}

pytest.importorskip("lightly")


@pytest.fixture(scope="module")
def train() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        spec = importlib.util.spec_from_file_location("benchmark_train", BENCHMARKS / "train.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


@pytest.fixture
def images(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for index in range(3):
        corners = generator.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(corners).resize((50, 40), Image.Resampling.BICUBIC).save(tmp_path / f"{index}.png")
    return tmp_path


def way(train: ModuleType, **changes: Any) -> Any:
    return replace(train.Way(backbone="resnet10", batch_size=4, size_px=32), **changes)


@pytest.mark.slow
def test_both_programs_run_alternately_on_given_images(train: ModuleType, images: Path, tmp_path: Path) -> None:
    sizes = ["--backbones", "resnet10", "--size-px", "32", "--batch-size", "4", "--runs", "2"]
    train.main([*sizes, "--images", str(images), "--json", str(tmp_path / "out.json"), "--parts", "foreach SGD"])
    against_lightly, part = json.loads((tmp_path / "out.json").read_text())
    for result in (against_lightly, part):
        assert set(result) >= FIELDS
        assert result["runs"] == 2
        assert result["settings"]["images"] == "given"
        assert result["settings"]["ours_images_per_s"] > 0
    assert against_lightly["agreement"]["largest_difference_of_losses"] < 1e-7
    assert against_lightly["agreement"]["largest_difference_of_weights"] < 1e-7
    assert part["claim"] == "a BYOL step of resnet10, foreach SGD"


def test_our_loss_is_four_and_four_times_lightlys(train: ModuleType) -> None:
    agreement = train.check_agreement(way(train))
    assert agreement["largest_difference_of_losses"] < 1e-9
    assert agreement["largest_difference_of_weights"] < 1e-9


def test_another_learning_rate_is_reported_as_disagreement(train: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    step = train.lightly_step

    def slower(*arguments: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(train, "LR", train.LR / 2)
            return step(*arguments)

    monkeypatch.setattr(train, "lightly_step", slower)
    with pytest.raises(RuntimeError, match="the two do not do the same work"):
        train.check_agreement(way(train))


@pytest.mark.parametrize(
    "changes",
    [
        {"channels_last": False},
        {"ema": "loop"},
        {"sgd": "foreach"},
        {"sgd": "fused"},
        {"inference_mode": True},
    ],
    ids=str,
)
def test_gradient_accumulation_does_not_change_the_loss(train: ModuleType, changes: dict[str, Any]) -> None:
    def two_losses(chosen: Any) -> list[float]:
        torch.manual_seed(0)
        views = tuple(view.double() for view in train.make_views(chosen))
        step = train.our_step(chosen, views, train.our_network(chosen).double())
        return [step(), step()]

    assert two_losses(way(train, **changes)) == pytest.approx(two_losses(way(train)), abs=1e-9)


def test_joined_views_have_common_batch_statistics(train: ModuleType) -> None:
    def loss(chosen: Any) -> float:
        torch.manual_seed(0)
        return train.our_step(chosen, train.make_views(chosen))()

    assert abs(loss(way(train, join_views=True)) - loss(way(train))) > 1e-4


def test_half_precision_stays_near(train: ModuleType) -> None:
    def loss(chosen: Any) -> float:
        torch.manual_seed(0)
        return train.our_step(chosen, train.make_views(chosen))()

    # Two decimals of bf16.
    assert loss(way(train, bf16=True)) == pytest.approx(loss(way(train)), abs=0.1)


def test_views_are_two_different_cuts_of_the_images(train: ModuleType, images: Path) -> None:
    for chosen in (way(train), way(train, images=str(images))):
        first, second = train.make_views(chosen)
        assert first.shape == second.shape == (4, 3, 32, 32)
        assert not torch.equal(first, second)
    # Three images and a batch of four: the first comes again, cut elsewhere.
    assert not torch.equal(first[0], first[1])


def test_a_process_that_ends_is_reported(train: ModuleType) -> None:
    wrong = replace(way(train), backbone="no_such_network")
    with pytest.raises(RuntimeError, match="answers '' instead of its loss"), train.served(wrong, 1):
        pass
