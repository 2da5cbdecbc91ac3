import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.reference.published import made_up

from orl.datasets.image_table import ImageTable

NUM_IMAGES = 11
SIZE_WH = (640, 480)


@pytest.fixture
def images() -> ImageTable:
    """Images in the order of their names, as every source gives them."""
    names = tuple(f"{index:03d}.jpg" for index in range(NUM_IMAGES))
    return ImageTable(root=Path("images"), names=names, sizes_wh=(SIZE_WH,) * NUM_IMAGES, digests=names)


@pytest.fixture
def documents(images: ImageTable) -> dict[str, dict]:
    """Write the three published files of the images, in another order than the run's."""
    generator = np.random.default_rng(0)
    return made_up([images.names[index] for index in generator.permutation(len(images))], generator)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, object], Path]:
    """Write a JSON file, or text as it is, under a name."""

    def to_file(name: str, content: object) -> Path:
        path = tmp_path / f"{name}.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return to_file
