"""BYOL: predict from one view of a photo what the moving average sees in the other."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from orl.networks.online_target import Encoder, make_target, update_target

Losses = dict[str, Tensor]


class BYOL(nn.Module):
    """Online and target encoder and one predictor."""

    def __init__(self, encoder: Encoder, predictor: nn.Module) -> None:
        super().__init__()
        self.online, self.target = encoder, make_target(encoder)
        self.predictor = predictor

    def forward(self, views: dict[str, Tensor]) -> tuple[Losses, Float[Tensor, "n d"]]:
        """The loss of a batch.

        Args:
            views: `view_1` and `view_2`, each `(N, 3, H, W)`. Each passes the network by itself, with its own
                batch statistics.

        Returns:
            The loss terms, to be summed, and the online projections of view 1, to be watched.
        """
        loss, projection = pair_loss(self.online, self.target, self.predictor, views["view_1"], views["view_2"])
        return {"loss_global": loss}, projection

    def update_target(self, ema_momentum: float) -> None:
        """Move the target after a step of the optimiser."""
        update_target(self.target, self.online, ema_momentum)


def pair_loss(
    online: nn.Module,
    target: nn.Module,
    predictor: nn.Module,
    view_1: Float[Tensor, "n 3 h w"],
    view_2: Float[Tensor, "n 3 h w"],
) -> tuple[Float[Tensor, ""], Float[Tensor, "n d"]]:
    """The symmetric loss of two views: each predicts the target's projection of the other.

    Returns:
        In [0, 8], and the online projections of view 1.

    Source:
        BYOL (arXiv 2006.07733), Eq. 2 and the line after it.
    """
    projection_1, projection_2 = online(view_1), online(view_2)
    with torch.no_grad():
        target_1, target_2 = target(view_1), target(view_2)
    loss = regression_loss(predictor(projection_1), target_2) + regression_loss(predictor(projection_2), target_1)
    return loss, projection_1.detach()


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
