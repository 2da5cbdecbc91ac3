"""Boxes from a function of the user in place of proposals: an image in; boxes, scores and masks out."""

import importlib
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, UInt8
from numpy import ndarray

from orl import files
from orl.datasets.discovery_tables import BORDER_PX
from orl.datasets.masks import encode_masks
from orl.own_boxes.image_boxes import ImageBoxes

MAX_OUTPUTS = 3
"""Boxes, scores and masks."""


@dataclass(frozen=True)
class BoxFunction:
    """A function of the user, called for one image at a time: it need not be safe for threads.

    It gets an RGB image as a uint8 array (h, w, 3), and returns boxes `xyxy` in pixels as an array (n, 4), or a tuple
    of boxes and scores (n,), or of boxes, scores and bool masks (n, h, w).
    """

    name: str
    """Module and name of the function: 'module:function'."""
    function: Callable[[UInt8[ndarray, "h w 3"]], Any]
    digest: str
    """Digest of the source file of the function's module, when it was imported; code that it imports does not count."""

    def __call__(self, image: UInt8[ndarray, "h w 3"], image_name: str) -> ImageBoxes:
        """Return the boxes of an image, by falling score, clipped to the image; empty ones are left out.

        Args:
            image: the image.
            image_name: its name, for error messages.

        Raises:
            ValueError: if the function fails, or returns something else than it should.
        """
        where = f"{self.name} on image {image_name}"
        try:
            output = self.function(np.array(image, order="C"))
        except Exception as error:
            raise ValueError(f"{where} failed: {_described(error)}; finished shards are kept") from error
        parts = output if isinstance(output, tuple) else (output,)
        if not 1 <= len(parts) <= MAX_OUTPUTS:
            raise ValueError(
                f"{where} returned a tuple of {len(parts)}; return boxes, (boxes, scores) or (boxes, scores, masks)"
            )
        size_wh = (image.shape[1], image.shape[0])
        xyxy = _checked_boxes(parts[0], size_wh, where)
        scores = _checked_scores(parts[1], len(xyxy), where) if len(parts) > 1 else np.zeros(len(xyxy))
        masks = _checked_masks(parts[2], len(xyxy), size_wh, where) if len(parts) == MAX_OUTPUTS else None
        rles = None if masks is None else tuple(rle["counts"].decode() for rle in encode_masks(masks))
        ranked = ImageBoxes(xyxy.astype(np.float32), rles).select(np.argsort(-scores, kind="stable"))
        return ranked.clipped(size_wh)


@cache
def load_box_function(name: str) -> BoxFunction:
    """Import a function of the user; its module may be in the current folder.

    A process imports a module once, so it keeps the function and the digest that it has at first.

    Args:
        name: 'module:function', such as 'my_boxes:propose' or 'package.my_boxes:propose'.

    Raises:
        ValueError: if there is no such module or function, or the module fails when it is imported.
    """
    module_name, _, function_name = name.partition(":")
    if os.getcwd() not in sys.path:  # the command 'orl' starts without it; at the end, it hides no installed module
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ValueError(
            f"module {module_name!r} of proposals 'python:{name}' cannot be imported: {_described(error)}; run orl in "
            "the folder of the module, or give that folder by PYTHONPATH"
        ) from error
    source = getattr(module, "__file__", None)
    if source is None:
        raise ValueError(f"{module_name} has no source file; 'python:{name}' needs a module of Python code")
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ValueError(f"{module_name} ({source}) has no function {function_name!r}, for 'python:{name}'")
    return BoxFunction(name, function, files.file_digest(Path(source)))


def _checked_boxes(values: Any, size_wh: tuple[int, int], where: str) -> Float64[ndarray, "n 4"]:
    found = _to_floats(values, "boxes", where)
    if found.size == 0:
        return np.zeros((0, 4))
    if found.ndim != 2 or found.shape[1] != 4:
        raise ValueError(f"{where} returned boxes of shape {found.shape}; return xyxy as an array (n, 4)")
    limits = np.array([*size_wh, *size_wh])
    problems = {
        "is not finite": ~np.isfinite(found).all(axis=1),
        "is reversed; boxes are left, top, right, bottom": (found[:, 2:] < found[:, :2]).any(axis=1),
        f"is outside of the image of {size_wh[0]}x{size_wh[1]} px": (
            (found < -BORDER_PX) | (found > limits + BORDER_PX)
        ).any(axis=1),
    }
    for problem, is_wrong in problems.items():
        if is_wrong.any():
            row = int(is_wrong.argmax())
            raise ValueError(f"{where} returned box {row}, {found[row].tolist()}, which {problem}")
    return found


def _checked_scores(values: Any, num_boxes: int, where: str) -> Float64[ndarray, "n"]:
    found = _to_floats(values, "scores", where)
    if found.shape != (num_boxes,):
        raise ValueError(f"{where} returned scores of shape {found.shape} for {num_boxes} boxes; return one a box")
    if not np.isfinite(found).all():
        raise ValueError(f"{where} returned the score {found[~np.isfinite(found)][0]}, which is not finite")
    return found


def _checked_masks(values: Any, num_boxes: int, size_wh: tuple[int, int], where: str) -> Bool[ndarray, "n h w"]:
    try:
        found = np.asarray(values)
    except Exception as error:
        raise ValueError(f"{where} returned masks that are no array: {_described(error)}") from error
    expected = (num_boxes, size_wh[1], size_wh[0])
    if num_boxes == 0 and found.size == 0:
        return np.zeros(expected, dtype=bool)
    if found.dtype != bool or found.shape != expected:
        raise ValueError(
            f"{where} returned masks of {found.dtype} and shape {found.shape}; return bool masks of shape {expected}, "
            "one a box and of the size of the image"
        )
    return found


def _to_floats(values: Any, what: str, where: str) -> Float64[ndarray, "*n"]:
    try:
        return np.asarray(values, dtype=np.float64)
    except Exception as error:
        raise ValueError(f"{where} returned {what} that are no array of numbers: {_described(error)}") from error


def _described(error: Exception) -> str:
    """Return kind, message and place of an error of the user's code, in one line."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message} ({Path(last.filename).name}, line {last.lineno})"
