"""BYOL: predict, from one view of an image, the target network's projection of the other view."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from orl.networks.online_target import Encoder, make_target, update_target

Losses = dict[str, Tensor]
"""Loss terms by name; their sum is minimised."""
Projections = tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]
"""Projections of the two views of each image."""
Pair = tuple[Tensor, Tensor]


class BYOL(nn.Module):
    """Online encoder, target encoder and predictor."""

    shares_batch_statistics = True
    """Batch normalisation uses the images of all processes."""

    def __init__(self, encoder: Encoder, predictor: nn.Module, *, join_views: bool = False) -> None:
        super().__init__()
        self.online, self.target = encoder, make_target(encoder)
        self.predictor, self.join_views = predictor, join_views

    def forward(self, views: dict[str, Tensor]) -> tuple[Losses, Projections]:
        """Compute the loss of a batch.

        Args:
            views: `view_1` and `view_2`, each `(N, 3, H, W)`. Each view has its own batch statistics, unless views are
                joined.

        Returns:
            The loss terms and, for the collapse metrics, the online projections of both views.
        """
        pair = (views["view_1"], views["view_2"])
        loss, projections = pair_loss(self.online, self.target, self.predictor, pair, self.join_views)
        return {"loss_global": loss}, projections

    def update_target(self, ema_momentum: float) -> None:
        """Update the target's moving average after a step of the optimiser."""
        update_target(self.target, self.online, ema_momentum)


def pair_loss(
    online: nn.Module,
    target: nn.Module,
    predictor: nn.Module,
    views: tuple[Float[Tensor, "n 3 h w"], Float[Tensor, "n 3 h w"]],
    join_views: bool = False,
) -> tuple[Float[Tensor, ""], Projections]:
    """Compute BYOL's symmetric loss of two views: each predicts the target's projection of the other.

    Returns:
        The loss, in [0, 8], and the online projections of both views.

    Source:
        BYOL (arXiv 2006.07733), Eq. 2 and the line after it.
    """
    projections = forward_pair(online, views, join_views)
    with torch.no_grad():
        target_projections = forward_pair(target, views, join_views)
    predictions = forward_pair(predictor, projections, join_views)
    loss = symmetric_loss(predictions, target_projections)
    return loss, (projections[0].detach(), projections[1].detach())


def forward_pair(network: nn.Module, pair: Pair, join: bool) -> Pair:
    """Pass two batches through a network: each by itself, or joined into one batch with common batch statistics."""
    if not join:
        return network(pair[0]), network(pair[1])
    first, second = network(torch.cat(pair)).chunk(2)
    return first, second


def symmetric_loss(predictions: Pair, target_projections: Pair) -> Float[Tensor, ""]:
    """Compute the sum of `regression_loss` in both directions: view 1 predicts view 2, and view 2 predicts view 1."""
    return regression_loss(predictions[0], target_projections[1]) + regression_loss(
        predictions[1], target_projections[0]
    )


def regression_loss(prediction: Float[Tensor, "n d"], target_projection: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Compute the mean squared distance between unit vectors, 2 - 2 cos.

    The target is a constant: no gradient flows into it.

    Args:
        prediction: the online predictor's output for one view.
        target_projection: the target projector's output for the other view.

    Returns:
        In [0, 4]: 0 aligned, 2 orthogonal, 4 opposed.

    Raises:
        ValueError: if the batch is empty.

    Source:
        BYOL (arXiv 2006.07733), Eq. 2, one direction.
    """
    if len(prediction) == 0:
        raise ValueError("regression_loss got an empty batch; is drop_last set?")
    # On a CPU autocast leaves this in half precision, which keeps two decimals of a cosine.
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    cosine = F.cosine_similarity(prediction.to(dtype), target_projection.detach().to(dtype), dim=-1)
    return (2 - 2 * cosine).mean()
