"""Omniglot as one array: 1,623 characters of 50 alphabets, 20 drawings each, 28x28.

Lake, Salakhutdinov & Tenenbaum 2015, "Human-level concept learning through probabilistic program
induction". Read through TensorFlow Datasets once, then from a packed copy of 25 MB.
"""

import logging
import os
import pathlib
import zipfile
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from maml_tf import files
from maml_tf.tasks.data import packed, prepared

CHARACTERS = 1623
BACKGROUND = 964  # characters of TensorFlow Datasets' train split, the background alphabets
DRAWINGS = 20
SIZE = 28

_SHAPE = (CHARACTERS, DRAWINGS, SIZE, SIZE)
_LONGEST = 100  # letters of a name
_logger = logging.getLogger(__name__)


class Omniglot(NamedTuple):
    """Omniglot by character; the first `BACKGROUND` ones are those of the background alphabets.

    Attributes:
        images: uint8 array `[1623, 20, 28, 28, 1]`, 255 full ink, 0 none.
        characters: str array `[1623]`, such as "Arcadian_0".
        alphabets: str array `[1623]`, such as "Arcadian".
    """

    images: np.ndarray
    characters: np.ndarray
    alphabets: np.ndarray


def load_omniglot(data_dir: str | os.PathLike | None = None, download: bool = False) -> Omniglot:
    """Loads Omniglot by character, for `sampling.episodes` or anything else.

    The drawings are made 28x28 by Lanczos with ink 1. The first call reads 32,460 PNG files and
    stores the packed array beside the data, or in `$KERAS_HOME/datasets` (`~/.keras/datasets`)
    where that directory is read-only; later calls take a fraction of a second.

    Args:
        data_dir: path or None, directory of TensorFlow Datasets; None is its own default
            (`$TFDS_DATA_DIR` or `~/tensorflow_datasets`).
        download: bool, whether to download and prepare the data where they are not there.

    Returns:
        An `Omniglot`.

    Raises:
        ImportError: TensorFlow Datasets is not installed.
        FileNotFoundError: the data are not there and `download` is False.

    Example:
        >>> images, characters, alphabets = maml_tf.tasks.load_omniglot(download=True)
        >>> images.shape, len(set(alphabets))
        ((1623, 20, 28, 28, 1), 50)
    """
    builder = prepared.open_builder("omniglot", data_dir, download)
    folder = pathlib.Path(builder.data_path)
    name = f"omniglot-{builder.version}-{SIZE}x{SIZE}-lanczos3.npz"
    paths = [folder / name, packed.keras_datasets() / name]
    return read_packed(paths, lambda: _read(builder))


def _read(builder):
    """Reads all drawings through TensorFlow Datasets and packs them by character."""
    _logger.info("Reading Omniglot from %s, once: it is stored packed.", builder.data_path)
    examples = builder.as_dataset(split="train+test").map(
        lambda example: (_shrink(example["image"]), example["label"], example["alphabet"]),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    images, labels, alphabets = map(
        np.concatenate, zip(*examples.batch(1024).as_numpy_iterator(), strict=True)
    )
    by_character = np.argsort(labels, kind="stable")
    features = builder.info.features
    return Omniglot(
        images=images[by_character].reshape(*_SHAPE, 1),
        characters=np.array(features["label"].names),
        alphabets=np.array(features["alphabet"].names)[alphabets[by_character][::DRAWINGS]],
    )


def _shrink(image):
    """Makes a drawing uint8 `[28, 28]` with ink 255 from uint8 `[105, 105, 3]` with ink 0."""
    ink = 1.0 - tf.cast(image[:, :, :1], tf.float32) / 255.0
    ink = tf.image.resize(ink, [SIZE, SIZE], method="lanczos3", antialias=True)
    return tf.cast(tf.round(255.0 * tf.clip_by_value(ink, 0.0, 1.0)), tf.uint8)[:, :, 0]


def read_packed(paths, read):
    """Returns the first packed copy that is there and whole, else reads and stores one.

    Args:
        paths: list of paths of the packed copy, the preferred one first.
        read: function without arguments that gives an `Omniglot` where there is no copy.

    Returns:
        An `Omniglot`.
    """
    for path in paths:
        if path.exists():
            try:
                return _load(path)
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                _logger.warning("Passing over a damaged packed copy, %s: %s", path, error)
    data = read()
    for path in paths:
        try:
            _store(path, data)
            return data
        except OSError as error:
            _logger.debug("Could not store %s: %s", path, error)
    _logger.warning(
        "Omniglot will be read anew each time: none of %s can be written. Set KERAS_HOME to a "
        "directory that can.",
        ", ".join(map(str, paths)),
    )
    return data


def _load(path):
    """Loads a packed copy; the archive's own checksums make a damaged one fail."""
    with path.open("rb") as stream:
        # Before anything is allocated: what is compressed may claim any size.
        with zipfile.ZipFile(stream) as archive:
            for field in Omniglot._fields:
                with archive.open(f"{field}.npy") as member:
                    _check_header(field, *packed.read_header(member))
        stream.seek(0)
        with np.lib.npyio.NpzFile(stream, allow_pickle=False) as file:
            images, characters, alphabets = (file[name] for name in Omniglot._fields)
    return Omniglot(images[..., np.newaxis], characters, alphabets)


def _check_header(field, shape, dtype):
    if field == "images":
        whole = shape == _SHAPE and dtype == np.uint8
    else:
        whole = shape == (CHARACTERS,) and dtype.kind == "U" and dtype.itemsize <= 4 * _LONGEST
    if not whole:
        raise ValueError(f"it holds {field} of shape {shape} and dtype {dtype}")


def _store(path, data):
    """Writes a packed copy under another name and renames it, so that no one reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # To an administrator every directory is writable: heed that one is marked read-only.
    if not path.parent.stat().st_mode & 0o222:
        raise PermissionError(f"{path.parent} is read-only")
    with files.whole(path) as beside:
        np.savez(beside, **data._replace(images=data.images[..., 0])._asdict())
