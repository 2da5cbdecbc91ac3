"""Self-EMD: BYOL on whole images and, by optimal transport, on the places of their feature maps."""

import copy

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from orl.methods.byol import Losses, Projections, pass_pair, regression_loss
from orl.methods.transport import sinkhorn_plan
from orl.networks.backbones import pool
from orl.networks.online_target import Encoder, make_target, update_target

Pair = tuple[Tensor, Tensor]


class SelfEMD(nn.Module):
    """BYOL's networks, and a projector and a predictor for every place of the feature map.

    Of the paper: BYOL with the feature map in place of the pooled vector, 1 x 1 convolutions in place of linear
    layers, the earth mover's distance between two maps with a cosine cost and weights by cross reference, solved
    by Sinkhorn's iterations, and beside it a path for pooled vectors.

    Our reading, since its code was never published: both paths start from one backbone and each has its own loss,
    weighed by `dense_weight`; BYOL's form 2 - 2 cos, in both directions, for both; the weights are of the grids that
    are compared, prediction and target, before they are scaled to unit length; plan and weights are constants to
    the gradient.

    Left out: the paper's views of a smaller scale and its spatial pyramid of crops.

    Source:
        Self-EMD (arXiv 2011.13677); the weights are those of DeepEMD (arXiv 2003.06777).
    """

    shares_batch_statistics: bool = True
    """Whether batch normalisation is over the batch of all processes."""

    def __init__(
        self,
        encoder: Encoder,
        dense_projector: nn.Module,
        predictor: nn.Module,
        dense_predictor: nn.Module,
        *,
        dense_weight: float,
        regularisation: float,
        num_iterations: int,
        join_views: bool = False,
    ) -> None:
        """Join the parts.

        Args:
            encoder: becomes the online network.
            dense_projector: from the backbone's feature map to a grid of projections.
            predictor: of the encoder's projections.
            dense_predictor: of the grid's projections.
            dense_weight: of the dense loss, in (0, 1]; BYOL's has the rest. At 1 the encoder's projector and the
                predictor are run and learn nothing.
            regularisation: of the plans, in units of cost, which is 1 - cos.
            num_iterations: of Sinkhorn for each plan.
            join_views: pass the two views through each network as one batch.

        Raises:
            ValueError: if the dense weight is out of its range.
        """
        super().__init__()
        if not 0 < dense_weight <= 1:
            raise ValueError(f"dense_weight must lie in (0, 1], not {dense_weight}; without a dense loss it is BYOL")
        self.online, self.target = encoder, make_target(encoder)
        self.dense_projector = dense_projector
        self.target_dense_projector = copy.deepcopy(dense_projector).requires_grad_(False)
        self.predictor, self.dense_predictor = predictor, dense_predictor
        self.dense_weight, self.join_views = dense_weight, join_views
        self.regularisation, self.num_iterations = regularisation, num_iterations

    def forward(self, views: dict[str, Tensor]) -> tuple[Losses, Projections]:
        """The losses of a batch.

        Args:
            views: `view_1` and `view_2`, each `(N, 3, H, W)`.

        Returns:
            The weighted loss terms, to be summed, and the online projections of both views, to be watched.
        """
        pair = (views["view_1"], views["view_2"])
        projections, grids = self._project(self.online, self.dense_projector, pair)
        with torch.no_grad():
            targets, target_grids = self._project(self.target, self.target_dense_projector, pair)
        predictions = pass_pair(self.predictor, projections, self.join_views)
        predicted_grids = pass_pair(self.dense_predictor, grids, self.join_views)
        loss_global = regression_loss(predictions[0], targets[1]) + regression_loss(predictions[1], targets[0])
        loss_dense = self._emd(predicted_grids[0], target_grids[1]) + self._emd(predicted_grids[1], target_grids[0])
        losses = {"loss_global": (1 - self.dense_weight) * loss_global, "loss_dense": self.dense_weight * loss_dense}
        return losses, (projections[0].detach(), projections[1].detach())

    def update_target(self, ema_momentum: float) -> None:
        """Move both parts of the target after a step of the optimiser."""
        update_target(self.target, self.online, ema_momentum)
        update_target(self.target_dense_projector, self.dense_projector, ema_momentum)

    def _project(self, encoder: Encoder, dense_projector: nn.Module, views: Pair) -> tuple[Pair, Pair]:
        feature_maps = pass_pair(encoder.backbone, views, self.join_views)
        embeddings = (pool(feature_maps[0]), pool(feature_maps[1]))
        projections = pass_pair(encoder.projector, embeddings, self.join_views)
        return projections, pass_pair(dense_projector, feature_maps, self.join_views)

    def _emd(self, prediction: Tensor, target: Tensor) -> Tensor:
        return emd_loss(prediction, target, regularisation=self.regularisation, num_iterations=self.num_iterations)


def emd_loss(
    prediction: Float[Tensor, "n d h w"],
    target_projection: Float[Tensor, "n d k l"],
    *,
    regularisation: float,
    num_iterations: int,
) -> Float[Tensor, ""]:
    """Mean over images of twice the cost, 1 - cos, of moving the places of one grid to those of another.

    The target is a constant, and so are the plan and the weights of the places: no gradient flows into them.

    Args:
        prediction: the dense predictor's output for one view.
        target_projection: the target's dense projector's output for the other view.
        regularisation: of the plan, in units of cost.
        num_iterations: of Sinkhorn.

    Returns:
        In [0, 4] as BYOL's of one direction, which it is for grids of one place: 0 where every place finds its
        like, 2 where all are orthogonal, 4 where all are opposed.

    Raises:
        ValueError: if the batch is empty.

    Source:
        Self-EMD (arXiv 2011.13677), as `SelfEMD` says.
    """
    if len(prediction) == 0:
        raise ValueError("emd_loss got an empty batch; is drop_last set?")
    # Autocast would multiply in half precision, which keeps two decimals of a cosine.
    with torch.autocast(prediction.device.type, enabled=False):
        places, target_places = _places(prediction), _places(target_projection.detach())
        cost = 1 - F.normalize(places, dim=2) @ F.normalize(target_places, dim=2).transpose(1, 2)
        plan = sinkhorn_plan(
            cost,
            cross_reference_weights(places, target_places),
            cross_reference_weights(target_places, places),
            regularisation=regularisation,
            num_iterations=num_iterations,
        )
        return 2 * (plan * cost).sum(dim=(1, 2)).mean()


@torch.no_grad()
def cross_reference_weights(
    places: Float[Tensor, "n p d"], other_places: Float[Tensor, "n q d"]
) -> Float[Tensor, "n p"]:
    """How much each place of a grid has in common with the other grid: what the two views do not share weighs little.

    Args:
        places: of the grid whose weights these are.
        other_places: of the grid that it is compared with.

    Returns:
        The scalar product with the other grid's mean, or 0 if that is negative, divided by the sum over places; if
        all are 0, all places weigh the same. Without gradient. A place of hardly any length, whose cosine has a
        huge gradient, weighs as little.

    Source:
        DeepEMD (arXiv 2003.06777), cross reference, without the 0.001 that its code adds to each.
    """
    common = (places @ other_places.mean(dim=1)[:, :, None]).squeeze(2).clamp(min=0)
    total = common.sum(dim=1, keepdim=True)
    return torch.where(total > 0, common / total, 1 / places.shape[1])


def _places(grid: Float[Tensor, "n d h w"]) -> Float[Tensor, "n p d"]:
    return grid.flatten(2).transpose(1, 2).to(torch.promote_types(grid.dtype, torch.float32))
