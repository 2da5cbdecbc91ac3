"""Numbers of features without labels: effective rank, feature std and uniformity, of complete images and of boxes."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from orl.config import EvaluationConfig
from orl.evaluation.bootstrap import Estimate
from orl.evaluation.evaluated_backbone import EvaluatedBackbone
from orl.evaluation.objects.object_dataset import ObjectDataset
from orl.evaluation.objects.object_features import open_object_features
from orl.evaluation.objects.object_result import Row, object_entries, object_result, object_tables
from orl.evaluation.objects.roi_features import RoiConfig, roi_features, run_sizes
from orl.evaluation.objects.roi_knn import about_boxes, box_inputs
from orl.evaluation.objects.scored_boxes import scored_boxes
from orl.evaluation.output import EvaluationOutput, finished, write_result
from orl.evaluation.protocol import Evaluation, Result
from orl.networks.feature_rank import effective_rank
from orl.processes import Processes
from orl.training.collapse import feature_std, uniformity

NUM_GROUPS = 20
"""Groups of images that the jackknife leaves out, one at a time."""
NORMAL_95 = 1.96
"""Standard errors on each side of a 95% interval."""
MEASURES: dict[str, Callable[[Tensor], Tensor]] = {
    "rank": effective_rank,
    "std": feature_std,
    "uniformity": uniformity,
}
"""Function of features by the name of the row."""


@dataclass(frozen=True, kw_only=True)
class RankConfig(RoiConfig):
    """Features whose numbers are computed."""

    max_rows: int = 2000
    """Images, or boxes, sampled by the seed; the rank depends on their number."""


def check(data: ObjectDataset, config: RankConfig) -> None:
    """Read the labels and check that there are images for every group of the jackknife."""
    scored_boxes(data.boxes)
    if len(data.boxes.test) < NUM_GROUPS:
        raise ValueError(
            f"the interval of a rank needs {NUM_GROUPS} images, and split {data.boxes.test.split!r} of {data.data} has "
            f"{len(data.boxes.test)} with boxes; give more"
        )


def run(
    backbone: EvaluatedBackbone, data: ObjectDataset, config: RankConfig, output: EvaluationOutput, _: Processes
) -> Result:
    """Compute the numbers of the features of the images and boxes to score, and write the result."""
    check(data, config)
    inputs = box_inputs(backbone, data, config, output)
    if (result := finished(output, inputs)) is not None:
        return result
    started = time.perf_counter()
    boxes, test = scored_boxes(data.boxes), data.boxes.test
    features = open_object_features(backbone, data, output)
    rows: list[Row] = []
    counts: dict[str, int] = {}

    def add(name: str, own: Float[ndarray, "n d"], image_rows: Int[ndarray, "n"]) -> None:
        kept = np.sort(np.random.default_rng(output.seed).permutation(len(own))[: config.max_rows])
        counts[name] = len(kept)
        rows.extend(rank_rows(name, own[kept], image_rows[kept], output.seed))

    if config.crop_px:
        add("images", features.images(test, size_px=config.crop_px), np.arange(len(test)))
    for each in roi_features(features, data, config):
        add(each.name, each.test[boxes.test.rows], boxes.test.image_rows)
    result = object_result(
        "rank",
        rows,
        backbone=backbone.label,
        data=str(data.data),
        protocol_deviations=backbone.training_deviations,
        elapsed_s=time.perf_counter() - started,
        about={**about_boxes(data, boxes, config), "num_rows": counts, "num_features": backbone.network.num_channels},
    )
    return write_result(output, result, inputs)


def rank_rows(name: str, features: Float[ndarray, "n d"], image_rows: Int[ndarray, "n"], seed: int) -> list[Row]:
    """Return effective rank, feature std and uniformity, each with a jackknife interval."""
    rows = torch.from_numpy(np.array(features, dtype=np.float32))
    return [
        Row(
            name=f"{name}, {measure}",
            estimate=jackknife(rows, image_rows, function, seed),
            unit="number",
            higher_is_better=False,
        )
        for measure, function in MEASURES.items()
    ]


def jackknife(
    features: Float[Tensor, "n d"], image_rows: Int[ndarray, "n"], function: Callable[[Tensor], Tensor], seed: int
) -> Estimate:
    """Compute a number of features with a 95% interval from leaving out one of 20 groups of images at a time.

    A bootstrap would repeat images, which lowers a rank.

    Args:
        features: one row per image or box.
        image_rows: image of each row; the rows of an image are in one group.
        function: function from features to the number.
        seed: seed of the groups.

    Source:
        Delete-a-group jackknife: variance (g - 1) / g times the sum of squared differences from their mean.
    """
    images, index = np.unique(image_rows, return_inverse=True)
    num_groups = min(NUM_GROUPS, len(images))
    group = (np.random.default_rng(seed).permutation(len(images)) % num_groups)[index]
    values = np.array([float(function(features[torch.from_numpy(group != each)])) for each in range(num_groups)])
    value = float(function(features))
    error = float(np.sqrt((num_groups - 1) / num_groups * ((values - values.mean()) ** 2).sum()))
    return Estimate(value=value, low=value - NORMAL_95 * error, high=value + NORMAL_95 * error)


def _run_config(config: EvaluationConfig) -> RankConfig | None:
    crop_px, map_px = run_sizes(config)
    return RankConfig(crop_px=crop_px, map_px=map_px) if config.objects else None


RANK = Evaluation(
    name="rank",
    label="Feature rank",
    help="Effective rank, std and uniformity of the features of images and boxes; no label is used.",
    data=ObjectDataset,
    config=RankConfig,
    check=check,
    run=run,
    tables=object_tables,
    one_process=True,
    suite_entries=partial(object_entries, "rank", check),
    run_config=_run_config,
)
