"""What is judged: a network, what it is called, and what tells it from all others."""

from dataclasses import dataclass
from pathlib import Path

import torch

from orl import files
from orl.networks.backbones import Backbone, build_backbone, network_digest
from orl.weights.architectures import ImageNetInputBackbone
from orl.weights.find import find_weights_file
from orl.weights.loading import load_eval_network

RANDOM = Path("random")
"""In place of a file of weights: none."""
RANDOM_ARCHITECTURE = PROTOCOL_NETWORK = "resnet50"


@dataclass(frozen=True, kw_only=True)
class EvaluatedBackbone:
    """A network that a judge looks at."""

    label: str
    network: Backbone | ImageNetInputBackbone
    """Normalised images `(N, 3, H, W)` to feature maps `(N, num_channels, h, w)`, in evaluation mode."""
    digest: str
    """Of the weights, the network that they are put into, and how it wants its images."""

    @property
    def protocol_deviations(self) -> list[str]:
        """What is not as in the protocols, which are all of a ResNet-50."""
        name = self.network.name
        return [] if name == PROTOCOL_NETWORK else [f"{name}, not {PROTOCOL_NETWORK}"]


def load_evaluated_backbone(backbone: Path, architecture: str | None = None, seed: int = 0) -> EvaluatedBackbone:
    """A network from weights, or with random ones, which every score is to be held against.

    Args:
        backbone: as `orl.load_backbone` takes it; or 'random'.
        architecture: what network the weights are of, where that cannot be seen from them; for random weights one of
            ours, ResNet-50 if not given.
        seed: of random weights.

    Raises:
        FileNotFoundError: if there is nothing.
        ValueError: if the weights cannot be opened safely, or are of no network that is known.
    """
    if backbone != RANDOM:
        network = load_eval_network(backbone, architecture)
        return EvaluatedBackbone(
            label=str(backbone),
            network=network,
            digest=_digest(files.file_digest(find_weights_file(backbone)), network),
        )
    name = architecture or RANDOM_ARCHITECTURE
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random = build_backbone(name).eval()
    return EvaluatedBackbone(
        label=f"random {name}, seed {seed}", network=random, digest=_digest(f"random, seed {seed}", random)
    )


def _digest(weights: str, network: Backbone | ImageNetInputBackbone) -> str:
    if not isinstance(network, ImageNetInputBackbone):
        return network_digest(weights, network.name)
    return network_digest(weights, network.name, (network.factor.tolist(), network.shift.tolist()))
