import pytest
from hypothesis import given
from hypothesis import strategies as st

from orl.ablations.seed_statistics import SeedStatistics, by_seed, is_beyond_chance, paired_differences

SCORES = st.lists(st.floats(0, 1), min_size=1, max_size=6)


def test_mean_and_std_by_hand() -> None:
    statistics = SeedStatistics((0.1, 0.2, 0.6))
    assert statistics.mean == pytest.approx(0.3)
    assert statistics.std == pytest.approx((0.14 / 2) ** 0.5)
    assert statistics.text(100) == "30.0 ± 26.5"
    assert statistics.text(1, decimals=2, signed=True) == "+0.30 ± 0.26"


def test_one_seed_has_no_std() -> None:
    assert SeedStatistics((0.25,)).std is None
    assert SeedStatistics((0.25,)).text(100) == "25.0"


def test_differences_are_taken_seed_by_seed_where_both_have_one() -> None:
    found = paired_differences({0: 0.5, 1: 0.7, 3: 0.9}, {0: 0.4, 1: 0.8, 2: 0.1})
    assert found is not None
    assert found.values == pytest.approx((0.1, -0.1))
    assert paired_differences({0: 1.0}, {1: 1.0}) is None


@given(SCORES)
def test_a_variant_differs_from_itself_by_zero(scores: list[float]) -> None:
    own = dict(enumerate(scores))
    found = paired_differences(own, own)
    assert found is not None
    assert set(found.values) == {0.0}


def test_differences_beyond_chance_by_students_t() -> None:
    # t of 2 degrees at 97.5% is 4.303: mean 1 and std 0.4 are beyond 0, mean 1 and 0.41 are not.
    assert is_beyond_chance(SeedStatistics((0.6, 1.0, 1.4))) is True
    assert is_beyond_chance(SeedStatistics((0.59, 1.0, 1.41))) is False
    assert is_beyond_chance(SeedStatistics((-1.4, -1.0, -0.6))) is True
    assert is_beyond_chance(SeedStatistics((0.9, 1.0))) is None


def test_a_seed_without_a_score_is_left_out() -> None:
    assert by_seed([(0, 0.5), (1, None)]) == {0: 0.5}
