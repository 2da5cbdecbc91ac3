"""Images and regions for the tests of the search: small, and without flat parts, where edges are equally heavy."""

import numpy as np


def mottled(seed: int, height: int, width: int, patch_px: int = 9) -> np.ndarray:
    """Patches of random colours under a little noise."""
    generator = np.random.default_rng(seed)
    patches = generator.integers(0, 256, (height // patch_px + 1, width // patch_px + 1, 3))
    clean = patches.repeat(patch_px, axis=0).repeat(patch_px, axis=1)[:height, :width]
    return np.clip(clean + generator.normal(0, 4, clean.shape), 0, 255).astype(np.uint8)


def random_regions(seed: int, height: int, width: int, count: int) -> np.ndarray:
    """Label each pixel by the nearest of random points, numbered by their first pixels; int32."""
    generator = np.random.default_rng(seed)
    points = generator.uniform(0, [height, width], (count, 2))
    pixels = np.stack(np.mgrid[:height, :width], axis=-1)
    nearest = ((pixels[:, :, None] - points) ** 2).sum(axis=3).argmin(axis=2)
    _, firsts, places = np.unique(nearest, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(firsts))[places].reshape(height, width).astype(np.int32)
