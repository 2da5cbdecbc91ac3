"""A backbone with linear classifiers on its features, its loss, and its accuracy on a split."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader

from orl.datasets.classified import ClassifiedImages
from orl.datasets.loader_workers import ignore_interrupts
from orl.evaluation.classification.accuracy import Accuracy
from orl.evaluation.classification.levels import FEATURE_LEVELS, LevelHead, feature_levels, level_channels
from orl.evaluation.classification.samples import TestImages, collate_test
from orl.networks.backbones import Backbone, pool
from orl.networks.sync_bn import sync_batch_norm
from orl.processes import Processes
from orl.progress import progress_bar
from orl.views.augment import augment, normalise
from orl.weights.architectures import ImageNetInputBackbone

POOLED_HEAD = "pooled"
"""Name of the classifier on pooled features."""
TEST_BATCH_SIZE = 64


class Classifier(nn.Module):
    """A network from normalised images to the scores of each head: `(N, 3, H, W)` to `{name: (N, classes)}`."""

    def __init__(self, backbone: Backbone | ImageNetInputBackbone, heads: nn.ModuleDict, *, is_frozen: bool) -> None:
        """Join a backbone and its heads.

        Args:
            backbone: trained in place where its parameters take gradients, unless it is frozen.
            heads: one named `POOLED_HEAD` on pooled features, or one for each of `FEATURE_LEVELS`.
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
            features = self._features(images)
        return {name: head(features[name]) for name, head in self.heads.items()}

    def _features(self, images: Float[Tensor, "n 3 h w"]) -> dict[str, Tensor]:
        if POOLED_HEAD in self.heads:
            return {POOLED_HEAD: pool(self.backbone(images))}
        assert isinstance(self.backbone, Backbone)
        return feature_levels(self.backbone, images)


def pooled_head(num_channels: int, num_classes: int) -> nn.ModuleDict:
    """Build a linear layer on pooled features, with random weights from torch's global generator."""
    return nn.ModuleDict({POOLED_HEAD: linear_layer(num_channels, num_classes)})


def level_heads(backbone: Backbone | ImageNetInputBackbone, num_classes: int, size_px: int) -> nn.ModuleDict:
    """Build a head for each feature level.

    Raises:
        ValueError: if the backbone is not an orl ResNet; the levels of other networks are unknown.
    """
    if not isinstance(backbone, Backbone):
        raise ValueError(f"--levels needs a ResNet of orl, got {backbone.name}; leave it out")
    channels = level_channels(backbone, size_px)
    return nn.ModuleDict({name: LevelHead(*channels[name], num_classes) for name in FEATURE_LEVELS})


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
    logits = model(augment(crops, colours, labels.device))
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
    with progress_bar(total=len(rows), title=f"score {images.split}", unit="images", quiet=hidden) as bar:
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
