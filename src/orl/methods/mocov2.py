"""MoCo v2: find an image's other view among the keys of earlier images, which a queue keeps."""

import copy

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from orl.methods.byol import Losses, Projections
from orl.networks.all_gather import all_gather, local_rows, random_permutation, world_size
from orl.networks.online_target import Encoder, make_target, update_target
from orl.networks.unit_length import unit_length


class MoCoV2(nn.Module):
    """Online and target encoder and a queue of the target's keys.

    Losses, gradients and queue of several processes equal those of one process with as many groups. The running
    statistics of batch normalisation differ. One process collects them from all groups. Of several processes those of
    the first are kept, which come from its own groups only.
    """

    shares_batch_statistics = False
    """Shuffling BN replaces them: batch statistics would reveal the positive key."""

    def __init__(self, encoder: Encoder, *, queue_size: int, temperature: float, num_groups: int) -> None:
        """Join the parts.

        Args:
            encoder: becomes the online network.
            queue_size: keys in the queue, a multiple of the batch size.
            temperature: divisor of the cosines.
            num_groups: groups of the batch over all processes, each with its own batch statistics; a multiple of the
                number of processes. One group suits only a network without batch normalisation.
        """
        super().__init__()
        self.online, self.target = encoder, make_target(encoder)
        self.temperature, self.num_groups = temperature, num_groups
        self.negatives = KeyQueue(queue_size, num_outputs(encoder.projector, encoder.backbone.num_channels))

    def forward(self, views: dict[str, Tensor]) -> tuple[Losses, Projections]:
        """Compute the loss of a batch; in training mode add its keys to the queue.

        Args:
            views: `view_1`, the queries, and `view_2`, the keys, each `(N, 3, H, W)`.

        Returns:
            The loss and, for the collapse metrics, the query and the key of each image.

        Raises:
            ValueError: if the batch cannot be split into the groups, or the queue is not a multiple of it.

        Source:
            MoCo (arXiv 1911.05722), Algorithm 1 and Section 3.3, shuffling BN; MoCo v2 (arXiv 2003.04297).
        """
        num_own_groups = groups_per_process(len(views["view_1"]), self.num_groups)
        query = forward_in_groups(self.online, views["view_1"], num_own_groups)
        with torch.no_grad():
            shuffled, order = shuffle(views["view_2"])
            keys = unshuffle(forward_in_groups(self.target, shuffled, num_own_groups), order)
        loss = queue_loss(query, local_rows(keys), self.negatives.keys(), self.temperature)
        if self.training:
            self.negatives.enqueue(keys)
        return {"loss_global": loss}, (query.detach(), local_rows(keys))

    def update_target(self, ema_momentum: float) -> None:
        """Update the target's moving average after a step of the optimiser."""
        update_target(self.target, self.online, ema_momentum)


class KeyQueue(nn.Module):
    """The newest keys, as unit vectors; new keys replace the oldest. The initial keys are random directions."""

    queue: Float[Tensor, "k d"]
    queue_position: Int[Tensor, ""]

    def __init__(self, queue_size: int, num_features: int) -> None:
        """Fill the queue from torch's global generator.

        Args:
            queue_size: number of keys.
            num_features: dimensions of a key.

        Raises:
            ValueError: if the queue has no keys.
        """
        super().__init__()
        if queue_size < 1:
            raise ValueError(f"the queue needs at least one key, got {queue_size}; use a multiple of the batch")
        self.register_buffer("queue", F.normalize(torch.randn(queue_size, num_features), dim=1))
        self.register_buffer("queue_position", torch.zeros((), dtype=torch.int64))

    def keys(self) -> Float[Tensor, "k d"]:
        """Return a copy of the keys: the backward pass needs them as they were before new keys replace them."""
        return self.queue.clone()

    @torch.no_grad()
    def enqueue(self, keys: Float[Tensor, "n d"]) -> None:
        """Replace the oldest keys.

        Args:
            keys: of the batch over all processes, of any length but 0.

        Raises:
            ValueError: if the queue size is not a multiple of the number of keys.
        """
        queue_size, batch_size = len(self.queue), len(keys)
        if batch_size == 0 or queue_size % batch_size:
            raise ValueError(
                f"a queue of {queue_size} keys is not a multiple of a batch of {batch_size} images; "
                "change queue_size or the batch size"
            )
        # Positions stay on the device: reading them would make the CPU wait for it.
        positions = (self.queue_position + torch.arange(batch_size, device=self.queue.device)) % queue_size
        self.queue.index_copy_(0, positions, unit_length(keys).to(self.queue.dtype))
        self.queue_position.add_(batch_size).remainder_(queue_size)


