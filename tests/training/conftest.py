"""What the tests of training share."""

import pytest
from tests.training.small import photos

from orl.images.table import ImageTable


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageTable:
    """Eight small photos."""
    return photos(tmp_path_factory.mktemp("photos"))
