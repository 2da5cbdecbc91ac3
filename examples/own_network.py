"""Pre-train a network of your own, and use its features.

python examples/own_network.py IMAGES runs/own
"""

import sys

import torch
from torch import nn

import orl


class OwnNetwork(nn.Module):
    """A small network from images `(N, 3, H, W)` to feature maps `(N, 64, H / 16, W / 16)`."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(self._layer(3, 16), self._layer(16, 32), self._layer(32, 64), self._layer(64, 64))

    @staticmethod
    def _layer(num_inputs: int, num_outputs: int) -> nn.Sequential:
        convolution = nn.Conv2d(num_inputs, num_outputs, 3, stride=2, padding=1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(num_outputs), nn.ReLU())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the feature map."""
        return self.layers(images)


def main(images: str, out: str, **changes: object) -> None:
    """Train stage 1 by MoCo v2, then compute features with the trained network."""
    network = OwnNetwork()
    weights = orl.pretrain(images=images, out=out, method="mocov2", backbone=network, **changes)  # type: ignore[arg-type]
    print(f"weights: {weights}")
    features = network.eval()(torch.rand(1, 3, 224, 224)).mean(dim=(2, 3))  # the module itself was trained
    print(f"features: {tuple(features.shape)}")


if __name__ == "__main__":  # the scan starts processes of its own
    main(*sys.argv[1:])
