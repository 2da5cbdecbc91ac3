"""Self-EMD: BYOL on pooled features and, by optimal transport, on the positions of feature maps."""

import copy

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from orl.methods.byol import Losses, Pair, Projections, forward_pair, symmetric_loss
from orl.methods.transport import sinkhorn_plan
from orl.networks.backbones import pool
from orl.networks.online_target import Encoder, make_target, update_target


class SelfEMD(nn.Module):
    """BYOL's networks, and a projector and a predictor for every position of the feature map.

    From the paper: BYOL on the feature map, with 1 x 1 convolutions in place of linear layers, and beside it BYOL on
    the pooled features. Two feature maps are compared by the earth mover's distance with a cosine cost. Its weights
    come from cross reference and its plan from Sinkhorn's iterations.

    Our interpretation, since the code was never published: both paths share one backbone, and each has its own loss,
    weighted by `dense_weight`. Both losses have BYOL's form 2 - 2 cos, in both directions. The cross reference weights
    use prediction and target before they are normalised. No gradient flows through plan and weights.

    Left out: the paper's views of a smaller scale and its spatial pyramid of crops.

    Source:
        Self-EMD (arXiv 2011.13677); the weights are those of DeepEMD (arXiv 2003.06777).
    """

    shares_batch_statistics: bool = True
    """Batch normalisation uses the images of all processes."""

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
            dense_projector: projects every position of the backbone's feature map.
            predictor: predicts the target's projection.
            dense_predictor: predicts the target's projection of every position.
            dense_weight: weight of the dense loss, in (0, 1]; BYOL's loss has the rest. At 1 the encoder's projector
                and the predictor learn nothing.
            regularisation: weight of the entropy of the plans, in units of cost, 1 - cos.
            num_iterations: Sinkhorn iterations for each plan.
            join_views: pass the two views through each network as one batch.

        Raises:
            ValueError: if the dense weight is out of its range.
        """
        super().__init__()
        if not 0 < dense_weight <= 1:
            raise ValueError(f"dense_weight must lie in (0, 1], got {dense_weight}; use BYOL for no dense loss")
        self.online, self.target = encoder, make_target(encoder)
        self.dense_projector = dense_projector
        self.target_dense_projector = copy.deepcopy(dense_projector).requires_grad_(False)
        self.predictor, self.dense_predictor = predictor, dense_predictor
        self.dense_weight, self.join_views = dense_weight, join_views
        self.regularisation, self.num_iterations = regularisation, num_iterations

    def forward(self, views: dict[str, Tensor]) -> tuple[Losses, Projections]:
        """Compute the losses of a batch.

        Args:
            views: `view_1` and `view_2`, each `(N, 3, H, W)`.

        Returns:
            The weighted loss terms and, for the collapse metrics, the online projections of both views.
        """
        pair = (views["view_1"], views["view_2"])
        projections, dense_projections = self._project(self.online, self.dense_projector, pair)
        with torch.no_grad():
            targets, dense_targets = self._project(self.target, self.target_dense_projector, pair)
        predictions = forward_pair(self.predictor, projections, self.join_views)
        dense_predictions = forward_pair(self.dense_predictor, dense_projections, self.join_views)
        loss_global = symmetric_loss(predictions, targets)
        loss_dense = self._emd(dense_predictions[0], dense_targets[1]) + self._emd(
            dense_predictions[1], dense_targets[0]
        )
        losses = {"loss_global": (1 - self.dense_weight) * loss_global, "loss_dense": self.dense_weight * loss_dense}
        return losses, (projections[0].detach(), projections[1].detach())

    def update_target(self, ema_momentum: float) -> None:
        """Update the moving averages of encoder and dense projector after a step of the optimiser."""
        update_target(self.target, self.online, ema_momentum)
        update_target(self.target_dense_projector, self.dense_projector, ema_momentum)

    def _project(self, encoder: Encoder, dense_projector: nn.Module, views: Pair) -> tuple[Pair, Pair]:
        feature_maps = forward_pair(encoder.backbone, views, self.join_views)
        embeddings = (pool(feature_maps[0]), pool(feature_maps[1]))
        projections = forward_pair(encoder.projector, embeddings, self.join_views)
        return projections, forward_pair(dense_projector, feature_maps, self.join_views)

    def _emd(self, prediction: Tensor, target: Tensor) -> Tensor:
        return emd_loss(prediction, target, regularisation=self.regularisation, num_iterations=self.num_iterations)


def emd_loss(
    prediction: Float[Tensor, "n d h w"],
    target_projection: Float[Tensor, "n d k l"],
    *,
    regularisation: float,
    num_iterations: int,
) -> Float[Tensor, ""]:
    """Compute twice the mean cost, 1 - cos, of moving the positions of one feature map to those of another.

    The target, the plan and the weights of the positions are constants: no gradient flows into them.

    Args:
        prediction: the dense predictor's output for one view.
        target_projection: the target's dense projector's output for the other view.
        regularisation: weight of the plan's entropy, in units of cost.
        num_iterations: Sinkhorn iterations.

    Returns:
        In [0, 4]: 0 when every position finds an equal one, 2 when all are orthogonal, 4 when all are opposed. For
        maps of one position it is `orl.methods.byol.regression_loss`.

    Raises:
        ValueError: if the batch is empty.

    Source:
        Self-EMD (arXiv 2011.13677); `SelfEMD` lists our interpretations.
    """
    if len(prediction) == 0:
        raise ValueError("emd_loss got an empty batch; is drop_last set?")
    # Autocast would multiply in half precision, which keeps two decimals of a cosine.
    with torch.autocast(prediction.device.type, enabled=False):
        positions, targets = _positions(prediction), _positions(target_projection.detach())
        cost = 1 - F.normalize(positions, dim=2) @ F.normalize(targets, dim=2).transpose(1, 2)
        plan = sinkhorn_plan(
            cost,
            cross_reference_weights(positions, targets),
            cross_reference_weights(targets, positions),
            regularisation=regularisation,
            num_iterations=num_iterations,
        )
        return 2 * (plan * cost).sum(dim=(1, 2)).mean()


@torch.no_grad()
def cross_reference_weights(features: Float[Tensor, "n p d"], others: Float[Tensor, "n q d"]) -> Float[Tensor, "n p"]:
    """Weigh each position of a feature map by its similarity to the other view's map.

    Positions that only one view shows get little weight. So do features close to zero, whose cosine has a huge
    gradient.

    Args:
        features: features of the positions that are weighed.
        others: features of the other view's positions.

    Returns:
        The scalar product with the mean of the other map, clamped at 0 and divided by the sum over positions; equal
        weights if all are 0. Without gradient.

    Source:
        DeepEMD (arXiv 2003.06777), cross reference, without the 0.001 that its code adds to each.
    """
    common = (features @ others.mean(dim=1)[:, :, None]).squeeze(2).clamp(min=0)
    total = common.sum(dim=1, keepdim=True)
    return torch.where(total > 0, common / total, 1 / features.shape[1])


def _positions(feature_map: Float[Tensor, "n d h w"]) -> Float[Tensor, "n p d"]:
    return feature_map.flatten(2).transpose(1, 2).to(torch.promote_types(feature_map.dtype, torch.float32))
