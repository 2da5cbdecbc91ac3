import io

import pytest

from orl.progress import progress_bar


class Clock:
    """A clock that a test sets."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("tqdm.std.time", clock)
    return clock


def pipe_stderr(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Make standard error a stream that is no terminal."""
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    return stream


def test_off_a_terminal_progress_is_a_line_every_half_minute_with_rate_and_remaining_time(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    log = pipe_stderr(monkeypatch)
    with progress_bar(total=100, title="embed", unit="images") as bar:
        for _ in range(100):
            clock.now_s += 1
            bar.update(1)
    text = log.getvalue()
    assert "\r" not in text
    lines = text.splitlines()
    assert lines[0] == "embed: 30 of 100 images (30%), 1.00 images/s, 01:10 left"
    assert [line.split(",")[0] for line in lines] == [
        "embed: 30 of 100 images (30%)",
        "embed: 60 of 100 images (60%)",
        "embed: 90 of 100 images (90%)",
        "embed: 100 of 100 images (100%)",
    ]


def test_off_a_terminal_a_short_job_is_one_line(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    log = pipe_stderr(monkeypatch)
    for _ in progress_bar(range(5), title="scan", unit="images"):
        clock.now_s += 1
    assert log.getvalue().splitlines() == ["scan: 5 of 5 images (100%), 1.00 images/s, 00:00 left"]


def test_off_a_terminal_the_last_line_is_written_once(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    log = pipe_stderr(monkeypatch)
    with progress_bar(total=2, title="report", unit="sections") as bar:
        for _ in range(2):
            clock.now_s += 40
            bar.update(1)
    assert [line.split(",")[0] for line in log.getvalue().splitlines()] == [
        "report: 1 of 2 sections (50%)",
        "report: 2 of 2 sections (100%)",
    ]


def test_units_done_before_count_in_the_total_and_not_in_the_rate(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    log = pipe_stderr(monkeypatch)
    with progress_bar(total=100, done=90, title="train", unit="images") as bar:
        bar.set_postfix_str("loss 1.5", refresh=False)
        for _ in range(10):
            clock.now_s += 1
            bar.update(1)
    assert log.getvalue() == "train: 100 of 100 images (100%), 1.00 images/s, 00:00 left, loss 1.5\n"


def test_a_quiet_bar_writes_nothing(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    log = pipe_stderr(monkeypatch)
    assert list(progress_bar(range(100), title="scan", unit="images", quiet=True)) == list(range(100))
    assert not log.getvalue()
