"""Plan and expected time of a run."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from orl.config import RunConfig
from orl.pipeline import run_plan
from orl.pipeline.preflight import RunInputs, preflight
from orl.pipeline.run_plan import expected_time_logger, format_duration, plan_lines, step_warnings
from orl.recipes import coco, demo
from orl.synthetic.scenes import draw_scenes


@pytest.fixture
def inputs(tmp_path: Path) -> RunInputs:
    draw_scenes(tmp_path / "scenes", num_trainval=40, num_test=1, size_wh=(64, 48), quiet=True)
    return preflight(
        replace(demo(tmp_path / "scenes", tmp_path / "run"), device="cpu"), ("stage1", "discover", "stage3")
    )


def with_config(inputs: RunInputs, config: RunConfig) -> RunInputs:
    return replace(inputs, config=config)


def test_the_plan_names_every_stage_and_its_number_of_steps(inputs: RunInputs) -> None:
    lines = plan_lines(inputs, 120)
    assert lines[0].startswith("plan for 120 images in")
    # 120 images at batch 32 are 3 steps an epoch, and the demo has 20 epochs.
    assert lines[1] == "  stage 1 of 4: pretrain resnet10 with byol: 60 steps (20 x 3 at batch 32)"
    assert lines[2].startswith("  stage 2 of 4: discover")
    assert lines[3] == "  stage 3 of 4: pretrain resnet10 with orl: 60 steps (20 x 3 at batch 32)"
    assert lines[4] == "  stage 4 of 4: write the report; without --eval-data nothing is evaluated"
    assert lines[5] == "  expected time: follows after the first steps of stage 1"
    one = plan_lines(replace(inputs, stages=("stage3",)), 120)
    assert [line[:14] for line in one[1:-1]] == ["  stage 3 of 4"]


def test_the_plan_counts_the_last_smaller_batch_of_the_published_run(inputs: RunInputs) -> None:
    lines = plan_lines(with_config(inputs, coco("images", "run")), 118_287)
    assert "185,600 steps (800 x 232 at batch 512)" in lines[1]
    assert "185,600 steps (800 x 232 at batch 512)" in lines[3]
    short = replace(coco("images", "run"), stage1=replace(coco("images", "run").stage1, epochs=1))
    assert "stage 1 has only 3 steps (1 x 3)" in step_warnings(with_config(inputs, short), 1025)[0]


@pytest.mark.parametrize(("num_images", "num_warnings"), [(120, 2), (319, 2), (320, 0)])
def test_too_few_steps_to_learn_are_warned_of(inputs: RunInputs, num_images: int, num_warnings: int) -> None:
    found = step_warnings(inputs, num_images)
    assert len(found) == num_warnings
    if num_images == 120:
        assert found[0].startswith("WARNING: stage 1 has only 60 steps (20 x 3), too few to learn")
        assert "--stage3.batch-size" in found[1]


def test_the_expected_time_extrapolates_the_first_steps(
    inputs: RunInputs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = iter(range(0, 10_000, 4))
    monkeypatch.setattr(run_plan.time, "monotonic", lambda: float(next(clock)))
    after_step = expected_time_logger(inputs, "stage1", 320)
    caplog.set_level(logging.INFO, logger="orl")
    for step in range(1, 20):
        after_step(step)
    # 4 s a step; 200 steps of which 7 are done. Stage 3 has (2 x 64^2 + 4 x 32^2) / (2 x 64^2) = 1.5 times the pixels.
    assert [record.message for record in caplog.records] == [
        "expected time: stage 1 about 13 min more; stage 3 roughly 20 min, by the pixels of its views; stage 2 not yet "
        "measured"
    ]


def test_a_duration_has_one_unit() -> None:
    assert [format_duration(seconds) for seconds in (1.2, 89, 90, 5399, 5400, 71 * 3600, 80 * 3600)] == [
        "1 s",
        "89 s",
        "2 min",
        "90 min",
        "1.5 h",
        "71.0 h",
        "3 days",
    ]
