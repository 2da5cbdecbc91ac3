"""LOST: one object of an image from the similarities of its patches, without labels."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

NUM_EXPANSION_PATCHES = 100
"""Patches of lowest degree that may join the seed."""


def layer_normalised(feature_map: Float[Tensor, "d h w"]) -> Float[Tensor, "n d"]:
    """Return the features of all patches, normalised over the complete map: mean 0 and variance 1 of all n x d values.

    Source:
        The published code normalises the maps of convolutional networks so, and the keys of ViTs not at all.
    """
    patches = feature_map.flatten(1).T
    return torch.nn.functional.layer_norm(patches, patches.shape)


def find_object(
    patches: Float[Tensor, "n d"], size_hw: tuple[int, int], num_expansion: int = NUM_EXPANSION_PATCHES
) -> Int[Tensor, "4"]:
    """Find the box of one object, in patches: `xyxy`, right and bottom exclusive.

    The seed is the patch with the fewest positive similarities to others: objects are smaller than the background. Of
    the patches of lowest degree, those similar to the seed join it. The object is the connected component around the
    seed of all patches whose similarities to these sum to more than 0.

    Args:
        patches: features of the patches, row by row of the map.
        size_hw: height and width of the map, patches.
        num_expansion: patches of lowest degree that may join, the seed included.

    Raises:
        ValueError: if the number of patches is not height times width.

    Source:
        LOST (arXiv 2109.14279), Section 3. Of equal degrees the first patch counts; the published sort leaves it open.
    """
    from scipy import ndimage

    height, width = size_hw
    if len(patches) != height * width:
        raise ValueError(f"{len(patches)} patches are not {height} x {width}; give the size of their map")
    similarity = patches @ patches.T
    degree = (similarity > 0).sum(dim=1) - (similarity.diagonal() > 0).long()
    by_degree = degree.argsort(stable=True)
    seed, potential = int(by_degree[0]), by_degree[:num_expansion]
    joined = potential[similarity[seed, potential] > 0]
    is_object = similarity[joined].sum(dim=0) > 0
    # The seed belongs to its own object, even where all its features are zero.
    is_object[seed] = True
    component, _ = ndimage.label(is_object.reshape(height, width).cpu().numpy())
    rows, columns = (component == component[divmod(seed, width)]).nonzero()
    return torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
