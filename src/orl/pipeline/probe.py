"""Probe: a kNN evaluation of the backbone while it is trained."""

import copy
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from orl.config import RunConfig
from orl.evaluation.evaluated_backbone import EvaluatedBackbone
from orl.evaluation.knn import score_knn
from orl.evaluation.objects.object_features import open_object_features
from orl.evaluation.objects.roi_features import run_sizes
from orl.evaluation.objects.roi_knn import predict_classes
from orl.evaluation.objects.scored_boxes import class_sums, scored_boxes
from orl.evaluation.output import EvaluationOutput
from orl.evaluation.run_evaluations import RunDatasets, allows_roi_knn
from orl.evaluation.voc07 import embed_labelled
from orl.networks.backbones import Backbone
from orl.networks.device import compute_device
from orl.pipeline.preflight import RunInputs
from orl.pipeline.training_setup import stage_config

logger = logging.getLogger(__name__)


def build_probe(inputs: RunInputs, stage: str, backbone: Backbone) -> Callable[[], dict[str, float]] | None:
    """Build a function that scores the current backbone; None if the config disables the probe.

    The function works on a copy: it changes no weight and no batch statistics.
    """
    config, data = inputs.config, inputs.eval_data
    if data is None or not stage_config(config, stage).probe_epochs:
        return None
    train, test = data.images.readable(workers=config.workers)

    def probe() -> dict[str, float]:
        try:
            features = embed_labelled(
                copy.deepcopy(backbone).float(),  # embed_labelled switches it to evaluation mode
                train,
                test,
                kind="pooled",
                size_px=config.evaluation.size_px,
                device=compute_device(config.device),
                workers=config.workers,
            )
            k, temperature = config.evaluation.knn_neighbours, config.evaluation.knn_temperature
            scores = {"probe_knn_map": score_knn(*features.arrays, train.classes, k=k, temperature=temperature).mean_ap}
            if allows_roi_knn(config, data):
                scores["probe_roi_knn_top1"] = _roi_knn_top_1(copy.deepcopy(backbone).float(), config, data)
            return scores
        except (ValueError, OSError, RuntimeError) as error:
            logger.warning("the probe failed, and training continues without its score: %s", error)
            return {}

    return probe


def _roi_knn_top_1(backbone: Backbone, config: RunConfig, data: RunDatasets) -> float:
    """Return the class-mean accuracy of crops of labelled boxes; nothing is kept on disk."""
    boxes, splits = scored_boxes(data.objects.boxes), data.objects.boxes
    with tempfile.TemporaryDirectory() as folder:
        output = EvaluationOutput(
            result=Path(folder) / "probe.json", workers=config.workers, device=config.device, quiet=True
        )
        evaluated = EvaluatedBackbone(label="probe", network=backbone, digest="probe")
        features = open_object_features(evaluated, data.objects, output)
        size_px, _ = run_sizes(config.evaluation)
        train, test = (features.rois(each, cut="crop", size_px=size_px) for each in splits)
    predicted = predict_classes(train[boxes.train.rows], boxes.train.labels, test[boxes.test.rows])
    return class_sums(boxes, (predicted == boxes.test.labels).astype(np.float64)).value
