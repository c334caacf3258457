"""What stands in the place of a model file: the same words from every script that reads one."""

import pickle
import zipfile

import keras
import pytest

import maml_tf
from train import evaluate, image_learners, model_files, picture_models


def dense_model():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A learner, a model and a layer, and what is none of them."""
    folder = tmp_path_factory.mktemp("files")
    learner = maml_tf.MAML(dense_model(), 0.1)
    learner.compile(loss="mse")
    learner.save(folder / "learner.keras")
    dense_model().save(folder / "plain.keras")
    whole = (folder / "learner.keras").read_bytes()
    (folder / "cut.keras").write_bytes(whole[: len(whole) // 2])
    (folder / "short.keras").write_bytes(whole[:-1])
    (folder / "empty.keras").touch()
    (folder / "text.keras").write_text("no model")
    (folder / "numbers.pkl").write_bytes(pickle.dumps([1, 2]))
    (folder / "pickle.keras").write_bytes(pickle.dumps([1, 2]))
    (folder / "learner.h5").write_bytes(whole)
    (folder / "folder.keras").mkdir()
    with zipfile.ZipFile(folder / "torch.keras", "w") as archive:  # as PyTorch packs its pickles
        archive.writestr("model/data.pkl", pickle.dumps([1, 2]))
    with zipfile.ZipFile(folder / "zip.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    at = whole.index(b"HDF") + 3000
    (folder / "flipped.keras").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    return folder


# What each script that opens a learner or a model does with a path, and how it names it.
READERS = {
    "evaluate": (evaluate.open_learner, "", "a saved learner (.keras)"),
    "adapt": (picture_models._open_learner, "--model ", "a saved learner (.keras)"),
    "start from": (
        lambda path: image_learners.start_from(dense_model(), path),
        "--start-from ",
        "a saved learner or model (.keras)",
    ),
}
REASONS = {
    "nowhere.keras": "it does not exist",
    "folder.keras": "it is a folder",
    "empty.keras": "the file is empty",
    "cut.keras": "the file is damaged, or no .keras file: its ",
    "short.keras": "the file is damaged, or no .keras file: its ",
    "text.keras": "the file is damaged, or no .keras file: its 8 bytes",
    "pickle.keras": "the file is damaged, or no .keras file: its ",
    "numbers.pkl": "its name does not end in .keras",
    "learner.h5": "its name does not end in .keras",
    "torch.keras": "it is an archive of something else: it holds ['model/data.pkl']",
    "zip.keras": "",  # Keras' own words
    "flipped.keras": "Bad CRC-32",
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", REASONS)
def test_every_reader_says_the_same_of_a_file_that_is_none(folder, reader, name):
    read, before, expected = READERS[reader]
    path = folder / name
    with pytest.raises((ValueError, SystemExit)) as raised:
        read(path) if reader != "adapt" else read(path, None)
    told = str(raised.value)
    begin = f"Expected {expected}. Received: {before}{path}, which cannot be read: {REASONS[name]}"
    assert told.startswith(begin)
    assert told.endswith(". Give another, or save it anew.")
    assert "\n" not in told


@pytest.mark.parametrize("reader", ["evaluate", "adapt"])
def test_what_does_not_adapt_is_told(folder, reader):
    read, before, _ = READERS[reader]
    path = folder / "plain.keras"
    with pytest.raises((ValueError, SystemExit)) as raised:
        read(path) if reader != "adapt" else read(path, None)
    assert f"Received: {before}{path}, which holds a Sequential, which does not adapt." in str(
        raised.value
    )


def test_whole_files_are_opened(folder):
    assert isinstance(model_files.open_learner(folder / "learner.keras"), maml_tf.MAML)
    assert isinstance(model_files.open_model(str(folder / "learner.keras")), maml_tf.MAML)
    assert isinstance(model_files.open_model(folder / "plain.keras"), keras.Sequential)
