"""Many linear SVMs with squared hinge loss at once, by truncated Newton steps in the eigenbasis of the features."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

MAX_ITER = 60
"""Newton steps."""
MAX_EXTRA_STEPS = 5
"""Newton steps after a step that changed scores little, while images still enter or leave their margin."""
MAX_CG_STEPS = 150
MAX_HALVINGS = 12
TOL = 5e-3
"""Largest move of the scores by the last Newton step, as a fraction of their standard deviation over the images."""
ROUNDING = 1e-8
"""Move that counts as zero, as a fraction of the scores; needed for equal images, whose scores have no std."""
ROUNDING_FLOAT32, ROUNDING_FLOAT64 = 1e-5, 1e-12
"""Relative rounding error of sums over images, with a margin."""
CG_TOL = 0.1
"""Least gain of a step of conjugate gradients, as a fraction of the mean gain of the steps before."""
ARMIJO = 1e-4
"""Least decrease of the objective by a step, as a fraction of the decrease that the slope predicts."""
NUM_CG_STEPS_SAVED = 20
"""A Newton step is solved by the images within their margin if that costs at most so many conjugate gradient steps."""
MAX_IMAGES = 8192
"""Largest number of images whose Gram matrix is kept, 256 MB."""
SMALLEST_EIGENVALUE = 1e-12
"""Fraction of the largest eigenvalue below which a direction is left out: the images do not differ along it."""
POSITIVE_WEIGHT = 2.0
"""Class weight of a positive image in the VOC07 protocol; a negative one has 1."""


@dataclass(frozen=True, kw_only=True)
class Projected:
    """Features of images along the directions of an `Eigenbasis`."""

    X: Float[Tensor, "n r"]
    """Features in float64: gradients are differences of large numbers where the cost is small."""
    X32: Float[Tensor, "n r"]
    """Features in float32, for the Newton steps; the next step corrects an error in a step."""
    X32_squared: Float[Tensor, "n r"]

    @cached_property
    def gram(self) -> Float[Tensor, "n n"]:
        """Inner products of all images, in the precision of `X32`."""
        return self.X32 @ self.X32.T

    def __getitem__(self, ids: Tensor) -> "Projected":
        return Projected(X=self.X[ids], X32=self.X32[ids], X32_squared=self.X32_squared[ids])

    def __len__(self) -> int:
        return len(self.X)


@dataclass(frozen=True, kw_only=True)
class Eigenbasis:
    """Directions along which the training features, with the constant feature 1 of the bias, are uncorrelated.

    Where there are more features than images, the directions are combinations of the images. They are not formed unless
    `basis` is read: at 5,011 images of 8,192 features each product with them takes as long as ten fits.
    """

    train: Projected
    """Features of the training images along the directions."""
    _factors: tuple[Tensor, ...]
    """Matrices whose product is `basis`."""

    @cached_property
    def basis(self) -> Float[Tensor, "d_plus_1 r"]:
        """The directions, in the space of the features with the constant."""
        return _product(self._factors)

    def weights(self, coef: Float[Tensor, "r p"]) -> Float[Tensor, "d_plus_1 p"]:
        """Convert weights along the directions to weights of the features, with the bias last."""
        return _product((*self._factors, coef))

    def scores(self, features: Float[ndarray, "n d"], coef: Float[Tensor, "r p"]) -> Float[Tensor, "n p"]:
        """Compute the scores of any images by weights along the directions."""
        return _with_constant(features) @ self.weights(coef)

    def project(self, features: Float[ndarray, "n d"]) -> Projected:
        """Project features of any images, with the constant appended, onto the directions."""
        return _projected(_with_constant(features) @ self.basis)


@dataclass(frozen=True, kw_only=True)
class Fits:
    """Fitted linear SVMs, one problem per column."""

    coef: Float[Tensor, "r p"]
    """Weights in the eigenbasis."""
    scores: Float[Tensor, "n p"]
    """Scores of the training images, `X @ coef`."""
    converged: Bool[Tensor, "p"]
    """False where a fit was stopped by `max_iter`."""


def fit_eigenbasis(features: Float[ndarray, "n d"], dtype: torch.dtype = torch.float32) -> Eigenbasis:
    """Compute the eigenvectors of X'X; through XX' where there are more features than images.

    A rotation does not change an SVM: the length of the weights does not change, and directions without any image
    get no weight. But along eigenvectors the Hessian is nearly diagonal, so that conjugate gradients need few steps.

    Args:
        features: of the training images, scaled as the SVM uses them.
        dtype: precision of `Projected.X32`, other than float32 in tests only.
    """
    X = _with_constant(features)
    is_wide = X.shape[1] > X.shape[0]
    eigenvalues, vectors = torch.linalg.eigh(X @ X.T if is_wide else X.T @ X)
    kept = eigenvalues > SMALLEST_EIGENVALUE * eigenvalues[-1]
    vectors, lengths = vectors[:, kept], eigenvalues[kept].sqrt()
    if is_wide:
        return Eigenbasis(train=_projected(vectors * lengths, dtype), _factors=(X.T, vectors / lengths))
    return Eigenbasis(train=_projected(X @ vectors, dtype), _factors=(vectors,))


def _product(matrices: Sequence[Tensor]) -> Tensor:
    # From the right: weights of problems have few columns.
    return functools.reduce(lambda product, left: left @ product, reversed(matrices))


def _projected(X: Float[Tensor, "n r"], dtype: torch.dtype = torch.float32) -> Projected:
    X32 = X.to(dtype)
    return Projected(X=X, X32=X32, X32_squared=X32.square())


def _with_constant(features: Float[ndarray, "n d"]) -> Float[Tensor, "n d_plus_1"]:
    X = torch.from_numpy(features).double()
    return torch.cat([X, X.new_ones(len(X), 1)], dim=1)


def class_weights(y: Float[Tensor, "n p"], positive_weight: float = POSITIVE_WEIGHT) -> Float[Tensor, "n p"]:
    """Return the weight of each image for each class: 0 for an ignored one, whose label is 0."""
    return torch.where(y > 0, positive_weight, torch.where(y < 0, 1.0, 0.0)).to(y)


def fit_svms(
    projected: Projected,
    y: Float[Tensor, "n p"],
    C: Float[Tensor, "n p"],
    start: Fits | None = None,
    *,
    tol: float = TOL,
    max_iter: int = MAX_ITER,
) -> Fits:
    """Minimise |w|^2 / 2 + sum of C * max(0, 1 - y X w)^2 over w, for every column of y and C.

    With C times the class weight of an image this is LIBLINEAR's problem; a C of 0 leaves an image out.

    Both stopping rules measure the progress of the steps, not the gradient. With few images and a large C, scores can
    be far from the optimum though the gradient is small.

    Args:
        projected: training features along any directions; in the eigenbasis the fit is fast.
        y: 1 or -1; any other value where C is 0.
        C: cost of each image in each problem, 0 or more.
        start: fits on the same features to start from, such as those at a smaller cost.
        tol: largest move of the scores by the last step, as a fraction of their standard deviation.
        max_iter: Newton steps.

    Source:
        Truncated Newton for squared hinge loss: Keerthi and DeCoste, JMLR 6 (2005); Lin, Weng and Keerthi, JMLR 9
        (2008). When conjugate gradients end: Nash and Sofer, Operations Research Letters 9 (1990). The problem:
        LIBLINEAR (Fan et al., JMLR 9, 2008), L2-regularised L2-loss.
    """
    # The derivative of C * hinge^2 has a factor of 2, which half the square of `hinge_cost` gives as well.
    hinge_cost = 2 * C
    if start is None:
        coef, scores = (projected.X.new_zeros(length, y.shape[1]) for length in projected.X.T.shape)
    else:
        coef, scores = start.coef.clone(), start.scores.clone()
    open_ids = torch.arange(y.shape[1], device=y.device)
    variances = projected.X32.var(dim=0, correction=0)[:, None]
    moved = torch.full_like(coef[0], torch.inf)
    was_within = torch.zeros_like(scores, dtype=torch.bool)
    num_extra = torch.zeros_like(moved)
    for num_steps in range(max_iter + 1):
        w, signs, cost, z = coef[:, open_ids], y[:, open_ids], hinge_cost[:, open_ids], scores[:, open_ids]
        is_within = signs * z < 1
        curvature = cost * is_within
        gradient = w + projected.X.T @ (curvature * (z - signs))
        diagonal = 1 + projected.X32_squared.T @ curvature.to(projected.X32_squared)
        rounding = ROUNDING**2 * z.square().mean(0)
        has_gradient = (variances * (gradient / diagonal).square()).sum(0) > rounding
        is_moving = moved[open_ids] > tol**2 * z.var(0, correction=0) + rounding
        # An exact step is the last where it leaves the same images within their margin; else the next may be long.
        # At costs near float32's limits rounding alone moves images in and out, so that such steps are counted.
        may_move = (is_within != was_within[:, open_ids]).any(0) & _is_solved_by_images(projected, curvature)
        num_extra[open_ids] += may_move & ~is_moving
        is_moving |= may_move & (num_extra[open_ids] <= MAX_EXTRA_STEPS)
        was_within[:, open_ids] = is_within
        going = (has_gradient & is_moving).nonzero()[:, 0]
        open_ids = open_ids[going]
        if not len(open_ids) or num_steps == max_iter:
            break
        w, signs, cost, z, curvature, gradient, diagonal = (
            each[:, going] for each in (w, signs, cost, z, curvature, gradient, diagonal)
        )
        step, step_z = _newton_step(projected, curvature.to(projected.X32), gradient.to(projected.X32), diagonal)
        length = _step_length(w, z, step, step_z, signs, cost)
        coef[:, open_ids] = w + step * length
        # Accurate enough to find the next step; the final scores are computed from the weights.
        scores[:, open_ids] = z + step_z * length
        moved[open_ids] = step_z.var(0, correction=0).to(moved)
    converged = torch.ones(y.shape[1], dtype=torch.bool, device=y.device)
    converged[open_ids] = False
    return Fits(coef=coef, scores=projected.X @ coef, converged=converged)


def _newton_step(
    projected: Projected,
    curvature: Float[Tensor, "n p"],
    gradient: Float[Tensor, "r p"],
    diagonal: Float[Tensor, "r p"],
) -> tuple[Float[Tensor, "r p"], Float[Tensor, "n p"]]:
    """Solve (1 + X' curvature X) step = -gradient, and return the step and X step.

    Where few images are within their margin, a system with one equation per image is smaller and is solved exactly.
    Conjugate gradients are slow in these problems.
    """
    is_small = _is_solved_by_images(projected, curvature)
    if not is_small.any():
        return _solve_by_conjugate_gradients(projected.X32, curvature, gradient, diagonal)
    if is_small.all():
        return _solve_by_images(projected, curvature, gradient)
    step, step_z = torch.empty_like(gradient), torch.empty_like(curvature)
    small, large = (ids.nonzero()[:, 0] for ids in (is_small, ~is_small))
    step[:, small], step_z[:, small] = _solve_by_images(projected, curvature[:, small], gradient[:, small])
    step[:, large], step_z[:, large] = _solve_by_conjugate_gradients(
        projected.X32, curvature[:, large], gradient[:, large], diagonal[:, large]
    )
    return step, step_z


def _is_solved_by_images(projected: Projected, curvature: Float[Tensor, "n p"]) -> Bool[Tensor, "p"]:
    """Return whether one equation per image within its margin costs less than conjugate gradients."""
    # Cholesky costs a third of the cube; a step of conjugate gradients multiplies by all features twice.
    is_small = (curvature > 0).sum(0) ** 3 / 3 <= NUM_CG_STEPS_SAVED * 4 * projected.X32.numel()
    return is_small & (len(projected) <= MAX_IMAGES)


def _solve_by_images(
    projected: Projected, curvature: Float[Tensor, "n p"], gradient: Float[Tensor, "r p"]
) -> tuple[Float[Tensor, "r p"], Float[Tensor, "n p"]]:
    """Compute step = -gradient + A' u, where (1 / D + A A') u = A gradient (Woodbury).

    A are the images within their margin and D is their curvature.
    """
    right_side = projected.X32 @ gradient
    solution = torch.zeros_like(curvature)
    ill_conditioned = []
    for column in range(curvature.shape[1]):
        own = curvature[:, column].nonzero()[:, 0]
        # By rows, then by columns: less than half the time of both at once.
        system = projected.gram.index_select(0, own).index_select(1, own)
        reciprocals = 1 / curvature[own, column]
        is_lost = (reciprocals < ROUNDING_FLOAT32 * system.diagonal()).any()
        system.diagonal().add_(reciprocals)
        factor, failed = torch.linalg.cholesky_ex(system)
        if is_lost or failed:
            ill_conditioned.append(column)
        else:
            solution[own, column] = torch.cholesky_solve(right_side[own, column, None], factor)[:, 0]
    step = projected.X32.T @ solution - gradient
    for column in ill_conditioned:
        step[:, column] = _solve_by_images_float64(projected, curvature[:, column], gradient[:, column])
    return step, projected.X32 @ step


def _solve_by_images_float64(
    projected: Projected, curvature: Float[Tensor, "n"], gradient: Float[Tensor, "r"]
) -> Float[Tensor, "r"]:
    """Solve one column of `_solve_by_images` at a cost so large that its two terms cancel in float32."""
    own = curvature.nonzero()[:, 0]
    images, slope = projected.X[own], gradient.double()
    system = images @ images.T
    system.diagonal().mul_(1 + ROUNDING_FLOAT64).add_(1 / curvature[own].double())
    solution = torch.cholesky_solve((images @ slope)[:, None], torch.linalg.cholesky(system))[:, 0]
    return (images.T @ solution - slope).to(gradient)


def _solve_by_conjugate_gradients(
    X: Float[Tensor, "n r"],
    curvature: Float[Tensor, "n p"],
    gradient: Float[Tensor, "r p"],
    diagonal: Float[Tensor, "r p"],
) -> tuple[Float[Tensor, "r p"], Float[Tensor, "n p"]]:
    step, step_z = torch.zeros_like(gradient), torch.zeros_like(curvature)
    ids = torch.arange(gradient.shape[1], device=X.device)
    residual = -gradient
    direction = residual / diagonal
    energy = (residual * direction).sum(0)
    total_gain = torch.zeros_like(energy)
    for num_steps in range(1, MAX_CG_STEPS + 1):
        direction_z = X @ direction
        image = direction + X.T @ (curvature * direction_z)
        length = energy / (direction * image).sum(0)
        step[:, ids] += length * direction
        step_z[:, ids] += length * direction_z
        residual = residual - length * image
        scaled = residual / diagonal
        previous_energy, energy = energy, (residual * scaled).sum(0)
        gain = length * previous_energy
        total_gain = total_gain + gain
        direction = scaled + energy / previous_energy * direction
        going = ((gain * num_steps > CG_TOL * total_gain) & (energy > 0)).nonzero()[:, 0]
        if not len(going):
            break
        if len(going) < len(ids):
            ids, energy, total_gain = ids[going], energy[going], total_gain[going]
            direction, residual, diagonal, curvature = (
                each[:, going] for each in (direction, residual, diagonal, curvature)
            )
    return step, step_z


def _step_length(
    w: Float[Tensor, "r p"],
    z: Float[Tensor, "n p"],
    step: Float[Tensor, "r p"],
    step_z: Float[Tensor, "n p"],
    y: Float[Tensor, "n p"],
    hinge_cost: Float[Tensor, "n p"],
) -> Float[Tensor, "p"]:
    """Return the first of 1, 1/2, 1/4, ... that decreases the objective enough (Armijo's rule)."""
    w_step, step_step = (w * step).sum(0), step.square().sum(0)
    hinge = (1 - y * z).clamp_min(0)
    slope = w_step - (hinge_cost * hinge * y * step_z).sum(0)
    length = torch.ones_like(slope)
    for _ in range(MAX_HALVINGS):
        new_hinge = (1 - y * (z + length * step_z)).clamp_min(0)
        gain = length * w_step + length.square() * step_step / 2
        gain = gain + (hinge_cost * (new_hinge - hinge) * (new_hinge + hinge)).sum(0) / 2
        too_long = gain > ARMIJO * length * slope
        if not too_long.any():
            break
        length = torch.where(too_long, length / 2, length)
    return length
