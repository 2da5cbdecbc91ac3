"""The losses of the methods as modules, for use in any training loop.

Each module is a thin layer over the function that the method itself uses.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from orl.methods.byol import Pair, regression_loss, symmetric_loss
from orl.methods.densecl import features_at, flatten_positions, most_similar_positions
from orl.methods.mocov2 import KeyQueue, queue_loss
from orl.methods.orl import check_loss_weights
from orl.methods.selfemd import emd_loss
from orl.methods.simclr import nt_xent
from orl.networks.backbones import pool


class BYOLLoss(nn.Module):
    """BYOL's regression loss, 2 - 2 cos, in one direction; no gradient flows into the target.

    Example:
        >>> import torch
        >>> from orl.methods.losses import BYOLLoss
        >>> prediction, target_projection = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]])
        >>> BYOLLoss()(prediction, target_projection)
        tensor(2.)
    """

    def forward(self, prediction: Float[Tensor, "n d"], target_projection: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
        """Compute `orl.methods.byol.regression_loss`."""
        return regression_loss(prediction, target_projection)


class NTXentLoss(nn.Module):
    """SimCLR's cross entropy of finding the other view of an image; with torch.distributed over all processes.

    Example:
        >>> import torch
        >>> from orl.methods.losses import NTXentLoss
        >>> same = torch.ones(4, 8)
        >>> NTXentLoss(temperature=0.1)(same, same)  # log(2 * 4 - 1): all images look alike
        tensor(1.9459)
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, projection_1: Float[Tensor, "n d"], projection_2: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
        """Compute `orl.methods.simclr.nt_xent` of two views of each image."""
        return nt_xent(projection_1, projection_2, self.temperature)


