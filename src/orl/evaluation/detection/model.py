"""Mask R-CNN and Faster R-CNN with a feature pyramid on a backbone, built from torchvision's parts.

The numbers are those of Detectron2's R50-FPN. Batch normalisation is in the backbone, the pyramid and both heads, and
nothing is frozen. Differences of torchvision's parts from Detectron2:

- RoIAlign does not shift its grid by half a pixel (Detectron2: `aligned`);
- anchors are rounded to whole pixels;
- box losses are smooth L1 with beta 1/9 in the region proposals and in the box head (Detectron2: L1);
- the proposals' losses are divided by the number of sampled anchors (Detectron2: by 256 per image);
- ground truth masks are cut from bitmaps of the resized image (Detectron2: from polygons), and predicted masks are
  pasted into boxes of whole pixels.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign

from orl.evaluation.detection.config import MAX_DETECTIONS, SGD_MOMENTUM, WEIGHT_DECAY, DetectionConfig
from orl.networks.backbones import Backbone
from orl.views.colour import IMAGENET_MEAN, IMAGENET_STD

PYRAMID_LEVELS = ("layer1", "layer2", "layer3", "layer4")
"""Parts of the backbone whose outputs enter the pyramid."""
ANCHOR_ASPECT_RATIOS = (0.5, 1.0, 2.0)
BOX_SIDE, MASK_SIDE = 7, 14
"""Side of the pooled features of an RoI, in cells."""
NUM_BOX_CONVOLUTIONS = NUM_MASK_CONVOLUTIONS = 4
DetectionTarget = dict[str, Tensor]
"""`boxes` (n, 4), `labels` (n,) from 1, and `masks` (n, h, w) if there are masks."""


class NormaliseAndPad(GeneralizedRCNNTransform):
    """A transform that normalises images and pads them to one size; the data set has already resized them."""

    def resize(self, image: Tensor, target: DetectionTarget | None = None) -> tuple[Tensor, DetectionTarget | None]:
        """Return the image unchanged."""
        return image, target


def build_detector(backbone: object, num_classes: int, config: DetectionConfig) -> FasterRCNN:
    """Build a detector on a copy of a backbone; all other weights are random, from torch's global generator.

    Args:
        backbone: an orl ResNet, which is not changed.
        num_classes: classes of objects, without the background.
        config: size of the heads, anchors, and whether there are masks.

    Returns:
        The detector in training mode. It takes images in [0, 1] and targets and returns losses by name.

    Raises:
        ValueError: if the backbone is not an orl ResNet.
    """
    shared = {
        "rpn_anchor_generator": AnchorGenerator(
            tuple((size,) for size in config.anchor_sizes_px), (ANCHOR_ASPECT_RATIOS,) * len(config.anchor_sizes_px)
        ),
        "rpn_pre_nms_top_n_train": 2000,
        "rpn_pre_nms_top_n_test": 1000,
        "rpn_post_nms_top_n_train": 1000,
        "rpn_post_nms_top_n_test": 1000,
        "rpn_nms_thresh": 0.7,
        "rpn_fg_iou_thresh": 0.7,
        "rpn_bg_iou_thresh": 0.3,
        "rpn_batch_size_per_image": 256,
        "rpn_positive_fraction": 0.5,
        "box_roi_pool": _roi_pool(BOX_SIDE),
        "box_head": _box_head(config),
        "box_predictor": _box_predictor(config.num_box_features, num_classes + 1),
        "box_score_thresh": 0.05,
        "box_nms_thresh": 0.5,
        "box_detections_per_img": MAX_DETECTIONS,
        "box_fg_iou_thresh": 0.5,
        "box_bg_iou_thresh": 0.5,
        "box_batch_size_per_image": config.num_rois,
        "box_positive_fraction": 0.25,
        "bbox_reg_weights": (10.0, 10.0, 5.0, 5.0),
    }
    pyramid = _pyramid(backbone, config.num_channels)
    if config.masks:
        masks = {
            "mask_roi_pool": _roi_pool(MASK_SIDE),
            "mask_head": MaskRCNNHeads(
                config.num_channels, [config.num_channels] * NUM_MASK_CONVOLUTIONS, 1, nn.BatchNorm2d
            ),
            "mask_predictor": _mask_predictor(config.num_channels, num_classes + 1),
        }
        detector: FasterRCNN = MaskRCNN(pyramid, **shared, **masks)
    else:
        detector = FasterRCNN(pyramid, **shared)
    size_px = config.test_short_side_px
    detector.transform = NormaliseAndPad(size_px, config.longest_px, list(IMAGENET_MEAN), list(IMAGENET_STD))
    return detector.train()


def require_resnet(backbone: object) -> Backbone:
    """Return the backbone if a feature pyramid can be built on it.

    Raises:
        ValueError: if it is not an orl ResNet.
    """
    if isinstance(backbone, Backbone) and all(hasattr(backbone, level) for level in PYRAMID_LEVELS):
        return backbone
    name = getattr(backbone, "name", type(backbone).__name__)
    raise ValueError(
        f"a detector needs a ResNet of orl, with {', '.join(PYRAMID_LEVELS)}, got {name!r}; "
        "svm, low-shot, knn, linear and semi take any network"
    )


def build_detector_optimiser(detector: nn.Module, lr: float) -> torch.optim.SGD:
    """Return the protocol's SGD, without weight decay on batch normalisation.

    Source:
        Detectron2's defaults: WEIGHT_DECAY_NORM is 0.
    """
    norms = [
        weight
        for part in detector.modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm)
        for weight in part.parameters()
    ]
    known = {id(weight) for weight in norms}
    others = [weight for weight in detector.parameters() if id(weight) not in known]
    groups: list[dict[str, Any]] = [{"params": others}, {"params": norms, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=lr, momentum=SGD_MOMENTUM, weight_decay=WEIGHT_DECAY)


def detector_losses(model: Any, batch: Mapping[str, Sequence[Any]]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Compute torchvision's losses of a batch, under torchvision's names.

    Args:
        model: a detector in training mode, wrapped by Fabric.
        batch: uint8 `images` and `targets` from `samples.collate_detection`.
    """
    weight = next(model.parameters())
    targets = [{name: value.to(weight.device) for name, value in target.items()} for target in batch["targets"]]
    return model([in_unit_range(image, weight) for image in batch["images"]], targets), {}


