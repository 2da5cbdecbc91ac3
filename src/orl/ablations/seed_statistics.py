"""Mean and standard deviation over seeds, and differences of two variants seed by seed."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class SeedStatistics:
    """Scores of one variant at several seeds."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.values)

    @property
    def std(self) -> float | None:
        """Sample standard deviation (n - 1) over the seeds; None for one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def text(self, scale: float = 1.0, decimals: int = 1, signed: bool = False) -> str:
        """Format as '21.8 ± 0.4', or as '21.8' for one seed."""
        sign = "+" if signed else ""
        mean = f"{scale * self.mean:{sign}.{decimals}f}"
        return mean if self.std is None else f"{mean} ± {scale * self.std:.{decimals}f}"


def paired_differences(own: Mapping[int, float], reference: Mapping[int, float]) -> SeedStatistics | None:
    """Subtract the reference's score from a variant's, seed by seed; None if they have no seed in common.

    A seed fixes weights, crops and orders of both variants, so that differences vary less than scores.
    """
    seeds = sorted(own.keys() & reference.keys())
    differences = tuple(own[seed] - reference[seed] for seed in seeds)
    return SeedStatistics(differences) if differences else None


def is_beyond_chance(differences: SeedStatistics) -> bool | None:
    """Return whether the 95% interval of the mean difference (Student's t) excludes 0; None below three seeds.

    The test assumes normally distributed differences; for few seeds it is a rule of thumb.
    """
    count = len(differences.values)
    if count < 3 or differences.std is None:
        return None
    return abs(differences.mean) > _t_97_5(count - 1) * differences.std / math.sqrt(count)


def by_seed(values: Sequence[tuple[int, float | None]]) -> dict[int, float]:
    """Return the scores by seed, without missing ones."""
    return {seed: value for seed, value in values if value is not None}


def _t_97_5(degrees: int) -> float:
    from scipy.stats import t  # a dependency of scikit-learn

    return float(t.ppf(0.975, degrees))
