"""A network that was trained with the labels of the scenes leads the scoreboard on other scenes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from orl.datasets.decode import load_image
from orl.evaluation.evaluated_backbone import EvaluatedBackbone
from orl.evaluation.objects.dense_retrieval import DENSE_RETRIEVAL, DenseRetrievalConfig
from orl.evaluation.objects.object_dataset import ObjectBoxes, ObjectDataset
from orl.evaluation.objects.object_result import read_rows
from orl.evaluation.objects.roi_knn import ROI_KNN, RoiKnnConfig
from orl.evaluation.output import EvaluationOutput
from orl.networks.backbones import Backbone, build_backbone, pool
from orl.processes import Processes
from orl.synthetic.scenes import draw_scenes
from orl.views.augment import normalise
from orl.views.crops import cut_boxes


def train_supervised(boxes: ObjectBoxes, steps: int = 250) -> Backbone:
    """Train a ResNet-10 to classify crops of labelled boxes, mirrored at random."""
    torch.manual_seed(0)
    network = build_backbone("resnet10")
    crops = torch.cat([cut_boxes(load_image(path), own, 64) for path, own in zip(boxes.paths, boxes.boxes)])
    labels = torch.from_numpy(np.concatenate(boxes.box_classes))
    layer = nn.Linear(network.num_channels, len(boxes.classes))
    optimiser = torch.optim.AdamW([*network.parameters(), *layer.parameters()], lr=1e-3, weight_decay=0.05)
    for _ in range(steps):
        rows = torch.randint(len(crops), (64,))
        views = normalise(crops[rows])
        views = torch.where(torch.rand(64, 1, 1, 1) < 0.5, views.flip(3), views)
        loss = nn.functional.cross_entropy(layer(pool(network(views))), labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()


@pytest.mark.slow
def test_a_supervised_network_leads_by_far(tmp_path: Path) -> None:
    draw_scenes(tmp_path / "learn", num_trainval=600, num_test=2, size_wh=(96, 72), seed=1, quiet=True)
    draw_scenes(tmp_path / "score", num_trainval=150, num_test=100, size_wh=(96, 72), seed=2, quiet=True)
    data = ObjectDataset(data=tmp_path / "score", min_box_px=12)
    torch.manual_seed(0)
    networks = {
        "random": build_backbone("resnet10").eval(),
        "supervised": train_supervised(ObjectDataset(data=tmp_path / "learn", min_box_px=12).boxes.train),
    }
    scores: dict[str, list[float]] = {}
    for label, network in networks.items():
        backbone = EvaluatedBackbone(label=label, network=network, digest=label)
        for evaluation, config in (
            (ROI_KNN, RoiKnnConfig(crop_px=64, map_px=144)),
            (DENSE_RETRIEVAL, DenseRetrievalConfig(size_px=160, memory_size=8000, few_shot=())),
        ):
            output = EvaluationOutput(
                result=tmp_path / f"{label}_{evaluation.name}.json", workers=0, device="cpu", quiet=True
            )
            result = evaluation.run(backbone, data, config, output, Processes())  # type: ignore[arg-type]
            assert result is not None
            scores.setdefault(label, []).extend(row.estimate.value for row in read_rows(result))
    crop, _, on_map, _, miou = (s - r for s, r in zip(scores["supervised"], scores["random"]))
    print(scores)
    assert crop > 0.2
    assert on_map > 0.05
    assert miou > 0.05
