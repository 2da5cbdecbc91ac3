"""Object-level representation learning: pre-train vision backbones on images of whole scenes, without labels.

The jobs of the command line are functions: `pretrain`, `discover`, `run`, `evaluate`, `compare`. `load_backbone` reads
weights. Parts work alone: the losses as modules, `selective_search` on an image, `CorrespondenceDataset` on a finished
stage 2, `score_svm` on arrays.

Example:
    >>> import numpy as np
    >>> import orl
    >>> image = np.zeros((60, 80, 3), dtype=np.uint8)
    >>> image[10:50, 20:60] = (200, 30, 30)
    >>> [20.0, 10.0, 60.0, 50.0] in orl.selective_search(image).tolist()
    True
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orl.api import compare as compare
    from orl.api import discover as discover
    from orl.api import evaluate as evaluate
    from orl.api import pretrain as pretrain
    from orl.api import run as run
    from orl.discovery.selective_search import selective_search as selective_search
    from orl.evaluation.linear_svm import LinearSVM as LinearSVM
    from orl.evaluation.svm import score_svm as score_svm
    from orl.methods.losses import BYOLLoss as BYOLLoss
    from orl.methods.losses import DenseCLLoss as DenseCLLoss
    from orl.methods.losses import InfoNCELoss as InfoNCELoss
    from orl.methods.losses import NTXentLoss as NTXentLoss
    from orl.methods.losses import ORLLoss as ORLLoss
    from orl.methods.losses import SelfEMDLoss as SelfEMDLoss
    from orl.networks.backbones import register_backbone as register_backbone
    from orl.views.correspondence_dataset import CorrespondenceDataset as CorrespondenceDataset
    from orl.weights.loading import load_backbone as load_backbone

    __version__: str

_MODULES = {
    "pretrain": "orl.api",
    "discover": "orl.api",
    "run": "orl.api",
    "evaluate": "orl.api",
    "compare": "orl.api",
    "load_backbone": "orl.weights.loading",
    "register_backbone": "orl.networks.backbones",
    "selective_search": "orl.discovery.selective_search",
    "CorrespondenceDataset": "orl.views.correspondence_dataset",
    "score_svm": "orl.evaluation.svm",
    "LinearSVM": "orl.evaluation.linear_svm",
    "BYOLLoss": "orl.methods.losses",
    "NTXentLoss": "orl.methods.losses",
    "InfoNCELoss": "orl.methods.losses",
    "DenseCLLoss": "orl.methods.losses",
    "SelfEMDLoss": "orl.methods.losses",
    "ORLLoss": "orl.methods.losses",
}
"""Module of each public name. They are imported when they are used, since the command line starts without torch."""

__all__ = [*_MODULES, "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("orl")
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'orl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
