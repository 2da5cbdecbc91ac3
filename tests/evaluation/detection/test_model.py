import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision.models.detection import MaskRCNN

from orl.evaluation.detection.config import DetectionConfig
from orl.evaluation.detection.model import build_detector, build_detector_optimiser, detector_losses, in_unit_range
from orl.networks.backbones import Backbone, build_backbone

SMALL = DetectionConfig(num_channels=8, num_box_features=16, anchor_sizes_px=(8, 16, 32, 64, 128))


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.manual_seed(0)
    return build_backbone("resnet10")


@pytest.fixture(scope="module")
def protocol() -> nn.Module:
    return build_detector(build_backbone("resnet50"), 80, DetectionConfig())


def norms(part: nn.Module) -> list[str]:
    return [name for name, below in part.named_modules() if isinstance(below, nn.modules.batchnorm._BatchNorm)]


def batch(num_images: int = 2) -> dict[str, list]:
    generator = torch.Generator().manual_seed(3)
    images = [torch.randint(0, 256, (3, 64, 96), generator=generator, dtype=torch.uint8) for _ in range(num_images)]
    masks = torch.zeros(2, 64, 96, dtype=torch.uint8)
    masks[0, 10:40, 8:50] = masks[1, 20:60, 40:90] = 1
    boxes = torch.tensor([[8.0, 10, 50, 40], [40, 20, 90, 60]])
    return {
        "images": images,
        "targets": [{"boxes": boxes, "labels": torch.tensor([1, 2]), "masks": masks} for _ in images],
    }


def test_all_parts_have_batch_normalisation_and_none_is_frozen(protocol: nn.Module) -> None:
    assert len(norms(protocol.backbone.body)) == 53  # of a ResNet-50
    assert len(norms(protocol.backbone.fpn)) == 8  # four lateral and four output convolutions
    assert len(norms(protocol.roi_heads.box_head)) == 4
    assert len(norms(protocol.roi_heads.mask_head)) == 4
    assert len(norms(protocol)) == 53 + 8 + 4 + 4
    assert all(weight.requires_grad for weight in protocol.parameters())
    assert all(part.training for part in protocol.modules())
    assert isinstance(protocol, MaskRCNN)


def test_the_box_head_has_four_convolutions_and_one_layer_of_1024(protocol: nn.Module) -> None:
    convolutions = [part for part in protocol.roi_heads.box_head.modules() if isinstance(part, nn.Conv2d)]
    assert [(part.in_channels, part.out_channels, part.bias) for part in convolutions] == [(256, 256, None)] * 4
    linear = [part for part in protocol.roi_heads.box_head.modules() if isinstance(part, nn.Linear)]
    assert [(part.in_features, part.out_features) for part in linear] == [(256 * 7 * 7, 1024)]
    assert protocol.roi_heads.box_predictor.cls_score.out_features == 81
    assert protocol.roi_heads.box_predictor.bbox_pred.out_features == 81 * 4
    assert protocol.roi_heads.mask_predictor.mask_fcn_logits.out_channels == 81


def test_the_number_of_weights_equals_a_count_by_hand(protocol: nn.Module) -> None:
    body = sum(weight.numel() for weight in build_backbone("resnet50").parameters())
    laterals = sum(256 * channels for channels in (256, 512, 1024, 2048))
    pyramid = laterals + 4 * 256 * 256 * 9 + 8 * 2 * 256
    proposals = 256 * 256 * 9 + 256 + (256 + 1) * 3 * 5
    box = 4 * (256 * 256 * 9 + 2 * 256) + (256 * 49 + 1) * 1024 + (1024 + 1) * 81 * 5
    mask = 4 * (256 * 256 * 9 + 2 * 256) + (256 * 256 * 4 + 256) + (256 + 1) * 81
    assert sum(weight.numel() for weight in protocol.parameters()) == body + pyramid + proposals + box + mask


def test_numbers_of_proposals_and_rois_equal_detectron2s(protocol: nn.Module) -> None:
    rpn, heads = protocol.rpn, protocol.roi_heads
    assert (rpn._pre_nms_top_n, rpn._post_nms_top_n) == (
        {"training": 2000, "testing": 1000},
        {"training": 1000, "testing": 1000},
    )
    assert (rpn.fg_bg_sampler.batch_size_per_image, rpn.fg_bg_sampler.positive_fraction) == (256, 0.5)
    assert (rpn.proposal_matcher.high_threshold, rpn.proposal_matcher.low_threshold, rpn.nms_thresh) == (0.7, 0.3, 0.7)
    assert (heads.fg_bg_sampler.batch_size_per_image, heads.fg_bg_sampler.positive_fraction) == (512, 0.25)
    assert (heads.proposal_matcher.high_threshold, heads.proposal_matcher.low_threshold) == (0.5, 0.5)
    assert heads.box_coder.weights == (10.0, 10.0, 5.0, 5.0)
    assert (heads.score_thresh, heads.nms_thresh, heads.detections_per_img) == (0.05, 0.5, 100)
    assert rpn.anchor_generator.sizes == ((32,), (64,), (128,), (256,), (512,))
    assert rpn.anchor_generator.aspect_ratios == ((0.5, 1.0, 2.0),) * 5


