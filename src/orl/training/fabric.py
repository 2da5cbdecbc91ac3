"""The engine: Lightning Fabric on the device and among the processes of this run."""

import os
from typing import Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning_fabric.strategies import DDPStrategy

from orl.processes import Processes

Precision = Literal["32-true", "bf16-mixed", "16-mixed", "64-true"]


def launch_fabric(device: torch.device, precision: Precision, processes: Processes) -> Fabric:
    """Fabric for this process, with gradients averaged over all processes.

    Args:
        device: where to compute; its kind only, the local rank says which GPU.
        precision: '16-mixed' needs a GPU.
        processes: joined already.

    Raises:
        ValueError: if the precision does not work on the device, or there are more processes than GPUs here.
    """
    if precision == "16-mixed" and device.type == "cpu":
        raise ValueError("--precision 16-mixed needs a GPU; on a CPU take bf16-mixed or 32-true")
    if processes.count == 1:
        # Without its own choice of environment Fabric refuses one process in some allocations of SLURM.
        fabric = Fabric(accelerator=device.type, devices=1, precision=precision, plugins=[LightningEnvironment()])
        fabric.launch()
        return fabric
    num_gpus = torch.cuda.device_count()
    if device.type == "cuda" and processes.num_local > num_gpus:
        raise ValueError(
            f"{processes.num_local} processes were started on this machine and torch sees {num_gpus} GPUs: start one "
            "for each GPU, and let every process see all GPUs of its machine (SLURM: --gpus-per-node)"
        )
    os.environ.setdefault("LOCAL_RANK", str(processes.rank % processes.num_local))
    os.environ.setdefault("GROUP_RANK", str(processes.rank // processes.num_local))
    fabric = Fabric(
        accelerator=device.type,
        devices=processes.num_local,
        num_nodes=processes.count // processes.num_local,
        strategy=DDPStrategy(gradient_as_bucket_view=True),
        precision=precision,
        plugins=[TorchElasticEnvironment()],
    )
    fabric.launch()
    return fabric


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device, or the machine, had no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)