def in_unit_range(image: Tensor, weight: Tensor) -> Tensor:
    """Convert a uint8 image to [0, 1], on the device and in the precision of a weight."""
    return image.to(weight.device, non_blocking=True).to(weight.dtype) / 255


def _pyramid(backbone: object, num_channels: int) -> BackboneWithFPN:
    body = copy.deepcopy(require_resnet(backbone)).train().requires_grad_(True)
    channels = [body.num_channels // 2**above for above in (3, 2, 1, 0)]
    names = {level: str(number) for number, level in enumerate(PYRAMID_LEVELS)}
    return BackboneWithFPN(body, names, channels, num_channels, norm_layer=nn.BatchNorm2d)


def _roi_pool(side: int) -> MultiScaleRoIAlign:
    # As many sampling points in a cell as it has pixels, as in Detectron2; torchvision's default is 2 x 2.
    return MultiScaleRoIAlign(featmap_names=["0", "1", "2", "3"], output_size=side, sampling_ratio=0)


def _box_head(config: DetectionConfig) -> FastRCNNConvFCHead:
    channels = config.num_channels
    size = (channels, BOX_SIDE, BOX_SIDE)
    layers, features = [channels] * NUM_BOX_CONVOLUTIONS, [config.num_box_features]
    head = FastRCNNConvFCHead(size, layers, features, norm_layer=nn.BatchNorm2d)
    for part in head:
        if isinstance(part, nn.Linear):
            nn.init.kaiming_uniform_(part.weight, a=1)
            nn.init.zeros_(part.bias)
    return head


def _box_predictor(num_features: int, num_labels: int) -> FastRCNNPredictor:
    """Build a predictor with weights near 0, as Detectron2: large random gradients would damage the backbone."""
    predictor = FastRCNNPredictor(num_features, num_labels)
    for part, std in ((predictor.cls_score, 0.01), (predictor.bbox_pred, 0.001)):
        nn.init.normal_(part.weight, std=std)
        nn.init.zeros_(part.bias)
    return predictor


def _mask_predictor(num_channels: int, num_labels: int) -> MaskRCNNPredictor:
    predictor = MaskRCNNPredictor(num_channels, num_channels, num_labels)
    nn.init.normal_(predictor.mask_fcn_logits.weight, std=0.001)
    for part in (predictor.conv5_mask, predictor.mask_fcn_logits):
        nn.init.zeros_(part.bias)
    return predictor