def test_heads_start_small_as_in_detectron2(protocol: nn.Module) -> None:
    predictor = protocol.roi_heads.box_predictor
    found = [predictor.cls_score.weight.std(), predictor.bbox_pred.weight.std()]
    # 81 x 1024 draws: their deviation is known to about 0.3%.
    assert_close(torch.stack(found), torch.tensor([0.01, 0.001]), rtol=0.02, atol=0)
    head = next(part for part in protocol.roi_heads.box_head if isinstance(part, nn.Linear))
    assert_close(head.weight.abs().max(), torch.tensor(math.sqrt(3 / (256 * 49))), rtol=1e-3, atol=0)


def test_the_pyramid_halves_five_times_from_a_quarter(backbone: Backbone) -> None:
    detector = build_detector(backbone, 3, SMALL).eval()
    maps = detector.backbone(torch.zeros(1, 3, 64, 128))
    assert [tuple(level.shape) for level in maps.values()] == [
        (1, 8, 16, 32),
        (1, 8, 8, 16),
        (1, 8, 4, 8),
        (1, 8, 2, 4),
        (1, 8, 1, 2),
    ]


def test_the_detector_normalises_images_as_the_backbone_expects(backbone: Backbone) -> None:
    detector = build_detector(backbone, 3, SMALL).eval()
    images, weight = batch()["images"], next(detector.parameters())
    padded, _ = detector.transform([in_unit_range(image, weight) for image in images])
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    by_hand = (torch.stack(images) / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.no_grad():
        # In training mode the statistics are of the batch, and so the same.
        expected, found = copy.deepcopy(backbone).eval()(by_hand), detector.backbone.body(padded.tensors)["3"]
    assert_close(found, expected)


def test_the_given_backbone_is_not_changed(backbone: Backbone) -> None:
    backbone.eval().requires_grad_(False)
    before = copy.deepcopy(backbone.state_dict())
    detector = build_detector(backbone, 2, SMALL)
    terms, _ = detector_losses(detector, batch())
    torch.stack(list(terms.values())).sum().backward()
    build_detector_optimiser(detector, 0.1).step()
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert not any(part.training for part in backbone.modules())
    assert not torch.equal(detector.backbone.body.conv1.weight, backbone.conv1.weight)
    assert all(weight.grad is not None for weight in detector.parameters())


def test_the_loss_terms_are_those_of_mask_rcnn(backbone: Backbone) -> None:
    terms, metrics = detector_losses(build_detector(backbone, 2, SMALL), batch())
    assert set(terms) == {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}
    assert metrics == {}
    # Predictors start near 0, so each answer is as likely as any other.
    assert_close(terms["loss_classifier"].item(), math.log(3), rtol=0.05, atol=0)
    assert_close(terms["loss_mask"].item(), math.log(2), rtol=0.05, atol=0)
    assert_close(terms["loss_objectness"].item(), math.log(2), rtol=0.05, atol=0)
    boxes_only = DetectionConfig(masks=False, num_channels=8, num_box_features=16, anchor_sizes_px=(8, 16, 32, 64, 128))
    terms, _ = detector_losses(build_detector(backbone, 2, boxes_only), batch())
    assert set(terms) == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}


def test_images_are_not_resized_again(backbone: Backbone) -> None:
    detector = build_detector(backbone, 2, SMALL)
    images, targets = detector.transform([torch.zeros(3, 50, 70), torch.zeros(3, 33, 20)], None)
    assert images.image_sizes == [(50, 70), (33, 20)]
    assert tuple(images.tensors.shape) == (2, 3, 64, 96)
    assert targets is None


def test_batch_normalisation_has_no_weight_decay(backbone: Backbone) -> None:
    detector = build_detector(backbone, 2, SMALL)
    optimiser = build_detector_optimiser(detector, 0.02)
    decayed, kept = optimiser.param_groups
    names = {id(weight): name for name, weight in detector.named_parameters()}
    assert {names[id(weight)] for weight in kept["params"]} == {
        f"{norm}.{name}" for norm in norms(detector) for name in ("weight", "bias")
    }
    assert len(decayed["params"]) + len(kept["params"]) == len(names)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (1e-4, 0.0)
    assert (decayed["momentum"], decayed["lr"], decayed["nesterov"]) == (0.9, 0.02, False)


class Foreign(nn.Module):
    name = "efficientnet_lite0"

    def forward(self, images: Tensor) -> Tensor:
        return images


def test_a_network_without_four_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="got 'efficientnet_lite0'"):
        build_detector(Foreign(), 2, SMALL)
