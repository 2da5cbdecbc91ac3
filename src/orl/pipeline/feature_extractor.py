"""What stage 2 looks with: stage 1's network, or any other convolutional network's weights."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from orl import files
from orl.config import RunConfig
from orl.networks.backbones import Backbone, read_backbone_file
from orl.networks.fuse_batch_norm import fuse_batch_norm
from orl.networks.mlp import load_projector
from orl.networks.online_target import Encoder
from orl.rundir import RunDir
from orl.weights.find import find_weights_file
from orl.weights.loading import load_eval_network

NO_PROJECTOR = "none: pooled features"
"""In place of a projector's digest."""


@dataclass(frozen=True, kw_only=True)
class FeatureExtractor:
    """A network and what its embeddings depend on."""

    encoder: Encoder
    backbone_digest: str
    projector_digest: str


def load_feature_extractor(config: RunConfig) -> FeatureExtractor:
    """The network of stage 1, or the one that the settings name.

    Images are embedded by backbone and projector, which lies beside the backbone; without one by pooled features.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it cannot be read safely, or is no network that gives feature maps.
    """
    source = config.discover.feature_extractor
    if source is not None:
        return _outside_feature_extractor(find_weights_file(source), config.discover.architecture)
    run = RunDir(config.out)
    path, projector = run.backbone("stage1"), run.projector("stage1")
    if not path.exists():
        raise FileNotFoundError(
            f"no backbone at {path}; train stage 1 with 'orl pretrain', or look with other weights: --backbone FILE"
        )
    return FeatureExtractor(
        encoder=Encoder(fuse_batch_norm(read_backbone_file(path)), load_projector(projector)).eval(),
        backbone_digest=files.file_digest(path),
        projector_digest=files.file_digest(projector),
    )


def _outside_feature_extractor(path: Path, architecture: str | None) -> FeatureExtractor:
    network = load_eval_network(path, architecture)
    backbone: nn.Module = fuse_batch_norm(network) if isinstance(network, Backbone) else network
    projector = path.with_name("projector.safetensors")
    has_projector = projector.exists()
    return FeatureExtractor(
        encoder=Encoder(backbone, load_projector(projector) if has_projector else nn.Identity()).eval(),
        backbone_digest=f"{files.file_digest(path)} as {network.name}",
        projector_digest=files.file_digest(projector) if has_projector else NO_PROJECTOR,
    )
