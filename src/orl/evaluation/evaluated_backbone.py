"""The evaluated backbone: a network, its label, and a digest that identifies its weights."""

from dataclasses import dataclass
from pathlib import Path

import torch

from orl import files
from orl.networks.backbones import Backbone, build_backbone, network_digest
from orl.weights.architectures import ImageNetInputBackbone
from orl.weights.find import find_weights_file
from orl.weights.loading import load_eval_network

RANDOM = Path("random")
"""Name of random weights in place of a file."""
RANDOM_ARCHITECTURE = PROTOCOL_NETWORK = "resnet50"


@dataclass(frozen=True, kw_only=True)
class EvaluatedBackbone:
    """A network to evaluate."""

    label: str
    network: Backbone | ImageNetInputBackbone
    """Network from normalised images `(N, 3, H, W)` to feature maps `(N, num_channels, h, w)`, in evaluation mode."""
    digest: str
    """Digest of the weights, the architecture and the normalisation of its images."""

    @property
    def protocol_deviations(self) -> list[str]:
        """Deviations from the protocols, which all use a ResNet-50."""
        name = self.network.name
        return [] if name == PROTOCOL_NETWORK else [f"{name}, not {PROTOCOL_NETWORK}"]


def load_evaluated_backbone(backbone: Path, architecture: str | None = None, seed: int = 0) -> EvaluatedBackbone:
    """Load a network from weights, or build one with random weights, the baseline of every score.

    Args:
        backbone: a path that `orl.load_backbone` takes, or 'random'.
        architecture: architecture of the weights, where the file does not name it; for random weights one of ours,
            ResNet-50 if not given.
        seed: seed of random weights.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the weights cannot be opened safely, or belong to no known network.
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
