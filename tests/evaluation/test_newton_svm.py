import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.svm import LinearSVC
from torch.testing import assert_close

from orl.evaluation import newton_svm as squared_hinge
from orl.evaluation.newton_svm import Fits, find_rotation, fit_squared_hinge


def problems(num_images=80, num_features=12, num_problems=5, seed=0):
    """Noisy classes, a share of the images left out of each; penalties of many sizes."""
    generator = np.random.default_rng(seed)
    features = np.abs(generator.normal(size=(num_images, num_features))) * 0.9 ** np.arange(num_features)
    margins = features[:, :1] - features[:, 1:2] + 0.5 * generator.normal(size=(num_images, num_problems))
    signs = np.where(margins > 0.3, 1.0, -1.0)
    kept = generator.random(signs.shape) > 0.2
    costs = np.geomspace(0.5**19, 100, num_problems)
    return features, torch.from_numpy(signs), torch.from_numpy(2 * np.where(signs > 0, 2.0, 1.0) * kept * costs), costs


def gradients(rows, signs, penalties, weights):
    objective = weights.square().sum() / 2
    objective = objective + (penalties * (1 - signs * (rows @ weights)).clamp_min(0).square()).sum() / 2
    return torch.autograd.grad(objective, weights)[0]


@pytest.fixture
def tight(monkeypatch):
    monkeypatch.setattr(squared_hinge, "TOLERANCE", 1e-9)
    monkeypatch.setattr(squared_hinge, "CG_TOLERANCE", 1e-3)


def test_two_opposite_images_have_the_weights_of_the_closed_form(tight):
    # Images 2 and -2 of labels 1 and -1 with penalty 3: no bias, and w = 2 * 3 * 2 * (1 - 2 w), so w = 12 / 25.
    features = np.array([[2.0], [-2.0]])
    rotation = find_rotation(features)
    signs = torch.tensor([[1.0], [-1.0]]).double()
    fits = fit_squared_hinge(rotation.rows(features), signs, torch.full((2, 1), 3.0).double())
    assert_close((rotation.basis @ fits.weights)[:, 0], torch.tensor([12 / 25, 0.0]).double())


@pytest.mark.parametrize("num_features", [12, 200])
def test_the_gradient_vanishes_at_the_solution(tight, num_features):
    features, signs, penalties, _ = problems(num_features=num_features)
    rows = find_rotation(features).rows(features)
    fits = fit_squared_hinge(rows, signs, penalties)
    assert fits.converged.all()
    found = gradients(rows.exact, signs, penalties, fits.weights.clone().requires_grad_())
    first = gradients(rows.exact, signs, penalties, torch.zeros_like(fits.weights).requires_grad_())
    assert (found.norm(dim=0) < 1e-6 * first.norm(dim=0)).all()


@pytest.mark.parametrize("num_features", [12, 200])
def test_weights_and_bias_equal_those_of_liblinear(tight, num_features):
    features, signs, penalties, costs = problems(num_features=num_features)
    rotation = find_rotation(features)
    weights = rotation.basis @ fit_squared_hinge(rotation.rows(features), signs, penalties).weights
    for index, cost in enumerate(costs):
        kept = (penalties[:, index] > 0).numpy()
        svm = LinearSVC(C=cost, class_weight={1: 2, -1: 1}, tol=1e-10, max_iter=1_000_000, dual=True, random_state=0)
        svm.fit(features[kept], signs[kept, index].numpy())
        assert_allclose(weights[:-1, index], svm.coef_[0], rtol=1e-4, atol=1e-8)
        assert_allclose(weights[-1, index], svm.intercept_[0], rtol=1e-4, atol=1e-8)


def test_scores_are_near_those_of_a_tight_fit(monkeypatch):
    features, signs, penalties, _ = problems()
    rows = find_rotation(features).rows(features)
    scores = rows.exact @ fit_squared_hinge(rows, signs, penalties).weights
    monkeypatch.setattr(squared_hinge, "TOLERANCE", 1e-9)
    exact = rows.exact @ fit_squared_hinge(rows, signs, penalties).weights
    error = (scores - exact).std(dim=0) / exact.std(dim=0)
    assert error.max() < 1e-4
    assert error.max() > 0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**16))
