import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.training.small import NUM_STEPS, batches, view_sampler

from orl.datasets.image_table import ImageTable
from orl.training.loader import MAX_KILLED, BatchReader, read_from_files
from orl.views.view_dataset import LoadedViews, ViewDataset


class Killing(ViewDataset):
    """Samples whose worker kills itself at one image, as often as there are marks in a folder."""

    def __init__(self, images: ImageTable, kill_at: tuple[int, int], marks: Path) -> None:
        super().__init__(view_sampler(images))
        self.kill_at, self.marks = kill_at, marks

    def __getitem__(self, key: tuple[int, int]) -> LoadedViews:
        if key == self.kill_at and (marks := sorted(self.marks.iterdir())):
            marks[0].unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(key)


def marks(folder: Path, count: int) -> Path:
    folder.mkdir()
    for index in range(count):
        (folder / str(index)).touch()
    return folder


def test_a_killed_worker_is_replaced_and_no_batch_is_lost_or_changed(
    images: ImageTable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = batches()
    killing = Killing(images, data.keys(3)[1], marks(tmp_path / "marks", 1))
    found = list(BatchReader(read_from_files(killing), data, 2))
    expected = list(BatchReader(read_from_files(ViewDataset(view_sampler(images))), batches(), 0))
    assert len(found) == len(expected) == NUM_STEPS
    for ours, theirs in zip(found, expected):
        assert ours.files == theirs.files
        assert torch.equal(ours.views["view_1"].crop, theirs.views["view_1"].crop)
        assert torch.equal(ours.views["view_2"].colours.hue, theirs.views["view_2"].colours.hue)
    assert "a process that reads images was killed" in caplog.text


def test_workers_that_are_killed_repeatedly_stop_the_run(images: ImageTable, tmp_path: Path) -> None:
    killing = Killing(images, batches().keys(0)[0], marks(tmp_path / "marks", 9))
    with pytest.raises(RuntimeError, match=rf"killed {MAX_KILLED + 1} times .*try fewer than --workers 1"):
        list(BatchReader(read_from_files(killing), batches(), 1))


def test_batches_begin_at_the_first_step(images: ImageTable) -> None:
    names = [images.names[image_id] for _, image_id in batches().keys(4)]
    reader = BatchReader(read_from_files(ViewDataset(view_sampler(images))), batches(), 0, first_step=4)
    found = list(reader)
    assert len(found) == NUM_STEPS - 4
    assert found[0].files == names
    assert reader.waited_s > 0


def test_closing_a_reader_restores_the_signal_handlers(images: ImageTable) -> None:
    before = signal.getsignal(signal.SIGCHLD)
    loaded = BatchReader(read_from_files(ViewDataset(view_sampler(images))), batches(), 0).__iter__()
    next(loaded)
    assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL
    loaded.close()
    assert signal.getsignal(signal.SIGCHLD) == before


def test_an_error_that_is_no_killed_worker_is_raised(images: ImageTable) -> None:
    class Broken(ViewDataset):
        def __getitem__(self, key: tuple[int, int]) -> LoadedViews:
            raise RuntimeError("a mistake of ours")

    with pytest.raises(RuntimeError, match="a mistake of ours"):
        list(BatchReader(read_from_files(Broken(view_sampler(images))), batches(), 1))


MANY_WORKERS = """
import resource, sys, time
from pathlib import Path
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]), int(sys.argv[2])))
import torch
from tests.training.small import NUM_IMAGES, small_images, view_sampler
from orl.training.batches import epoch_batches
from orl.training.loader import BatchReader, read_from_files
from orl.views.view_dataset import ViewDataset
torch.set_num_threads(1)
source = read_from_files(ViewDataset(view_sampler(small_images(Path(sys.argv[1])))))
data = epoch_batches(NUM_IMAGES, 2, 20, seed=0)
kept = []
for batch, expected in zip(BatchReader(source, data, int(sys.argv[3])), BatchReader(source, data, 0), strict=True):
    if not kept:
        time.sleep(2)  # every worker fills its queue
    kept.append(batch)
    for name, view in expected.views.items():
        assert torch.equal(batch.views[name].crop, view.crop)
        assert all(map(torch.equal, batch.views[name].colours, view.colours))
print(len(kept), "batches")
"""


@pytest.mark.parametrize(
    ("workers", "limit"), [pytest.param(4, 110, id="4"), pytest.param(32, 1024, id="32", marks=pytest.mark.slow)]
)
def test_many_workers_need_few_open_files(tmp_path: Path, workers: int, limit: int) -> None:
    command = [sys.executable, "-c", MANY_WORKERS, str(tmp_path), str(limit), str(workers)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert ended.stdout == "80 batches\n", ended.stderr


def test_too_few_open_files_are_named_with_the_way_out(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MANY_WORKERS, str(tmp_path), "40", "8"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 1
    assert "the 8 worker processes need more open files than the system allows: use fewer --workers, or" in ended.stderr
