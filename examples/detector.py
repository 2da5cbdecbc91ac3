"""A detector on a pre-trained backbone: torchvision's Mask R-CNN with a feature pyramid, one step of training.

python examples/detector.py runs/mine
python examples/detector.py resnet50_torchvision.pth
"""

import sys

import torch
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN

from orl import load_backbone


def main(source: str) -> None:
    """Build a detector from weights, and compute the losses of one random image with one object."""
    backbone = load_backbone(source, frozen=False)  # frozen=True trains the pyramid and the heads only
    channels = [backbone.num_channels // fraction for fraction in (8, 4, 2, 1)]
    levels = {"layer1": "0", "layer2": "1", "layer3": "2", "layer4": "3"}
    pyramid = BackboneWithFPN(backbone, levels, channels, out_channels=256)
    detector = MaskRCNN(
        pyramid, num_classes=2, min_size=128, max_size=192
    )  # normalises images with ImageNet's statistics
    image, mask = torch.rand(3, 128, 160), torch.zeros(1, 128, 160, dtype=torch.uint8)
    mask[:, 32:96, 40:120] = 1
    target = {"boxes": torch.tensor([[40.0, 32.0, 120.0, 96.0]]), "labels": torch.tensor([1]), "masks": mask}
    losses = detector([image], [target])
    torch.stack(list(losses.values())).sum().backward()
    print(f"{backbone.name}: " + ", ".join(f"{name} {loss.item():.3f}" for name, loss in losses.items()))


if __name__ == "__main__":
    main(sys.argv[1])
