from pathlib import Path
from typing import Any

import pytest
import torch
from tests.export.exported import random_backbone, write_backbone

from orl.export.export import export
from orl.export.mmdet import mmdet_files
from orl.export.model_card import Origin
from orl.networks.backbones import build_backbone

# Block and blocks a layer of MMDetection's ResNets, from its documentation.
ARCHITECTURES = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
}


def documented_shapes(depth: int) -> dict[str, tuple[int, ...]]:
    """The weights of MMDetection's ResNet of style 'pytorch', written out from its documentation."""
    kind, blocks = ARCHITECTURES[depth]
    expansion = 4 if kind == "bottleneck" else 1
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7), **norm("bn1", 64)}
    inputs = 64
    for layer, count in enumerate(blocks, start=1):
        planes = 32 * 2**layer
        outputs = planes * expansion
        for block in range(count):
            name = f"layer{layer}.{block}"
            if kind == "basic":
                convolutions = [(planes, inputs, 3), (planes, planes, 3)]
            else:
                convolutions = [(planes, inputs, 1), (planes, planes, 3), (outputs, planes, 1)]
            for number, (out, into, kernel) in enumerate(convolutions, start=1):
                shapes |= {
                    f"{name}.conv{number}.weight": (out, into, kernel, kernel),
                    **norm(f"{name}.bn{number}", out),
                }
            if block == 0 and (layer > 1 or inputs != outputs):
                shapes |= {
                    f"{name}.downsample.0.weight": (outputs, inputs, 1, 1),
                    **norm(f"{name}.downsample.1", outputs),
                }
            inputs = outputs
    return shapes


def norm(name: str, size: int) -> dict[str, tuple[int, ...]]:
    entries = ("weight", "bias", "running_mean", "running_var")
    return {**{f"{name}.{entry}": (size,) for entry in entries}, f"{name}.num_batches_tracked": ()}


def read_config(path: Path) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(path.read_text(), str(path), "exec"), names)
    return names


@pytest.mark.parametrize("depth", ARCHITECTURES)
def test_our_names_and_shapes_are_the_documented_ones(depth: int) -> None:
    with torch.device("meta"):
        ours = build_backbone(f"resnet{depth}").state_dict()
    assert {name: tuple(value.shape) for name, value in ours.items()} == documented_shapes(depth)


def test_the_checkpoint_holds_the_documented_names_and_our_values(tmp_path: Path) -> None:
    written = export(write_backbone(tmp_path / "from", "resnet18"), "mmdet", tmp_path / "to")
    assert [path.name for path in written] == ["resnet18_mmdet.pth", "resnet18_mmdet.py", "resnet18_mmdet.md"]
    content = torch.load(written[0], weights_only=True)
    assert set(content) == {"meta", "state_dict"}
    assert content["meta"]["architecture"] == "resnet18"
    assert {name: tuple(value.shape) for name, value in content["state_dict"].items()} == documented_shapes(18)
    expected = random_backbone("resnet18").state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in content["state_dict"].items())


@pytest.mark.parametrize(
    ("name", "depth", "channels"),
    [("resnet50", 50, [256, 512, 1024, 2048]), ("resnet18", 18, [64, 128, 256, 512])],
)
def test_the_config_is_the_protocol_of_the_paper(tmp_path: Path, name: str, depth: int, channels: list[int]) -> None:
    weights, path, _ = export(write_backbone(tmp_path / "from", name), "mmdet", tmp_path / "to")
    config = read_config(path)
    model = config["model"]
    backbone, heads = model["backbone"], model["roi_head"]
    assert config["_base_"] == "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"
    assert backbone["init_cfg"] == {"type": "Pretrained", "checkpoint": weights.name}
    assert (backbone["depth"], backbone["style"]) == (depth, "pytorch")
    assert (backbone["frozen_stages"], backbone["norm_eval"]) == (-1, False)
    sync = {"type": "SyncBN", "requires_grad": True}
    parts = (backbone, model["neck"], heads["bbox_head"], heads["mask_head"])
    assert all(part["norm_cfg"] == sync for part in parts)
    assert model["neck"]["in_channels"] == channels
    assert heads["bbox_head"]["type"] == "Shared4Conv1FCBBoxHead"
    assert model["data_preprocessor"]["mean"] == pytest.approx([123.675, 116.28, 103.53])
    assert model["data_preprocessor"]["std"] == pytest.approx([58.395, 57.12, 57.375])
    assert model["data_preprocessor"]["bgr_to_rgb"] is True
    resize = next(step for step in config["train_pipeline"] if step["type"] == "RandomChoiceResize")
    assert resize["scales"] == [(1333, 640), (1333, 672), (1333, 704), (1333, 736), (1333, 768), (1333, 800)]
    assert config["train_cfg"]["max_iters"] == 90000
    warmup, steps = config["param_scheduler"]
    assert (warmup["type"], warmup["end"]) == ("LinearLR", 1000)
    assert (steps["milestones"], steps["gamma"]) == ([60000, 80000], 0.1)
    assert config["optim_wrapper"]["optimizer"] == {"type": "SGD", "lr": 0.02, "momentum": 0.9, "weight_decay": 0.0001}
    assert 8 * config["train_dataloader"]["batch_size"] == 16


@pytest.mark.parametrize("name", ["resnet10", "wide_resnet50_2"])
def test_a_network_that_mmdetection_does_not_build_is_refused(name: str) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name)
    with pytest.raises(ValueError, match=f"at their usual width, and no {name}; export it to"):
        mmdet_files(backbone, Origin(digest="0"))
