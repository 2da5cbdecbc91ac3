"""Settings of all tests: shapes are checked, inputs are small, real images are optional."""

import os
from pathlib import Path

import pytest
import tests.typechecker  # noqa: F401 - the hook finds it by name
from jaxtyping import install_import_hook

install_import_hook("orl", "tests.typechecker.check")

import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

torch.set_num_threads(1)
# Other programs on the machine must not decide whether a test passes.
settings.register_profile("orl", deadline=None)
settings.load_profile("orl")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images, which is not part of the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("ORL_TEST_DATA", default))
    if not (folder / "voc07-small").is_dir():
        pytest.skip("no real images here: set ORL_TEST_DATA to their folder")
    return folder
