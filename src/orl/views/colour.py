"""Colour changes of a view: their distribution, and the parameters sampled from it for one view."""

from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

JITTER_ORDERS = tuple(permutations(range(4)))
"""Every order of brightness, contrast, saturation and hue."""
LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in gray: ITU-R 601, rounded as in torchvision."""
BLUR_RADIUS_SIGMAS = 3
"""Radius of the blur kernel in sigmas."""
SOLARISE_THRESHOLD = 128 / 255
"""Values in [0, 1] from this one up are inverted."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class ColourDistribution:
    """Probabilities and ranges of the colour changes of one view; the defaults are view 1 of BYOL."""

    flip_probability: float = 0.5
    """Probability of a horizontal flip."""
    jitter_probability: float = 0.8
    """Probability of colour jitter: brightness, contrast, saturation and hue change in random order."""
    brightness: float = 0.4
    """Factor U(1 - x, 1 + x)."""
    contrast: float = 0.4
    """Factor U(1 - x, 1 + x)."""
    saturation: float = 0.2
    """Factor U(1 - x, 1 + x)."""
    hue: float = 0.1
    """Shift U(-x, x), as a fraction of the colour circle."""
    gray_probability: float = 0.2
    """Probability of conversion to gray."""
    blur_probability: float = 1.0
    """Probability of a Gaussian blur."""
    blur_sigma_px: tuple[float, float] = (0.1, 2.0)
    """Range of the blur's sigma, in pixels of the view."""
    solarise_probability: float = 0.0
    """Probability of solarisation: values of 128 and more are inverted."""

    def __post_init__(self) -> None:
        """Check the ranges of all values.

        Raises:
            ValueError: if a probability or range is outside [0, 1], the hue is outside [0, 0.5], or the sigmas are not
                two positive numbers in rising order.
        """
        fractions = {name: value for name, value in vars(self).items() if name != "blur_sigma_px"}
        for name, value in fractions.items():
            highest = 0.5 if name == "hue" else 1
            if not 0 <= value <= highest:
                raise ValueError(f"{name} must be in [0, {highest}], got {value}")
        if not 0 < self.blur_sigma_px[0] <= self.blur_sigma_px[1]:
            raise ValueError(f"blur_sigma_px must be two numbers above 0, the smaller first, got {self.blur_sigma_px}")


class ColourParameters(NamedTuple):
    """Sampled colour changes of one view; in a batch, every field has a leading dimension."""

    flip: Bool[Tensor, "*n"] | bool
    jitter_order: Int[Tensor, "*n"] | int
    """Index into `JITTER_ORDERS`."""
    brightness: Float[Tensor, "*n"] | float
    contrast: Float[Tensor, "*n"] | float
    saturation: Float[Tensor, "*n"] | float
    hue: Float[Tensor, "*n"] | float
    gray: Bool[Tensor, "*n"] | bool
    blur_sigma_px: Float[Tensor, "*n"] | float
    """Sigma of the blur; 0 for no blur."""
    solarise: Bool[Tensor, "*n"] | bool


def sample_colours(distribution: ColourDistribution, generator: np.random.Generator) -> ColourParameters:
    """Sample the colour changes of one view.

    The number of random numbers is always the same, so a probability does not shift later samples.
    """
    chance = generator.random(5)
    factors = generator.uniform(-1, 1, size=4)
    jitter_order = int(generator.integers(len(JITTER_ORDERS)))
    sigma = float(generator.uniform(*distribution.blur_sigma_px))
    jitter = chance[1] < distribution.jitter_probability
    return ColourParameters(
        flip=bool(chance[0] < distribution.flip_probability),
        jitter_order=jitter_order,
        brightness=1 + factors[0] * distribution.brightness if jitter else 1.0,
        contrast=1 + factors[1] * distribution.contrast if jitter else 1.0,
        saturation=1 + factors[2] * distribution.saturation if jitter else 1.0,
        hue=factors[3] * distribution.hue if jitter else 0.0,
        gray=bool(chance[2] < distribution.gray_probability),
        blur_sigma_px=sigma if chance[3] < distribution.blur_probability else 0.0,
        solarise=bool(chance[4] < distribution.solarise_probability),
    )
