"""Training steps with gradient accumulation, in other precisions and in several processes."""

import copy
import json
import os
import signal
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as multiprocessing
from lightning_fabric import Fabric
from tests.ports import free_port
from tests.training.small import (
    BATCH_SIZE,
    NUM_STEPS,
    batches,
    equal_weights,
    new_method,
    new_ssl_step,
    options,
    schedules,
    view_sampler,
)

from orl.datasets.image_table import ImageTable
from orl.processes import Processes, joined_processes
from orl.training.fabric import is_out_of_memory, launch_fabric
from orl.training.interrupts import Stopped
from orl.training.loader import read_from_files
from orl.training.loop import train
from orl.training.training_step import NotFiniteError
from orl.views.cut import Sample
from orl.views.view_dataset import LoadedViews, ViewDataset, collate_views

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def views(images: ImageTable) -> Sample:
    samples = ViewDataset(view_sampler(images))
    return collate_views([samples[key] for key in batches().keys(0)]).views


def double() -> Fabric:
    return Fabric(accelerator="cpu", devices=1, precision="64-true")


def test_gradient_accumulation_steps_by_the_mean_gradient_of_the_parts(views: Sample) -> None:
    method = new_method()
    ssl_step = new_ssl_step(method, double(), accumulation_steps=2)
    by_hand = copy.deepcopy(method)
    target_before = [weight.clone() for weight in by_hand.target.parameters()]
    gradients, losses = [], []
    for part, _ in ssl_step._parts(views):
        by_hand.zero_grad()
        alone = new_ssl_step(copy.deepcopy(by_hand), double())
        losses.append(alone._backward_part(part, is_last=True)["loss"])
        gradients.append([w.grad.clone() for w in alone.method.parameters() if w.grad is not None])
    found = ssl_step.update(1, views, {"lr": 0.05, "ema_momentum": 0.9})
    assert found["loss"] == pytest.approx(torch.stack(losses).mean().item())
    trained = [weight for weight in by_hand.parameters() if weight.requires_grad]
    stepped = [weight for weight in method.parameters() if weight.requires_grad]
    norm = 0.0
    for weight, after, one, other in zip(trained, stepped, *gradients, strict=True):
        mean = (one + other) / 2
        norm += mean.square().sum().item()
        torch.testing.assert_close(after, weight - 0.05 * mean)
    assert found["gradient_norm"] == pytest.approx(norm**0.5)
    onlines = list(method.online.parameters())
    for target, before, online in zip(method.target.parameters(), target_before, onlines, strict=True):
        torch.testing.assert_close(target, 0.9 * before + 0.1 * online)


def test_the_parts_of_an_accumulated_batch_are_its_rows_in_order(views: Sample) -> None:
    ssl_step = new_ssl_step(new_method(), accumulation_steps=2)
    parts = [part for part, _ in ssl_step._parts(views)]
    assert [is_last for _, is_last in ssl_step._parts(views)] == [False, True]
    for name, (crops, colours) in views.items():
        assert torch.equal(torch.cat([part[name].crop for part in parts]), crops)
        assert torch.equal(torch.cat([part[name].colours.hue for part in parts]), colours.hue)


def test_a_step_in_half_precision_stays_near_a_full_one(views: Sample) -> None:
    full = new_ssl_step(new_method()).update(1, views, {"lr": 0.05, "ema_momentum": 0.9})
    half_fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    half = new_ssl_step(new_method(), half_fabric).update(1, views, {"lr": 0.05, "ema_momentum": 0.9})
    # bf16 has 8 bits, and statistics over four images of noise make much of little; the loss lies in [0, 8].
    assert half["loss"] == pytest.approx(full["loss"], abs=0.5)
    assert half["loss"] != full["loss"]


def test_a_gradient_that_is_not_finite_changes_no_weight(views: Sample) -> None:
    method = new_method()
    ssl_step = new_ssl_step(method)
    before = copy.deepcopy(method)
    handle = method.online.backbone.conv1.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(NotFiniteError, match="gradient_norm is"):
        ssl_step.update(1, views, {"lr": 0.05, "ema_momentum": 0.9})
    handle.remove()
    for one, other in zip(before.parameters(), method.parameters()):
        assert torch.equal(one, other)
    assert ssl_step.is_complete


def test_random_numbers_of_a_step_depend_on_seed_and_step_alone(views: Sample) -> None:
    def sampled(step: int, seed: int) -> float:
        new_ssl_step(new_method(), seed=seed).update(step, views, {"lr": 0.0, "ema_momentum": 0.9})
        return torch.rand(1).item()

    assert sampled(5, 1) == sampled(5, 1)
    assert len({sampled(5, 1), sampled(6, 1), sampled(5, 2)}) == 3


