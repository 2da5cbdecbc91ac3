"""What a recipe would need and take on this machine: settings, facts and costs put together."""

from dataclasses import dataclass, field

from orl.config import RunConfig
from orl.doctor.estimates import largest_batch, parts_needed, queue_bytes, seconds_per_image, training_hours
from orl.doctor.machine import Machine
from orl.doctor.measure import DiscoveryCost, TrainingCost
from orl.pipeline.training_setup import stage_config

PROPOSAL_BYTES, PROPOSALS_A_IMAGE = 20, 2500
"""Of a box in a table, and how many selective search finds in an image of 640x480."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run that might be."""

    config: RunConfig
    machine: Machine
    num_images: int
    """Images of the run: those of the source, or as many as were named."""
    num_processes: int = 1
    """Processes that train together; each has a device, processors and memory as those looked at."""
    training: dict[str, TrainingCost] = field(default_factory=dict)
    """By stage; one that could not be measured is not there."""
    discovery: DiscoveryCost | None = None
    out_of_memory: dict[str, str] = field(default_factory=dict)
    """By stage: what was said when even the batches of the measurement found no memory."""

    @property
    def computes_on_gpu(self) -> bool:
        return self.config.device != "cpu" and bool(self.machine.gpus)

    @property
    def free_bytes(self) -> int:
        """Memory for a step: of the GPU, or of this machine."""
        return self.machine.gpus[0].memory_bytes if self.computes_on_gpu else self.machine.memory_bytes


@dataclass(frozen=True, kw_only=True)
class StageEstimate:
    """One training stage on this machine."""

    largest_batch: int
    """Most images that pass the network at once here, in each process."""
    accumulation_steps: int | None
    """Fewest parts of the recipe's batch that fit; None if none do."""
    step_images_per_s: float
    """Of the network alone, in each process."""
    sample_images_per_s: float
    """Of one core that reads and cuts."""
    images_per_s: float
    """Of all processes, reading and learning at once."""
    wait_fraction: float
    """Of the time, what the network does not have the device for itself, or waits."""
    hours: float
    shared_memory_bytes: int
    """What batches that wait take of /dev/shm, of one process."""


def estimate_stage(plan: Plan, stage: str) -> StageEstimate:
    """Memory, rates and hours of 'stage1' or 'stage3', which must have been measured."""
    cost, settings, config = plan.training[stage], stage_config(plan.config, stage), plan.config
    batch = max(1, settings.batch_size // plan.num_processes)
    largest = largest_batch(cost.memory, plan.free_bytes)
    parts = parts_needed(batch, largest)
    passed = max(1, batch // max(settings.accumulation_steps, parts or 1))
    step_s = cost.step.at(passed) / passed
    shares_cores = not plan.computes_on_gpu
    image_s = seconds_per_image(step_s, cost.sample_s, config.workers, plan.machine.cores, shares_cores)
    hours = training_hours(plan.num_images, settings.batch_size, settings.epochs, image_s / plan.num_processes)
    return StageEstimate(
        largest_batch=largest,
        accumulation_steps=parts,
        step_images_per_s=1 / step_s,
        sample_images_per_s=1 / cost.sample_s,
        images_per_s=plan.num_processes / image_s,
        wait_fraction=1 - step_s / image_s,
        hours=hours,
        shared_memory_bytes=queue_bytes(config.workers, batch, cost.sample_bytes),
    )


def discovery_hours(plan: Plan, cost: DiscoveryCost) -> float:
    """Hours of stage 2: boxes are searched, then each image and each RoI is embedded once."""
    image_s = cost.proposals_s + (1 + cost.rois) * cost.crop_s
    return plan.num_images * image_s / plan.num_processes / 3600


def disk_needed(plan: Plan) -> int:
    """Bytes that the run will write: checkpoints of both stages, one more while it is written, and the tables."""
    kept = {stage: stage_config(plan.config, stage).keep_checkpoints + 1 for stage in plan.training}
    checkpoints = sum(number * plan.training[stage].state_bytes for stage, number in kept.items())
    embedding_bytes = 0.0 if plan.discovery is None else plan.discovery.rois * plan.discovery.embedding_bytes
    return checkpoints + int(plan.num_images * (PROPOSALS_A_IMAGE * PROPOSAL_BYTES + embedding_bytes))
