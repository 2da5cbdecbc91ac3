"""The list of all evaluations; the command line, the suite, runs, reports and ablations iterate over it."""

from typing import Any

from orl.evaluation.classification.linear import LINEAR
from orl.evaluation.classification.linear_estimate import LINEAR_ESTIMATE
from orl.evaluation.classification.semi import SEMI
from orl.evaluation.detection.detect import DETECT
from orl.evaluation.detection.detect_voc import DETECT_VOC
from orl.evaluation.knn import KNN
from orl.evaluation.low_shot import LOW_SHOT
from orl.evaluation.protocol import Evaluation
from orl.evaluation.svm import SVM

EVALUATIONS: tuple[Evaluation[Any, Any], ...] = (
    SVM,
    KNN,
    LOW_SHOT,
    LINEAR,
    LINEAR_ESTIMATE,
    SEMI,
    DETECT,
    DETECT_VOC,
)
"""All evaluations, the quick ones first."""
RUN_EVALUATIONS = tuple(evaluation for evaluation in EVALUATIONS if evaluation.run_config is not None)
"""The evaluations of a run's backbones, if its config enables them."""


def find_evaluation(name: str) -> Evaluation[Any, Any]:
    """Return the evaluation of a name, which is also the `task` of its results.

    Raises:
        ValueError: if there is none.
    """
    for evaluation in EVALUATIONS:
        if evaluation.name == name:
            return evaluation
    names = ", ".join(evaluation.name for evaluation in EVALUATIONS)
    raise ValueError(f"there is no evaluation {name!r}; there are {names}")
