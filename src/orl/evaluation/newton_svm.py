"""Many linear SVMs of squared hinge loss at once: truncated Newton steps along the eigenvectors of the features."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

MAX_NEWTON_STEPS = 60
MAX_MORE_STEPS = 5
"""After one that moved scores by little, while images still come within their margin or leave it."""
MAX_CG_STEPS = 150
MAX_HALVINGS = 12
TOLERANCE = 5e-3
"""How far the last Newton step may move the scores, as a share of their standard deviation over the images."""
ROUNDING = 1e-8
"""Move that counts as none, as a share of the scores: those of equal images have no deviation."""
ROUNDING_QUICK, ROUNDING_EXACT = 1e-5, 1e-12
"""What is lost beside 1 in float32 and in float64, with room for sums over images."""
CG_TOLERANCE = 0.1
"""What a step of conjugate gradients must gain at least, as a share of the mean gain of those before."""
ARMIJO = 1e-4
"""Share of the fall foretold by the slope that a step must reach."""
NUM_SAVED = 20
"""A Newton step is solved by the images within their margin if that costs no more than so many conjugate gradients."""
MAX_IMAGES = 8192
"""Up to so many images have the products of each with each kept, 256 MB of them."""
SMALLEST_EIGENVALUE = 1e-12
"""Times the largest: directions below it, along which the images do not differ, are left out."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Images along the directions of a `Rotation`."""

    exact: Float[Tensor, "n r"]
    """float64: gradients are differences of large numbers where the cost is small."""
    quick: Float[Tensor, "n r"]
    """What Newton steps are computed from; an error in a step is made good by the next."""
    squares: Float[Tensor, "n r"]
    """Of `quick`."""

    @cached_property
    def products(self) -> Float[Tensor, "n n"]:
        """Of every image with every other, in the precision of `quick`."""
        return self.quick @ self.quick.T

    def __getitem__(self, ids: Tensor) -> "Rows":
        return Rows(exact=self.exact[ids], quick=self.quick[ids], squares=self.squares[ids])

    def __len__(self) -> int:
        return len(self.exact)


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """Directions that are uncorrelated over the training images, the constant feature 1 of the bias among them."""

    basis: Float[Tensor, "d_plus_1 r"]

    def rows(self, features: Float[ndarray, "n d"], quick_dtype: torch.dtype = torch.float32) -> Rows:
        """The features, with the constant, along these directions."""
        exact = _with_constant(features, self.basis.device) @ self.basis
        quick = exact.to(quick_dtype)
        return Rows(exact=exact, quick=quick, squares=quick.square())


@dataclass(frozen=True, kw_only=True)
class Fits:
    """Linear SVMs of several problems, one a column."""

    weights: Float[Tensor, "r p"]
    """Along the directions of the rows that they were fitted on."""
    scores: Float[Tensor, "n p"]
    """Of those rows: `rows.exact @ weights`."""
    converged: Bool[Tensor, "p"]
    """False where a fit was stopped by the limit on steps."""


def find_rotation(features: Float[ndarray, "n d"], device: torch.device | str = "cpu") -> Rotation:
    """Eigenvectors of X'X, or by XX' where there are more features than images, which is the smaller problem.

    A rotation leaves an SVM as it is: the length of the weights does not change, and directions without any image
    get no weight. But along eigenvectors the Hessian is nearly diagonal, so that conjugate gradients need few steps.

    Args:
        features: of the training images, as the SVM shall see them.
        device: where the SVMs will be computed.
    """
    rows = _with_constant(features, device)
    wide = rows.shape[1] > rows.shape[0]
    eigenvalues, vectors = torch.linalg.eigh(rows @ rows.T if wide else rows.T @ rows)
    kept = eigenvalues > SMALLEST_EIGENVALUE * eigenvalues[-1]
    if wide:
        return Rotation(basis=rows.T @ (vectors[:, kept] / eigenvalues[kept].sqrt()))
    return Rotation(basis=vectors[:, kept])


def _with_constant(features: Float[ndarray, "n d"], device: torch.device | str) -> Float[Tensor, "n d_plus_1"]:
    rows = torch.from_numpy(features).to(device, torch.float64)
    return torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)


