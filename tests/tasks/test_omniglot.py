import hashlib
import logging
import sys

import numpy as np
import PIL.Image
import pytest

from maml_tf import tasks
from maml_tf.tasks.data.omniglot import Omniglot, read_packed
from maml_tf.tasks.omniglot import SPLITS, split_characters

TFDS = "tensorflow_datasets"


@pytest.mark.parametrize(
    ("split", "sizes"), [("paper", [1100, 100, 423]), ("alphabet", [864, 100, 659])]
)
def test_splits_are_disjoint_and_cover_everything(split, sizes):
    parts = split_characters(split, ())
    assert [len(part) for part in parts] == sizes
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(1623))
    for part, again in zip(parts, split_characters(split, ()), strict=True):
        np.testing.assert_array_equal(part, again)


def test_the_paper_split_is_shuffled_and_fixed():
    train, validation, _ = split_characters("paper", ())
    np.testing.assert_array_equal(train[:3], [501, 752, 1520])
    assert 0 < np.mean(validation < 964) < 1


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"split": "mine"},
            ValueError,
            r"`split`.*'paper', 'alphabet', 'vinyals'.*'mine'",
        ),
        ({"ways": 0}, ValueError, r"`ways`.*at least 1"),
        ({"test_queries": 0}, ValueError, r"`test_queries`.*at least 1"),
        ({"seed": 0.5}, TypeError, r"`seed`"),
    ],
)
def test_wrong_settings_are_told_before_data_are_looked_for(settings, error, message, monkeypatch):
    monkeypatch.setitem(sys.modules, TFDS, None)
    with pytest.raises(error, match=message):
        tasks.omniglot(**settings)


def test_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, TFDS, None)
    with pytest.raises(ImportError, match=r'pip install "maml_tf\[datasets\]"'):
        tasks.omniglot()


def test_missing_data(tmp_path):
    pytest.importorskip(TFDS)
    command = (
        rf"{tmp_path}.*python -c .*tfds\.load\('omniglot', data_dir='{tmp_path}', download=True"
    )
    with pytest.raises(FileNotFoundError, match=command):
        tasks.omniglot(data_dir=tmp_path)


@pytest.fixture(scope="module")
def characters():
    random = np.random.default_rng(0)
    names = np.array([f"Alphabet_{number}" for number in range(1623)])
    images = random.integers(0, 256, [1623, 20, 28, 28, 1], np.uint8)
    return Omniglot(images, names, np.array(["Alphabet"] * 1623))


def forbidden():
    raise RuntimeError("read again")


def assert_same(one, other):
    for array, twin in zip(one, other, strict=True):
        np.testing.assert_array_equal(array, twin)


def test_packed_copy_is_made_once(tmp_path, characters):
    paths = [tmp_path / "data" / "o.npz", tmp_path / "home" / "o.npz"]
    assert_same(read_packed(paths, lambda: characters), characters)
    assert_same(read_packed(paths, forbidden), characters)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["o.npz"]
    assert paths[0].exists()


def test_read_only_data_directory(tmp_path, characters):
    paths = [tmp_path / "data" / "o.npz", tmp_path / "home" / "o.npz"]
    paths[0].parent.mkdir(mode=0o555)
    read_packed(paths, lambda: characters)
    assert not paths[0].exists()
    assert_same(read_packed(paths, forbidden), characters)


def test_nowhere_to_store(tmp_path, characters, caplog):
    (tmp_path / "file").write_text("")
    assert_same(read_packed([tmp_path / "file" / "o.npz"], lambda: characters), characters)
    assert "will be read anew each time" in caplog.text
    assert "KERAS_HOME" in caplog.text


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


def flip(path):
    data = bytearray(path.read_bytes())
    data[5_000_000] ^= 1
    path.write_bytes(data)


def empty(path):
    path.write_bytes(b"")


def other_shape(path):
    with path.open("wb") as file:
        np.savez(file, images=np.zeros([3, 20, 28, 28], np.uint8), characters=[""], alphabets=[""])


def other_names(path):
    with path.open("wb") as file:
        np.savez(file, pictures=np.zeros(3))


