"""Object-level representation learning: pre-train vision backbones on images of whole scenes, without labels.

Example:
    >>> import orl
    >>> weights = orl.pretrain(images="photos", out="runs/mine", backbone="resnet18")  # doctest: +SKIP
    >>> backbone = orl.load_backbone(weights)  # doctest: +SKIP
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orl.api import discover as discover
    from orl.api import evaluate as evaluate
    from orl.api import pretrain as pretrain
    from orl.api import run as run
    from orl.networks.backbones import register_backbone as register_backbone
    from orl.weights.loading import load_backbone as load_backbone

    __version__: str

_MODULES = {
    "pretrain": "orl.api",
    "discover": "orl.api",
    "run": "orl.api",
    "evaluate": "orl.api",
    "load_backbone": "orl.weights.loading",
    "register_backbone": "orl.networks.backbones",
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
