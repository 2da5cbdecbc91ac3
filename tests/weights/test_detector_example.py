"""The example runs on what an export leaves, as its docstring says."""

import importlib.util
import math
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tests.export.exported import write_backbone, write_run

from orl.export.export import export

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "detector.py"


@pytest.fixture
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("detector", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def printed_losses(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"(loss_\w+) ([\d.]+)", text)}


def test_the_detector_trains_on_the_backbone_of_a_run(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    example.main(str(write_run(tmp_path / "run").root))
    text = capsys.readouterr().out
    assert text.startswith("resnet10: ")
    losses = printed_losses(text)
    assert {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness"} <= set(losses)
    assert all(math.isfinite(value) for value in losses.values())
    # Two classes and masks at chance: the logarithm of two each.
    assert 0.2 < losses["loss_mask"] < 3


def test_the_detector_trains_on_an_exported_file(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    example.main(str(export(write_backbone(tmp_path / "from"), "torchvision", tmp_path / "to")[0]))
    assert printed_losses(capsys.readouterr().out)["loss_mask"] > 0
