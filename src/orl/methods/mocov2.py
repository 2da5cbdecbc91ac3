"""MoCo v2: tell an image's other view from the keys of earlier images, which wait in a queue."""

import copy

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from orl.methods.byol import Losses, Projections
from orl.networks.all_gather import all_gather, draw_permutation, local_rows, world_size
from orl.networks.online_target import Encoder, make_target, update_target


class MoCoV2(nn.Module):
    """Online and target encoder and a queue of the target's keys.

    The losses, gradients and queue of W processes are those of one process with as many groups. The running
    statistics of batch normalisation are not: one process gathers them from all groups, and of several the first
    one's are kept, which saw its own groups only.
    """

    shares_batch_statistics = False
    """Keys are shuffled among groups instead, so that statistics of a batch do not give the positive away."""

    def __init__(self, encoder: Encoder, *, queue_size: int, temperature: float, num_groups: int) -> None:
        """Join the parts.

        Args:
            encoder: becomes the online network.
            queue_size: keys that wait, a multiple of the batch of all processes.
            temperature: what similarities are divided by.
            num_groups: of the batch of all processes, each with batch statistics of its own; a multiple of the
                number of processes. With one group nothing is hidden: right only where the network does not
                normalise batches.
        """
        super().__init__()
        self.online, self.target = encoder, make_target(encoder)
        self.temperature, self.num_groups = temperature, num_groups
        self.negatives = KeyQueue(queue_size, num_outputs(encoder.projector, encoder.backbone.num_channels))

    def forward(self, views: dict[str, Tensor]) -> tuple[Losses, Projections]:
        """The loss of a batch; in training its keys join the queue.

        Args:
            views: `view_1`, the queries, and `view_2`, the keys, each `(N, 3, H, W)`.

        Returns:
            The loss, and the query and the key of each image, to be watched.

        Raises:
            ValueError: if the batch fits neither the groups nor the queue.

        Source:
            MoCo (arXiv 1911.05722), Algorithm 1 and Section 3.3, shuffling BN; MoCo v2 (arXiv 2003.04297).
        """
        num_own_groups = groups_per_process(len(views["view_1"]), self.num_groups)
        query = pass_in_groups(self.online, views["view_1"], num_own_groups)
        with torch.no_grad():
            shuffled, order = shuffle(views["view_2"])
            keys = put_back(pass_in_groups(self.target, shuffled, num_own_groups), order)
        loss = queue_loss(query, local_rows(keys), self.negatives.keys(), self.temperature)
        if self.training:
            self.negatives.enqueue(keys)
        return {"loss_global": loss}, (query.detach(), local_rows(keys))

    def update_target(self, ema_momentum: float) -> None:
        """Move the target after a step of the optimiser."""
        update_target(self.target, self.online, ema_momentum)


class KeyQueue(nn.Module):
    """The newest keys, as unit vectors; the oldest give way. It starts with random directions."""

    queue: Float[Tensor, "k d"]
    queue_position: Int[Tensor, ""]

    def __init__(self, queue_size: int, length: int) -> None:
        """Fill the queue from torch's global generator.

        Args:
            queue_size: keys that wait.
            length: of a key.

        Raises:
            ValueError: if no key could wait.
        """
        super().__init__()
        if queue_size < 1:
            raise ValueError(f"a queue of {queue_size} keys holds no negatives; take a multiple of the batch")
        self.register_buffer("queue", F.normalize(torch.randn(queue_size, length), dim=1))
        self.register_buffer("queue_position", torch.zeros((), dtype=torch.int64))

    def keys(self) -> Float[Tensor, "k d"]:
        """A copy of the keys: the backward pass needs them as they were before new ones came."""
        return self.queue.clone()

    @torch.no_grad()
    def enqueue(self, keys: Float[Tensor, "n d"]) -> None:
        """Put keys in the place of the oldest.

        Args:
            keys: of the batch of all processes, of any length but 0.

        Raises:
            ValueError: if the queue is no multiple of the batch.
        """
        queue_size, batch_size = len(self.queue), len(keys)
        if batch_size == 0 or queue_size % batch_size:
            raise ValueError(
                f"a queue of {queue_size} keys is no multiple of a batch of {batch_size} images; "
                "change queue_size or the batch size"
            )
        # Places are counted on the device: to read the position would make the processor wait for it.
        places = (self.queue_position + torch.arange(batch_size, device=self.queue.device)) % queue_size
        self.queue.index_copy_(0, places, _unit(keys).to(self.queue.dtype))
        self.queue_position.add_(batch_size).remainder_(queue_size)


