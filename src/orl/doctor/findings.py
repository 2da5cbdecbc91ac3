"""Findings: reasons why a planned run will not work or will be slow, each with a remedy."""

from collections.abc import Iterator
from dataclasses import dataclass

from orl.config import RunConfig
from orl.doctor.machine import OPTIONAL
from orl.doctor.plan import Plan, disk_needed, estimate_stage
from orl.pipeline.preflight import batch_problems
from orl.pipeline.training_setup import stage_config
from orl.rundir import TRAINED_STAGES

GIB = 2**30
LONG_HOURS = 24 * 14
"""Hours of a stage above which it is reported: two weeks."""
MAX_WAIT_FRACTION = 0.05


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One reason why a run will not work or will be slow."""

    stops: bool
    """True if the run will not work; False if it will be slow."""
    message: str
    remedy: str


def check_plan(plan: Plan) -> list[Finding]:
    """Check a plan; return the findings, those that stop the run first."""
    checks = (_device, _precision, _packages, _batches, _memory, _shared_memory, _disk, _workers, _hours)
    found = [finding for check in checks for finding in check(plan)]
    return sorted(found, key=lambda finding: not finding.stops)


def device_is_there(config: RunConfig, num_gpus: int) -> bool:
    """Return False if the config requires a GPU and there is none."""
    return config.device != "cuda" or num_gpus > 0


def _device(plan: Plan) -> Iterator[Finding]:
    if not device_is_there(plan.config, len(plan.machine.gpus)):
        yield Finding(
            stops=True,
            message="a GPU is required (--device cuda), but torch finds none",
            remedy="use --device cpu or auto, or install a driver and a torch built for it",
        )
    backend = "nccl" if plan.computes_on_gpu else "gloo"
    if plan.num_processes > 1 and backend not in plan.machine.backends:
        yield Finding(
            stops=True,
            message=f"{plan.num_processes} processes need the backend {backend}, which this torch lacks",
            remedy="train in one process, or install torch's own wheels",
        )


def _precision(plan: Plan) -> Iterator[Finding]:
    config, machine = plan.config, plan.machine
    has_bf16 = machine.gpus[0].has_bf16 if plan.computes_on_gpu else machine.has_bf16
    device = "GPU" if plan.computes_on_gpu else "CPU"
    if config.precision == "16-mixed" and not plan.computes_on_gpu:
        yield Finding(
            stops=True,
            message="--precision 16-mixed needs a GPU, and this run would use the CPU",
            remedy="use --precision 32-true" + (" or bf16-mixed" if has_bf16 else ""),
        )
    if config.precision == "bf16-mixed" and not has_bf16:
        yield Finding(
            stops=False,
            message=f"this {device} has no bf16 in hardware: --precision bf16-mixed is slower than 32-true on it",
            remedy="use --precision 16-mixed" if plan.computes_on_gpu else "use --precision 32-true",
        )
    if config.precision == "32-true" and has_bf16:
        yield Finding(
            stops=False,
            message=f"this {device} multiplies bf16 in hardware, and --precision 32-true does not use it",
            remedy="use --precision bf16-mixed"
            if plan.computes_on_gpu
            else "try the same with --precision bf16-mixed: ResNets were 1.6 times as fast on such a CPU",
        )


def _packages(plan: Plan) -> Iterator[Finding]:
    config = plan.config
    needed = {
        "faiss": config.discover.neighbour_search == "faiss",
        "cv2": config.discover.proposals == "opencv",
        "wandb": config.wandb != "off",
    }
    for name, is_needed in needed.items():
        if is_needed and not plan.machine.optional[name]:
            option, _, command = OPTIONAL[name].partition("; ")
            yield Finding(stops=True, message=f"{name} is missing, which this config needs ({option})", remedy=command)
    if config.compile and plan.machine.compiler is None:
        yield Finding(
            stops=True,
            message="--compile needs a C++ compiler, and there is none (CXX, c++, g++, clang++)",
            remedy="install g++, or leave --compile out",
        )


def _batches(plan: Plan) -> Iterator[Finding]:
    for stage in TRAINED_STAGES:
        for problem in batch_problems(plan.config, stage, plan.num_images, plan.num_processes):
            yield Finding(stops=True, message=problem.message, remedy=problem.remedy)


def _memory(plan: Plan) -> Iterator[Finding]:
    for stage, message in plan.out_of_memory.items():
        yield Finding(
            stops=True,
            message=f"{stage} is out of memory even with the few images of the measurement ({message})",
            remedy="use a smaller --discover.search-scale, or stop other programs that use the memory"
            if stage == "stage2"
            else f"use smaller --{stage}.views.size-px, --backbone or --{stage}.hidden-features, or stop "
            "other programs that use the device",
        )
    for stage, cost in plan.training.items():
        train, estimate = stage_config(plan.config, stage), estimate_stage(plan, stage)
        passed = train.batch_size // plan.num_processes // train.accumulation_steps
        if passed <= estimate.largest_batch:
            continue
        needed, free = cost.memory.at(passed) / GIB, plan.free_bytes / GIB
        steps = estimate.accumulation_steps
        yield Finding(
            stops=True,
            message=f"{stage} needs about {needed:.1f} GiB of memory for {passed} images per forward pass, and "
            f"{free:.1f} are free: {estimate.largest_batch} images fit",
            remedy=f"set --{stage}.accumulation-steps {steps}"
            if steps is not None
            else f"set a smaller --{stage}.batch-size, --{stage}.views.size-px or --backbone",
        )


def _shared_memory(plan: Plan) -> Iterator[Finding]:
    room = plan.machine.shared_memory_bytes
    for stage in plan.training:
        needed = estimate_stage(plan, stage).shared_memory_bytes
        if room is not None and needed > room:
            yield Finding(
                stops=True,
                message=f"the {plan.config.workers} workers of {stage} send batches through /dev/shm: up to "
                f"{needed / GIB:.2f} GiB, and it has {room / GIB:.2f}",
                remedy="give the container more (docker run --shm-size, or --ipc=host), or use fewer --workers",
            )


def _disk(plan: Plan) -> Iterator[Finding]:
    needed, free = disk_needed(plan), plan.machine.disk_bytes
    if needed > free:
        yield Finding(
            stops=True,
            message=f"checkpoints and tables take about {needed / GIB:.1f} GiB, and {free / GIB:.1f} are free",
            remedy="use --out on another disk, or make room",
        )


def _workers(plan: Plan) -> Iterator[Finding]:
    workers, cores = plan.config.workers, plan.machine.cores
    if workers > cores:
        yield Finding(
            stops=False,
            message=f"{workers} workers share {cores:g} CPUs: more of them read no faster, and each takes memory",
            remedy=f"set --workers {max(1, int(cores))}",
        )
    for stage in plan.training:
        estimate = estimate_stage(plan, stage)
        if plan.computes_on_gpu and estimate.wait_fraction > MAX_WAIT_FRACTION:
            yield Finding(
                stops=False,
                message=f"{stage} would wait for images {estimate.wait_fraction:.0%} of the time",
                remedy="pack the images once (orl data pack), or set more --workers"
                if workers >= cores
                else f"set --workers {int(cores)}",
            )


def _hours(plan: Plan) -> Iterator[Finding]:
    for stage in plan.training:
        hours = estimate_stage(plan, stage).hours
        if hours > LONG_HOURS:
            train = stage_config(plan.config, stage)
            yield Finding(
                stops=False,
                message=f"{stage} would take about {hours / 24:.0f} days: {train.epochs} epochs of "
                f"{plan.num_images:,} images",
                remedy=f"set fewer --{stage}.epochs, use a smaller recipe (quick), or more and faster devices",
            )
