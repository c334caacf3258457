import os
import pathlib

import pytest

from maml_tf import tasks
from tests.tasks import small_imagenet


@pytest.fixture(scope="session")
def omniglot_dir():
    """The TensorFlow Datasets directory that holds Omniglot; skips where there is none."""
    beside = pathlib.Path(__file__).parents[3] / "shared" / "data" / "tfds"
    path = pathlib.Path(os.environ.get("MAML_TF_DATA_DIR", beside))
    if not (path / "omniglot").is_dir():
        pytest.skip(f"no Omniglot in {path}: set MAML_TF_DATA_DIR")
    return path


@pytest.fixture(scope="session")
def mini_imagenet_dir(tmp_path_factory):
    """A TensorFlow Datasets directory with mini-ImageNet of 4 images a class."""
    pytest.importorskip("tensorflow_datasets")
    folder = tmp_path_factory.mktemp("mini_imagenet")
    source = small_imagenet.by_class(folder / "source")
    with small_imagenet.small():
        tasks.load_mini_imagenet(folder / "tfds", source)
    return folder / "tfds"
