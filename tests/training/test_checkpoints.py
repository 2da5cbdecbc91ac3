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


def test_foreign_checkpoints_are_refused_and_none_is_no_state(tmp_path: Path) -> None:
    assert load_newest(tmp_path) == (None, [])
    torch.save({"weights": 1}, tmp_path / "step_00000001.ckpt")
    with pytest.raises(ValueError, match=r"step_00000001.ckpt is not a checkpoint of orl"):
        load_newest(tmp_path)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"orl_checkpoint": 1, "step": 1, "surprise": os.system}, tmp_path / "step_00000001.ckpt")
    with pytest.raises(ValueError, match="cannot be read"):
        load_newest(tmp_path)