def fit_squared_hinge(
    rows: Rows,
    signs: Float[Tensor, "n p"],
    penalties: Float[Tensor, "n p"],
    start: Fits | None = None,
) -> Fits:
    """Minimise |w|^2 / 2 + sum of penalty * max(0, 1 - sign * row.w)^2 / 2 over w, for every column.

    With penalties of 2 * C * class weight this is LIBLINEAR's problem; a penalty of 0 leaves an image out.

    Both rules for stopping look at what steps achieve, not at the gradient: where images are few and penalties large, a
    small gradient leaves scores far from where they belong.

    Args:
        rows: along any directions; along those of `find_rotation` it is fast.
        signs: 1 or -1; any other where the penalty is 0.
        penalties: 0 or more.
        start: fits on the same rows to start from, such as those at a smaller cost.

    Source:
        Truncated Newton for squared hinge loss: Keerthi and DeCoste, JMLR 6 (2005); Lin, Weng and Keerthi, JMLR 9
        (2008). When conjugate gradients end: Nash and Sofer, Operations Research Letters 9 (1990). The problem:
        LIBLINEAR (Fan et al., JMLR 9, 2008), L2-regularised L2-loss.
    """
    if start is None:
        weights, scores = (rows.exact.new_zeros(length, signs.shape[1]) for length in rows.exact.T.shape)
    else:
        weights, scores = start.weights.clone(), start.scores.clone()
    open_ids = torch.arange(signs.shape[1], device=signs.device)
    spread = rows.quick.var(dim=0, correction=0)[:, None]
    moved = torch.full_like(weights[0], torch.inf)
    before = torch.zeros_like(scores, dtype=torch.bool)
    num_more = torch.zeros_like(moved)
    for steps_done in range(MAX_NEWTON_STEPS + 1):
        w, y, penalty, z = weights[:, open_ids], signs[:, open_ids], penalties[:, open_ids], scores[:, open_ids]
        within = y * z < 1
        curvature = penalty * within
        gradient = w + rows.exact.T @ (curvature * (z - y))
        diagonal = 1 + rows.squares.T @ curvature.to(rows.squares)
        nothing = ROUNDING**2 * z.square().mean(0)
        has_gradient = (spread * (gradient / diagonal).square()).sum(0) > nothing
        is_moving = moved[open_ids] > TOLERANCE**2 * z.var(0, correction=0) + nothing
        # An exact step is the last where it leaves the same images within their margin; else the next may be long.
        # Of penalties near float32's limits rounding alone moves images in and out, so that such steps are counted.
        may_move = (within != before[:, open_ids]).any(0) & _is_by_images(rows, curvature)
        num_more[open_ids] += may_move & ~is_moving
        is_moving |= may_move & (num_more[open_ids] <= MAX_MORE_STEPS)
        before[:, open_ids] = within
        going = (has_gradient & is_moving).nonzero()[:, 0]
        open_ids = open_ids[going]
        if not len(open_ids) or steps_done == MAX_NEWTON_STEPS:
            break
        w, y, penalty, z, curvature, gradient, diagonal = (
            each[:, going] for each in (w, y, penalty, z, curvature, gradient, diagonal)
        )
        step, step_z = _newton_step(rows, curvature.to(rows.quick), gradient.to(rows.quick), diagonal)
        length = _step_length(w, z, step, step_z, y, penalty)
        weights[:, open_ids] = w + step * length
        # Near enough to find the next step from; in the end scores are computed from the weights.
        scores[:, open_ids] = z + step_z * length
        moved[open_ids] = step_z.var(0, correction=0).to(moved)
    converged = torch.ones(signs.shape[1], dtype=torch.bool, device=signs.device)
    converged[open_ids] = False
    return Fits(weights=weights, scores=rows.exact @ weights, converged=converged)


def _newton_step(
    rows: Rows,
    curvature: Float[Tensor, "n p"],
    gradient: Float[Tensor, "r p"],
    diagonal: Float[Tensor, "r p"],
) -> tuple[Float[Tensor, "r p"], Float[Tensor, "n p"]]:
    """Solve (1 + X' curvature X) step = -gradient, and multiply X step on the way.

    Where few images are within their margin there are fewer unknowns in one equation an image, and those are solved
    exactly: just there conjugate gradients are slow.
    """
    is_small = _is_by_images(rows, curvature)
    if not is_small.any():
        return _by_conjugate_gradients(rows.quick, curvature, gradient, diagonal)
    if is_small.all():
        return _by_images(rows, curvature, gradient)
    step, step_z = torch.empty_like(gradient), torch.empty_like(curvature)
    small, large = (ids.nonzero()[:, 0] for ids in (is_small, ~is_small))
    step[:, small], step_z[:, small] = _by_images(rows, curvature[:, small], gradient[:, small])
    step[:, large], step_z[:, large] = _by_conjugate_gradients(
        rows.quick, curvature[:, large], gradient[:, large], diagonal[:, large]
    )
    return step, step_z


def _is_by_images(rows: Rows, curvature: Float[Tensor, "n p"]) -> Bool[Tensor, "p"]:
    """Whether so few images are within their margin that one equation each costs less than conjugate gradients."""
    # By Cholesky that is a third of the cube; a conjugate gradient multiplies by all rows twice.
    is_small = (curvature > 0).sum(0) ** 3 / 3 <= NUM_SAVED * 4 * rows.quick.numel()
    return is_small & (len(rows) <= MAX_IMAGES)


