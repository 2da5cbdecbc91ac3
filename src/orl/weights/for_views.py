"""Any network for views and images as orl makes them, which are normalised by ImageNet's mean and deviation."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from orl.networks.backbones import Backbone
from orl.views.colour import IMAGENET_MEAN, IMAGENET_STD
from orl.weights.architectures import OutsideBackbone, load_outside
from orl.weights.loading import weights_file


class Renormalised(nn.Module):
    """A network that was trained on images of another mean and deviation: `(N, 3, H, W)` to `(N, C, h, w)`."""

    factor: Tensor
    shift: Tensor

    def __init__(self, network: OutsideBackbone) -> None:
        super().__init__()
        self.network, self.name, self.num_channels = network, network.name, network.num_channels
        mean, std = torch.tensor(network.mean), torch.tensor(network.std)
        self.register_buffer("factor", (torch.tensor(IMAGENET_STD) / std).view(3, 1, 1))
        self.register_buffer("shift", ((torch.tensor(IMAGENET_MEAN) - mean) / std).view(3, 1, 1))

    def forward(self, views: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c i j"]:
        return self.network(views * self.factor + self.shift)


def load_for_views(source: Path, architecture: str | None = None) -> Backbone | Renormalised:
    """A network from a run, an export or a foreign file, in evaluation mode.

    Args:
        source: as `orl.load_backbone` takes it.
        architecture: what network the weights are of, where that cannot be seen from them.

    Raises:
        FileNotFoundError: if there is nothing.
        ValueError: if the weights cannot be opened safely, or are of no network that is known.
    """
    network = load_outside(weights_file(source), architecture)
    return Renormalised(network).eval() if isinstance(network, OutsideBackbone) else network
