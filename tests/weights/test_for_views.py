from pathlib import Path

import torch
from torchvision.models import mobilenet_v3_small

from orl.weights.for_views import load_for_views


def test_a_network_from_outside_is_in_evaluation_mode_in_all_its_parts(tmp_path: Path) -> None:
    file = tmp_path / "mobilenet_v3_small-0000.pth"
    torch.save(mobilenet_v3_small().train().state_dict(), file)
    assert not any(part.training for part in load_for_views(file).modules())
