"""A backbone with linear classifiers on its features, its loss, and its accuracy on a split."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader

from orl.datasets.classified import ClassifiedImages
from orl.datasets.loader_workers import ignore_interrupts, named_limits
from orl.evaluation.classification.accuracy import Accuracy
from orl.evaluation.classification.levels import FEATURE_LEVELS, feature_levels
from orl.evaluation.classification.samples import TestImages, add_lighting, collate_test
from orl.evaluation.pooling import POOLINGS, pool_level, warn_if_one_position
from orl.networks.backbones import Backbone
from orl.networks.sync_bn import sync_batch_norm
from orl.processes import Processes
from orl.progress import progress_bar
from orl.views.augment import augment, normalise
from orl.weights.architectures import ImageNetInputBackbone

TEST_BATCH_SIZE = 64


class Classifier(nn.Module):
    """A network from normalised images to the scores of each head: `(N, 3, H, W)` to `{name: (N, classes)}`."""

    def __init__(self, backbone: Backbone | ImageNetInputBackbone, heads: nn.ModuleDict, *, is_frozen: bool) -> None:
        """Join a backbone and its heads.

        Args:
            backbone: trained in place where its parameters take gradients, unless it is frozen.
            heads: one for each of `FEATURE_LEVELS`, or one for a `FeatureKind`, under their names; each takes features
                `(N, C, s, s)`.
            is_frozen: whether the backbone gets no gradients and stays in evaluation mode.
        """
        super().__init__()
        self.backbone, self.heads, self.is_frozen = backbone, heads, is_frozen
        if is_frozen:
            backbone.requires_grad_(False)

    def synchronise(self, device: torch.device) -> None:
        """Synchronise the batch statistics of the trained parts over all processes."""
        for part in (self.heads, *([] if self.is_frozen else [self.backbone])):
            sync_batch_norm(part, device)

    def train(self, mode: bool = True) -> "Classifier":
        super().train(mode)
        if self.is_frozen:
            self.backbone.eval()
        return self

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> dict[str, Tensor]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_frozen):
            features = features_of_heads(self.backbone, images, self.heads)
        return {name: head(features[name]) for name, head in self.heads.items()}


def features_of_heads(
    backbone: Backbone | ImageNetInputBackbone, images: Float[Tensor, "n 3 h w"], names: Iterable[str]
) -> dict[str, Tensor]:
    """Compute the features `(N, C, s, s)` of each head.

    Args:
        backbone: the network.
        images: normalised images.
        names: all of `FEATURE_LEVELS`, or kinds of features.

    Raises:
        ValueError: if levels are named and the backbone is not an orl ResNet; the levels of other networks are unknown.
    """
    if not set(names) <= set(FEATURE_LEVELS):
        feature_map = backbone(images)
        return {name: pooling(feature_map) for name, pooling in POOLINGS.items() if name in names}
    if not isinstance(backbone, Backbone):
        raise ValueError(f"--levels needs a ResNet of orl, got {backbone.name}; leave it out")
    return {name: pool_level(feature_map) for name, feature_map in feature_levels(backbone, images).items()}


def pooled_head(num_channels: int, num_classes: int) -> nn.ModuleDict:
    """Build a linear layer on pooled features, with random weights from torch's global generator."""
    return nn.ModuleDict({"pooled": nn.Sequential(nn.Flatten(), linear_layer(num_channels, num_classes))})


def normalised_heads(
    backbone: Backbone | ImageNetInputBackbone, names: Iterable[str], num_classes: int, size_px: int
) -> nn.ModuleDict:
    """Build published heads: batch normalisation of each channel without scale and shift, then a linear layer.

    Args:
        backbone: the network.
        names: all of `FEATURE_LEVELS`, or kinds of features.
        num_classes: outputs of each head.
        size_px: side of the images.

    Raises:
        ValueError: if `features_of_heads` refuses the backbone.

    Source:
        `MultiClsHead` of OpenSelfSup, with `norm_cfg=dict(type="SyncBN", momentum=0.1, affine=False)` as in the configs
        of ORL.
    """
    was_training = backbone.training
    with torch.no_grad():
        image = next(backbone.parameters()).new_zeros(1, 3, size_px, size_px)
        features = features_of_heads(backbone.eval(), image, names)
    backbone.train(was_training)
    heads = nn.ModuleDict()
    for name, (_, channels, side, _) in {name: found.shape for name, found in features.items()}.items():
        warn_if_one_position(name, side, size_px)
        normalise_channels = nn.BatchNorm2d(channels, affine=False)
        heads[name] = nn.Sequential(normalise_channels, nn.Flatten(), linear_layer(channels * side**2, num_classes))
    return heads


