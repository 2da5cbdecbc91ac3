"""Report of `orl doctor`: inspect the machine, measure a few images, collect findings, and format them."""

import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from orl.config import RunConfig
from orl.datasets.image_table import ImageTable
from orl.doctor.findings import GIB, Finding, check_plan, device_is_there
from orl.doctor.machine import OPTIONAL, Machine, inspect_machine
from orl.doctor.measure import NUM_SAMPLES, in_own_process, measure_discovery, measure_training, sample_images
from orl.doctor.plan import Plan, StageEstimate, discovery_hours, disk_needed, estimate_stage
from orl.pipeline.run_plan import format_duration
from orl.pipeline.training_setup import stage_config
from orl.progress import progress_bar
from orl.rundir import TRAINED_STAGES

DEFAULT_NUM_IMAGES = 10_000


@dataclass(frozen=True, kw_only=True)
class Examination:
    """Result of `orl doctor`."""

    plan: Plan
    measured_on: str
    findings: list[Finding]

    @property
    def works(self) -> bool:
        """True if no finding stops the run."""
        return not any(finding.stops for finding in self.findings)


def examine(
    config: RunConfig, images: Path | None, *, num_images: int | None = None, num_processes: int = 1
) -> Examination:
    """Inspect this machine and measure a few images of the config on it, which takes about a minute.

    Args:
        config: the planned run; its `images` is not used.
        images: source of the measured images; None for synthetic scenes.
        num_images: number of images to estimate for; that of the source if not given, 10,000 for synthetic scenes.
        num_processes: processes that would train together, each on a machine or GPU like this one.

    Raises:
        FileNotFoundError, ValueError: if the images cannot be found, or none can be used.
    """
    machine = inspect_machine(config.out)
    with tempfile.TemporaryDirectory() as folder:
        sample, num_found = sample_images(images, config.split, NUM_SAMPLES, Path(folder) / "scenes")
        where = "synthetic scenes of 640x480 px" if images is None else str(images)
        plan = Plan(
            config=config,
            machine=machine,
            num_images=num_images or num_found or DEFAULT_NUM_IMAGES,
            num_processes=num_processes,
        )
        if device_is_there(config, len(machine.gpus)):
            plan = _measured(plan, sample)
    return Examination(plan=plan, measured_on=f"{len(sample)} images, {where}", findings=check_plan(plan))


def _measured(plan: Plan, images: ImageTable) -> Plan:
    # Half precision of GPUs does not run on a CPU; a finding says so without a measurement.
    config = plan.config
    if config.precision == "16-mixed" and not plan.computes_on_gpu:
        config = replace(config, precision="32-true")
    tried = ("stage2", *TRAINED_STAGES) if config.needs_stage1 else ("stage2", "stage3")
    with progress_bar(total=len(tried), title="measure", unit="stages") as bar:
        found, discovery = None, None
        training, out_of_memory = {}, {}
        for stage in tried:
            bar.set_postfix_str(stage)
            if stage == "stage3" and found is None:
                continue
            try:
                if stage == "stage2":
                    discovery, found = in_own_process(measure_discovery, config, images)
                else:
                    training[stage] = in_own_process(measure_training, config, stage, images, found)
            except MemoryError as error:
                out_of_memory[stage] = str(error)
            bar.update()
    return replace(plan, training=training, discovery=discovery, out_of_memory=out_of_memory)


def to_json(examination: Examination) -> dict[str, Any]:
    """Convert facts, costs, estimates and findings to JSON values."""
    plan = examination.plan
    return {
        "works": examination.works,
        "recipe": plan.config.recipe,
        "images": plan.num_images,
        "processes": plan.num_processes,
        "measured_on": examination.measured_on,
        "machine": asdict(plan.machine),
        "training": {stage: asdict(cost) for stage, cost in plan.training.items()},
        "discovery": asdict(plan.discovery) if plan.discovery else None,
        "estimates": {stage: asdict(estimate_stage(plan, stage)) for stage in plan.training},
        "discovery_hours": discovery_hours(plan, plan.discovery) if plan.discovery else None,
        "disk_bytes": disk_needed(plan),
        "findings": [asdict(finding) for finding in examination.findings],
    }


def format_examination(examination: Examination) -> str:
    """Format the result for the terminal."""
    plan = examination.plan
    parts = [format_machine(plan.machine), format_estimates(plan, examination.measured_on)]
    parts.append(format_findings(examination.findings))
    return "\n\n".join(part for part in parts if part)


