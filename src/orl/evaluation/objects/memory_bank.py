"""Memory bank of dense retrieval: patch features with the classes of their pixels, and the prediction from neighbours.

Source:
    Balazevic et al., Towards In-context Scene Understanding (arXiv 2306.01667), Section 3 and Appendix; details as in
    the reproduction at github.com/vpariza/open-hummingbird-eval.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from torch import Tensor

from orl.datasets.semantic_masks import VOID
from orl.discovery.nearest_neighbours import BLOCK_ROWS, nearest_neighbours, row_blocks
from orl.memory import available_bytes

HALF_PRECISION_BYTES = 2**30
"""Features that take more than this in float32 are stored in float16."""
FREQUENCY_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class MemoryBank:
    """Patches of training images, in the memory of the CPU."""

    features: Float[Tensor, "m d"]
    """Unit vectors, float32 or float16."""
    frequencies: Float[Tensor, "m c"]
    """Fraction of the labelled pixels of each patch that show each class, float32."""

    def __len__(self) -> int:
        return len(self.features)


class BankWriter:
    """A memory bank that is filled patch by patch; its memory is reserved once.

    Example:
        >>> import numpy as np, torch
        >>> writer = BankWriter(capacity=3, num_channels=2, num_classes=2)
        >>> writer.add(torch.tensor([[3.0, 4.0]]), np.array([[0.25, 0.75]], dtype=np.float32))
        >>> writer.finish().features
        tensor([[0.6000, 0.8000]])
    """

    def __init__(self, capacity: int, num_channels: int, num_classes: int) -> None:
        """Reserve the memory.

        Args:
            capacity: largest number of patches.
            num_channels: numbers of a feature.
            num_classes: number of classes.

        Raises:
            ValueError: if the machine has too little free memory.
        """
        dtype = torch.float16 if 4 * capacity * num_channels > HALF_PRECISION_BYTES else torch.float32
        row_bytes = dtype.itemsize * num_channels + FREQUENCY_BYTES * num_classes
        free = available_bytes()
        if capacity * row_bytes > free:
            raise ValueError(
                f"a memory bank of {capacity:,} patches of {num_channels:,} numbers and {num_classes} classes takes "
                f"{capacity * row_bytes / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free; give a --memory-size of at "
                f"most {free // row_bytes:,}"
            )
        self._features = torch.empty((capacity, num_channels), dtype=dtype)
        self._frequencies = torch.empty((capacity, num_classes))
        self._size = 0

    def add(self, features: Float[Tensor, "b d"], frequencies: Float[ndarray, "b c"]) -> None:
        """Append patches; their features are scaled to unit length."""
        rows = slice(self._size, self._size + len(features))
        self._features[rows] = F.normalize(features.float(), dim=1).to(self._features.dtype)
        self._frequencies[rows] = torch.from_numpy(frequencies)
        self._size = rows.stop

    def finish(self) -> MemoryBank:
        """Return the bank of all patches that were added."""
        return MemoryBank(features=self._features[: self._size], frequencies=self._frequencies[: self._size])


def patch_frequencies(
    mask: UInt8[ndarray, "h w"], map_hw: tuple[int, int], num_classes: int
) -> Float[ndarray, "patches c"]:
    """Compute the fraction of each patch's labelled pixels that show each class.

    Args:
        mask: class of each pixel, or `VOID`.
        map_hw: number of patches along the height and the width; each pixel belongs to the patch of its centre.
        num_classes: number of classes.

    Returns:
        float32, row by row of patches; a row of zeros for a patch without a labelled pixel.
    """
    rows, columns = (
        (2 * np.arange(size_px) + 1) * count // (2 * size_px) for size_px, count in zip(mask.shape, map_hw)
    )
    patches = rows[:, None] * map_hw[1] + columns
    known = mask != VOID
    num_patches = map_hw[0] * map_hw[1]
    cells = patches[known] * num_classes + mask[known]
    counts = np.bincount(cells, minlength=num_patches * num_classes).reshape(num_patches, num_classes)
    return (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)).astype(np.float32)


def patches_per_image(memory_size: int, num_images: int, num_epochs: int) -> int:
    """Return the number of patches that each augmented image may give to the memory, at least one."""
    return max(1, memory_size // (num_images * num_epochs))


def sample_patches(
    frequencies: Float[ndarray, "patches c"], num_patches: int, generator: np.random.Generator
) -> Int[ndarray, "k"]:
    """Sample patches of an image, those with rare classes more often.

    A class counts the patches of the image that show it, and the score of a patch is the sum over its own classes,
    times U(0, 1). The patches of the lowest scores are taken.

    Args:
        frequencies: from `patch_frequencies`.
        num_patches: largest number of patches to take.
        generator: source of randomness.

    Returns:
        Patches by rising score; a patch without a labelled pixel is never among them.
    """
    shown = frequencies > 0
    scores = (shown @ shown.sum(axis=0)) * generator.random(len(shown))
    labelled = np.asarray(shown.any(axis=1))
    order = np.argsort(np.where(labelled, scores, np.inf), kind="stable")
    return order[: min(num_patches, int(labelled.sum()))]


def predict_patches(
    bank: MemoryBank,
    queries: Float[Tensor, "q d"],
    *,
    k: int,
    temperature: float,
    block_rows: int = BLOCK_ROWS,
) -> Float[Tensor, "q c"]:
    """Predict the class frequencies of patches from their nearest neighbours in the bank.

    Args:
        bank: the memory bank.
        queries: features of patches, of any length, on any device; the bank is sent there block by block.
        k: neighbours of each patch; all patches of the bank if it has fewer.
        temperature: divisor of the cosines in the softmax over the neighbours.
        block_rows: patches of the bank that are on the device at once.

    Returns:
        On the CPU; the sum of each row is 1.

    Raises:
        ValueError: if a feature is not finite.
    """
    units = F.normalize(queries.float(), dim=1)
    blocks = ((row, block.to(units.device)) for row, block in row_blocks(bank.features, block_rows))
    ids, cosines = nearest_neighbours(units, None, blocks, min(k, len(bank)))
    weights = F.softmax(cosines.cpu() / temperature, dim=1)
    # A bag of weighted rows, without a copy of the frequencies of all neighbours.
    return F.embedding_bag(ids.cpu(), bank.frequencies, per_sample_weights=weights, mode="sum")


def predict_mask(
    frequencies: Float[Tensor, "patches c"], map_hw: tuple[int, int], size_hw: tuple[int, int]
) -> UInt8[ndarray, "h w"]:
    """Predict the class of each pixel by bilinear interpolation of the class frequencies of the patches.

    Args:
        frequencies: predictions of one image, row by row of patches.
        map_hw: number of patches along the height and the width.
        size_hw: height and width of the prediction; the published protocol takes the size of the network's input.

    Returns:
        The class of the highest frequency; of equal ones the first.
    """
    stacked = frequencies.T.reshape(1, -1, *map_hw)
    enlarged = F.interpolate(stacked, size_hw, mode="bilinear", align_corners=False)
    return enlarged[0].argmax(dim=0).numpy().astype(np.uint8)
