"""A backbone for MMDetection 3: a checkpoint, and the paper's detection protocol as a ready config."""

from string import Template

from orl.export.model_card import Origin, write_card
from orl.export.torch_file import torch_bytes
from orl.networks.backbones import Backbone, cpu_weights
from orl.views.colour import IMAGENET_MEAN, IMAGENET_STD

MMDET_RESNETS: dict[str, tuple[int, list[int]]] = {
    "resnet18": (18, [64, 128, 256, 512]),
    "resnet34": (34, [64, 128, 256, 512]),
    "resnet50": (50, [256, 512, 1024, 2048]),
    "resnet101": (101, [256, 512, 1024, 2048]),
}
"""Depth, and channels of the four levels, of the ResNets that MMDetection and orl both have."""
CONFIG = Template("""\
# Mask R-CNN with FPN on COCO 2017, 90,000 iterations at 16 images, from the backbone in $file.
# For MMDetection 3: python tools/train.py $config, with $file in the working folder or its full path below.
_base_ = "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"

norm_cfg = dict(type="SyncBN", requires_grad=True)
model = dict(
    data_preprocessor=dict(mean=$mean, std=$std, bgr_to_rgb=True),
    backbone=dict(
        depth=$depth,
        frozen_stages=-1,
        norm_cfg=norm_cfg,
        norm_eval=False,
        style="pytorch",
        init_cfg=dict(type="Pretrained", checkpoint="$file"),
    ),
    neck=dict(in_channels=$channels, norm_cfg=norm_cfg),
    roi_head=dict(
        bbox_head=dict(type="Shared4Conv1FCBBoxHead", norm_cfg=norm_cfg),
        mask_head=dict(norm_cfg=norm_cfg),
    ),
)

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomChoiceResize", scales=[(1333, side) for side in range(640, 801, 32)], keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
# Two images on each of eight GPUs.
train_dataloader = dict(batch_size=2, sampler=dict(type="InfiniteSampler"), dataset=dict(pipeline=train_pipeline))

train_cfg = dict(_delete_=True, type="IterBasedTrainLoop", max_iters=90000, val_interval=10000)
optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.02, momentum=0.9, weight_decay=0.0001))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type="MultiStepLR", by_epoch=False, begin=0, end=90000, milestones=[60000, 80000], gamma=0.1),
]
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=10000))
log_processor = dict(by_epoch=False)
""")


def mmdet_files(backbone: Backbone, origin: Origin) -> dict[str, bytes]:
    """Return the checkpoint, under the names that torchvision and MMDetection share, the config and the card.

    Raises:
        ValueError: if MMDetection has no such network.

    Source:
        MMDetection 3's `models/backbones/resnet.py` and `configs/_base_`; the protocol is that of the paper's
        supplementary.
    """
    if backbone.name not in MMDET_RESNETS:
        raise ValueError(
            f"MMDetection builds ResNets of depth 18, 34, 50, 101 and 152 at their usual width, and no "
            f"{backbone.name}; export it to torchvision, timm or onnx"
        )
    file, config = f"{backbone.name}_mmdet.pth", f"{backbone.name}_mmdet.py"
    depth, channels = MMDET_RESNETS[backbone.name]
    text = CONFIG.substitute(
        file=file,
        config=config,
        depth=depth,
        channels=channels,
        mean=[round(255 * value, 3) for value in IMAGENET_MEAN],
        std=[round(255 * value, 3) for value in IMAGENET_STD],
    )
    code = f"""\
# python tools/train.py {config}    (the path of the weights in it is relative: run it here, or change it)
from mmengine.config import Config

cfg = Config.fromfile("{config}")"""
    content = (
        "The checkpoint holds `state_dict` under torchvision's names, without `fc`. The config extends "
        "MMDetection's own Mask R-CNN: nothing frozen, batch statistics over all GPUs (SyncBN) in backbone, FPN and "
        "heads, a box head of four convolutions and one linear layer."
    )
    meta = {"author": "orl", "architecture": backbone.name, "source_digest": origin.digest}
    return {
        file: torch_bytes({"meta": meta, "state_dict": cpu_weights(backbone)}),
        config: text.encode(),
        f"{backbone.name}_mmdet.md": write_card(backbone, origin, code, content),
    }
