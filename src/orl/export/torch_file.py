"""The bytes of a file that `torch.load` reads."""

import io
from typing import Any

import torch


def torch_bytes(content: dict[str, Any]) -> bytes:
    """Return what `torch.save` writes; equal content gives equal bytes, because no file name goes into them."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()
