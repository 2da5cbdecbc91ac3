"""Means over seeds, and how far the seeds lie apart."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class SeedStatistics:
    """A score of one arm at several seeds."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def std(self) -> float | None:
        """The sample's standard deviation (n - 1); None of one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def told(self, scale: float = 1.0, decimals: int = 1, signed: bool = False) -> str:
        """'21.8 ± 0.4', or one number of one seed."""
        sign = "+" if signed else ""
        text = f"{scale * self.mean:{sign}.{decimals}f}"
        return text if self.std is None else f"{text} ± {scale * self.std:.{decimals}f}"


def paired_differences(own: Mapping[int, float], reference: Mapping[int, float]) -> SeedStatistics | None:
    """Seed by seed, an arm's score less the reference's; None where they share no seed.

    A seed draws weights, crops and orders of both alike, so that differences vary less than scores.
    """
    shared = sorted(own.keys() & reference.keys())
    differences = tuple(own[seed] - reference[seed] for seed in shared)
    return SeedStatistics(differences) if differences else None


def is_beyond_chance(differences: SeedStatistics) -> bool | None:
    """Whether the 95% interval of the mean difference (Student's t) leaves out 0; None below three seeds.

    Of so few seeds this is a rule of thumb: it takes differences for normally distributed.
    """
    count = len(differences.values)
    if count < 3 or differences.std is None:
        return None
    return abs(differences.mean) > _t_97_5(count - 1) * differences.std / math.sqrt(count)


def by_seed(values: Sequence[tuple[int, float | None]]) -> dict[int, float]:
    """Scores by seed, those that there are."""
    return {seed: value for seed, value in values if value is not None}


def _t_97_5(degrees: int) -> float:
    from scipy.stats import t  # scikit-learn brings it

    return float(t.ppf(0.975, degrees))