def test_a_step_that_loads_the_state_of_another_continues_equally(views: Sample) -> None:
    one, other = new_ssl_step(new_method()), new_ssl_step(new_method())
    one.update(1, views, {"lr": 0.05, "ema_momentum": 0.9})
    other.load_state(copy.deepcopy(one.state()))
    for ssl_step in (one, other):
        ssl_step.update(2, views, {"lr": 0.05, "ema_momentum": 0.9})
    assert equal_weights(one.method, other.method)


def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(ValueError, match="16-mixed needs a GPU; on a CPU use bf16-mixed"):
        launch_fabric(CPU, "16-mixed", Processes())


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ValueError, match="2 processes were started on this machine and torch sees 1 GPUs"):
        launch_fabric(torch.device("cuda"), "32-true", Processes(count=2, num_local=2))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory: ..."), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("DefaultCPUAllocator: can't allocate memory"), False),
    ],
)
def test_errors_of_torch_and_python_count_as_out_of_memory(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_an_allocation_that_fails_on_the_cpu_counts_as_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as failure:
        torch.empty(2**60)
    assert is_out_of_memory(failure.value)


def as_torchrun(rank: int, port: int) -> None:
    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        WORLD_SIZE="2",
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        LOCAL_WORLD_SIZE="2",
    )
    torch.set_num_threads(1)


def one_of_two(
    rank: int, port: int, images: ImageTable, folder: Path, batch_size: int, accumulation_steps: int
) -> None:
    as_torchrun(rank, port)
    with joined_processes(CPU) as processes:
        fabric = launch_fabric(CPU, "64-true", processes)
        ssl_step = new_ssl_step(new_method(), fabric, accumulation_steps=accumulation_steps)
        data = batches(batch_size, rank=rank, num_processes=2)
        train(
            ssl_step, read_from_files(ViewDataset(view_sampler(images))), data, schedules(), options(folder), processes
        )
        torch.save(ssl_step.method.state_dict(), folder / f"{rank}.pt")


@pytest.mark.parametrize(("batch_size", "parts"), [(BATCH_SIZE, 1), (2 * BATCH_SIZE, 2), (6, 1)])
def test_two_processes_give_the_losses_and_weights_of_one(
    images: ImageTable, tmp_path: Path, batch_size: int, parts: int
) -> None:
    together, alone = tmp_path / "two", tmp_path / "one"
    together.mkdir()
    alone.mkdir()
    multiprocessing.spawn(one_of_two, (free_port(), images, together, batch_size, parts), nprocs=2)
    method = new_method()
    ssl_step = new_ssl_step(method, double(), accumulation_steps=parts)
    # Two processes fill the last batch to four images, as two parts of one process would.
    data = batches(batch_size, accumulation_steps=2)
    train(ssl_step, read_from_files(ViewDataset(view_sampler(images))), data, schedules(), options(alone))
    rows = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (together, alone)
    ]
    # Eight images: batches of 4 and 4, of 8, or of 6 and 4, with two images again.
    assert len(rows[0]) == len(rows[1]) == (NUM_STEPS // 2 if batch_size == 2 * BATCH_SIZE else NUM_STEPS)
    for ours, expected in zip(*rows):
        # The log keeps six decimals.
        for name in ("loss", "gradient_norm", "alignment", "lr", "ema_momentum", "epoch"):
            assert ours[name] == pytest.approx(expected[name], abs=2e-6), name
    first, second = (torch.load(together / f"{rank}.pt") for rank in range(2))
    for name, expected_weight in method.state_dict().items():
        assert torch.equal(first[name], second[name]), name
        # In float64; what the other order of sums rounds off grows through six steps with statistics over four images.
        torch.testing.assert_close(first[name], expected_weight, rtol=1e-7, atol=1e-9, msg=name)


class Signalling(ViewDataset):
    """Samples whose process sends itself SIGTERM at one image."""

    signal_at: tuple[int, int] | None = None

    def __getitem__(self, key: tuple[int, int]) -> LoadedViews:
        if key == self.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().__getitem__(key)


def stopped_alone(rank: int, port: int, images: ImageTable, folder: Path) -> None:
    as_torchrun(rank, port)
    with joined_processes(CPU) as processes:
        samples = Signalling(view_sampler(images))
        data = batches(rank=rank, num_processes=2)
        samples.signal_at = data.keys(3)[0] if rank == 1 else None
        ssl_step = new_ssl_step(new_method(), launch_fabric(CPU, "32-true", processes))
        with pytest.raises(Stopped, match="stopped after step 4 of 6 and saved") as stopped:
            train(ssl_step, read_from_files(samples), data, schedules(), options(folder), processes)
        assert stopped.value.exit_code == 128 + signal.SIGTERM


def test_a_signal_to_one_process_stops_all_after_the_same_step(images: ImageTable, tmp_path: Path) -> None:
    multiprocessing.spawn(stopped_alone, (free_port(), images, tmp_path), nprocs=2)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000004.ckpt"]
