import os
from pathlib import Path

import pytest

from orl.doctor.machine import inspect_machine, usable_cores


@pytest.mark.parametrize(
    ("cpu_max", "cores"), [("", 8), ("max 100000", 8), ("250000 100000", 2.5), ("1600000 100000", 8), ("50000", 0.5)]
)
def test_a_container_may_use_what_its_quota_says(cpu_max: str, cores: float) -> None:
    assert usable_cores(8, cpu_max) == cores


def test_the_facts_of_this_machine_can_be_true(tmp_path: Path) -> None:
    machine = inspect_machine(tmp_path / "not" / "yet" / "there")
    assert 0 < machine.cores <= (os.cpu_count() or 1)
    assert 0 < machine.memory_bytes <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert machine.disk_bytes > 0
    assert machine.versions["torch"][0].isdigit()
    assert "gloo" in machine.backends
    assert machine.cpu