@example(481)
@example(1282)
def test_few_images_and_large_costs_are_solved_as_well(seed):
    """The hard case: a small gradient leaves scores by a fifth of their deviation from where they belong."""
    features, signs, penalties, costs = problems(num_images=30, num_problems=3, seed=seed)
    assert costs.max() == 100
    rows = find_rotation(features).rows(features)
    scores = fit_squared_hinge(rows, signs, penalties).scores
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(squared_hinge, "TOLERANCE", 1e-9)
        exact = fit_squared_hinge(rows, signs, penalties).scores
    assert ((scores - exact).std(dim=0) <= 1e-4 * exact.std(dim=0)).all()


@pytest.mark.parametrize("num_features", [12, 200])
def test_a_newton_step_by_images_is_that_by_conjugate_gradients_and_solves_its_equation(monkeypatch, num_features):
    monkeypatch.setattr(squared_hinge, "CG_TOLERANCE", 1e-12)
    features, signs, penalties, _ = problems(num_features=num_features)
    rows = find_rotation(features).rows(features, quick_dtype=torch.float64)
    gradient = torch.from_numpy(np.random.default_rng(1).normal(size=(rows.exact.shape[1], signs.shape[1])))
    diagonal = 1 + rows.squares.T @ penalties
    for index in range(signs.shape[1]):
        hessian = torch.eye(len(gradient)).double() + rows.exact.T @ (penalties[:, [index]] * rows.exact)
        expected = torch.linalg.solve(hessian, -gradient[:, index])
        column = penalties[:, [index]], gradient[:, [index]]
        by_images, by_images_z = squared_hinge._by_images(rows, *column)
        others, others_z = squared_hinge._by_conjugate_gradients(rows.quick, *column, diagonal[:, [index]])
        assert_close(by_images[:, 0], expected)
        assert_close(others[:, 0], expected, rtol=1e-4, atol=1e-5)
        for step, step_z in ((by_images, by_images_z), (others, others_z)):
            assert_close(step_z, rows.exact @ step)


def test_images_that_are_alike_and_penalties_beyond_float32_are_solved(monkeypatch):
    # In float32 the system of twenty images that are one is singular: 1 / penalty does not show beside 1.
    features = np.repeat(np.eye(2, 3), 10, axis=0)
    rows = find_rotation(features).rows(features)
    signs = torch.tensor([1.0] * 10 + [-1.0] * 10).double()[:, None]
    gradient = rows.exact.T @ -signs
    step, _ = squared_hinge._by_images(rows, torch.full((20, 1), 1e9), gradient.float())
    assert torch.isfinite(step).all()
    fits = fit_squared_hinge(rows, signs, torch.full((20, 1), 1e9).double())
    assert fits.converged.all()
    assert_close(fits.scores, signs, rtol=1e-3, atol=0)


def test_columns_of_few_and_of_many_images_are_solved_side_by_side(monkeypatch):
    features, signs, penalties, _ = problems(num_images=200, num_features=40)
    rows = find_rotation(features).rows(features)
    signs[:20, 2:] = -signs[:20, 2:]
    seen = []
    by_images = squared_hinge._by_images
    monkeypatch.setattr(squared_hinge, "NUM_SAVED", 20)
    monkeypatch.setattr(squared_hinge, "_by_images", lambda *given: seen.append(given[1].shape[1]) or by_images(*given))
    mixed = fit_squared_hinge(rows, signs, penalties).scores
    assert any(0 < count < signs.shape[1] for count in seen)
    for saved in (0, 1e9):
        monkeypatch.setattr(squared_hinge, "NUM_SAVED", saved)
        one_way = fit_squared_hinge(rows, signs, penalties).scores
        assert ((mixed - one_way).std(dim=0) <= 1e-2 * mixed.std(dim=0)).all()


def test_images_without_penalty_do_not_matter(tight):
    features, signs, penalties, _ = problems()
    kept = torch.arange(80) % 3 > 0
    rows = find_rotation(features).rows(features)
    masked = fit_squared_hinge(rows, torch.where(kept[:, None], signs, 0), penalties * kept[:, None])
    alone = fit_squared_hinge(rows[kept.nonzero()[:, 0]], signs[kept], penalties[kept])
    assert len(rows[kept.nonzero()[:, 0]]) == int(kept.sum())
    assert_close(masked.weights, alone.weights, rtol=1e-6, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 5))
