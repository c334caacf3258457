import logging
import os

import numpy as np
import pytest

from maml_tf.tasks.data import packed

IMAGES = np.random.default_rng(0).integers(0, 256, [30, 6, 5, 3], np.uint8)
LABELS = np.arange(30) % 4
NAMES = ["a", "b", "c", "Ünï"]


@pytest.fixture(autouse=True)
def keras_home(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return tmp_path / "keras" / "datasets"


def make(packer):
    packer.add(IMAGES[:7], LABELS[:7])
    packer.add(IMAGES[7:], LABELS[7:])
    packer.finish(NAMES)


def forbidden(packer):
    raise RuntimeError("made again")


def assert_whole(data):
    np.testing.assert_array_equal(data.images, IMAGES)
    np.testing.assert_array_equal(data.labels, LABELS)
    assert list(data.names) == NAMES
    assert list(data.groups) == [""] * 4
    assert isinstance(data.images, np.memmap)


def test_made_once_and_then_mapped(tmp_path, keras_home):
    assert_whole(packed.open_or_make("set", tmp_path / "data", make))
    assert_whole(packed.open_or_make("set", tmp_path / "data", forbidden))
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert not os.stat(tmp_path / "data" / "set").st_mode & 0o055 ^ 0o055  # others may read


def test_read_only_folder(tmp_path, keras_home):
    (tmp_path / "data").mkdir(mode=0o555)
    assert_whole(packed.open_or_make("set", tmp_path / "data", make))
    assert not list((tmp_path / "data").iterdir())
    assert_whole(packed.open_or_make("set", tmp_path / "data", forbidden))
    assert (keras_home / "set").is_dir()


def cut(folder):
    path = folder / "images.npy"
    path.write_bytes(path.read_bytes()[:-100])


def lose(folder):
    (folder / "labels.npy").unlink()


def other(folder):
    np.save(folder / "labels.npy", np.zeros(3, np.int32))


def pickled(folder):
    np.save(folder / "names.npy", np.array([{}]), allow_pickle=True)


@pytest.mark.parametrize("damage", [cut, lose, other, pickled])
def test_damaged_set_is_made_anew_with_a_warning(keras_home, caplog, damage):
    packed.open_or_make("set", None, make)
    damage(keras_home / "set")
    with caplog.at_level(logging.WARNING):
        assert_whole(packed.open_or_make("set", None, make))
    assert f"damaged packed set, {keras_home / 'set'}" in caplog.text
    assert_whole(packed.open_or_make("set", None, forbidden))


def test_nothing_is_left_of_a_set_that_could_not_be_made(keras_home):
    def fails(packer):
        packer.add(IMAGES, LABELS)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        packed.open_or_make("set", None, fails)
    assert not list(keras_home.iterdir())


def test_the_faster_of_two_processes_wins(keras_home):
    def slower(packer):
        packed.open_or_make("set", None, make)
        packer.add(IMAGES[:1], LABELS[:1])
        packer.finish(["other"])

    assert_whole(packed.open_or_make("set", None, slower))
    assert [path.name for path in keras_home.iterdir()] == ["set"]


@pytest.mark.parametrize(
    ("add", "message"),
    [
        ([IMAGES.astype(float)], r"uint8 images.*float64"),
        ([IMAGES[0]], r"uint8 images.*\(6, 5, 3\)"),
        ([IMAGES, IMAGES[:, :3]], r"one size, \(6, 5, 3\).*\(3, 5, 3\)"),
        ([], r"at least one image"),
    ],
)
def test_what_cannot_be_packed(add, message):
    def wrong(packer):
        for images in add:
            packer.add(images, LABELS)
        packer.finish(NAMES)

    with pytest.raises(ValueError, match=message):
        packed.open_or_make("set", None, wrong)