class InfoNCELoss(nn.Module):
    """MoCo's InfoNCE loss with a queue of negatives; in training mode the keys join the queue.

    The queue is of one process: with several, use `orl.methods.mocov2.MoCoV2`, which collects the keys of all.

    Example:
        >>> import torch
        >>> from orl.methods.losses import InfoNCELoss
        >>> loss = InfoNCELoss(queue_size=256, num_features=8, temperature=0.2)
        >>> query, key = torch.randn(16, 8, requires_grad=True), torch.randn(16, 8)
        >>> loss(query, key).backward()
        >>> loss.negatives.keys().shape
        torch.Size([256, 8])
    """

    def __init__(self, queue_size: int, num_features: int, temperature: float = 0.2) -> None:
        """Fill the queue with random directions.

        Args:
            queue_size: keys in the queue, a multiple of the batch size.
            num_features: dimensions of a projection.
            temperature: divisor of the cosines.
        """
        super().__init__()
        self.temperature = temperature
        self.negatives = KeyQueue(queue_size, num_features)

    def forward(self, query: Float[Tensor, "n d"], key: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
        """Compute `orl.methods.mocov2.queue_loss`.

        Args:
            query: the online network's projections of one view.
            key: the target network's projections of the other view.
        """
        loss = queue_loss(query, key, self.negatives.keys(), self.temperature)
        if self.training:
            self.negatives.enqueue(key)
        return loss


class DenseCLLoss(nn.Module):
    """DenseCL's dense term: InfoNCE of every position against its most similar position in the other view.

    The global term is an `InfoNCELoss` of the pooled projections.

    Example:
        >>> import torch
        >>> from orl.methods.losses import DenseCLLoss
        >>> loss = DenseCLLoss(queue_size=64, num_features=8)
        >>> query_map, key_map = torch.randn(4, 32, 7, 7), torch.randn(4, 32, 7, 7)
        >>> dense_query, dense_key = torch.randn(4, 8, 7, 7), torch.randn(4, 8, 7, 7)
        >>> loss(dense_query, dense_key, query_map, key_map).shape
        torch.Size([])
    """

    def __init__(self, queue_size: int, num_features: int, temperature: float = 0.2) -> None:
        """Fill the queue with random directions.

        Args:
            queue_size: keys in the queue, a multiple of the batch size.
            num_features: dimensions of a dense projection.
            temperature: divisor of the cosines.
        """
        super().__init__()
        self.temperature = temperature
        self.negatives = KeyQueue(queue_size, num_features)

    def forward(
        self,
        dense_query: Float[Tensor, "n d h w"],
        dense_key: Float[Tensor, "n d k l"],
        query_map: Float[Tensor, "n c h w"],
        key_map: Float[Tensor, "n c k l"],
    ) -> Float[Tensor, ""]:
        """Compute the loss; in training mode the mean dense key of each image joins the queue.

        Args:
            dense_query: the online network's projections of every position of one view.
            dense_key: the target network's projections of every position of the other view.
            query_map: the online backbone's feature map of the first view.
            key_map: the target backbone's feature map of the other view.
        """
        positives = features_at(dense_key, most_similar_positions(query_map, key_map))
        loss = queue_loss(flatten_positions(dense_query), positives, self.negatives.keys(), self.temperature)
        if self.training:
            self.negatives.enqueue(pool(dense_key))
        return loss


class SelfEMDLoss(nn.Module):
    """Self-EMD's loss in one direction: twice the cost of moving one feature map to the other.

    Example:
        >>> import torch
        >>> from orl.methods.losses import SelfEMDLoss
        >>> feature_map = torch.randn(2, 8, 4, 4)
        >>> bool(SelfEMDLoss()(feature_map, feature_map) < SelfEMDLoss()(feature_map, -feature_map))
        True
    """

    def __init__(self, regularisation: float = 0.05, num_iterations: int = 50) -> None:
        """Set the solver.

        Args:
            regularisation: weight of the plan's entropy, in units of cost, 1 - cos.
            num_iterations: Sinkhorn iterations.
        """
        super().__init__()
        self.regularisation, self.num_iterations = regularisation, num_iterations

    def forward(
        self, prediction: Float[Tensor, "n d h w"], target_projection: Float[Tensor, "n d k l"]
    ) -> Float[Tensor, ""]:
        """Compute `orl.methods.selfemd.emd_loss`; no gradient flows into the target."""
        return emd_loss(
            prediction, target_projection, regularisation=self.regularisation, num_iterations=self.num_iterations
        )


class ORLLoss(nn.Module):
    """ORL's three terms, summed: image views, an intra-image RoI pair and an inter-image RoI pair.

    Each term is BYOL's loss in both directions.

    Example:
        >>> import torch
        >>> from orl.methods.losses import ORLLoss
        >>> predictions = torch.randn(3, 2, 4, 8)  # three pairs of views, a batch of 4
        >>> targets = torch.randn(3, 2, 4, 8)
        >>> pairs = [(tuple(p), tuple(t)) for p, t in zip(predictions, targets)]
        >>> ORLLoss(global_weight=1.0, intra_weight=1.0, inter_weight=1.0)(*pairs).shape
        torch.Size([])
    """

    def __init__(self, global_weight: float = 1.0, intra_weight: float = 1.0, inter_weight: float = 1.0) -> None:
        """Set the weights of the terms.

        Raises:
            ValueError: if a weight is negative, or all are 0.
        """
        super().__init__()
        self.loss_weights = {"global": global_weight, "intra": intra_weight, "inter": inter_weight}
        check_loss_weights(self.loss_weights)

    def forward(
        self, global_pair: tuple[Pair, Pair], intra_pair: tuple[Pair, Pair], inter_pair: tuple[Pair, Pair]
    ) -> Float[Tensor, ""]:
        """Compute the weighted sum of the three terms.

        Args:
            global_pair: the predictions of both image views, and the target projections of both.
            intra_pair: the same of an RoI and its jittered copy.
            inter_pair: the same of an RoI and its correspondence in a neighbour image.
        """
        pairs = zip(self.loss_weights.values(), (global_pair, intra_pair, inter_pair))
        return torch.stack([weight * symmetric_loss(*pair) for weight, pair in pairs]).sum()
