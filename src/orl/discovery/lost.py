"""LOST: one object of an image from the similarities of its patches, without labels; or several, in the same way."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
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


def centred_units(feature_map: Float[Tensor, "d h w"]) -> Float[Tensor, "n d"]:
    """Return the features of all patches, less their mean over the map, as unit vectors; a zero stays zero."""
    patches = feature_map.flatten(1).T
    return torch.nn.functional.normalize(patches - patches.mean(dim=0), dim=1)


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
    (box,) = find_objects(patches, size_hw, num_expansion=num_expansion, thresholds=(0.0,), max_objects=1)
    return box


def find_objects(
    patches: Float[Tensor, "n d"],
    size_hw: tuple[int, int],
    *,
    num_expansion: int,
    thresholds: Sequence[float],
    max_objects: int,
) -> Int[Tensor, "m 4"]:
    """Find the boxes of several objects, in patches: `xyxy`, right and bottom exclusive.

    An object is found as in `find_object` and its patches are taken away, then the next object among the patches that
    remain. That is repeated for each threshold, with all patches again.

    Args:
        patches: features of the patches, row by row of the map.
        size_hw: height and width of the map, patches.
        num_expansion: remaining patches of lowest degree that may join a seed, the seed included.
        thresholds: similarities above which patches are similar; LOST has 0.
        max_objects: most objects for a threshold.

    Returns:
        Boxes in the order of the thresholds, then of the degrees of their seeds; one at least for each threshold.

    Raises:
        ValueError: if the number of patches is not height times width.

    Source:
        LOST (arXiv 2109.14279), Section 3, with a threshold, and repeated.
    """
    height, width = size_hw
    if len(patches) != height * width:
        raise ValueError(f"{len(patches)} patches are not {height} x {width}; give the size of their map")
    similarity = patches @ patches.T
    boxes = []
    for threshold in thresholds:
        is_similar = similarity > threshold
        by_degree = (is_similar.sum(dim=1) - is_similar.diagonal().long()).argsort(stable=True)
        remaining = torch.ones_like(by_degree, dtype=torch.bool)
        for _ in range(max_objects):
            candidates = by_degree[remaining[by_degree]][:num_expansion]
            if len(candidates) == 0:
                break
            seed = int(candidates[0])
            joined = candidates[is_similar[seed, candidates]]
            is_object = remaining & (similarity[joined].sum(dim=0) > threshold * len(joined))
            # The seed belongs to its own object, even where all its features are zero.
            is_object[seed] = True
            mask = _component(is_object.reshape(height, width), divmod(seed, width))
            remaining &= ~mask.reshape(-1).to(remaining.device)
            rows, columns = mask.nonzero(as_tuple=True)
            boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    return torch.tensor(boxes)


def _component(mask: Bool[Tensor, "h w"], seed: tuple[int, int]) -> Bool[Tensor, "h w"]:
    """Return the connected component of a mask around the seed, on the CPU."""
    from scipy import ndimage

    component, _ = ndimage.label(mask.cpu().numpy())
    return torch.from_numpy(component == component[seed])
