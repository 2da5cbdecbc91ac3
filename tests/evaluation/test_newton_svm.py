from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.svm import LinearSVC
from torch.testing import assert_close

from orl.evaluation import newton_svm
from orl.evaluation.newton_svm import Fits, fit_eigenbasis, fit_svms


def problems(num_images=80, num_features=12, num_problems=5, seed=0):
    """Return noisy classes, a fraction of the images left out of each, with costs of many sizes."""
    generator = np.random.default_rng(seed)
    features = np.abs(generator.normal(size=(num_images, num_features))) * 0.9 ** np.arange(num_features)
    margins = features[:, :1] - features[:, 1:2] + 0.5 * generator.normal(size=(num_images, num_problems))
    y = np.where(margins > 0.3, 1.0, -1.0)
    kept = generator.random(y.shape) > 0.2
    costs = np.geomspace(0.5**19, 100, num_problems)
    return features, torch.from_numpy(y), torch.from_numpy(np.where(y > 0, 2.0, 1.0) * kept * costs), costs


def gradients(X, y, C, weights):
    objective = weights.square().sum() / 2
    objective = objective + (C * (1 - y * (X @ weights)).clamp_min(0).square()).sum()
    return torch.autograd.grad(objective, weights)[0]


fit_tightly = partial(fit_svms, tol=1e-9)


@pytest.fixture
def tight(monkeypatch):
    monkeypatch.setattr(newton_svm, "CG_TOL", 1e-3)


def test_two_opposite_images_have_the_weights_of_the_closed_form(tight):
    # Images 2 and -2 of labels 1 and -1 with C = 1.5: no bias, and w = 2 * 2 C * 2 * (1 - 2 w), so w = 12 / 25.
    features = np.array([[2.0], [-2.0]])
    eigenbasis = fit_eigenbasis(features)
    y = torch.tensor([[1.0], [-1.0]]).double()
    fits = fit_tightly(eigenbasis.train, y, torch.full((2, 1), 1.5).double())
    assert_close((eigenbasis.basis @ fits.coef)[:, 0], torch.tensor([12 / 25, 0.0]).double())


@pytest.mark.parametrize("num_features", [12, 200])
def test_the_gradient_vanishes_at_the_solution(tight, num_features):
    features, y, C, _ = problems(num_features=num_features)
    projected = fit_eigenbasis(features).train
    fits = fit_tightly(projected, y, C)
    assert fits.converged.all()
    found = gradients(projected.X, y, C, fits.coef.clone().requires_grad_())
    first = gradients(projected.X, y, C, torch.zeros_like(fits.coef).requires_grad_())
    assert (found.norm(dim=0) < 1e-6 * first.norm(dim=0)).all()


@pytest.mark.parametrize("num_features", [12, 200])
def test_weights_and_bias_equal_those_of_liblinear(tight, num_features):
    features, y, C, costs = problems(num_features=num_features)
    eigenbasis = fit_eigenbasis(features)
    weights = eigenbasis.basis @ fit_tightly(eigenbasis.train, y, C).coef
    for index, cost in enumerate(costs):
        kept = (C[:, index] > 0).numpy()
        svm = LinearSVC(C=cost, class_weight={1: 2, -1: 1}, tol=1e-10, max_iter=1_000_000, dual=True, random_state=0)
        svm.fit(features[kept], y[kept, index].numpy())
        assert_allclose(weights[:-1, index], svm.coef_[0], rtol=1e-4, atol=1e-8)
        assert_allclose(weights[-1, index], svm.intercept_[0], rtol=1e-4, atol=1e-8)


def test_scores_are_near_those_of_a_tight_fit():
    features, y, C, _ = problems()
    projected = fit_eigenbasis(features).train
    scores = projected.X @ fit_svms(projected, y, C).coef
    exact = projected.X @ fit_tightly(projected, y, C).coef
    error = (scores - exact).std(dim=0) / exact.std(dim=0)
    assert error.max() < 1e-4
    assert error.max() > 0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**16))
