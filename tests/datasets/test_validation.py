import csv
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orl.datasets import decode
from orl.datasets import validation as scan
from orl.datasets.image_table import ImageTable
from orl.datasets.validation import Rejected, check_scan, save_rejected, scan_images

LIMITS = {"min_side_px": 32, "max_pixels": 1_000_000, "quiet": True}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for index in range(40):
        pixels = generator.integers(0, 256, (40, 50 + index, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"good{index:02d}.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(root / "turned.jpg", exif=exif)
    Image.new("RGB", (20, 90)).save(root / "thin.png")
    (root / "empty.jpg").write_bytes(b"")
    names = [*(f"good{index:02d}.png" for index in range(40)), "turned.jpg", "thin.png", "empty.jpg", "missing.jpg"]
    return root, names


@pytest.mark.parametrize("workers", [1, 2])
def test_usable_images_are_measured_and_others_rejected_with_a_reason(
    images: tuple[Path, list[str]], workers: int
) -> None:
    table, rejected = scan_images(*images, workers=workers, **LIMITS)
    assert list(table.names) == images[1][:41]
    assert table.sizes_wh[:3] == ((50, 40), (51, 40), (52, 40))
    assert table.sizes_wh[40] == (40, 60), "the size is that of the upright image"
    assert len(set(table.digests)) == 41
    assert {each.name: each.reason.split(":")[0] for each in rejected} == {
        "thin.png": "too small",
        "empty.jpg": "empty",
        "missing.jpg": "missing",
    }
    assert rejected[0].reason == "too small: 20x90 px, at least 32 on the short side"


def test_any_number_of_workers_gives_the_same_table(images: tuple[Path, list[str]]) -> None:
    assert scan_images(*images, workers=1, **LIMITS) == scan_images(*images, workers=3, **LIMITS)


def _die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_is_reported(images: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "_begin_worker", _die)
    with pytest.raises(RuntimeError, match=r"a worker process of the scan died after 0 of 44 images"):
        scan_images(*images, workers=2, **LIMITS)


LARGE_SCAN = """
import sys
from pathlib import Path
from orl.datasets.validation import scan_images
if __name__ == "__main__":
    names = ["0.png"] * 1_000_000
    print("ready", flush=True)
    scan_images(Path(sys.argv[1]), names, workers=2, min_side_px=8, max_pixels=10**6, quiet=True)
"""


def scan_workers(process_id: int) -> list[int]:
    children = Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def status(process_id: int) -> list[str]:
    return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()


def cpu_ticks(process_id: int) -> int:
    return int(status(process_id)[11])


def is_alive(process_id: int) -> bool:
    try:
        return status(process_id)[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers by /proc")
def test_workers_of_a_killed_scan_end(tmp_path: Path) -> None:
    Image.new("RGB", (900, 900)).save(tmp_path / "0.png")
    (tmp_path / "scan.py").write_text(LARGE_SCAN)
    command = [sys.executable, str(tmp_path / "scan.py"), str(tmp_path)]
    process = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(workers := scan_workers(process.pid)) < 2 or cpu_ticks(workers[-1]) < 200:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    while any(map(is_alive, workers)):
        assert time.monotonic() < deadline, "the workers go on without their parent"
        time.sleep(0.05)


def test_a_script_without_a_main_guard_is_refused_before_its_workers_start(tmp_path: Path) -> None:
    script = LARGE_SCAN.replace('if __name__ == "__main__":', "if True:")
    (tmp_path / "scan.py").write_text(script)
    command = [sys.executable, str(tmp_path / "scan.py"), str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert 'put its calls below `if __name__ == "__main__":`' in ended.stderr
    assert ended.stdout.count("ready") == 1


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOMEM, "no memory"), OSError(errno.EMFILE, "files")])
def test_a_machine_short_of_memory_or_files_rejects_no_image(
    images: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    for where in ("open", "fromarray"):
        monkeypatch.setattr(decode.Image, where, fail)
    with pytest.raises(type(error)):
        scan_images(*images, workers=1, **LIMITS)


def test_ctrl_c_while_a_large_scan_begins_leaves_at_once_with_one_traceback(tmp_path: Path) -> None:
    Image.new("RGB", (50, 50)).save(tmp_path / "a.png")
    (tmp_path / "program.py").write_text(
        "import signal\n"
        "from pathlib import Path\n"
        "from orl.datasets.validation import scan_images\n"
        "if __name__ == '__main__':\n"
        # As a shell starts a program, whatever the process of the tests does with Ctrl-C.
        "    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "    names = ['a.png'] * 2_000_000\n"
        "    print('begin', flush=True)\n"
        f"    scan_images(Path({str(tmp_path)!r}), names, workers=2, **{LIMITS})\n"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, tmp_path / "program.py"], text=True, start_new_session=True, **pipes)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "begin\n"
        time.sleep(0.7)
        os.killpg(process.pid, signal.SIGINT)
        # The scan would take an hour; the processes that have just been started are waited for.
        _, errors = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode != 0
    assert errors.count("Traceback") == 1
    assert errors.rstrip().endswith("KeyboardInterrupt")


def test_a_name_that_is_not_unicode_is_rejected_and_can_be_written(tmp_path: Path) -> None:
    _, rejected = scan_images(tmp_path, [os.fsdecode(b"caf\xe9.jpg")], workers=1, **LIMITS)
    assert rejected[0].reason.startswith("name is not Unicode")
    save_rejected(rejected, tmp_path / "rejected.csv")
    assert rb"caf\udce9.jpg" in (tmp_path / "rejected.csv").read_bytes()


def test_rejections_are_written_as_csv(tmp_path: Path) -> None:
    rejected = [Rejected('a "quoted", name\n.jpg', "empty: 0 bytes"), Rejected("b.jpg", "missing: no file")]
    save_rejected(rejected, tmp_path / "rejected.csv")
    with open(tmp_path / "rejected.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], row["reason"]) for row in rows] == [(each.name, each.reason) for each in rejected]


def table(count: int) -> ImageTable:
    names = tuple(f"{index}.jpg" for index in range(count))
    return ImageTable(root=Path("images"), names=names, sizes_wh=((64, 64),) * count, digests=names)


def check(num_good: int, num_bad: int, fraction: float = 0.1) -> None:
    rejected = [Rejected(f"{index}.png", "empty: 0 bytes") for index in range(num_bad)]
    check_scan(
        table(num_good), rejected, max_rejected_fraction=fraction, min_images=11, rejected_path=Path("run/rejected.csv")
    )


def test_the_limits_themselves_are_allowed() -> None:
    check(11, 0)
    check(90, 10)


@pytest.mark.parametrize(
    ("num_good", "num_bad", "complaint"),
    [
        (0, 0, r"no image is usable"),
        (0, 7, r"no image is usable: 7 of 7 .*7 empty; all reasons are in run.rejected.csv"),
        (89, 11, r"too many images are rejected, 11.0% where 10.0% are allowed: 11 of 100"),
        (10, 0, r"only 10 usable images, but at least 11 are needed"),
    ],
)
def test_too_few_images_are_refused_with_the_counts(num_good: int, num_bad: int, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        check(num_good, num_bad)
