"""Feature extractor of stage 2: stage 1's network, or the weights of any other convolutional network."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from orl import files
from orl.config import DiscoverConfig
from orl.networks.backbones import Backbone, read_backbone_file
from orl.networks.fuse_batch_norm import fuse_batch_norm
from orl.networks.mlp import load_projector
from orl.networks.online_target import Encoder
from orl.rundir import RunDir
from orl.weights.find import find_weights_file
from orl.weights.loading import load_eval_network

NO_PROJECTOR = "none: pooled features"
"""Value of `projector_digest` without a projector."""


@dataclass(frozen=True, kw_only=True)
class FeatureExtractor:
    """A frozen network, with the digests that its embeddings depend on."""

    encoder: Encoder
    backbone_digest: str
    projector_digest: str


def load_stage1_extractor(run: RunDir) -> FeatureExtractor:
    """Load stage 1's backbone and projector.

    Raises:
        FileNotFoundError: if stage 1 has not been trained.
    """
    path, projector = run.backbone("stage1"), run.projector("stage1")
    return FeatureExtractor(
        encoder=Encoder(fuse_batch_norm(read_backbone_file(path)), load_projector(projector)).eval(),
        backbone_digest=files.file_digest(path),
        projector_digest=files.file_digest(projector),
    )


def load_external_extractor(config: DiscoverConfig) -> FeatureExtractor:
    """Load the network that `feature_extractor` names.

    Images are embedded with the projector in the same folder, or by pooled features if there is none.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be opened safely, or is no network with feature maps.
    """
    path = find_weights_file(config.feature_extractor or Path())
    network = load_eval_network(path, config.architecture)
    backbone: nn.Module = fuse_batch_norm(network) if isinstance(network, Backbone) else network
    projector = path.with_name("projector.safetensors")
    has_projector = projector.exists()
    return FeatureExtractor(
        encoder=Encoder(backbone, load_projector(projector) if has_projector else nn.Identity()).eval(),
        backbone_digest=f"{files.file_digest(path)} as {network.name}",
        projector_digest=files.file_digest(projector) if has_projector else NO_PROJECTOR,
    )
