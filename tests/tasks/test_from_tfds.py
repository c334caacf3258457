"""CIFAR-FS, FC100 and others, from data sets of their structure prepared by TensorFlow Datasets."""

import sys

import numpy as np
import pytest

from maml_tf import tasks
from maml_tf.tasks import class_lists

tfds = pytest.importorskip("tensorflow_datasets")
PER_SPLIT = 3


def colour(label):
    """What every image of a class is painted with."""
    return np.array([2 * label, 255 - 2 * label, (37 * label) % 256], np.uint8)


def prepare_cifar100(data_dir):
    """Writes `cifar100` as its own builder would, with images that tell their class."""

    class Small(tfds.image_classification.Cifar100, skip_registration=True):
        name = "cifar100"

        def _split_generators(self, dl_manager):
            del dl_manager
            parts = class_lists.load("cifar_fs").values()
            self.info.features["label"].names = sorted(n for part in parts for n in part)
            self.info.features["coarse_label"].names = [f"coarse{i}" for i in range(20)]
            return {part: self._generate_examples(part) for part in ("train", "test")}

        def _generate_examples(self, part):
            for i in range(100 * PER_SPLIT):
                image = np.broadcast_to(colour(i % 100), [32, 32, 3])
                label = {"label": i % 100, "coarse_label": i % 20, "id": f"{part}{i}"}
                yield f"{part}{i}", {"image": image, **label}

    Small(data_dir=data_dir).download_and_prepare()


def prepare_pictures(data_dir):
    """Writes a data set of several image sizes, three splits and unknown labels."""

    class Pictures(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "pictures"
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            label = tfds.features.ClassLabel(names=[f"c{i}" for i in range(12)])
            features = {"image": tfds.features.Image(shape=(None, None, 3)), "label": label}
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
            )

        def _split_generators(self, dl_manager):
            del dl_manager
            return {part: self._generate_examples(part) for part in ("train", "test", "hidden")}

        def _generate_examples(self, part):
            for i in range(24):
                # Twice as wide as high: the sides, which the middle leaves out, are white.
                image = np.full([10 + i, 20 + 2 * i, 3], 255, np.uint8)
                image[:, (5 + i // 2) : -(5 + i // 2)] = colour(i % 12)
                yield i, {"image": image, "label": -1 if part == "hidden" else i % 12}

    Pictures(data_dir=data_dir).download_and_prepare()


@pytest.fixture(scope="session")
def tfds_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    prepare_cifar100(folder)
    prepare_pictures(folder)
    return folder


def classes_of(dataset, names):
    """Names of the classes whose images a data set's tasks hold."""
    palette = {tuple(colour(i)): name for i, name in enumerate(names)}
    found = set()
    for inputs, query_y in dataset.take(20).as_numpy_iterator():
        x = np.concatenate([inputs["support_x"], inputs["query_x"]], axis=1)
        y = np.concatenate([inputs["support_y"], query_y], axis=1)
        pixels = np.round(255 * x[:, :, 16, 16]).astype(int)
        for task, labels in zip(pixels, y, strict=True):
            here = {(label, palette[tuple(p)]) for p, label in zip(task, labels, strict=True)}
            assert len(here) == len({name for _, name in here}) == 5  # a label, a class
            found |= {name for _, name in here}
    return found


@pytest.mark.parametrize(("family", "sizes"), [("cifar_fs", (64, 16, 20)), ("fc100", (60, 20, 20))])
def test_tasks_take_the_published_classes(tfds_dir, family, sizes):
    sets = getattr(tasks, family)(
        queries=2, meta_batch=8, data_dir=tfds_dir, validation_tasks=80, test_tasks=80
    )
    lists = class_lists.load(family)
    names = sorted(name for part in lists.values() for name in part)
    assert len(set(names)) == 100
    for dataset, part, size in zip(sets, ("train", "validation", "test"), sizes, strict=True):
        assert len(lists[part]) == size
        assert classes_of(dataset, names) == set(lists[part])


def test_images_of_all_splits_are_packed_once_beside_the_data(tfds_dir):
    data = tasks.load_tfds_images("cifar100", data_dir=tfds_dir)
    assert data.images.shape == (2 * 100 * PER_SPLIT, 32, 32, 3)
    np.testing.assert_array_equal(np.bincount(data.labels), 2 * PER_SPLIT)
    np.testing.assert_array_equal(data.images[:, 5, 7], [colour(label) for label in data.labels])
    assert data.names[data.labels[0]] in class_lists.load("fc100")["train"] + [*data.names]
    folders = [path for path in tfds_dir.glob("cifar100/*/cifar100-*") if path.is_dir()]
    assert [path.name for path in folders] == ["cifar100-3.0.2-32x32-centre-antialias"]
    before = (folders[0] / "images.npy").stat().st_mtime_ns
    tasks.load_tfds_images("cifar100", data_dir=tfds_dir)
    assert (folders[0] / "images.npy").stat().st_mtime_ns == before


def test_images_of_several_sizes_are_cut_and_resized_and_unknown_labels_left_out(tfds_dir):
    data = tasks.load_tfds_images("pictures", image_size=(8, 8), data_dir=tfds_dir)
    assert data.images.shape == (48, 8, 8, 3)
    for image, label in zip(data.images, data.labels, strict=True):
        np.testing.assert_array_equal(image, np.broadcast_to(colour(label), image.shape))


def test_shares_of_the_classes(tfds_dir):
    options = {"image_size": 32, "queries": 1, "data_dir": tfds_dir, "meta_batch": 8}
    names = [f"c{i}" for i in range(12)]
    found = [
        classes_of(dataset, names)
        for dataset in tasks.from_tfds("pictures", classes=(0.5, 0, 0.5), **options)
        if dataset is not None
    ]
    assert [len(part) for part in found] == [6, 6]
    assert not set.intersection(*found)
    with pytest.raises(ValueError, match=r"In the validation split: .*ways=5.*2 classes"):
        tasks.from_tfds("pictures", **options)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": (0.5, 0.5)}, r"three fractions.*\(0.5, 0.5\)"),
        ({"classes": {"train": [], "test": []}}, r"'validation'.*Received: \['test', 'train'\]"),
        (
            {"classes": {"train": ["c1", "dog"], "validation": ["c1"], "test": []}},
            r"unknown \['dog'\], repeated \['c1'\]",
        ),
        ({"image_size": None}, r"`image_size` for 'pictures'.*None, None, 3"),
        ({"ways": 0}, r"`ways`.*at least 1"),
    ],
)
def test_wrong_settings(tfds_dir, settings, message):
    with pytest.raises(ValueError, match=message):
        tasks.from_tfds("pictures", **{"image_size": 8, "data_dir": tfds_dir, **settings})


def test_data_that_are_not_there(tmp_path):
    command = rf"tfds\.load\('cifar100', data_dir='{tmp_path}', download=True\)"
    with pytest.raises(FileNotFoundError, match=command):
        tasks.cifar_fs(data_dir=tmp_path)


def test_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r'pip install "maml_tf\[datasets\]"'):
        tasks.from_tfds("cifar100")