def queue_loss(
    query: Float[Tensor, "n d"], key: Float[Tensor, "n d"], queue: Float[Tensor, "k d"], temperature: float
) -> Float[Tensor, ""]:
    """Compute the InfoNCE loss: find the key of each query among that key and all keys of the queue.

    Keys are constants: no gradient flows into them.

    Args:
        query: the online network's projections, of any length.
        key: the target network's projections of the other views, of any length.
        queue: the negatives, as unit vectors.
        temperature: divisor of the cosines.

    Returns:
        The mean cross entropy over 1 + k classes: log(1 + k) when all keys are equal.

    Raises:
        ValueError: if there is no query, or the temperature is not above 0.

    Source:
        MoCo (arXiv 1911.05722), Eq. 1.
    """
    if len(query) == 0:
        raise ValueError("queue_loss got an empty batch; is drop_last set?")
    if temperature <= 0:
        raise ValueError(f"the temperature must be above 0, got {temperature}; the paper's is 0.2")
    # Autocast would multiply in half precision, which keeps two decimals of a cosine.
    with torch.autocast(query.device.type, enabled=False):
        directions = unit_length(query) / temperature
        positive = (directions * unit_length(key.detach())).sum(dim=1)
        # Cross entropy over joined logits would keep three copies of this matrix, the largest of a step.
        negative = (directions @ queue.detach().to(directions.dtype).T).logsumexp(dim=1)
        return (torch.logaddexp(positive, negative) - positive).mean()


def groups_per_process(num_images: int, num_groups: int) -> int:
    """Return the number of groups of this process.

    Args:
        num_images: images of the batch in this process.
        num_groups: groups over all processes.

    Raises:
        ValueError: if groups or images cannot be split evenly, or a group has fewer than two images.
    """
    if num_groups < 1 or num_groups % world_size():
        raise ValueError(f"{num_groups} groups cannot be split evenly over {world_size()} processes; use a multiple")
    batch_size = num_images * world_size()
    if batch_size % num_groups or batch_size < 2 * num_groups:
        raise ValueError(
            f"a batch of {batch_size} images cannot be split into {num_groups} equal groups of two images or more; "
            "change num_groups or the batch size"
        )
    return num_groups // world_size()


def forward_in_groups(network: nn.Module, values: Tensor, num_groups: int) -> Tensor:
    """Pass a batch through a network group after group, each with its own batch statistics.

    Args:
        network: maps one row an image to one row an image.
        values: `(n, ...)`, the part of this process. Group g has the rows `g::num_groups`, so that the groups of the
            complete batch do not depend on the number of processes.
        num_groups: groups of this process; a divisor of n.

    Returns:
        `(n, ...)`, in the order of the batch.
    """
    parts = [network(values[group::num_groups]) for group in range(num_groups)]
    return torch.stack(parts, dim=1).flatten(0, 1)


def shuffle(views: Float[Tensor, "n 3 h w"]) -> tuple[Float[Tensor, "n 3 h w"], Int[Tensor, "b"]]:
    """Shuffle the images of the batch over all processes.

    Returns:
        This process's part of the shuffled batch, and the order, sampled from torch's global generator of the first
        process.
    """
    complete = all_gather(views)
    order = random_permutation(len(complete), views.device)
    return complete[local_rows(order)], order


def unshuffle(values: Tensor, order: Int[Tensor, "b"]) -> Tensor:
    """Undo `shuffle`: return the values of all processes, `(b, ...)`, in the order of the batch."""
    complete = all_gather(values)
    restored = torch.empty_like(complete)
    restored[order] = complete
    return restored


@torch.no_grad()
def num_outputs(projector: nn.Module, *input_shape: int) -> int:
    """Return the number of features of a projection, found by passing zeros through a copy.

    Args:
        projector: its input is `(n, *input_shape)`.
        input_shape: channels, and for feature maps also height and width.
    """
    zeros = next(projector.parameters()).new_zeros(1, *input_shape)
    return copy.deepcopy(projector).eval()(zeros).shape[1]
