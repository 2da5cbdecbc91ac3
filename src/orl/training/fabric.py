"""Lightning Fabric on the device, and over the processes of a run."""

import os

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning_fabric.strategies import DDPStrategy

from orl.networks.names import Precision
from orl.processes import Processes


def launch_fabric(device: torch.device, precision: Precision, processes: Processes) -> Fabric:
    """Launch Fabric in this process, with gradients averaged over all processes.

    Args:
        device: only its type is used; the local rank chooses the GPU.
        precision: '16-mixed' needs a GPU.
        processes: the joined processes of the run.

    Raises:
        ValueError: if the precision does not work on the device, or a machine has fewer GPUs than processes.
    """
    if precision == "16-mixed" and device.type == "cpu":
        raise ValueError("--precision 16-mixed needs a GPU; on a CPU use bf16-mixed or 32-true")
    if processes.count == 1:
        # Fabric's choice of environment refuses a single process in some SLURM allocations.
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
    """Return whether an error means that the device or the machine ran out of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)
