"""Sinkhorn's plan against loops, POT, the exact solvers and what holds of every plan."""

import numpy as np
import ot
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from tests.reference.transport import sinkhorn_by_loops

from orl.methods.transport import sinkhorn_plan


def problem(seed: int = 0, num_plans: int = 3, num_rows: int = 4, num_columns: int = 5) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    cost = 2 * torch.rand(num_plans, num_rows, num_columns, generator=generator, dtype=torch.float64)
    weights = [torch.rand(num_plans, n, generator=generator, dtype=torch.float64) for n in (num_rows, num_columns)]
    return [cost, *(values / values.sum(dim=1, keepdim=True) for values in weights)]


def test_a_plan_by_hand() -> None:
    # Rows 1 / (1 + q) and columns 1 / (1 + q) of exp(-cost) with q = exp(-ln 3) = 1 / 3: symmetric, so scaled at once.
    cost = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]], dtype=torch.float64)
    half = torch.full((1, 2), 0.5, dtype=torch.float64)
    plan = sinkhorn_plan(cost, half, half, regularisation=1 / np.log(3), num_iterations=1)
    expected = torch.tensor([[[3 / 8, 1 / 8], [1 / 8, 3 / 8]]], dtype=torch.float64)
    torch.testing.assert_close(plan, expected)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 6), st.integers(0, 1000))
def test_plans_equal_the_scaling_as_loops(num_rows: int, num_columns: int, num_iterations: int, seed: int) -> None:
    cost, rows, columns = problem(seed, 2, num_rows, num_columns)
    plans = sinkhorn_plan(cost, rows, columns, regularisation=0.2, num_iterations=num_iterations)
    for plan, *one in zip(plans, cost.tolist(), rows.tolist(), columns.tolist(), strict=True):
        expected = torch.tensor(sinkhorn_by_loops(*one, 0.2, num_iterations), dtype=torch.float64)
        torch.testing.assert_close(plan, expected)


@pytest.mark.parametrize("num_iterations", [1, 2, 7])
def test_plans_are_those_of_pot_after_every_iteration(num_iterations: int) -> None:
    cost, rows, columns = problem()
    plans = sinkhorn_plan(cost, rows, columns, regularisation=0.1, num_iterations=num_iterations)
    for plan, one_cost, row, column in zip(plans.numpy(), cost.numpy(), rows.numpy(), columns.numpy()):
        # POT scales its columns first and its rows last.
        expected = ot.sinkhorn(
            column, row, one_cost.T, 0.1, method="sinkhorn_log", numItermax=num_iterations, stopThr=0, warn=False
        )
        np.testing.assert_allclose(plan, expected.T, rtol=1e-7)


def test_converged_plans_are_those_of_pot_and_have_both_marginals() -> None:
    cost, rows, columns = problem()
    plans = sinkhorn_plan(cost, rows, columns, regularisation=0.1, num_iterations=2000)
    torch.testing.assert_close(plans.sum(dim=2), rows)
    torch.testing.assert_close(plans.sum(dim=1), columns)
    for plan, one_cost, row, column in zip(plans.numpy(), cost.numpy(), rows.numpy(), columns.numpy()):
        expected = ot.sinkhorn(row, column, one_cost, 0.1, method="sinkhorn_log", numItermax=5000, stopThr=1e-12)
        np.testing.assert_allclose(plan, expected, rtol=1e-7)


def test_columns_are_right_after_one_iteration() -> None:
    cost, rows, columns = problem()
    plans = sinkhorn_plan(cost, rows, columns, regularisation=0.02, num_iterations=1)
    torch.testing.assert_close(plans.sum(dim=1), columns)
    assert not torch.allclose(plans.sum(dim=2), rows)


@pytest.mark.parametrize("regularisation", [0.2, 0.05, 0.01])
def test_the_cost_lies_above_the_least_one_by_no_more_than_the_entropy_can_be_worth(regularisation: float) -> None:
    cost, rows, columns = problem()
    plans = sinkhorn_plan(cost, rows, columns, regularisation=regularisation, num_iterations=5000)
    moved = (plans * cost).sum(dim=(1, 2))
    for found, one_cost, row, column in zip(moved, cost.numpy(), rows.numpy(), columns.numpy()):
        least = ot.emd2(row, column, one_cost)
        # Both plans have an entropy in [0, log(n m)].
        assert least - 1e-9 <= found.item() <= least + regularisation * np.log(one_cost.size)


