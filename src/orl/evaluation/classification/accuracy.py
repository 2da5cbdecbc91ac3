"""How often the label is among the highest scores: counts, which add up over batches and processes."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

TOP = 5
"""The second accuracy that is told, where there are more classes than this."""


def top_k_accuracy(logits: Float[Tensor, "n c"], labels: Int[Tensor, "n"], k: int) -> int:
    """Number of images whose label is among the `k` highest scores.

    Of equal scores the lower class index ranks higher, so that the count never hangs on the order of a sort; a network
    that gives every class the same score is right for class 0 only.

    Raises:
        ValueError: if a score is NaN, a label is no column, or `k` is not from 1 to the number of classes.
    """
    num_classes = logits.shape[1]
    if not 1 <= k <= num_classes:
        raise ValueError(f"top-{k} accuracy is not to be had of {num_classes} classes")
    if len(labels) == 0:
        return 0
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise ValueError(f"labels run from {int(labels.min())} to {int(labels.max())}, the scores are of {num_classes}")
    if logits.isnan().any():
        raise ValueError(f"the scores of {int(logits.isnan().any(dim=1).sum())} of {len(logits)} images are NaN")
    own = logits.gather(1, labels.long()[:, None])
    before = torch.arange(num_classes, device=logits.device) < labels[:, None]
    rank = ((logits > own) | ((logits == own) & before)).sum(dim=1)
    return int((rank < k).sum())


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Counts of scored images; those of batches and processes are added."""

    num_images: int = 0
    num_top1: int = 0
    num_top5: int | None = None
    """None where there are too few classes for it to mean anything."""

    @classmethod
    def of(cls, logits: Float[Tensor, "n c"], labels: Int[Tensor, "n"]) -> "Accuracy":
        """The counts of one batch.

        Raises:
            ValueError: as `top_k_accuracy`.
        """
        return cls(
            num_images=len(labels),
            num_top1=top_k_accuracy(logits, labels, 1),
            num_top5=top_k_accuracy(logits, labels, TOP) if logits.shape[1] > TOP else None,
        )

    def __add__(self, other: "Accuracy") -> "Accuracy":
        if 0 in (self.num_images, other.num_images):  # nothing counted yet: it does not know the number of classes
            return self if self.num_images else other
        if (self.num_top5 is None) != (other.num_top5 is None):
            raise ValueError(f"counts of more and of at most {TOP} classes cannot be added: {self} and {other}")
        top5 = None if self.num_top5 is None or other.num_top5 is None else self.num_top5 + other.num_top5
        return Accuracy(
            num_images=self.num_images + other.num_images, num_top1=self.num_top1 + other.num_top1, num_top5=top5
        )

    def to_json(self) -> dict[str, float | None]:
        """The scores as fractions: `top1`, and `top5`, which is None with at most 5 classes.

        Raises:
            ValueError: if no image was counted.
        """
        if self.num_images == 0:
            raise ValueError("0 images were scored; is the split empty, or unreadable?")
        top5 = None if self.num_top5 is None else self.num_top5 / self.num_images
        return {"top1": self.num_top1 / self.num_images, "top5": top5}