def format_machine(machine: Machine) -> str:
    """Format versions and devices."""
    rows = {"versions": ", ".join(f"{name} {number}" for name, number in machine.versions.items())}
    for name, is_there in machine.optional.items():
        rows[name] = ("installed" if is_there else "missing") + f" (for {OPTIONAL[name]})"
    bf16 = "with bf16" if machine.has_bf16 else "no bf16"
    rows["CPU"] = f"{machine.cpu}: {machine.cores:g} {'CPU' if machine.cores == 1 else 'CPUs'} usable, {bf16}"
    rows["GPUs"] = (
        "; ".join(
            f"{gpu.name}, {gpu.memory_bytes / GIB:.0f} GiB{', bf16' if gpu.has_bf16 else ''}" for gpu in machine.gpus
        )
        or "none"
    )
    rows["backends"] = ", ".join(machine.backends) or "none: only one process can train"
    rows["memory"] = f"{machine.memory_bytes / GIB:.1f} GiB free"
    if machine.shared_memory_bytes is not None:
        rows["/dev/shm"] = f"{machine.shared_memory_bytes / GIB:.2f} GiB free"
    rows["disk"] = f"{machine.disk_bytes / GIB:.1f} GiB free at --out"
    rows["compiler"] = machine.compiler or "none (only --compile needs one)"
    return "\n".join(f"{name:<14}{value}" for name, value in rows.items())


def format_estimates(plan: Plan, measured_on: str) -> str:
    """Format the measurement and the estimates of each stage."""
    device = plan.machine.gpus[0].name if plan.computes_on_gpu else "the CPU"
    lines = [
        f"recipe {plan.config.recipe}: {plan.config.method.name}, {plan.config.network.backbone}, "
        f"{plan.config.stage1.views.size_px} px, {plan.config.precision}, measured on {device} with {measured_on}",
        f"estimates for {plan.num_images:,} images and {plan.num_processes} "
        f"{'process' if plan.num_processes == 1 else 'processes, each on a device like this one'}:",
    ]
    hours = 0.0
    for stage in TRAINED_STAGES:
        if stage == "stage3" and plan.discovery is not None:
            hours += discovery_hours(plan, plan.discovery)
            lines += _discovery_lines(plan)
        if stage in plan.training:
            estimate = estimate_stage(plan, stage)
            hours += estimate.hours
            lines += _stage_lines(plan, stage, estimate)
    if not plan.training:
        return ""
    lines.append(f"in all    {format_duration(3600 * hours)}, and {disk_needed(plan) / GIB:.1f} GiB of disk")
    return "\n".join(lines)


def format_findings(findings: list[Finding]) -> str:
    """Format the findings with their remedies."""
    if not findings:
        return "no problem found"
    kinds = {True: "will not work", False: "slower than necessary"}
    return "\n".join(f"{kinds[one.stops]}: {one.message}\n    remedy: {one.remedy}" for one in findings)


def _stage_lines(plan: Plan, stage: str, estimate: StageEstimate) -> list[str]:
    cost, train = plan.training[stage], stage_config(plan.config, stage)
    fits = (
        f"a batch of {train.batch_size} needs accumulation-steps {estimate.accumulation_steps}"
        if estimate.accumulation_steps
        else f"no equal accumulation step of a batch of {train.batch_size} fits"
    )
    return [
        f"{stage}    {format_duration(3600 * estimate.hours)} for {train.epochs} epochs at "
        f"{estimate.images_per_s:,.1f} images/s (network {estimate.step_images_per_s:,.1f}, reading "
        f"{estimate.sample_images_per_s:,.1f} a core; {estimate.wait_fraction:.0%} of the time for reading)",
        f"          {cost.parameters / 1e6:.1f} million weights; memory {cost.memory.fixed / GIB:.2f} GiB and "
        f"{cost.memory.per_image / 2**20:.1f} MiB per image: "
        f"{min(estimate.largest_batch, 10**6):,} images fit at once, {fits}",
        f"          measured at batches of {cost.batches[0]} and {cost.batches[1]} images",
    ]


def _discovery_lines(plan: Plan) -> list[str]:
    cost = plan.discovery
    assert cost is not None
    duration = format_duration(3600 * discovery_hours(plan, cost))
    return [
        f"stage2    {duration}: {cost.proposals_s:.3f} s per image for boxes, "
        f"{cost.rois:.0f} RoIs per image, {cost.crop_s:.4f} s for each; the neighbour search is not counted"
    ]