@pytest.mark.parametrize("seed", [1, 2, 4])  # whose second best assignment costs clearly more
def test_small_regularisation_finds_the_best_assignment_of_equal_weights(seed: int) -> None:
    cost, _, _ = problem(seed, 1, 5, 5)
    equal = torch.full((1, 5), 0.2, dtype=torch.float64)
    plan = sinkhorn_plan(cost, equal, equal, regularisation=0.002, num_iterations=3000)[0]
    rows, columns = linear_sum_assignment(cost[0].numpy())
    expected = torch.zeros(5, 5, dtype=torch.float64)
    expected[rows, columns] = 0.2
    # What is left of other plans at this regularisation.
    torch.testing.assert_close(plan, expected, rtol=0, atol=1e-3)


def test_rows_and_columns_may_be_renumbered() -> None:
    cost, rows, columns = problem()
    generator = torch.Generator().manual_seed(1)
    by_row, by_column = torch.randperm(4, generator=generator), torch.randperm(5, generator=generator)
    plans = sinkhorn_plan(cost, rows, columns, regularisation=0.1, num_iterations=3)
    moved = sinkhorn_plan(
        cost[:, by_row][:, :, by_column],
        rows[:, by_row],
        columns[:, by_column],
        regularisation=0.1,
        num_iterations=3,
    )
    torch.testing.assert_close(moved, plans[:, by_row][:, :, by_column])


def test_a_constant_of_the_cost_changes_nothing_nor_does_its_unit() -> None:
    cost, rows, columns = problem()
    plans = sinkhorn_plan(cost, rows, columns, regularisation=0.1, num_iterations=3)
    lifted = sinkhorn_plan(cost + 5, rows, columns, regularisation=0.1, num_iterations=3)
    torch.testing.assert_close(lifted, plans)
    other_unit = sinkhorn_plan(100 * cost, rows, columns, regularisation=10, num_iterations=3)
    torch.testing.assert_close(other_unit, plans)


def test_each_problem_of_a_batch_is_solved_by_itself() -> None:
    cost, rows, columns = problem()
    plans = sinkhorn_plan(cost, rows, columns, regularisation=0.1, num_iterations=3)
    for index in range(len(plans)):
        one = slice(index, index + 1)
        alone = sinkhorn_plan(cost[one], rows[one], columns[one], regularisation=0.1, num_iterations=3)
        torch.testing.assert_close(plans[one], alone)


def test_positions_without_weight_get_nothing() -> None:
    cost, rows, columns = problem()
    rows[:, 1], columns[:, 2] = 0, 0
    rows, columns = (values / values.sum(dim=1, keepdim=True) for values in (rows, columns))
    plans = sinkhorn_plan(cost, rows, columns, regularisation=0.1, num_iterations=200)
    assert torch.isfinite(plans).all()
    assert plans[:, 1].abs().max() == 0
    assert plans[:, :, 2].abs().max() == 0
    torch.testing.assert_close(plans.sum(dim=2), rows)


@pytest.mark.parametrize("regularisation", [1e-3, 1e-6, 1e-12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tiny_regularisation_stays_finite_and_keeps_the_columns(regularisation: float, dtype: torch.dtype) -> None:
    cost, rows, columns = (values.to(dtype) for values in problem())
    plans = sinkhorn_plan(cost, rows, columns, regularisation=regularisation, num_iterations=20)
    assert plans.dtype == torch.float32
    torch.testing.assert_close(plans.sum(dim=1), columns.float())


def test_the_plan_is_the_gradient_of_the_regularised_cost() -> None:
    cost, rows, columns = problem(num_plans=1, num_rows=2, num_columns=3)

    def regularised(values: torch.Tensor) -> float:
        plan = sinkhorn_plan(values, rows, columns, regularisation=0.3, num_iterations=500)
        return ((plan * values).sum() + 0.3 * (plan * plan.log()).sum()).item()

    plan = sinkhorn_plan(cost, rows, columns, regularisation=0.3, num_iterations=500)
    for index in range(cost.numel()):
        shift = torch.zeros_like(cost).flatten()
        shift[index] = 1e-5
        step = shift.reshape(cost.shape)
        slope = (regularised(cost + step) - regularised(cost - step)) / 2e-5
        assert slope == pytest.approx(plan.flatten()[index].item(), rel=1e-6)


def test_no_gradient_flows_through_a_plan() -> None:
    cost, rows, columns = (values.requires_grad_() for values in problem())
    assert not sinkhorn_plan(cost, rows, columns, regularisation=0.1, num_iterations=3).requires_grad


@pytest.mark.parametrize("regularisation", [0.0, -0.5])
def test_a_regularisation_that_is_not_above_zero_is_refused(regularisation: float) -> None:
    with pytest.raises(ValueError, match=f"regularisation must be above 0, got {regularisation}"):
        sinkhorn_plan(*problem(), regularisation=regularisation, num_iterations=3)


def test_no_iterations_are_refused() -> None:
    with pytest.raises(ValueError, match="needs at least one iteration, got 0"):
        sinkhorn_plan(*problem(), regularisation=0.1, num_iterations=0)
