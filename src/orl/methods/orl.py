"""ORL: BYOL on two views of an image, on an intra-image RoI pair, and on an inter-image RoI pair."""

from torch import Tensor, nn

from orl.methods.byol import Losses, Projections, pair_loss
from orl.networks.online_target import Encoder, make_target, update_target

TERMS = {"global": "view", "intra": "intra", "inter": "inter"}
"""Loss term -> prefix of its two views."""


class ORL(nn.Module):
    """One online and one target encoder, shared by three loss terms with a predictor each."""

    shares_batch_statistics = True
    """Batch normalisation uses the images of all processes."""

    def __init__(
        self,
        encoder: Encoder,
        predictors: dict[str, nn.Module],
        loss_weights: dict[str, float],
        *,
        join_views: bool = False,
    ) -> None:
        """Join the parts.

        Args:
            encoder: becomes the online network.
            predictors: one for each of `TERMS`.
            loss_weights: one for each of `TERMS`; a term of weight 0 is not computed.
            join_views: pass the two views of a pair through the network as one batch.

        Raises:
            ValueError: if a weight is negative, or all are 0.
        """
        super().__init__()
        check_loss_weights(loss_weights)
        self.online, self.target = encoder, make_target(encoder)
        self.join_views = join_views
        self.loss_weights = {term: weight for term, weight in loss_weights.items() if weight > 0}
        self.predictors = nn.ModuleDict({term: predictors[term] for term in TERMS if term in self.loss_weights})

    def forward(self, views: dict[str, Tensor]) -> tuple[Losses, Projections]:
        """Compute the losses of a batch.

        The loss of a pair of views, also of an RoI pair, is BYOL's (`orl.methods.byol.regression_loss`) in both
        directions.

        Args:
            views: `view_1`, `view_2` `(N, 3, H, W)`; `intra_1`, `intra_2`, `inter_1`, `inter_2` `(N, 3, h, w)`.
                Each view has its own batch statistics, unless views are joined.

        Returns:
            The weighted loss terms and, for the collapse metrics, the online projections of the first pair.

        Source:
            ORL (NeurIPS 2021), Section 3.3.
        """
        losses: Losses = {}
        projections: list[Projections] = []
        for term, predictor in self.predictors.items():
            pair = (views[f"{TERMS[term]}_1"], views[f"{TERMS[term]}_2"])
            loss, pair_projections = pair_loss(self.online, self.target, predictor, pair, self.join_views)
            losses[f"loss_{term}"] = self.loss_weights[term] * loss
            projections.append(pair_projections)
        return losses, projections[0]

    def update_target(self, ema_momentum: float) -> None:
        """Update the target's moving average after a step of the optimiser."""
        update_target(self.target, self.online, ema_momentum)


def check_loss_weights(loss_weights: dict[str, float]) -> None:
    """Refuse weights without an effective loss.

    Raises:
        ValueError: if a weight is negative, or all are 0.
    """
    if min(loss_weights.values()) < 0 or max(loss_weights.values()) == 0:
        raise ValueError(f"loss weights must not be negative, and one must be above 0; got {loss_weights}")
