import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orl.datasets.loader_workers import ignore_interrupts, named_limits


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            RuntimeError("received 0 items of ancdata"),
            "need more open files .* use fewer --workers, or raise the limit",
        ),
        (OSError(errno.EMFILE, "Too many open files"), "need more open files"),
        (RuntimeError("unable to write to file </torch_7_1>: No space left on device (28)"), "too small .*--shm-size"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. shared memory"), "too small"),
        (RuntimeError("unable to resize file </torch_7_1>: File too large (27)"), r"ulimit -f"),
    ],
)
def test_a_limit_of_the_machine_is_named_with_the_way_out(error: Exception, message: str) -> None:
    with pytest.raises(RuntimeError, match=f"the 3 worker processes .*{message}"), named_limits(3):
        raise error


def test_another_error_is_left_as_it_is() -> None:
    with pytest.raises(RuntimeError, match=r"^a mistake$"), named_limits(3):
        raise RuntimeError("a mistake")


LOW_LIMIT = """
import resource
from pathlib import Path
import numpy as np
import torch
from PIL import Image
from orl.embed import embed_boxes
Image.new("RGB", (64, 64)).save("image.png")
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
encode = lambda views: views.mean(dim=(2, 3))
boxes = np.array([[0, 0, 64, 64]], np.float32)
list(embed_boxes(encode, [Path("image.png")], [boxes], size_px=64, device=torch.device("cpu"), workers=1, report=print))
"""


def test_a_limit_of_file_sizes_stops_embedding_instead_of_waiting_for_ever(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LOW_LIMIT]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert ended.returncode == 1
    assert "the 1 worker processes may not write batches of their size" in ended.stderr


def test_a_worker_prints_no_traceback_of_a_main_process_that_has_gone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    before = signal.getsignal(signal.SIGINT)
    ignore_interrupts(0)
    signal.signal(signal.SIGINT, before)
    for error in (ConnectionResetError("gone"), EOFError()):
        sys.excepthook(type(error), error, None)
    assert capsys.readouterr().err == ""
    sys.excepthook(ValueError, ValueError("a mistake"), None)
    assert "ValueError: a mistake" in capsys.readouterr().err
