import os
from pathlib import Path

import pytest
import torch

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
