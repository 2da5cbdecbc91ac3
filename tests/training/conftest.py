"""Fixtures of the tests of training."""

import pytest
from tests.training.small import small_images

from orl.datasets.image_table import ImageTable


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageTable:
    """Eight small images."""
    return small_images(tmp_path_factory.mktemp("images"))
