"""BYOL: predict from one view of an image what the moving average sees in the other."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from orl.networks.online_target import Encoder, make_target, update_target

Losses = dict[str, Tensor]
Projections = tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]


class BYOL(nn.Module):
    """Online and target encoder and one predictor."""

    shares_batch_statistics = True
    """Batch normalisation uses the images of all processes."""

    def __init__(self, encoder: Encoder, predictor: nn.Module, *, join_views: bool = False) -> None:
        super().__init__()
        self.online, self.target = encoder, make_target(encoder)
        self.predictor, self.join_views = predictor, join_views

    def forward(self, views: dict[str, Tensor]) -> tuple[Losses, Projections]:
        """The loss of a batch.

        Args:
            views: `view_1` and `view_2`, each `(N, 3, H, W)`. Each passes the network by itself, with its own
                batch statistics, unless views are joined.

        Returns:
            The loss terms, to be summed, and the online projections of both views, to be watched.
        """
        pair = (views["view_1"], views["view_2"])
        loss, projections = pair_loss(self.online, self.target, self.predictor, pair, self.join_views)
        return {"loss_global": loss}, projections

    def update_target(self, ema_momentum: float) -> None:
        """Move the target after a step of the optimiser."""
        update_target(self.target, self.online, ema_momentum)


def pair_loss(
    online: nn.Module,
    target: nn.Module,
    predictor: nn.Module,
    views: tuple[Float[Tensor, "n 3 h w"], Float[Tensor, "n 3 h w"]],
    join_views: bool = False,
) -> tuple[Float[Tensor, ""], Projections]:
    """The symmetric loss of two views: each predicts the target's projection of the other.

    Returns:
        In [0, 8], and the online projections of both views.

    Source:
        BYOL (arXiv 2006.07733), Eq. 2 and the line after it.
    """
    projections = pass_pair(online, views, join_views)
    with torch.no_grad():
        target_1, target_2 = pass_pair(target, views, join_views)
    prediction_1, prediction_2 = pass_pair(predictor, projections, join_views)
    loss = regression_loss(prediction_1, target_2) + regression_loss(prediction_2, target_1)
    return loss, (projections[0].detach(), projections[1].detach())


def pass_pair(network: nn.Module, pair: tuple[Tensor, Tensor], join: bool) -> tuple[Tensor, Tensor]:
    """What a network makes of two batches: each by itself, or joined into one that shares its batch statistics."""
    if not join:
        return network(pair[0]), network(pair[1])
    first, second = network(torch.cat(pair)).chunk(2)
    return first, second


def regression_loss(prediction: Float[Tensor, "n d"], target_projection: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Mean squared distance between unit vectors, which is 2 - 2 cos.

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
