import os
import zipfile
from pathlib import Path

import pytest
import torch

from orl.provenance import StaleResultError
from orl.training.checkpoints import load_newest, save_checkpoint


@pytest.mark.parametrize("num_kept", [1, 2, 3])
def test_only_the_last_few_checkpoints_are_kept(tmp_path: Path, num_kept: int) -> None:
    for step in (1, 2, 3, 4):
        save_checkpoint(tmp_path, step, {"method": {"w": torch.full((2,), float(step))}}, num_kept)
    names = [f"step_{step:08d}.ckpt" for step in range(5 - num_kept, 5)]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    state, complaints = load_newest(tmp_path)
    assert state is not None
    assert state["step"] == 4
    assert complaints == []


def test_a_foreign_checkpoint_is_refused_and_an_empty_folder_has_no_state(tmp_path: Path) -> None:
    assert load_newest(tmp_path) == (None, [])
    torch.save({"weights": 1}, tmp_path / "step_00000001.ckpt")
    with pytest.raises(ValueError, match=r"step_00000001.ckpt is not a checkpoint of orl"):
        load_newest(tmp_path)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"orl_checkpoint": 1, "step": 1, "surprise": os.system}, tmp_path / "step_00000001.ckpt")
    with pytest.raises(ValueError, match="cannot be read"):
        load_newest(tmp_path)


def test_a_damaged_later_checkpoint_does_not_delete_the_one_just_written(tmp_path: Path) -> None:
    state = {"method": {"w": torch.zeros(2)}}
    save_checkpoint(tmp_path, 3, state, 1)
    (tmp_path / "step_00000005.ckpt").write_bytes(b"torn")
    save_checkpoint(tmp_path, 4, state, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000004.ckpt", "step_00000005.ckpt"]
    found, complaints = load_newest(tmp_path)
    assert found is not None
    assert found["step"] == 4
    assert "step_00000005.ckpt cannot be read" in complaints[0]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Return the file of a checkpoint of a training with the fingerprint 'a'."""
    save_checkpoint(tmp_path, 3, {"network": {"w": torch.arange(4.0)}}, fingerprint="a")
    return tmp_path / "step_00000003.ckpt"


def test_a_flipped_bit_anywhere_in_a_checkpoint_is_refused(saved: Path) -> None:
    intact = saved.read_bytes()
    for position in range(0, 8 * len(intact), 29):
        damaged = bytearray(intact)
        damaged[position // 8] ^= 1 << position % 8
        saved.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"step_00000003.ckpt (cannot be read|is not a checkpoint)"):
            load_newest(saved.parent, "a")
    saved.write_bytes(intact)
    state, _ = load_newest(saved.parent, "a")
    assert state is not None
    assert state["network"]["w"].tolist() == [0, 1, 2, 3]


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_it(saved: Path) -> None:
    save_checkpoint(saved.parent, 4, {"network": {"w": torch.zeros(4)}}, fingerprint="a")
    newest = saved.with_name("step_00000004.ckpt")
    damaged = bytearray(newest.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    newest.write_bytes(damaged)
    state, complaints = load_newest(saved.parent, "a")
    assert state is not None
    assert state["step"] == 3
    assert "its checksum does not match" in complaints[0]


def test_a_checkpoint_of_another_training_is_refused_and_not_passed_over(saved: Path) -> None:
    save_checkpoint(saved.parent, 4, {"network": {"w": torch.zeros(4)}}, fingerprint="b")
    with pytest.raises(StaleResultError, match=r"step_00000004.ckpt belongs to another training, with fingerprint b"):
        load_newest(saved.parent, "a")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"orl_checkpoint": 1, "step": 3}, "was written by an earlier version of orl, without fingerprint"),
        ({"orl_checkpoint": 2, "step": 3, "fingerprint": "a"}, "it has no checksum"),
        ([], "is not a checkpoint of orl"),
    ],
)
def test_a_checkpoint_without_what_it_needs_is_refused(saved: Path, content: object, message: str) -> None:
    torch.save(content, saved)
    with pytest.raises(ValueError, match=message):
        load_newest(saved.parent, "a")


def test_a_checkpoint_without_a_step_is_refused(saved: Path) -> None:
    save_checkpoint(saved.parent, 3, {"step": None}, fingerprint="a")
    with pytest.raises(ValueError, match="no step"):
        load_newest(saved.parent, "a")


def test_any_tool_can_open_a_checkpoint(saved: Path) -> None:
    assert torch.load(saved, weights_only=True)["step"] == 3
    with zipfile.ZipFile(saved) as archive:
        assert archive.testzip() is None
        assert len(archive.comment) == 64
