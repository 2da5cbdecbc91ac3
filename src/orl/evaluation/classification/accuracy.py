"""Top-1 and top-5 accuracy, as counts that add up over batches and processes."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

TOP_K = 5
"""Number of scores of the second accuracy, which needs more classes than this."""


def top_k_accuracy(logits: Float[Tensor, "n c"], labels: Int[Tensor, "n"], k: int) -> int:
    """Count the images whose label is among the `k` highest scores.

    For equal scores the lower class index ranks higher, so that the count does not depend on the order of a sort. A
    network that gives every class the same score is right for class 0 only.

    Raises:
        ValueError: if a score is NaN, a label is not a column, or `k` is not from 1 to the number of classes.
    """
    num_classes = logits.shape[1]
    if not 1 <= k <= num_classes:
        raise ValueError(
            f"top-{k} accuracy needs at least {max(k, 1)} classes and k of 1 or more, got {num_classes} classes"
        )
    if len(labels) == 0:
        return 0
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise ValueError(
            f"labels are from {int(labels.min())} to {int(labels.max())}, but there are scores of {num_classes} classes"
        )
    if logits.isnan().any():
        raise ValueError(
            f"scores of {int(logits.isnan().any(dim=1).sum())} of {len(logits)} images are NaN; did training diverge?"
        )
    own = logits.gather(1, labels.long()[:, None])
    before = torch.arange(num_classes, device=logits.device) < labels[:, None]
    rank = ((logits > own) | ((logits == own) & before)).sum(dim=1)
    return int((rank < k).sum())


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Counts of scored images, which are added over batches and processes."""

    num_images: int = 0
    num_top1: int = 0
    num_top5: int | None = None
    """None with at most 5 classes."""

    @classmethod
    def of(cls, logits: Float[Tensor, "n c"], labels: Int[Tensor, "n"]) -> "Accuracy":
        """Count one batch.

        Raises:
            ValueError: if a score is NaN, or a label is not a column.
        """
        return cls(
            num_images=len(labels),
            num_top1=top_k_accuracy(logits, labels, 1),
            num_top5=top_k_accuracy(logits, labels, TOP_K) if logits.shape[1] > TOP_K else None,
        )

    def __add__(self, other: "Accuracy") -> "Accuracy":
        if 0 in (self.num_images, other.num_images):  # without images the number of classes is unknown
            return self if self.num_images else other
        if (self.num_top5 is None) != (other.num_top5 is None):
            raise ValueError(
                f"counts with more than {TOP_K} classes and with fewer cannot be added: {self} and {other}"
            )
        top5 = None if self.num_top5 is None or other.num_top5 is None else self.num_top5 + other.num_top5
        return Accuracy(
            num_images=self.num_images + other.num_images, num_top1=self.num_top1 + other.num_top1, num_top5=top5
        )

    def to_json(self) -> dict[str, float | None]:
        """Return the accuracies as fractions: `top1`, and `top5`, which is None with at most 5 classes.

        Raises:
            ValueError: if no image was counted.
        """
        if self.num_images == 0:
            raise ValueError("0 images were scored; is the split empty, or unreadable?")
        top5 = None if self.num_top5 is None else self.num_top5 / self.num_images
        return {"top1": self.num_top1 / self.num_images, "top5": top5}
