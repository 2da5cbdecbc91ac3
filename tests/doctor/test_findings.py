import re
from dataclasses import replace
from pathlib import Path

import pytest
from tests.doctor.plans import COST, GIB, GPU, good_plan

from orl.config import DiscoverConfig, TrainConfig
from orl.doctor.estimates import LinearCost
from orl.doctor.findings import check_plan
from orl.doctor.plan import Plan

OLD_GPU = replace(GPU, has_bf16=False)
LONG = TrainConfig(epochs=800, batch_size=64)


def test_a_good_plan_has_no_findings() -> None:
    assert check_plan(good_plan()) == []
    assert check_plan(good_plan(machine={"gpus": (GPU,)}, config={"precision": "bf16-mixed"})) == []


STOPPING: list[tuple[Plan, str, str]] = [
    (good_plan({"device": "cuda"}), "torch finds none", "--device cpu"),
    (good_plan(machine={"backends": ("nccl",)}, num_processes=2), "2 processes need the backend gloo", "one process"),
    (
        good_plan(machine={"backends": ("gloo",), "gpus": (OLD_GPU,)}, num_processes=2),
        "need the backend nccl",
        "one process",
    ),
    (good_plan({"precision": "16-mixed"}), "16-mixed needs a GPU", "--precision 32-true"),
    (good_plan({"wandb": "offline"}, {"optional": {"wandb": False}}), "wandb is missing", "pip install wandb"),
    (good_plan({"compile": True}, {"compiler": None}), "needs a C\\+\\+ compiler", "leave --compile out"),
    (good_plan(num_images=40), "a batch of 64 needs as many images, and there are 40", "--stage1.batch-size 10"),
    (good_plan(num_processes=3), "a batch of 64 is not a multiple of 3 processes", "--stage1.batch-size"),
    (
        good_plan({"stage1": TrainConfig(batch_size=64, epochs=1, accumulation_steps=5)}),
        "cannot be split into 5 equal gradient accumulation steps",
        "--stage1.accumulation-steps",
    ),
    (good_plan(out_of_memory={"stage1": "killed"}), "stage1 is out of memory .*killed", "--backbone"),
    (
        good_plan(training={"stage1": replace(COST, memory=LinearCost(GIB, GIB / 4))}),
        "stage1 needs about 17.0 GiB of memory for 64 images per forward pass, and 10.0 are free: 32 images fit",
        "--stage1.accumulation-steps 2",
    ),
    (
        good_plan(training={"stage1": replace(COST, memory=LinearCost(GIB, 7 * GIB))}),
        "449.0 GiB of memory for 64 images per forward pass, and 10.0 are free: 1 images fit",
        "a smaller --stage1.batch-size",
    ),
    (
        good_plan(machine={"shared_memory_bytes": 2**24}),
        "2 workers of stage1 send batches .* 0.02 GiB, and it has 0.02",
        "--shm-size",
    ),
    (good_plan(machine={"disk_bytes": 10**8}), "take about 0.4 GiB, and 0.1 are free", "--out on another disk"),
]
SLOW: list[tuple[Plan, str, str]] = [
    (good_plan({"precision": "bf16-mixed"}), "this CPU has no bf16", "--precision 32-true"),
    (
        good_plan({"precision": "bf16-mixed"}, {"gpus": (OLD_GPU,), "has_bf16": True}),
        "this GPU has no bf16",
        "--precision 16-mixed",
    ),
    (good_plan(machine={"has_bf16": True}), "32-true does not use it", "--precision bf16-mixed"),
    (good_plan({"workers": 16}), "16 workers share 4 CPUs", "--workers 4"),
    (
        good_plan(machine={"gpus": (OLD_GPU,)}, training={"stage3": replace(COST, sample_s=0.04)}),
        "stage3 would wait for images 50% of the time",
        "--workers 4",
    ),
    (
        good_plan({"workers": 4}, {"gpus": (OLD_GPU,)}, training={"stage3": replace(COST, sample_s=0.08)}),
        "wait for images 50%",
        "orl data pack",
    ),
    (good_plan({"stage1": LONG}, num_images=10**6), "stage1 would take about 102 days: 800 epochs", "fewer"),
]


@pytest.mark.parametrize(("plan", "message", "remedy"), STOPPING, ids=[message for _, message, _ in STOPPING])
def test_a_plan_that_will_not_work_has_a_finding_with_a_remedy(plan: Plan, message: str, remedy: str) -> None:
    expect(plan, message, remedy, stops=True)


@pytest.mark.parametrize(("plan", "message", "remedy"), SLOW, ids=[message for _, message, _ in SLOW])
def test_a_slow_plan_has_a_finding_that_stops_nothing(plan: Plan, message: str, remedy: str) -> None:
    expect(plan, message, remedy, stops=False)
    assert not any(finding.stops for finding in check_plan(plan))


def expect(plan: Plan, message: str, remedy: str, stops: bool) -> None:
    found = [finding for finding in check_plan(plan) if re.search(message, finding.message)]
    assert found, [finding.message for finding in check_plan(plan)]
    assert found[0].stops is stops
    assert remedy in found[0].remedy


@pytest.mark.parametrize(
    ("name", "discover"),
    [
        ("faiss", DiscoverConfig(neighbour_search="faiss")),
        ("cv2", DiscoverConfig(proposals="opencv")),
    ],
)
def test_a_missing_package_is_a_finding_only_where_the_config_needs_it(name: str, discover: DiscoverConfig) -> None:
    missing = {"optional": {"faiss": True, "cv2": True, "wandb": True, name: False}}
    assert check_plan(good_plan(machine=missing)) == []
    (finding,) = check_plan(good_plan({"discover": discover}, missing))
    assert finding.message.startswith(f"{name} is missing")
    assert finding.remedy.startswith("pip install")


def test_as_many_workers_as_cpus_are_no_finding() -> None:
    assert check_plan(good_plan({"workers": 4})) == []


def test_a_system_without_shared_memory_has_no_finding() -> None:
    assert check_plan(good_plan(machine={"shared_memory_bytes": None})) == []


def test_findings_that_stop_the_run_come_first() -> None:
    plan = good_plan({"workers": 16, "out": Path("x")}, {"disk_bytes": 0})
    assert [finding.stops for finding in check_plan(plan)] == [True, False]