def linear_layer(num_inputs: int, num_classes: int) -> nn.Linear:
    """Build a linear layer with weights from N(0, 0.01) and bias 0."""
    layer = nn.Linear(num_inputs, num_classes)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return layer


def classification_losses(model: Any, batch: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Compute the cross-entropy and the training accuracy of each head."""
    labels = batch["label"].to(next(model.parameters()).device)
    crops, colours = batch["image"]
    logits = model(add_lighting(augment(crops, colours, labels.device), batch["lighting"]))
    terms = {f"{name}_loss": F.cross_entropy(scores, labels) for name, scores in logits.items()}
    metrics = {
        f"{name}_top1": (scores.argmax(dim=1) == labels).float().mean().detach() for name, scores in logits.items()
    }
    return terms, metrics


def freeze_unused_parameters(backbone: nn.Module, size_px: int) -> None:
    """Freeze parameters that do not affect the features; several processes would wait for their gradients.

    Networks of other projects have such parameters after the pooling.
    """
    backbone.eval()
    weight = next(backbone.parameters())
    backbone(weight.new_zeros(1, 3, size_px, size_px)).sum().backward()
    for weight in backbone.parameters():
        if weight.grad is None:
            weight.requires_grad_(False)
        weight.grad = None


@torch.no_grad()
def score_images(
    classifier: Classifier,
    images: ClassifiedImages,
    size_px: int,
    fabric: Fabric,
    processes: Processes,
    *,
    workers: int,
    quiet: bool = False,
) -> tuple[dict[str, Accuracy], list[tuple[str, str]]]:
    """Count top-1 and top-5 of each head on the centre crops; each process scores a part of the images.

    Returns:
        The counts of all processes by head, and name and reason of each unreadable image.
    """
    rows = range(processes.rank, len(images), processes.count)
    loader = DataLoader(
        TestImages(images, rows, size_px),
        batch_size=TEST_BATCH_SIZE,
        num_workers=workers,
        collate_fn=collate_test,
        worker_init_fn=ignore_interrupts,
    )
    counts = {name: Accuracy() for name in classifier.heads}
    unreadable: list[tuple[str, str]] = []
    was_training, precision = classifier.training, fabric.strategy.precision
    classifier.eval()
    hidden = quiet or not processes.is_first
    with (
        progress_bar(total=len(rows), title=f"score {images.split}", unit="images", quiet=hidden) as bar,
        named_limits(workers),
    ):
        for batch in loader:
            unreadable += batch.unreadable
            if len(batch.labels):
                views = precision.convert_input(normalise(batch.crops.to(fabric.device)))
                with precision.forward_context():
                    logits = classifier(views)
                for name, scores in logits.items():
                    counts[name] += Accuracy.of(scores.float().cpu(), batch.labels)
            bar.update(len(batch.labels) + len(batch.unreadable))
    classifier.train(was_training)
    return {name: _sum_over_processes(count, processes) for name, count in counts.items()}, processes.gather_lists(
        unreadable
    )


def _sum_over_processes(count: Accuracy, processes: Processes) -> Accuracy:
    has_top5 = -1 if count.num_top5 is None else count.num_top5
    parts = processes.gather(count.num_images, count.num_top1, has_top5)
    total = Accuracy()
    for num_images, num_top1, num_top5 in parts:
        total += Accuracy(num_images=num_images, num_top1=num_top1, num_top5=None if num_top5 < 0 else num_top5)
    return total
