"""Feature extractor of stage 2: stage 1's network, or the weights of any other convolutional network."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from orl import files
from orl.config import DiscoverConfig
from orl.networks.backbones import Backbone, read_backbone_file, read_notes
from orl.networks.fuse_batch_norm import fuse_batch_norm
from orl.networks.mlp import load_projector
from orl.networks.online_target import Encoder
from orl.rundir import RunDir
from orl.weights.find import find_weights_file
from orl.weights.importing import import_weights
from orl.weights.loading import load_eval_network

NO_PROJECTOR = "none: pooled features"
"""Value of `projector_digest` without a projector."""
IN_WEIGHTS_FILE = "in the file of the backbone"
"""Value of `projector_digest` for a projector in the file whose digest `backbone_digest` is."""


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

    Images are embedded with the projector in the same folder or the same file, as in the published code, or by pooled
    features if there is none.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be opened safely, or is no network with feature maps.
    """
    path = find_weights_file(config.feature_extractor or Path())
    network = load_eval_network(path, config.architecture)
    backbone: nn.Module = fuse_batch_norm(network) if isinstance(network, Backbone) else network
    projector, projector_digest = _find_projector(path, network)
    return FeatureExtractor(
        encoder=Encoder(backbone, projector).eval(),
        backbone_digest=f"{files.file_digest(path)} as {network.name}",
        projector_digest=projector_digest,
    )


def _find_projector(path: Path, network: nn.Module) -> tuple[nn.Module, str]:
    beside = path.with_name("projector.safetensors")
    if beside.exists():
        return load_projector(beside), files.file_digest(beside)
    if isinstance(network, Backbone) and read_notes(path).get("kind") != "backbone":
        inside = import_weights(path).projector
        if inside is not None:
            return inside, IN_WEIGHTS_FILE
    return nn.Identity(), NO_PROJECTOR
