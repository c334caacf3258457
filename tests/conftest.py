import os
import pathlib

import keras
import pytest

from tests.serving.c_api import Server


@pytest.fixture
def float64():
    """Keras computes in float64 while the test runs: finite differences need it."""
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)


@pytest.fixture(scope="module")
def serve():
    """`serve(folder)`: a process that answers for that SavedModel, started once."""
    servers = {}

    def start(folder):
        if folder not in servers:
            servers[folder] = Server(folder)
        return servers[folder]

    yield start
    for server in servers.values():
        server.close()


@pytest.fixture(scope="session")
def omniglot_dir():
    """The TensorFlow Datasets directory that holds Omniglot; skips where there is none."""
    beside = pathlib.Path(__file__).parents[2] / "shared" / "data" / "tfds"
    path = pathlib.Path(os.environ.get("MAML_TF_DATA_DIR", beside))
    if not (path / "omniglot").is_dir():
        pytest.skip(f"no Omniglot in {path}: set MAML_TF_DATA_DIR")
    return path