def test_one_batch_equals_one_problem_at_a_time(seed, num_problems):
    features, signs, penalties, _ = problems(num_images=30, num_problems=num_problems, seed=seed)
    rows = find_rotation(features).rows(features)
    with pytest.MonkeyPatch.context() as patch:
        # To the end: where images are few and the cost is 100, fits that stop early stop apart by much more.
        patch.setattr(squared_hinge, "TOLERANCE", 1e-9)
        patch.setattr(squared_hinge, "CG_TOLERANCE", 1e-3)
        together = rows.exact @ fit_squared_hinge(rows, signs, penalties).weights
        for index in range(num_problems):
            alone = fit_squared_hinge(rows, signs[:, [index]], penalties[:, [index]])
            # float32 steps round otherwise in another batch.
            error = (rows.exact @ alone.weights)[:, 0] - together[:, index]
            assert error.std() <= 1e-4 * together[:, index].std()


def test_a_start_changes_the_way_and_not_the_end(tight):
    features, signs, penalties, _ = problems()
    rows = find_rotation(features).rows(features)
    cold = fit_squared_hinge(rows, signs, penalties)
    start = fit_squared_hinge(rows, signs, penalties / 2)
    unchanged = Fits(weights=start.weights.clone(), scores=start.scores.clone(), converged=start.converged)
    assert_close(fit_squared_hinge(rows, signs, penalties, start).weights, cold.weights, rtol=1e-5, atol=1e-6)
    assert torch.equal(start.weights, unchanged.weights)
    assert torch.equal(start.scores, unchanged.scores)
    assert_close(cold.scores, rows.exact @ cold.weights)


def test_from_the_solution_one_step_is_enough(tight, monkeypatch):
    features, signs, penalties, _ = problems()
    rows = find_rotation(features).rows(features)
    solved = fit_squared_hinge(rows, signs, penalties)
    monkeypatch.setattr(squared_hinge, "MAX_NEWTON_STEPS", 1)
    assert fit_squared_hinge(rows, signs, penalties, solved).converged.all()
    assert not fit_squared_hinge(rows, signs, penalties).converged.any()


def test_fits_that_reach_the_limit_say_so_and_others_do_not(monkeypatch):
    monkeypatch.setattr(squared_hinge, "MAX_NEWTON_STEPS", 3)
    features, signs, penalties, _ = problems()
    rows = find_rotation(features).rows(features)
    converged = fit_squared_hinge(rows, signs, penalties).converged.tolist()
    assert converged[0]
    assert not converged[-1]


@pytest.mark.parametrize("shape", [(20, 6), (6, 20)])
def test_a_rotation_keeps_products_and_makes_directions_uncorrelated(shape):
    features = np.random.default_rng(0).normal(size=shape)
    rotation = find_rotation(features)
    rows = rotation.rows(features).exact
    constant = np.concatenate([features, np.ones((shape[0], 1))], axis=1)
    assert rows.shape == (shape[0], min(shape[0], shape[1] + 1))
    assert_allclose(rows @ rows.T, constant @ constant.T, atol=1e-10)
    products = rows.T @ rows
    assert_allclose(products, torch.diag(products.diagonal()), atol=1e-10)


def test_a_step_that_overshoots_is_halved():
    # z = 0 and both images active; the step of 8 leads beyond the optimum, where the squares are larger than before.
    w, z, step = torch.zeros(1, 1), torch.zeros(2, 1), torch.full((1, 1), 8.0)
    signs = torch.tensor([[1.0], [-1.0]])
    step_z = torch.tensor([[8.0], [-4.0]])
    length = squared_hinge._step_length(w, z, step, step_z, signs, torch.ones(2, 1))
    # Gains at 1, 1/2 and so on: 32 - 1, 8 - 1, 2 - 1, 0.5 - 0.5 - 0.375, so the fourth.
    assert length.tolist() == [0.125]