@example(481)
@example(1282)
def test_few_images_and_large_costs_are_solved_as_well(seed):
    """In the hard case a small gradient leaves scores a fifth of their standard deviation from the optimum."""
    features, y, C, costs = problems(num_images=30, num_problems=3, seed=seed)
    assert costs.max() == 100
    projected = fit_eigenbasis(features).train
    scores = fit_svms(projected, y, C).scores
    exact = fit_tightly(projected, y, C).scores
    assert ((scores - exact).std(dim=0) <= 1e-4 * exact.std(dim=0)).all()


@pytest.mark.parametrize("num_features", [12, 200])
def test_both_ways_to_solve_a_newton_step_solve_its_equation(monkeypatch, num_features):
    monkeypatch.setattr(newton_svm, "CG_TOL", 1e-12)
    features, y, C, _ = problems(num_features=num_features)
    projected = fit_eigenbasis(features, dtype=torch.float64).train
    gradient = torch.from_numpy(np.random.default_rng(1).normal(size=(projected.X.shape[1], y.shape[1])))
    diagonal = 1 + projected.X32_squared.T @ C
    for index in range(y.shape[1]):
        hessian = torch.eye(len(gradient)).double() + projected.X.T @ (C[:, [index]] * projected.X)
        expected = torch.linalg.solve(hessian, -gradient[:, index])
        column = C[:, [index]], gradient[:, [index]]
        by_images, by_images_z = newton_svm._solve_by_images(projected, *column)
        others, others_z = newton_svm._solve_by_conjugate_gradients(projected.X32, *column, diagonal[:, [index]])
        assert_close(by_images[:, 0], expected)
        assert_close(others[:, 0], expected, rtol=1e-4, atol=1e-5)
        for step, step_z in ((by_images, by_images_z), (others, others_z)):
            assert_close(step_z, projected.X @ step)


def test_equal_images_at_costs_beyond_float32_are_solved():
    # In float32 the system of twenty equal images is singular: 1 / cost is lost beside 1.
    features = np.repeat(np.eye(2, 3), 10, axis=0)
    projected = fit_eigenbasis(features).train
    y = torch.tensor([1.0] * 10 + [-1.0] * 10).double()[:, None]
    gradient = projected.X.T @ -y
    step, _ = newton_svm._solve_by_images(projected, torch.full((20, 1), 1e9), gradient.float())
    assert torch.isfinite(step).all()
    fits = fit_svms(projected, y, torch.full((20, 1), 0.5e9).double())
    assert fits.converged.all()
    assert_close(fits.scores, y, rtol=1e-3, atol=0)


def test_columns_of_few_and_of_many_images_are_solved_side_by_side(monkeypatch):
    features, y, C, _ = problems(num_images=200, num_features=40)
    projected = fit_eigenbasis(features).train
    y[:20, 2:] = -y[:20, 2:]
    seen = []
    by_images = newton_svm._solve_by_images
    monkeypatch.setattr(newton_svm, "NUM_CG_STEPS_SAVED", 20)
    monkeypatch.setattr(
        newton_svm, "_solve_by_images", lambda *given: seen.append(given[1].shape[1]) or by_images(*given)
    )
    mixed = fit_svms(projected, y, C).scores
    assert any(0 < count < y.shape[1] for count in seen)
    for saved in (0, 1e9):
        monkeypatch.setattr(newton_svm, "NUM_CG_STEPS_SAVED", saved)
        one_way = fit_svms(projected, y, C).scores
        assert ((mixed - one_way).std(dim=0) <= 1e-2 * mixed.std(dim=0)).all()


def test_images_with_a_cost_of_zero_do_not_matter(tight):
    features, y, C, _ = problems()
    kept = torch.arange(80) % 3 > 0
    projected = fit_eigenbasis(features).train
    masked = fit_tightly(projected, torch.where(kept[:, None], y, 0), C * kept[:, None])
    alone = fit_tightly(projected[kept.nonzero()[:, 0]], y[kept], C[kept])
    assert len(projected[kept.nonzero()[:, 0]]) == int(kept.sum())
    assert_close(masked.coef, alone.coef, rtol=1e-6, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 5))