def _by_images(
    rows: Rows, curvature: Float[Tensor, "n p"], gradient: Float[Tensor, "r p"]
) -> tuple[Float[Tensor, "r p"], Float[Tensor, "n p"]]:
    """With images A of curvature D: step = -gradient + A' u, where (1 / D + A A') u = A gradient (Woodbury)."""
    projected = rows.quick @ gradient
    fractions = torch.zeros_like(curvature)
    wide = []
    for column in range(curvature.shape[1]):
        own = curvature[:, column].nonzero()[:, 0]
        # By rows, then by columns: less than half the time of both at once.
        system = rows.products.index_select(0, own).index_select(1, own)
        reciprocals = 1 / curvature[own, column]
        is_beyond = (reciprocals < ROUNDING_QUICK * system.diagonal()).any()
        system.diagonal().add_(reciprocals)
        factor, failed = torch.linalg.cholesky_ex(system)
        if is_beyond or failed:
            wide.append(column)
        else:
            fractions[own, column] = torch.cholesky_solve(projected[own, column, None], factor)[:, 0]
    step = rows.quick.T @ fractions - gradient
    for column in wide:
        step[:, column] = _by_images_exactly(rows, curvature[:, column], gradient[:, column])
    return step, rows.quick @ step


def _by_images_exactly(rows: Rows, curvature: Float[Tensor, "n"], gradient: Float[Tensor, "r"]) -> Float[Tensor, "r"]:
    """One column of `_by_images` in float64, for penalties so large that its two terms cancel in float32."""
    own = curvature.nonzero()[:, 0]
    images, slope = rows.exact[own], gradient.double()
    system = images @ images.T
    system.diagonal().mul_(1 + ROUNDING_EXACT).add_(1 / curvature[own].double())
    fractions = torch.cholesky_solve((images @ slope)[:, None], torch.linalg.cholesky(system))[:, 0]
    return (images.T @ fractions - slope).to(gradient)


def _by_conjugate_gradients(
    rows: Float[Tensor, "n r"],
    curvature: Float[Tensor, "n p"],
    gradient: Float[Tensor, "r p"],
    diagonal: Float[Tensor, "r p"],
) -> tuple[Float[Tensor, "r p"], Float[Tensor, "n p"]]:
    step, step_z = torch.zeros_like(gradient), torch.zeros_like(curvature)
    ids = torch.arange(gradient.shape[1], device=rows.device)
    residual = -gradient
    direction = residual / diagonal
    energy = (residual * direction).sum(0)
    gained = torch.zeros_like(energy)
    for steps_done in range(1, MAX_CG_STEPS + 1):
        direction_z = rows @ direction
        image = direction + rows.T @ (curvature * direction_z)
        length = energy / (direction * image).sum(0)
        step[:, ids] += length * direction
        step_z[:, ids] += length * direction_z
        residual = residual - length * image
        scaled = residual / diagonal
        previous_energy, energy = energy, (residual * scaled).sum(0)
        gain = length * previous_energy
        gained = gained + gain
        direction = scaled + energy / previous_energy * direction
        going = ((gain * steps_done > CG_TOLERANCE * gained) & (energy > 0)).nonzero()[:, 0]
        if not len(going):
            break
        if len(going) < len(ids):
            ids, energy, gained = ids[going], energy[going], gained[going]
            direction, residual, diagonal, curvature = (
                each[:, going] for each in (direction, residual, diagonal, curvature)
            )
    return step, step_z


def _step_length(
    w: Float[Tensor, "r p"],
    z: Float[Tensor, "n p"],
    step: Float[Tensor, "r p"],
    step_z: Float[Tensor, "n p"],
    signs: Float[Tensor, "n p"],
    penalties: Float[Tensor, "n p"],
) -> Float[Tensor, "p"]:
    """The first of 1, 1/2, 1/4, ... by which the objective falls enough (Armijo's rule), without a product."""
    w_step, step_step = (w * step).sum(0), step.square().sum(0)
    hinge = (1 - signs * z).clamp_min(0)
    slope = w_step - (penalties * hinge * signs * step_z).sum(0)
    length = torch.ones_like(slope)
    for _ in range(MAX_HALVINGS):
        new_hinge = (1 - signs * (z + length * step_z)).clamp_min(0)
        gain = length * w_step + length.square() * step_step / 2
        gain = gain + (penalties * (new_hinge - hinge) * (new_hinge + hinge)).sum(0) / 2
        too_long = gain > ARMIJO * length * slope
        if not too_long.any():
            break
        length = torch.where(too_long, length / 2, length)
    return length