def other_file(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def pickled(path):
    with path.open("wb") as file:
        np.savez(file, images=np.array([{}]), characters=[""], alphabets=[""])


@pytest.mark.parametrize(
    "damage", [cut, flip, empty, other_shape, other_names, other_file, pickled]
)
def test_damaged_copy_is_made_anew_with_a_warning(tmp_path, characters, caplog, damage):
    path = tmp_path / "o.npz"
    read_packed([path], lambda: characters)
    damage(path)
    with caplog.at_level(logging.WARNING):
        assert_same(read_packed([path], lambda: characters), characters)
    assert f"damaged packed copy, {path}" in caplog.text
    assert_same(read_packed([path], forbidden), characters)


@pytest.mark.omniglot
class TestRealData:
    def test_arrays_and_names(self, omniglot_dir):
        images, characters, alphabets = tasks.load_omniglot(omniglot_dir)
        assert images.shape == (1623, 20, 28, 28, 1)
        assert images.dtype == np.uint8
        assert len(set(characters)) == 1623
        assert len(set(alphabets[:964])) == 30
        assert len(set(alphabets[964:])) == 20
        assert all(map(str.startswith, characters, alphabets))

    def test_ink_is_one_on_an_empty_ground(self, omniglot_dir):
        images = tasks.load_omniglot(omniglot_dir).images
        assert np.median(images) == 0
        assert 0.05 < images.mean() / 255 < 0.15
        assert np.all(images.max(axis=(2, 3, 4)) > 150)

    @pytest.mark.parametrize("part", ["train[:60]", "test[-60:]"])
    def test_drawings_are_filed_under_their_character(self, omniglot_dir, part):
        tfds = pytest.importorskip(TFDS)
        images, characters, alphabets = tasks.load_omniglot(omniglot_dir)
        examples, info = tfds.load("omniglot", split=part, data_dir=omniglot_dir, with_info=True)
        for example in examples.as_numpy_iterator():
            label = example["label"]
            assert characters[label] == info.features["label"].int2str(label)
            assert alphabets[label] == info.features["alphabet"].int2str(example["alphabet"])
            ink = PIL.Image.fromarray(np.float32(255) - example["image"][:, :, 0])
            ink = np.clip(ink.resize([28, 28], PIL.Image.Resampling.LANCZOS), 0, 255)
            difference = np.abs(images[label, :, :, :, 0] - ink)
            assert difference.max(axis=(1, 2)).min() < 0.51

    def test_the_published_split_is_that_of_the_published_lists(self, omniglot_dir):
        """Of which the digests are: names as here, sorted, one a line."""
        _, characters, alphabets = tasks.load_omniglot(omniglot_dir)
        parts = split_characters("vinyals", characters)
        assert [len(part) for part in parts] == [1028, 172, 423]
        digests = [
            hashlib.sha256("\n".join(sorted(characters[part])).encode()).hexdigest()[:16]
            for part in parts
        ]
        assert digests == ["7a1cb388c4cd7a23", "59555aaa193c720c", "96127b9ea0d70398"]
        assert set(alphabets[parts[0]]) & set(alphabets[parts[2]]) == {"Gurmukhi"}

    @pytest.mark.parametrize("split", SPLITS)
    def test_tasks_take_their_own_characters(self, omniglot_dir, split):
        images, characters, _ = tasks.load_omniglot(omniglot_dir)
        character = {image.tobytes(): n for n, row in enumerate(images) for image in row}
        sets = tasks.omniglot(data_dir=omniglot_dir, split=split, rotate=False, shots=2)
        for part, dataset in zip(split_characters(split, characters), sets, strict=True):
            inputs, query_y = next(dataset.as_numpy_iterator())
            x = np.concatenate([inputs["support_x"], inputs["query_x"]], axis=1)
            y = np.concatenate([inputs["support_y"], query_y], axis=1)
            x = np.round(255 * x).astype(np.uint8)
            found = np.array([[character[image.tobytes()] for image in task] for task in x])
            assert np.all(np.isin(found, part))
            for task, labels in zip(found, y, strict=True):
                assert len(set(zip(task, labels, strict=True))) == len(set(task)) == 5

    def test_more_drawings_than_there_are(self, omniglot_dir):
        with pytest.raises(ValueError, match=r"= 21 examples.*with 20 examples.*Give fewer"):
            tasks.omniglot(shots=1, queries=20, data_dir=omniglot_dir)

    def test_queries_follow_shots_and_test_follows_training(self, omniglot_dir):
        sets = tasks.omniglot(shots=2, queries=3, test_queries=4, data_dir=omniglot_dir)
        assert [dataset.element_spec[1].shape[1] for dataset in sets] == [15, 20, 20]
        assert [dataset.cardinality() for dataset in sets[1:]] == [19, 19]
