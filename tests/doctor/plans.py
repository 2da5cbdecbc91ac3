"""A plan on which nothing stands in the way, to be spoilt in one place by a test."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from orl.config import RunConfig, TrainConfig
from orl.doctor.estimates import LinearCost
from orl.doctor.machine import OPTIONAL, Gpu, Machine
from orl.doctor.measure import DiscoveryCost, TrainingCost
from orl.doctor.plan import Plan

GIB = 2**30
GPU = Gpu(name="a GPU", memory_bytes=40 * GIB, has_bf16=True)

MACHINE = Machine(
    versions={"python": "3", "torch": "2"},
    optional=dict.fromkeys(OPTIONAL, True),
    cpu="a CPU",
    cores=4.0,
    has_bf16=False,
    memory_bytes=10 * GIB,
    shared_memory_bytes=GIB,
    disk_bytes=100 * GIB,
    gpus=(),
    backends=("nccl", "gloo"),
    compiler="/usr/bin/c++",
)
COST = TrainingCost(
    parameters=10**6,
    state_bytes=10**7,
    batches=(2, 6),
    memory=LinearCost(GIB, GIB / 100),
    step=LinearCost(0.0, 0.01),
    sample_s=0.004,
    sample_bytes=100_000,
)
DISCOVERY = DiscoveryCost(proposals_s=0.1, rois=9.0, crop_s=0.01, embedding_bytes=1024)


def good_plan(config: dict[str, Any] | None = None, machine: dict[str, Any] | None = None, **changes: Any) -> Plan:
    """The plan with some settings, facts or fields of its own changed."""
    training = TrainConfig(epochs=10, batch_size=64)
    run_config = RunConfig(images=Path("images"), out=Path("out"), workers=2, stage1=training, stage3=training)
    return Plan(
        **{
            "config": replace(run_config, **(config or {})),
            "machine": replace(MACHINE, **(machine or {})),
            "num_images": 6400,
            "training": {"stage1": COST, "stage3": COST},
            "discovery": DISCOVERY,
            **changes,
        }
    )
