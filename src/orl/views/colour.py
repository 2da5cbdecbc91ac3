"""What happens to a view's colours: the distribution, and one draw of it for one view."""

from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

JITTER_ORDERS = tuple(permutations(range(4)))
"""Every order of brightness, contrast, saturation and hue."""
LUMA = (0.2989, 0.587, 0.114)
"""How much red, green and blue count for gray: ITU-R 601, as torchvision rounds it."""
BLUR_RADIUS_SIGMAS = 3
"""Where the kernel of a blur ends."""
SOLARISE_THRESHOLD = 128 / 255
"""Values from here on are inverted."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class ColourDistribution:
    """Chances and ranges of the colour changes of one view; the defaults are BYOL's view 1."""

    flip_probability: float = 0.5
    """Chance of a horizontal flip."""
    jitter_probability: float = 0.8
    """Chance that brightness, contrast, saturation and hue change, in random order."""
    brightness: float = 0.4
    """Factor U(1 - x, 1 + x)."""
    contrast: float = 0.4
    """Factor U(1 - x, 1 + x)."""
    saturation: float = 0.2
    """Factor U(1 - x, 1 + x)."""
    hue: float = 0.1
    """Shift U(-x, x) in turns of the colour circle."""
    gray_probability: float = 0.2
    """Chance of gray."""
    blur_probability: float = 1.0
    """Chance of a Gaussian blur."""
    blur_sigma_px: tuple[float, float] = (0.1, 2.0)
    """Range of the blur's sigma, in pixels of the view."""
    solarise_probability: float = 0.0
    """Chance that values of 128 and more are inverted."""

    def __post_init__(self) -> None:
        """Refuse what is no chance or no range.

        Raises:
            ValueError: if a chance or a width lies outside [0, 1], the hue's outside [0, 0.5], or the sigmas do not
                rise from above 0.
        """
        fractions = {name: value for name, value in vars(self).items() if name != "blur_sigma_px"}
        for name, value in fractions.items():
            most = 0.5 if name == "hue" else 1
            if not 0 <= value <= most:
                raise ValueError(f"{name} is {value}, which is outside [0, {most}]")
        if not 0 < self.blur_sigma_px[0] <= self.blur_sigma_px[1]:
            raise ValueError(f"blur_sigma_px is {self.blur_sigma_px}: give the least, above 0, and then the greatest")


class ColourParameters(NamedTuple):
    """One draw for one view; for a batch, every field has a leading dimension."""

    flip: Bool[Tensor, "*n"] | bool
    jitter_order: Int[Tensor, "*n"] | int
    """Index into `JITTER_ORDERS`."""
    brightness: Float[Tensor, "*n"] | float
    contrast: Float[Tensor, "*n"] | float
    saturation: Float[Tensor, "*n"] | float
    hue: Float[Tensor, "*n"] | float
    gray: Bool[Tensor, "*n"] | bool
    blur_sigma_px: Float[Tensor, "*n"] | float
    """0 for no blur."""
    solarise: Bool[Tensor, "*n"] | bool


def sample_colours(distribution: ColourDistribution, generator: np.random.Generator) -> ColourParameters:
    """One draw; always the same number of random numbers, so that settings do not shift later draws."""
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
