from dataclasses import replace

import pytest
from tests.doctor.plans import COST, DISCOVERY, GIB, GPU, good_plan

from orl.doctor.estimates import LinearCost
from orl.doctor.plan import discovery_hours, disk_needed, estimate_stage


def test_the_estimate_of_a_stage_on_a_cpu() -> None:
    estimate = estimate_stage(good_plan(), "stage1")
    # 0.9 x 10 GiB - 1 GiB = 8 GiB, at 100 images a GiB.
    assert estimate.largest_batch == 800
    assert estimate.accumulation_steps == 1
    # 0.01 s of the network and 0.004 s of a core of four, on the same cores.
    assert estimate.images_per_s == pytest.approx(1 / 0.011)
    assert estimate.wait_fraction == pytest.approx(1 / 11)
    assert estimate.hours == pytest.approx(6400 * 10 * 0.011 / 3600)
    # 2 workers x 2 batches x 64 images x 100,000 bytes.
    assert estimate.shared_memory_bytes == 25_600_000


def test_a_gpu_waits_only_when_reading_is_slower() -> None:
    estimate = estimate_stage(good_plan(machine={"gpus": (GPU,)}), "stage1")
    assert estimate.images_per_s == pytest.approx(100)
    assert estimate.wait_fraction == 0
    assert estimate.largest_batch == 3500
    slow = replace(COST, sample_s=0.04)
    estimate = estimate_stage(good_plan(machine={"gpus": (GPU,)}, training={"stage1": slow}), "stage1")
    assert estimate.images_per_s == pytest.approx(50)
    assert estimate.wait_fraction == pytest.approx(0.5)


def test_processes_split_the_batch_and_the_images() -> None:
    alone = estimate_stage(good_plan(), "stage1")
    shared = estimate_stage(good_plan(num_processes=4), "stage1")
    assert shared.hours == pytest.approx(alone.hours / 4)
    assert shared.shared_memory_bytes == alone.shared_memory_bytes / 4


def test_a_batch_that_does_not_fit_is_timed_in_parts() -> None:
    costly = replace(COST, memory=LinearCost(GIB, GIB / 4), step=LinearCost(0.08, 0.01))
    estimate = estimate_stage(good_plan(training={"stage1": costly}), "stage1")
    # 32 images fit; two parts of 32 cost 0.08 + 0.32 s each.
    assert estimate.largest_batch == 32
    assert estimate.accumulation_steps == 2
    assert estimate.step_images_per_s == pytest.approx(32 / 0.4)


def test_discovery_searches_each_image_and_embeds_it_and_its_rois() -> None:
    # 0.1 + 10 x 0.01 s an image.
    assert discovery_hours(good_plan(), DISCOVERY) == pytest.approx(6400 * 0.2 / 3600)
    assert discovery_hours(good_plan(num_processes=2), DISCOVERY) == pytest.approx(6400 * 0.1 / 3600)


def test_the_disk_holds_checkpoints_one_more_while_it_is_written_and_tables() -> None:
    # Two stages of 2 + 1 checkpoints; 2,500 boxes of 20 bytes and 9 RoIs of 1,024 an image.
    assert disk_needed(good_plan()) == 6 * 10**7 + 6400 * (50_000 + 9216)


def test_more_parts_than_images_are_timed_as_parts_of_one() -> None:
    plan = good_plan()
    stage1 = replace(plan.config.stage1, batch_size=8, accumulation_steps=16)
    assert estimate_stage(replace(plan, config=replace(plan.config, stage1=stage1)), "stage1").hours > 0
