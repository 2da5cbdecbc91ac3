"""SimCLR: find the other view of an image among both views of all images of the batch."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from orl.methods.byol import Losses, Projections, forward_pair
from orl.networks.all_gather import all_gather_with_gradient, local_rows
from orl.networks.online_target import Encoder
from orl.networks.unit_length import unit_length


class SimCLR(nn.Module):
    """One encoder without a target network: the other images of the batch are the negatives."""

    shares_batch_statistics: bool = True
    """Batch normalisation uses the images of all processes."""

    def __init__(self, encoder: Encoder, *, temperature: float, join_views: bool = True) -> None:
        """Join the parts.

        Args:
            encoder: becomes the online network.
            temperature: of the softmax over cosines.
            join_views: pass both views as one batch, with common batch statistics, as the published code does.
        """
        super().__init__()
        self.online, self.temperature, self.join_views = encoder, temperature, join_views

    def forward(self, views: dict[str, Tensor]) -> tuple[Losses, Projections]:
        """Compute the loss of a batch.

        Args:
            views: `view_1` and `view_2`, each `(N, 3, H, W)`.

        Returns:
            The loss terms and, for the collapse metrics, the projections of both views.
        """
        projections = forward_pair(self.online, (views["view_1"], views["view_2"]), self.join_views)
        loss = nt_xent(*projections, self.temperature)
        return {"loss_global": loss}, (projections[0].detach(), projections[1].detach())

    def update_target(self, ema_momentum: float) -> None:
        """Do nothing: there is no target network. The training step calls this for every method."""


def nt_xent(
    projection_1: Float[Tensor, "n d"], projection_2: Float[Tensor, "n d"], temperature: float
) -> Float[Tensor, ""]:
    """Compute the mean cross entropy of finding an image's other view among both views of all images, by cosine.

    Each process compares its rows with the rows of all processes, and gradients flow back to all of them. The mean of
    the processes' losses and gradients is that of one process with the complete batch.

    Args:
        projection_1: of one view, the rows of this process; of any length other than 0.
        projection_2: of the other view, in the same order.
        temperature: above 0; at small ones the most similar images dominate.

    Returns:
        At least 0; log(2 N - 1) for N images over all processes that all look alike.

    Raises:
        ValueError: if there are fewer than two images, or the temperature is not above 0.

    Source:
        SimCLR (arXiv 2002.05709), Eq. 1 and Algorithm 1: the mean over both views of all images. The published code
        adds the means of the two views, which is twice that.
    """
    if temperature <= 0:
        raise ValueError(f"the temperature must be above 0, got {temperature}")
    # Autocast would multiply in half precision, and a temperature of 0.1 makes ten times as much of its error.
    with torch.autocast(projection_1.device.type, enabled=False):
        unit_1, unit_2 = unit_length(projection_1), unit_length(projection_2)
        all_1, all_2 = all_gather_with_gradient(unit_1), all_gather_with_gradient(unit_2)
        num_images = len(all_1)
        if num_images < 2:
            raise ValueError(f"nt_xent needs at least two images, got a batch of {num_images}; is drop_last set?")
        similarities = torch.cat([unit_1, unit_2]) @ torch.cat([all_1, all_2]).T / temperature
        images = local_rows(torch.arange(num_images, device=similarities.device))
        same_view = torch.cat([images, num_images + images])
        other_view = torch.cat([num_images + images, images])
        return F.cross_entropy(similarities.scatter(1, same_view[:, None], float("-inf")), other_view)
