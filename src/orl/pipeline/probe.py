"""Probe: a kNN evaluation of the backbone while it is trained."""

import copy
import logging
from collections.abc import Callable

from orl.evaluation.knn import score_knn
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
            return {"probe_knn_map": score_knn(*features.arrays, train.classes, k=k, temperature=temperature).mean_ap}
        except (ValueError, OSError, RuntimeError) as error:
            logger.warning("the probe failed, and training continues without its score: %s", error)
            return {}

    return probe
