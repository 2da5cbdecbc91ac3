"""A small result of an ablation, made by hand."""

from pathlib import Path
from typing import Any

import pytest

from orl.config import to_plain
from orl.recipes import demo

SVM = {"BYOL": (0.20, 0.21, 0.22), "ORL": (0.23, 0.24, 0.25), "random weights": (0.18, 0.19, 0.14)}


@pytest.fixture
def ablation() -> dict[str, Any]:
    """Three variants at three seeds; ORL is three points above BYOL at each."""
    records = [
        {
            "variant": variant,
            "seed": seed,
            "run": f"seed{seed}/{'base' if variant != 'random weights' else 'random'}",
            "backbone": "stage3",
            "epochs": {"stage1": 20},
            "images_seen": 0 if variant == "random weights" else 8000,
            "gigapixels": {"BYOL": 2.0, "ORL": 5.0, "random weights": 0.0}[variant],
            "discovery": None if variant != "ORL" else discovery_score(seed),
            "scores": {"svm": value, "knn": 0.1, "low-shot": {"1": 0.1, "16": 0.2}},
            "elapsed_s": {"stage1": 1800.0},
        }
        for seed in range(3)
        for variant, value in ((variant, values[seed]) for variant, values in SVM.items())
    ]
    return {
        "kind": "ablation",
        "name": "stages",
        "question": "Does it help?",
        "reference": "BYOL",
        "command": "orl ablate stages --images images",
        "commit": "abc123",
        "date": "2026-01-02",
        "machine": "Linux, 2 CPUs",
        "device": "cpu",
        "versions": {"torch": "2.6.0"},
        "seeds": [0, 1, 2],
        "elapsed_s": 10_800.0,
        "images": "images",
        "num_images": 400,
        "evaluated_on": {"data": "VOC2007", "train_split": "trainval", "test_split": "test", "size_px": 96},
        "config": to_plain(demo(Path("images"), Path("out"))),
        "records": records,
    }


def discovery_score(seed: int) -> dict[str, Any]:
    return {
        "object_fraction": 0.03,
        "same_class_fraction": 0.75,
        "both_fraction": 0.0225,
        "lift": 5.0 + seed,
        "roi_object_fraction": 0.07,
        "random_object_fraction": 0.006,
        "random_same_class_fraction": 0.5,
        "random_both_fraction": 0.003,
        "lift_interval_95": [4.0, 7.0],
    }
