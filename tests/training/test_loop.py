import json
import logging
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from tests.training.small import (
    NUM_STEPS,
    batches,
    equal_weights,
    new_method,
    new_ssl_step,
    options,
    run,
    schedules,
    view_sampler,
)

from orl import provenance
from orl.datasets.image_table import ImageTable
from orl.methods.byol import BYOL
from orl.processes import Processes
from orl.schedules import warmup_cosine
from orl.training.interrupts import Stopped
from orl.training.loader import read_from_files
from orl.training.loop import train
from orl.views.view_dataset import LoadedViews, ViewDataset


class Interrupting(ViewDataset):
    """A data set that sends a signal to its own process when it reads a certain image."""

    interrupt_at: tuple[int, int] | None = None
    signal_number = signal.SIGINT

    def __getitem__(self, key: tuple[int, int]) -> LoadedViews:
        if key == self.interrupt_at:
            os.kill(os.getpid(), self.signal_number)
        return super().__getitem__(key)


def steps(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_times(rows: list[dict]) -> list[dict]:
    measured = ("_s", "data_wait", "memory_gib")
    return [{key: value for key, value in row.items() if not key.endswith(measured)} for row in rows]


@pytest.fixture(scope="module")
def uninterrupted(images: ImageTable, tmp_path_factory: pytest.TempPathFactory) -> tuple[BYOL, Path]:
    """A finished, uninterrupted training."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    return run(new_method(), ViewDataset(view_sampler(images)), folder), folder


@pytest.mark.parametrize("key_of", [0, 3, 4])
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(
    images: ImageTable, uninterrupted: tuple[BYOL, Path], tmp_path: Path, key_of: int, signal_number: int
) -> None:
    data = Interrupting(view_sampler(images))
    data.interrupt_at, data.signal_number = batches().keys(key_of)[1], signal_number
    with pytest.raises(Stopped, match=rf"after step {key_of + 1} of {NUM_STEPS} and saved") as stopped:
        run(new_method(), data, tmp_path)
    assert stopped.value.exit_code == 128 + signal_number
    assert len(steps(tmp_path)) == key_of + 1
    resumed = run(new_method(), ViewDataset(view_sampler(images)), tmp_path)
    assert equal_weights(resumed, uninterrupted[0])
    assert without_times(steps(tmp_path)) == without_times(steps(uninterrupted[1]))


def test_a_run_resumes_equally_after_the_last_smaller_batch_of_an_epoch(images: ImageTable, tmp_path: Path) -> None:
    complete = run(new_method(), ViewDataset(view_sampler(images)), tmp_path / "complete", batch_size=3)
    data = Interrupting(view_sampler(images))
    # Eight images are batches of 3, 3 and 2.
    data.interrupt_at = batches(3).keys(2)[1]
    with pytest.raises(Stopped, match="after step 3 of 9 and saved"):
        run(new_method(), data, tmp_path / "stopped", batch_size=3)
    resumed = run(new_method(), ViewDataset(view_sampler(images)), tmp_path / "stopped", batch_size=3)
    assert equal_weights(resumed, complete)
    rows = steps(tmp_path / "stopped")
    assert without_times(rows) == without_times(steps(tmp_path / "complete"))
    assert [row["epoch"] for row in rows[:4]] == [0.375, 0.75, 1, 1.375]


def test_a_finished_run_does_nothing_more(images: ImageTable, uninterrupted: tuple[BYOL, Path]) -> None:
    before = (uninterrupted[1] / "metrics.jsonl").read_bytes()
    assert equal_weights(run(new_method(), ViewDataset(view_sampler(images)), uninterrupted[1]), uninterrupted[0])
    assert (uninterrupted[1] / "metrics.jsonl").read_bytes() == before


def test_training_resumes_from_the_checkpoint_before_a_damaged_one(
    images: ImageTable, uninterrupted: tuple[BYOL, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = Interrupting(view_sampler(images))
    data.interrupt_at = batches().keys(2)[0]
    with pytest.raises(Stopped):
        run(new_method(), data, tmp_path)
    complete = tmp_path / "checkpoints" / "step_00000003.ckpt"
    (tmp_path / "checkpoints" / "step_00000005.ckpt").write_bytes(complete.read_bytes()[:1000])
    assert equal_weights(run(new_method(), ViewDataset(view_sampler(images)), tmp_path), uninterrupted[0])
    assert "step_00000005.ckpt cannot be read" in caplog.text


def test_schedules_and_metrics_are_in_the_log(uninterrupted: tuple[BYOL, Path]) -> None:
    rows = steps(uninterrupted[1])
    assert [row["step"] for row in rows] == list(range(1, NUM_STEPS + 1))
    assert [row["epoch"] for row in rows] == [0.5, 1, 1.5, 2, 2.5, 3]
    assert [row["lr"] for row in rows] == [
        pytest.approx(warmup_cosine(step, NUM_STEPS, 2, 0.05), abs=1e-6) for step in range(NUM_STEPS)
    ]
    assert rows[0]["ema_momentum"] == 0.9
    for row in rows:
        assert row["loss"] == row["loss_global"]
        assert 0 < row["loss"] < 8
        assert 0 < row["feature_std"] <= 1.01
        assert 0 < row["alignment"] < 4
        assert -8 < row["uniformity"] < 0
        assert 1 <= row["effective_rank"] <= 8
        assert row["gradient_norm"] > 0
        assert 0 <= row["data_wait"] <= 1
        assert row["images_per_s"] > 0
        assert row["memory_gib"] > 0.1
    assert list((uninterrupted[1] / "tensorboard").iterdir())


def test_training_moves_the_online_network_more_than_the_target(uninterrupted: tuple[BYOL, Path]) -> None:
    before, after = new_method(), uninterrupted[0]
    moved_online = (after.online.backbone.conv1.weight - before.online.backbone.conv1.weight).norm()
    moved_target = (after.target.backbone.conv1.weight - before.target.backbone.conv1.weight).norm()
    assert 0 < moved_target < moved_online


def test_a_scheduled_learning_rate_of_zero_changes_no_weight(images: ImageTable, tmp_path: Path) -> None:
    before, after = new_method(), run(new_method(), ViewDataset(view_sampler(images)), tmp_path, lr=0.0)
    for one, other in zip(before.online.parameters(), after.online.parameters()):
        assert torch.equal(one, other)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_term_and_images(
    images: ImageTable, tmp_path: Path
) -> None:
    method = new_method()
    method.predictor[0].weight.data[0, 0] = float("nan")
    first = [images.names[image_id] for _, image_id in batches().keys(0)]
    with pytest.raises(
        RuntimeError, match=rf"at step 1 .*loss_global is nan.*images begin with {first[0]}, {first[1]}"
    ):
        run(method, ViewDataset(view_sampler(images)), tmp_path)
    report = json.loads((tmp_path / "not_finite.json").read_text())
    assert report["step"] == 1
    assert report["terms"]["loss_global"] == "nan"
    assert report["images"] == first
    assert not list(tmp_path.glob("checkpoints/*"))


def emptied(images: ImageTable, folder: Path, unreadable: list[int]) -> ImageTable:
    for index, name in enumerate(images.names):
        (folder / name).write_bytes(b"" if index in unreadable else images.path(index).read_bytes())
    return ImageTable(root=folder, names=images.names, sizes_wh=images.sizes_wh, digests=images.digests)


def test_unreadable_images_are_listed_and_training_continues(
    images: ImageTable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = emptied(images, tmp_path, [5])
    run(new_method(), ViewDataset(view_sampler(damaged)), tmp_path / "out", max_unreadable=1)
    header, *rows = (tmp_path / "out" / "unreadable.csv").read_text().splitlines()
    assert header == "step,file,reason"
    assert len(rows) == 1, "three epochs, and each is listed once"
    assert rows[0].endswith(f"{tmp_path / '5.png'},empty: 0 bytes")
    assert "5.png: empty: 0 bytes; another image replaces it" in caplog.text
    assert len(steps(tmp_path / "out")) == NUM_STEPS


def test_too_many_unreadable_images_stop_the_run_after_saving_it(images: ImageTable, tmp_path: Path) -> None:
    later = {image_id for _, image_id in batches().keys(1)}
    damaged = emptied(images, tmp_path, sorted(later))
    with pytest.raises(
        RuntimeError, match=r"images could not be read during training, and at most 2 may be .*unreadable\.csv"
    ):
        run(new_method(), ViewDataset(view_sampler(damaged)), tmp_path / "out", max_unreadable=2)
    assert (tmp_path / "out" / "checkpoints").is_dir()
    # The same command stops at the next unreadable image, since none was repaired.
    with pytest.raises(RuntimeError, match=r"at most 2 may be .* Once they are repaired, delete unreadable\.csv"):
        run(new_method(), ViewDataset(view_sampler(damaged)), tmp_path / "out", max_unreadable=2)
    # After the repair the same command resumes to the end.
    emptied(images, tmp_path, [])
    (tmp_path / "out" / "unreadable.csv").unlink()
    run(new_method(), ViewDataset(view_sampler(damaged)), tmp_path / "out", max_unreadable=2)
    assert len(steps(tmp_path / "out")) == NUM_STEPS


def test_a_missing_image_folder_stops_the_run_with_a_reason(images: ImageTable, tmp_path: Path) -> None:
    gone = ImageTable(root=tmp_path / "gone", names=images.names, sizes_wh=images.sizes_wh, digests=images.digests)
    with pytest.raises(RuntimeError, match=r"images in a row cannot be read at step 1, .*missing.*The state is saved"):
        run(new_method(), ViewDataset(view_sampler(gone)), tmp_path / "out", max_unreadable=100)


class RunsOut(BYOL):
    """A method that has no memory left at its fourth step, when its first part has passed the network."""

    calls = 0

    def forward(self, views: dict[str, torch.Tensor]):  # type: ignore[no-untyped-def]
        self.calls += 1
        if self.calls == 4:
            super().forward(views)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore")
        return super().forward(views)


def test_out_of_memory_is_an_error_with_advice_and_keeps_finished_steps(
    images: ImageTable, uninterrupted: tuple[BYOL, Path], tmp_path: Path
) -> None:
    method = new_method()
    method.__class__ = RunsOut
    message = r"out of memory at step 4 .* with 4 images .* steps before it are kept.*use a smaller batch.*2\.00 GiB"
    with pytest.raises(RuntimeError, match=message):
        run(method, ViewDataset(view_sampler(images)), tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000003.ckpt"]
    # The statistics that the fourth forward pass had moved are those of the third step again.
    assert equal_weights(run(new_method(), ViewDataset(view_sampler(images)), tmp_path), uninterrupted[0])


def test_a_failure_between_two_steps_keeps_finished_steps(
    images: ImageTable, uninterrupted: tuple[BYOL, Path], tmp_path: Path
) -> None:
    def probe() -> dict[str, float]:
        raise KeyError("a mistake of ours")

    with pytest.raises(KeyError, match="a mistake of ours"):
        run(new_method(), ViewDataset(view_sampler(images)), tmp_path, probe=probe, probe_steps=5)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000005.ckpt"]
    assert equal_weights(run(new_method(), ViewDataset(view_sampler(images)), tmp_path), uninterrupted[0])


def test_a_full_disk_at_a_checkpoint_is_an_error_and_keeps_the_one_before(
    images: ImageTable, uninterrupted: tuple[BYOL, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orl import files

    write, written = files.write_atomically, []

    def full_after_two(path: Path, content: bytes | str) -> None:
        if path.suffix == ".ckpt":
            written.append(path)
            if len(written) > 2:
                raise OSError(28, "No space left on device", str(path))
        write(path, content)

    monkeypatch.setattr(files, "write_atomically", full_after_two)
    with pytest.raises(OSError, match=r"No space left on device: .*step_00000003\.ckpt"):
        run(new_method(), ViewDataset(view_sampler(images)), tmp_path, checkpoint_minutes=1e-9)
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == [
        "step_00000001.ckpt",
        "step_00000002.ckpt",
    ]
    monkeypatch.undo()
    assert equal_weights(run(new_method(), ViewDataset(view_sampler(images)), tmp_path), uninterrupted[0])


def test_the_probe_evaluates_at_its_steps_and_changes_no_weight(
    images: ImageTable, uninterrupted: tuple[BYOL, Path], tmp_path: Path
) -> None:
    seen, method = [], new_method()

    def probe() -> dict[str, float]:
        seen.append(method.online.backbone.conv1.weight.detach().clone())
        return {"probe_knn_map": 0.5}

    run(method, ViewDataset(view_sampler(images)), tmp_path, probe=probe, probe_steps=2)
    assert [row["step"] for row in steps(tmp_path) if "probe_knn_map" in row] == [2, 4, 6]
    assert not torch.equal(seen[0], seen[-1])
    assert torch.equal(seen[-1], method.online.backbone.conv1.weight)
    assert equal_weights(method, uninterrupted[0])


def test_a_collapse_logs_two_warnings(images: ImageTable, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    method = new_method()
    for network in (method.online, method.target):
        # All images are projected to one point but for a trace.
        network.projector[3].weight.data *= 0
        network.projector[1].weight.data *= 1e-3
        network.projector[1].bias.data += 1
        network.projector[3].weight.data += 1
    with caplog.at_level(logging.WARNING, "orl"):
        run(method, ViewDataset(view_sampler(images)), tmp_path, lr=1e-6)
    warnings = [record.message for record in caplog.records if "collapse" in record.message]
    std, rank = warnings
    assert "the features collapse: at step 3 their std is 0.0" in std
    assert "the features collapse: at step 3 their effective rank is 1.0" in rank


def test_processes_that_see_different_checkpoints_are_refused(images: ImageTable, tmp_path: Path) -> None:
    class Apart(Processes):
        def gather(self, *numbers: int) -> list[tuple[int, ...]]:
            return [numbers, (7,)]

    with pytest.raises(RuntimeError, match=r"different steps \(\[0, 7\]\): all of them must see one folder"):
        train(
            new_ssl_step(new_method()),
            read_from_files(ViewDataset(view_sampler(images))),
            batches(),
            schedules(),
            options(tmp_path),
            Apart(),
        )


def test_a_checkpoint_of_another_run_is_not_resumed_from(
    images: ImageTable, tmp_path: Path, uninterrupted: tuple[BYOL, Path]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for seed, folder in enumerate((first, second)):
        provenance.claim(folder, {"images": images.fingerprint, "seed": seed})
    dataset = ViewDataset(view_sampler(images))
    assert equal_weights(run(new_method(), dataset, first), uninterrupted[0])
    shutil.copytree(first / "checkpoints", second / "checkpoints")
    with pytest.raises(provenance.StaleResultError, match=r"second/checkpoints/step_.* belongs to another training"):
        run(new_method(), dataset, second)