def queue_loss(
    query: Float[Tensor, "n d"], key: Float[Tensor, "n d"], queue: Float[Tensor, "k d"], temperature: float
) -> Float[Tensor, ""]:
    """How hard it is to tell each query's key from all keys of the queue (InfoNCE).

    Keys are constants: no gradient flows into them.

    Args:
        query: the online network's projections, of any length.
        key: the target network's projections of the other views, of any length.
        queue: negatives, as unit vectors.
        temperature: what cosines are divided by.

    Returns:
        The mean over queries of minus the logarithm of the share that the right key has among all 1 + k.
        log(1 + k) when all keys are alike.

    Raises:
        ValueError: if there is no query, or the temperature is not above 0.

    Source:
        MoCo (arXiv 1911.05722), Eq. 1.
    """
    if len(query) == 0:
        raise ValueError("queue_loss got an empty batch; is drop_last set?")
    if temperature <= 0:
        raise ValueError(f"the temperature must be above 0, not {temperature}; the paper's is 0.2")
    # Autocast would multiply in half precision, which keeps two decimals of a cosine.
    with torch.autocast(query.device.type, enabled=False):
        directions = _unit(query) / temperature
        positive = (directions * _unit(key.detach())).sum(dim=1)
        # No cross entropy over joined logits: it would hold this matrix, the largest of a step, three times.
        negative = (directions @ queue.detach().to(directions.dtype).T).logsumexp(dim=1)
        return (torch.logaddexp(positive, negative) - positive).mean()


def groups_per_process(num_images: int, num_groups: int) -> int:
    """How many groups this process has.

    Args:
        num_images: in the part of the batch that is this process's.
        num_groups: of all processes.

    Raises:
        ValueError: if processes or images cannot be shared out evenly, or a group has no two images.
    """
    if num_groups < 1 or num_groups % world_size():
        raise ValueError(f"{num_groups} groups cannot be shared by {world_size()} processes; take a multiple")
    batch_size = num_images * world_size()
    if batch_size % num_groups or batch_size < 2 * num_groups:
        raise ValueError(
            f"a batch of {batch_size} images makes no {num_groups} groups of equal size with two images or more; "
            "change num_groups or the batch size"
        )
    return num_groups // world_size()


def pass_in_groups(network: nn.Module, values: Tensor, num_groups: int) -> Tensor:
    """What a network makes of a batch whose groups pass it one after the other, each with its own batch statistics.

    Args:
        network: takes and gives one row an image.
        values: `(n, ...)`, the part of this process. Group g is the rows `g::num_groups`, so that groups of the
            whole batch do not depend on the number of processes.
        num_groups: of this process; it divides n.

    Returns:
        `(n, ...)`, in the order of the batch.
    """
    parts = [network(values[group::num_groups]) for group in range(num_groups)]
    return torch.stack(parts, dim=1).flatten(0, 1)


def shuffle(views: Float[Tensor, "n 3 h w"]) -> tuple[Float[Tensor, "n 3 h w"], Int[Tensor, "b"]]:
    """Exchange images among all groups of all processes.

    Returns:
        This process's part of the batch in the new order, and the order, which draws on torch's global generator
        of the first process.
    """
    together = all_gather(views)
    order = draw_permutation(len(together), views.device)
    return together[local_rows(order)], order


def put_back(values: Tensor, order: Int[Tensor, "b"]) -> Tensor:
    """What a network made of `shuffle`'s images, of all processes `(b, ...)`, in the order of the batch."""
    together = all_gather(values)
    restored = torch.empty_like(together)
    restored[order] = together
    return restored


@torch.no_grad()
def num_outputs(projector: nn.Module, *input_shape: int) -> int:
    """The length of the projections, found by passing zeros through a copy.

    Args:
        projector: takes `(n, *input_shape)`.
        input_shape: channels, and height and width if it takes feature maps.
    """
    zeros = next(projector.parameters()).new_zeros(1, *input_shape)
    return copy.deepcopy(projector).eval()(zeros).shape[1]


def _unit(vectors: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    return F.normalize(vectors.to(torch.promote_types(vectors.dtype, torch.float32)), dim=1)