def test_one_batch_equals_one_problem_at_a_time(seed, num_problems):
    features, y, C, _ = problems(num_images=30, num_problems=num_problems, seed=seed)
    projected = fit_eigenbasis(features).train
    with pytest.MonkeyPatch.context() as patch:
        # Where images are few and the cost is 100, fits that stop early differ by much more.
        patch.setattr(newton_svm, "CG_TOL", 1e-3)
        together = projected.X @ fit_tightly(projected, y, C).coef
        for index in range(num_problems):
            alone = fit_tightly(projected, y[:, [index]], C[:, [index]])
            # float32 steps round otherwise in another batch.
            error = (projected.X @ alone.coef)[:, 0] - together[:, index]
            assert error.std() <= 1e-4 * together[:, index].std()


def test_the_start_does_not_change_the_solution(tight):
    features, y, C, _ = problems()
    projected = fit_eigenbasis(features).train
    cold = fit_tightly(projected, y, C)
    start = fit_tightly(projected, y, C / 2)
    unchanged = Fits(coef=start.coef.clone(), scores=start.scores.clone(), converged=start.converged)
    assert_close(fit_tightly(projected, y, C, start).coef, cold.coef, rtol=1e-5, atol=1e-6)
    assert torch.equal(start.coef, unchanged.coef)
    assert torch.equal(start.scores, unchanged.scores)
    assert_close(cold.scores, projected.X @ cold.coef)


def test_from_the_solution_one_step_is_enough(tight):
    features, y, C, _ = problems()
    projected = fit_eigenbasis(features).train
    solved = fit_tightly(projected, y, C)
    assert fit_tightly(projected, y, C, solved, max_iter=1).converged.all()
    assert not fit_tightly(projected, y, C, max_iter=1).converged.any()


def test_only_fits_that_reach_the_limit_are_not_converged():
    features, y, C, _ = problems()
    projected = fit_eigenbasis(features).train
    converged = fit_svms(projected, y, C, max_iter=3).converged.tolist()
    assert converged[0]
    assert not converged[-1]


@pytest.mark.parametrize("shape", [(20, 6), (6, 20)])
def test_the_eigenbasis_keeps_inner_products_and_makes_directions_uncorrelated(shape):
    features = np.random.default_rng(0).normal(size=shape)
    eigenbasis = fit_eigenbasis(features)
    projected = eigenbasis.project(features).X
    constant = np.concatenate([features, np.ones((shape[0], 1))], axis=1)
    assert projected.shape == (shape[0], min(shape[0], shape[1] + 1))
    assert_allclose(projected @ projected.T, constant @ constant.T, atol=1e-10)
    products = projected.T @ projected
    assert_allclose(products, torch.diag(products.diagonal()), atol=1e-10)
    coef = torch.from_numpy(np.random.default_rng(1).normal(size=(projected.shape[1], 2)))
    assert_allclose(eigenbasis.train.X @ coef, projected @ coef, atol=1e-10)
    assert_allclose(eigenbasis.scores(features, coef), projected @ coef, atol=1e-10)
    assert_allclose(constant @ eigenbasis.weights(coef).numpy(), projected @ coef, atol=1e-10)


def test_a_step_that_overshoots_is_halved():
    # z = 0 and both images are within their margin; the step of 8 leads beyond the optimum, where the loss is larger.
    w, z, step = torch.zeros(1, 1), torch.zeros(2, 1), torch.full((1, 1), 8.0)
    y = torch.tensor([[1.0], [-1.0]])
    step_z = torch.tensor([[8.0], [-4.0]])
    length = newton_svm._step_length(w, z, step, step_z, y, torch.ones(2, 1))
    # Gains at 1, 1/2 and so on: 32 - 1, 8 - 1, 2 - 1, 0.5 - 0.5 - 0.375, so the fourth.
    assert length.tolist() == [0.125]
