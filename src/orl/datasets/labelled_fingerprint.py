"""Fingerprint of a labelled data set from its file names, file sizes and labels, without opening an image."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from numpy import ndarray


def labelled_fingerprint(root: Path, names: Sequence[str], classes: Sequence[str], labels: Iterable[ndarray]) -> str:
    """Compute the fingerprint of a labelled data set, which does not depend on its location.

    An image enters by its name and file size, because reading all of ImageNet takes longer than some evaluations. An
    image replaced by another file of the same size is therefore not noticed.

    Args:
        root: folder that the names start from.
        names: path of each image below the root.
        classes: class names.
        labels: arrays of all labels of the images.

    Raises:
        FileNotFoundError: if an image does not exist.
    """
    digest = hashlib.sha256("\n".join([*classes, ""]).encode(errors="surrogateescape"))
    folder = os.fspath(root)
    for name in names:
        digest.update(f"{name}\n{os.stat(f'{folder}/{name}').st_size}\n".encode(errors="surrogateescape"))
    for values in labels:
        # The shape is included: an object that moves to the previous image would not change the order of the bytes.
        digest.update(f"{values.dtype} {values.shape}\n".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()
