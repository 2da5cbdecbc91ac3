"""Object-level representation learning: pre-train vision backbones on images of whole scenes, without labels."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orl.weights.loading import load_backbone as load_backbone

__all__ = ["load_backbone"]


def __getattr__(name: str) -> Any:
    # Not imported above: the command line starts without torch.
    if name == "load_backbone":
        from orl.weights.loading import load_backbone

        return load_backbone
    raise AttributeError(f"module 'orl' has no attribute {name!r}")
