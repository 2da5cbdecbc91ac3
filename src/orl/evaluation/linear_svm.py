"""Linear support vector machines on arrays, in the shape of a scikit-learn estimator."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray

from orl.evaluation.arrays import Array, check_same_length, feature_matrix, label_columns
from orl.evaluation.newton_svm import MAX_ITER, POSITIVE_WEIGHT, TOL, class_weights, fit_eigenbasis, fit_svms


class LinearSVM:
    """Linear support vector machines with squared hinge loss, one per class, fitted all at once.

    The problem is that of scikit-learn's `LinearSVC(dual=True, class_weight={1: positive_weight, -1: 1})`: L2
    regularisation, and a bias that is regularised too.

    Example:
        >>> import torch
        >>> X = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.2, 0.9], [0.8, 0.1]])
        >>> svm = LinearSVM(C=10.0).fit(X, torch.tensor([0, 1, 0, 1]))
        >>> (svm.decision_function(X) > 0).tolist()
        [False, True, False, True]

    Args:
        C: cost of the loss; the larger, the less the weights are regularised.
        positive_weight: weight of a positive image; a negative one has 1.
        tol: largest move of the scores by the last Newton step, as a fraction of their standard deviation.
        max_iter: Newton steps.

    Attributes:
        coef_: weights, `(classes, features)`.
        intercept_: biases, `(classes,)`.
        classes_: name of each class: its id, or its column.
        converged_: False for a class whose fit was stopped by `max_iter`, `(classes,)`.
    """

    coef_: Float[ndarray, "c d"]
    intercept_: Float[ndarray, "c"]
    classes_: tuple[str, ...]
    converged_: Bool[ndarray, "c"]

    def __init__(
        self, C: float = 1.0, *, positive_weight: float = POSITIVE_WEIGHT, tol: float = TOL, max_iter: int = MAX_ITER
    ) -> None:
        if not C > 0 or not positive_weight > 0 or not tol > 0 or max_iter < 1:
            raise ValueError(
                f"C, positive_weight and tol must be above 0 and max_iter at least 1, got {C}, {positive_weight}, "
                f"{tol} and {max_iter}"
            )
        self.C, self.positive_weight, self.tol, self.max_iter = C, positive_weight, tol, max_iter

    def fit(self, X: Array, y: Array) -> "LinearSVM":
        """Fit one SVM per class.

        Args:
            X: features, `(images, features)`; they are not scaled here, so scale them to unit length before.
            y: labels as `orl.evaluation.arrays.label_columns` reads them: `(images, classes)` of -1, 0 (ignored) and 1
                or of 0 and 1, or `(images,)` of one class or of class ids.

        Returns:
            The object itself.

        Raises:
            ValueError: if shapes or values of X and y do not fit, a feature is not finite, or a class has no positive
                or no negative image.
        """
        features, (labels,), self.classes_ = feature_matrix(X), *label_columns(y)
        check_same_length(features, labels)
        if not np.isfinite(features).all():
            raise ValueError(f"{(~np.isfinite(features)).sum()} of {features.size} values of X are not finite")
        for name, column in zip(self.classes_, labels.T):
            if not ((column == 1).any() and (column == -1).any()):
                raise ValueError(
                    f"class {name} has {(column == 1).sum()} positive and {(column == -1).sum()} negative images; an "
                    "SVM needs both"
                )
        features = features.astype(np.float64)
        eigenbasis = fit_eigenbasis(features)
        signs = torch.from_numpy(labels).double()
        cost = self.C * class_weights(signs, self.positive_weight)
        fits = fit_svms(eigenbasis.train, signs, cost, tol=self.tol, max_iter=self.max_iter)
        weights = eigenbasis.weights(fits.coef).numpy()
        self.coef_, self.intercept_, self.converged_ = weights[:-1].T, weights[-1], fits.converged.numpy()
        return self

    def decision_function(self, X: Array) -> Float[ndarray, "..."]:
        """Compute the score of each image, above 0 where the class is predicted.

        Returns:
            Scores `(images, classes)`, or `(images,)` where there is one class.

        Raises:
            ValueError: if X has another number of features than the training images.
            RuntimeError: if the SVM has not been fitted.
        """
        if not hasattr(self, "coef_"):
            raise RuntimeError("the SVM has not been fitted; call fit first")
        features = feature_matrix(X)
        if features.shape[1] != self.coef_.shape[1]:
            raise ValueError(f"X has {features.shape[1]} features, but the SVM was fitted on {self.coef_.shape[1]}")
        scores = features.astype(np.float64) @ self.coef_.T + self.intercept_
        return scores[:, 0] if scores.shape[1] == 1 else scores
