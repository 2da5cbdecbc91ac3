"""The bytes of a file that `torch.load` reads."""

import io
from typing import Any

import torch


def torch_bytes(content: dict[str, Any]) -> bytes:
    """Return the bytes that `torch.save` writes; equal content gives equal bytes, since they hold no file name."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()
