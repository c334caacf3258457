import pytest

from maml_tf import tasks
from tests.tasks import small_imagenet


@pytest.fixture(scope="session")
def mini_imagenet_dir(tmp_path_factory):
    """A TensorFlow Datasets directory with mini-ImageNet of 4 images a class."""
    pytest.importorskip("tensorflow_datasets")
    folder = tmp_path_factory.mktemp("mini_imagenet")
    source = small_imagenet.by_class(folder / "source")
    with small_imagenet.small():
        tasks.load_mini_imagenet(folder / "tfds", source)
    return folder / "tfds"
