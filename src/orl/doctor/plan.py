"""Time, memory and disk of a planned run, from its config, the machine and the measured costs."""

from dataclasses import dataclass, field

from orl.config import RunConfig
from orl.doctor.estimates import (
    accumulation_steps_needed,
    largest_batch,
    queue_bytes,
    seconds_per_image,
    training_hours,
)
from orl.doctor.machine import Machine
from orl.doctor.measure import DiscoveryCost, TrainingCost
from orl.pipeline.training_setup import stage_config

PROPOSAL_BYTES, PROPOSALS_PER_IMAGE = 20, 2500
"""Bytes of a box in a table, and boxes that selective search finds in an image of 640x480 px."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A planned run."""

    config: RunConfig
    machine: Machine
    num_images: int
    """Images of the run: those of the source, or the number given."""
    num_processes: int = 1
    """Processes that train together, each on a machine or GPU like this one."""
    training: dict[str, TrainingCost] = field(default_factory=dict)
    """Stage -> cost; a stage that could not be measured is missing."""
    discovery: DiscoveryCost | None = None
    out_of_memory: dict[str, str] = field(default_factory=dict)
    """Stage -> error, where even the small batches of the measurement did not fit."""

    @property
    def computes_on_gpu(self) -> bool:
        return self.config.device != "cpu" and bool(self.machine.gpus)

    @property
    def free_bytes(self) -> int:
        """Memory for a step: of the GPU, or free memory of this machine."""
        return self.machine.gpus[0].memory_bytes if self.computes_on_gpu else self.machine.memory_bytes


@dataclass(frozen=True, kw_only=True)
class StageEstimate:
    """Estimate of one training stage on this machine."""

    largest_batch: int
    """Most images of a forward pass that fit, in each process."""
    accumulation_steps: int | None
    """Fewest gradient accumulation steps that fit; None if none do."""
    step_images_per_s: float
    """Rate of the network alone, in each process."""
    sample_images_per_s: float
    """Rate of one core that reads and crops."""
    images_per_s: float
    """Rate of all processes, reading and training at once."""
    wait_fraction: float
    """Fraction of the time that the network waits for images or shares its cores with reading."""
    hours: float
    shared_memory_bytes: int
    """Shared memory of the prefetched batches of one process."""


def estimate_stage(plan: Plan, stage: str) -> StageEstimate:
    """Estimate memory, rates and hours of 'stage1' or 'stage3', which must have been measured."""
    cost, train, config = plan.training[stage], stage_config(plan.config, stage), plan.config
    batch = max(1, train.batch_size // plan.num_processes)
    largest = largest_batch(cost.memory, plan.free_bytes)
    steps = accumulation_steps_needed(batch, largest)
    per_pass = max(1, batch // max(train.accumulation_steps, steps or 1))
    step_s = cost.step.at(per_pass) / per_pass
    shares_cores = not plan.computes_on_gpu
    image_s = seconds_per_image(step_s, cost.sample_s, config.workers, plan.machine.cores, shares_cores)
    process_s = image_s / plan.num_processes
    hours = training_hours(plan.num_images, train.batch_size, train.epochs, process_s, drop_last=train.drop_last)
    return StageEstimate(
        largest_batch=largest,
        accumulation_steps=steps,
        step_images_per_s=1 / step_s,
        sample_images_per_s=1 / cost.sample_s,
        images_per_s=plan.num_processes / image_s,
        wait_fraction=1 - step_s / image_s,
        hours=hours,
        shared_memory_bytes=queue_bytes(config.workers, batch, cost.sample_bytes),
    )


def discovery_hours(plan: Plan, cost: DiscoveryCost) -> float:
    """Estimate the hours of stage 2: one box search per image, and one embedding per image and per RoI."""
    image_s = cost.proposals_s + (1 + cost.rois) * cost.crop_s
    return plan.num_images * image_s / plan.num_processes / 3600


def disk_needed(plan: Plan) -> int:
    """Estimate the bytes of checkpoints, with one more while it is written, and of tables."""
    kept = {stage: stage_config(plan.config, stage).keep_checkpoints + 1 for stage in plan.training}
    checkpoints = sum(number * plan.training[stage].state_bytes for stage, number in kept.items())
    embedding_bytes = 0.0 if plan.discovery is None else plan.discovery.rois * plan.discovery.embedding_bytes
    return checkpoints + int(plan.num_images * (PROPOSALS_PER_IMAGE * PROPOSAL_BYTES + embedding_bytes))
