"""DenseCL: MoCo v2 for pooled features, and again for every position of the feature map."""

import copy

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from orl.methods.byol import Losses, Projections
from orl.methods.mocov2 import (
    KeyQueue,
    forward_in_groups,
    groups_per_process,
    num_outputs,
    queue_loss,
    shuffle,
    unshuffle,
)
from orl.networks.all_gather import local_rows
from orl.networks.backbones import pool
from orl.networks.online_target import Encoder, make_target, update_target


class DenseCL(nn.Module):
    """Online and target encoder, each with a second projector for feature maps, and one key queue per projector.

    Losses of several processes equal those of one process with as many groups; `MoCoV2` describes the running
    statistics.
    """

    shares_batch_statistics = False
    """Shuffling BN replaces them: batch statistics would reveal the positive key."""

    def __init__(
        self,
        encoder: Encoder,
        dense_projector: nn.Module,
        *,
        queue_size: int,
        temperature: float,
        num_groups: int,
        dense_weight: float,
    ) -> None:
        """Join the parts.

        Args:
            encoder: becomes the online network.
            dense_projector: projects every position of a feature map: `(N, C, h, w)` to `(N, d, h, w)`.
            queue_size: keys in each queue, a multiple of the batch size.
            temperature: divisor of the cosines.
            num_groups: groups of the batch over all processes, each with its own batch statistics, as in `MoCoV2`.
            dense_weight: weight of the dense term, in [0, 1]; the global term has the rest.

        Raises:
            ValueError: if the weight is outside [0, 1].
        """
        super().__init__()
        if not 0 <= dense_weight <= 1:
            raise ValueError(f"dense_weight must be in [0, 1], got {dense_weight}; the paper's is 0.5")
        self.online, self.target = encoder, make_target(encoder)
        self.dense_projector = dense_projector
        self.target_dense_projector = copy.deepcopy(dense_projector).requires_grad_(False)
        self.temperature, self.num_groups, self.dense_weight = temperature, num_groups, dense_weight
        num_channels = encoder.backbone.num_channels
        self.negatives = KeyQueue(queue_size, num_outputs(encoder.projector, num_channels))
        self.dense_negatives = KeyQueue(queue_size, num_outputs(dense_projector, num_channels, 1, 1))

    def forward(self, views: dict[str, Tensor]) -> tuple[Losses, Projections]:
        """Compute the losses of a batch; in training mode add its keys to the queues.

        Args:
            views: `view_1`, the queries, and `view_2`, the keys, each `(N, 3, H, W)`.

        Returns:
            The weighted loss terms and, for the collapse metrics, the global query and key of each image.

        Raises:
            ValueError: if the batch cannot be split into the groups, or the queues are not a multiple of it.

        Source:
            DenseCL (arXiv 2011.09157), Section 3.
        """
        num_own_groups = groups_per_process(len(views["view_1"]), self.num_groups)
        query_map = forward_in_groups(self.online.backbone, views["view_1"], num_own_groups)
        query = forward_in_groups(self.online.projector, pool(query_map), num_own_groups)
        dense_query = forward_in_groups(self.dense_projector, query_map, num_own_groups)
        key_map, keys, dense_keys = self._keys(views["view_2"], num_own_groups)
        key = local_rows(keys)
        positives = features_at(local_rows(dense_keys), most_similar_positions(query_map, local_rows(key_map)))
        global_loss = queue_loss(query, key, self.negatives.keys(), self.temperature)
        dense_loss = queue_loss(
            flatten_positions(dense_query), positives, self.dense_negatives.keys(), self.temperature
        )
        if self.training:
            self.negatives.enqueue(keys)
            # Averaged before it is normalised, as in the published code.
            self.dense_negatives.enqueue(pool(dense_keys))
        weight = self.dense_weight
        losses = {"loss_global": (1 - weight) * global_loss, "loss_dense": weight * dense_loss}
        return losses, (query.detach(), key)

    def update_target(self, ema_momentum: float) -> None:
        """Update the moving averages of encoder and dense projector after a step of the optimiser."""
        update_target(self.target, self.online, ema_momentum)
        update_target(self.target_dense_projector, self.dense_projector, ema_momentum)

    @torch.no_grad()
    def _keys(self, views: Float[Tensor, "n 3 h w"], num_own_groups: int) -> tuple[Tensor, Tensor, Tensor]:
        """Compute feature maps, keys and dense keys of all processes, in the order of the batch."""
        shuffled, order = shuffle(views)
        key_map = forward_in_groups(self.target.backbone, shuffled, num_own_groups)
        keys = forward_in_groups(self.target.projector, pool(key_map), num_own_groups)
        dense_keys = forward_in_groups(self.target_dense_projector, key_map, num_own_groups)
        return unshuffle(key_map, order), unshuffle(keys, order), unshuffle(dense_keys, order)


@torch.no_grad()
def most_similar_positions(
    query_map: Float[Tensor, "n c h w"], key_map: Float[Tensor, "n c k l"]
) -> Int[Tensor, "n h*w"]:
    """Find, for each position of a view, the most similar position of the image's other view.

    Args:
        query_map: the online backbone's feature map.
        key_map: the target backbone's feature map of the other view.

    Returns:
        Positions `row * l + column`, by the highest cosine over channels.

    Source:
        DenseCL (arXiv 2011.09157), Section 3.4, with the backbone's features as in the published code.
    """
    # Autocast would compare in half precision, in which many cosines are equal.
    with torch.autocast(query_map.device.type, enabled=False):
        dtype = torch.promote_types(query_map.dtype, torch.float32)
        queries, keys = (F.normalize(values.flatten(2).to(dtype), dim=1) for values in (query_map, key_map))
        return (queries.transpose(1, 2) @ keys).argmax(dim=2)


def features_at(feature_map: Float[Tensor, "n d h w"], positions: Int[Tensor, "n p"]) -> Float[Tensor, "n*p d"]:
    """Return the features at positions `row * w + column` of each image, image after image."""
    indices = positions[:, None].expand(-1, feature_map.shape[1], -1)
    return feature_map.flatten(2).gather(2, indices).transpose(1, 2).flatten(0, 1)


def flatten_positions(feature_map: Float[Tensor, "n d h w"]) -> Float[Tensor, "n*h*w d"]:
    """Return the features of all positions, image after image and row after row."""
    return feature_map.permute(0, 2, 3, 1).flatten(0, 2)
