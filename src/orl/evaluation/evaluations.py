"""The list of all evaluations; the command line, the suite, runs, reports and ablations iterate over it."""

from pathlib import Path
from typing import Any

from orl.evaluation.classification.linear import LINEAR
from orl.evaluation.classification.linear_estimate import LINEAR_ESTIMATE
from orl.evaluation.classification.semi import SEMI
from orl.evaluation.detection.detect import DETECT
from orl.evaluation.detection.detect_voc import DETECT_VOC
from orl.evaluation.evaluated_backbone import load_evaluated_backbone
from orl.evaluation.knn import KNN
from orl.evaluation.low_shot import LOW_SHOT
from orl.evaluation.objects.corloc import CORLOC
from orl.evaluation.objects.dense_retrieval import DENSE_RETRIEVAL
from orl.evaluation.objects.feature_rank import RANK
from orl.evaluation.objects.linear_segmentation import LINEAR_SEGMENTATION
from orl.evaluation.objects.object_dataset import ObjectDataset
from orl.evaluation.objects.overclustering import OVERCLUSTERING
from orl.evaluation.objects.pairs import PAIRS
from orl.evaluation.objects.proposals import PROPOSALS
from orl.evaluation.objects.roi_knn import ROI_KNN
from orl.evaluation.objects.roi_linear import ROI_LINEAR
from orl.evaluation.output import EvaluationOutput, results_folder
from orl.evaluation.protocol import Evaluation, Result
from orl.evaluation.svm import SVM
from orl.networks.device import compute_device
from orl.processes import joined_processes, num_processes

EVALUATIONS: tuple[Evaluation[Any, Any], ...] = (
    SVM,
    KNN,
    LOW_SHOT,
    ROI_KNN,
    ROI_LINEAR,
    DENSE_RETRIEVAL,
    RANK,
    LINEAR_SEGMENTATION,
    OVERCLUSTERING,
    CORLOC,
    PROPOSALS,
    PAIRS,
    LINEAR,
    LINEAR_ESTIMATE,
    SEMI,
    DETECT,
    DETECT_VOC,
)
"""All evaluations, the quick ones first."""
OBJECT_EVALUATIONS = tuple(evaluation for evaluation in EVALUATIONS if evaluation.data is ObjectDataset)
"""The evaluations of objects, which `orl evaluate objects` runs."""
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


def default_result(
    evaluation: Evaluation[Any, Any], backbone: Path, architecture: str | None, data: Path, config: Any
) -> Path:
    """Return the JSON file of a result for which no file is given: in a folder beside the weights.

    Raises:
        FileNotFoundError: if there are no such weights.
    """
    name = f"{evaluation.result_stem(config)}_{data.resolve().name}.json"
    return results_folder(backbone, architecture) / name


def run_evaluation(
    evaluation: Evaluation[Any, Any],
    backbone: Path,
    architecture: str | None,
    data: Any,
    config: Any,
    output: EvaluationOutput,
) -> Result | None:
    """Check the data, load the backbone, and score it in the processes that were started.

    Returns:
        The result; None in all processes but the first.

    Raises:
        ValueError: if the data do not fit, the weights belong to no known network, or several processes were started
            for an evaluation that runs in one.
    """
    if evaluation.one_process and num_processes() > 1:
        raise ValueError(
            f"orl evaluate {evaluation.name} runs in one process, but {num_processes()} were started; start one"
        )
    with joined_processes(compute_device(output.device)) as processes:
        evaluation.check(data, config)
        evaluated = load_evaluated_backbone(backbone, architecture, output.seed)
        return evaluation.run(evaluated, data, config, output, processes)
