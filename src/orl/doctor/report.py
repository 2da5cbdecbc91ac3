"""The examination: look, measure, judge; and what of it is shown."""

import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from orl.config import RunConfig
from orl.datasets.image_table import ImageTable
from orl.doctor.findings import GIB, Finding, device_is_there, find_obstacles
from orl.doctor.machine import OPTIONAL, Machine, look_at_machine
from orl.doctor.measure import NUM_SAMPLES, in_own_process, measure_discovery, measure_training, sample_images
from orl.doctor.plan import Plan, StageEstimate, discovery_hours, disk_needed, estimate_stage
from orl.pipeline.training_setup import stage_config
from orl.progress import progress_bar
from orl.rundir import TRAINED_STAGES

DEFAULT_NUM_IMAGES = 10_000


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What `orl doctor` has to say."""

    plan: Plan
    measured_on: str
    findings: list[Finding]

    @property
    def works(self) -> bool:
        """Whether nothing was found that stops the run."""
        return not any(finding.stops for finding in self.findings)


def examine(
    config: RunConfig, images: Path | None, *, num_images: int | None = None, num_processes: int = 1
) -> Examination:
    """Look at this machine and try a few images of the recipe on it, which takes about a minute.

    Args:
        config: the recipe; its own `images` is not looked at.
        images: images to try; None to draw some.
        num_images: what hours are for; without it as many as the source has, and 10,000 for drawn ones.
        num_processes: how many would train together, each with devices as here.

    Raises:
        FileNotFoundError, ValueError: if the images cannot be found, or none can be used.
    """
    machine = look_at_machine(config.out)
    with tempfile.TemporaryDirectory() as folder:
        sample, num_found = sample_images(images, config.split, NUM_SAMPLES, Path(folder) / "scenes")
        where = "drawn scenes of 640x480 px" if images is None else str(images)
        plan = Plan(
            config=config,
            machine=machine,
            num_images=num_images or num_found or DEFAULT_NUM_IMAGES,
            num_processes=num_processes,
        )
        if device_is_there(config, len(machine.gpus)):
            plan = _measured(plan, sample)
    return Examination(plan=plan, measured_on=f"{len(sample)} images, {where}", findings=find_obstacles(plan))


def _measured(plan: Plan, images: ImageTable) -> Plan:
    # Half precision of GPUs does not run on a processor, which is found without trying it.
    config = plan.config
    if config.precision == "16-mixed" and not plan.computes_on_gpu:
        config = replace(config, precision="32-true")
    tried = ("stage2", *TRAINED_STAGES) if config.needs_stage1 else ("stage2", "stage3")
    with progress_bar(total=len(tried), title="try the recipe", unit="stages") as bar:
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
    """Facts, costs, estimates and findings as plain values."""
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
    """What the terminal shows."""
    plan = examination.plan
    parts = [format_machine(plan.machine), format_estimates(plan, examination.measured_on)]
    parts.append(format_findings(examination.findings))
    return "\n\n".join(part for part in parts if part)


def format_machine(machine: Machine) -> str:
    """Versions and devices."""
    rows = {"versions": ", ".join(f"{name} {number}" for name, number in machine.versions.items())}
    for name, is_there in machine.optional.items():
        rows[name] = ("there" if is_there else "missing") + f" (for {OPTIONAL[name]})"
    bf16 = "with bf16" if machine.has_bf16 else "no bf16"
    rows["processor"] = f"{machine.processor}: {machine.cores:g} usable, {bf16}"
    rows["GPUs"] = (
        "; ".join(
            f"{gpu.name}, {gpu.memory_bytes / GIB:.0f} GiB{', bf16' if gpu.has_bf16 else ''}" for gpu in machine.gpus
        )
        or "none"
    )
    rows["processes by"] = ", ".join(machine.backends) or "none: only one process can train"
    rows["memory"] = f"{machine.memory_bytes / GIB:.1f} GiB free"
    if machine.shared_memory_bytes is not None:
        rows["/dev/shm"] = f"{machine.shared_memory_bytes / GIB:.2f} GiB free"
    rows["disk"] = f"{machine.disk_bytes / GIB:.1f} GiB free at --out"
    rows["compiler"] = machine.compiler or "none (only --compile needs one)"
    return "\n".join(f"{name:<14}{value}" for name, value in rows.items())


def format_estimates(plan: Plan, measured_on: str) -> str:
    """What was tried, and what follows for a whole run."""
    device = plan.machine.gpus[0].name if plan.computes_on_gpu else "the processor"
    lines = [
        f"recipe {plan.config.recipe}: {plan.config.method.name}, {plan.config.network.backbone}, "
        f"{plan.config.stage1.views.size_px} px, {plan.config.precision}, tried on {device} with {measured_on}",
        f"estimates for {plan.num_images:,} images and {plan.num_processes} "
        f"{'process' if plan.num_processes == 1 else 'processes, each with devices as here'}:",
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
    lines.append(f"in all    {_duration(hours)}, and {disk_needed(plan) / GIB:.1f} GiB of disk")
    return "\n".join(lines)


def format_findings(findings: list[Finding]) -> str:
    """What stands in the way, each with its way out."""
    if not findings:
        return "nothing stands in the way"
    kinds = {True: "will not work", False: "slower than need be"}
    return "\n".join(f"{kinds[one.stops]}: {one.message}\n    remedy: {one.remedy}" for one in findings)


def _stage_lines(plan: Plan, stage: str, estimate: StageEstimate) -> list[str]:
    cost, settings = plan.training[stage], stage_config(plan.config, stage)
    fits = (
        f"a batch of {settings.batch_size} needs accumulation-steps {estimate.accumulation_steps}"
        if estimate.accumulation_steps
        else f"no equal part of a batch of {settings.batch_size} fits"
    )
    return [
        f"{stage}    {_duration(estimate.hours)} for {settings.epochs} epochs at {estimate.images_per_s:,.1f} images/s "
        f"(network {estimate.step_images_per_s:,.1f}, reading {estimate.sample_images_per_s:,.1f} a core; "
        f"{estimate.wait_fraction:.0%} of the time for reading)",
        f"          {cost.parameters / 1e6:.1f} million weights; memory {cost.memory.fixed / GIB:.2f} GiB and "
        f"{cost.memory.per_image / 2**20:.1f} MiB an image: {min(estimate.largest_batch, 10**6):,} images fit at once, "
        f"{fits}",
        f"          measured at batches of {cost.batches[0]} and {cost.batches[1]} images",
    ]


def _discovery_lines(plan: Plan) -> list[str]:
    cost = plan.discovery
    assert cost is not None
    return [
        f"stage2    {_duration(discovery_hours(plan, cost))}: {cost.proposals_s:.3f} s an image for boxes, "
        f"{cost.rois:.0f} RoIs an image, {cost.crop_s:.4f} s for each; comparing images is not counted"
    ]


def _duration(hours: float) -> str:
    if hours < 1:
        return f"{60 * hours:.0f} min"
    return f"{hours:.1f} h" if hours < 72 else f"{hours / 24:.0f} days"
