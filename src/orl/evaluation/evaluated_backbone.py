"""The evaluated backbone: a network, its label, and a digest that identifies its weights."""

from dataclasses import dataclass
from pathlib import Path

import torch

from orl import files
from orl.networks.backbones import Backbone, build_backbone, network_digest, read_notes
from orl.networks.names import InitialWeights
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

    training_deviations: tuple[str, ...] = ()
    """Deviations of its training from the published one, as the weights file of a run notes them."""

    @property
    def protocol_deviations(self) -> list[str]:
        """Deviations from the protocols, which all use a ResNet-50, and from the published training."""
        name = self.network.name
        return [*([] if name == PROTOCOL_NETWORK else [f"{name}, not {PROTOCOL_NETWORK}"]), *self.training_deviations]


def load_evaluated_backbone(
    backbone: Path, architecture: str | None = None, seed: int = 0, initial_weights: InitialWeights = "torchvision"
) -> EvaluatedBackbone:
    """Load a network from weights, or build one with random weights, the baseline of every score.

    Args:
        backbone: a path that `orl.load_backbone` takes, or 'random'.
        architecture: architecture of the weights, where the file does not name it; for random weights one of ours,
            ResNet-50 if not given.
        seed: seed of random weights.
        initial_weights: rule of random weights, see `orl.networks.initial_weights`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the weights cannot be opened safely, or belong to no known network.
    """
    if backbone != RANDOM:
        network, file = load_eval_network(backbone, architecture), find_weights_file(backbone)
        deviations = read_notes(file).get("deviations")
        return EvaluatedBackbone(
            label=str(backbone),
            network=network,
            digest=_digest(files.file_digest(file), network),
            training_deviations=tuple(map(str, deviations)) if isinstance(deviations, list) else (),
        )
    name = architecture or RANDOM_ARCHITECTURE
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random = build_backbone(name, initial_weights).eval()
    digest = _digest(f"random, {initial_weights}, seed {seed}", random)
    return EvaluatedBackbone(label=f"random {name}, seed {seed}", network=random, digest=digest)


def _digest(weights: str, network: Backbone | ImageNetInputBackbone) -> str:
    if not isinstance(network, ImageNetInputBackbone):
        return network_digest(weights, network.name)
    return network_digest(weights, network.name, (network.factor.tolist(), network.shift.tolist()))
