import os
import pathlib

import pytest


@pytest.fixture(scope="session")
def omniglot_dir():
    """The TensorFlow Datasets directory that holds Omniglot; skips where there is none."""
    beside = pathlib.Path(__file__).parents[3] / "shared" / "data" / "tfds"
    path = pathlib.Path(os.environ.get("MAML_TF_DATA_DIR", beside))
    if not (path / "omniglot").is_dir():
        pytest.skip(f"no Omniglot in {path}: set MAML_TF_DATA_DIR")
    return path
