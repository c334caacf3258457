"""Sets of images packed into one file, once: what a sampler reads in place of thousands of files.

A packed set is a folder of `.npy` files. The images are memory-mapped when they are read, so they
may be larger than memory: the operating system fetches the rows that a batch asks for, and keeps
what fits.
"""

import io
import logging
import math
import os
import pathlib
from typing import NamedTuple

import numpy as np

from maml_tf import files

# Bytes of the header of images.npy: NumPy pads it to a multiple of 64, with room to spare.
_HEADER = 128
_logger = logging.getLogger(__name__)


class Images(NamedTuple):
    """Labelled images.

    Attributes:
        images: uint8 array `[rows, height, width, channels]`, memory-mapped where it was packed.
        labels: int32 array `[rows]`, the class of each image.
        names: str array `[classes]`, what each class is called.
        groups: str array `[classes]`, what a class belongs to (an alphabet, a script, a split of
            the source), "" where there is nothing of the kind.
    """

    images: np.ndarray
    labels: np.ndarray
    names: np.ndarray
    groups: np.ndarray


def open_or_make(name, folder, make):
    """Opens a packed set, or makes it where it is not there.

    Args:
        name: str, of the packed set, with what it depends on: `"cifar100-3.0.2"`.
        folder: path, where it should lie; `$KERAS_HOME/datasets` (`~/.keras/datasets`) takes its
            place where it cannot be written. None is that too.
        make: function of a `Packer`, called where there is no such set: it adds every image.

    Returns:
        An `Images`.

    Raises:
        OSError: it can be written in neither place.
    """
    folders = [] if folder is None else [pathlib.Path(folder)]
    folders.append(keras_datasets())
    for place in folders:
        if (place / name).is_dir():
            try:
                return load(place / name)
            except (OSError, ValueError, EOFError) as error:
                # It stays until a whole one takes its place.
                _logger.warning("Passing over a damaged packed set, %s: %s", place / name, error)
    _logger.info("Packing %s, once.", name)
    place = next((place for place in folders if writable(place)), folders[-1])
    return _make(place, name, make)


def keras_datasets():
    """The folder in which Keras keeps data sets."""
    home = pathlib.Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    return home / "datasets"


def load(path):
    """Opens the packed set in the folder `path`: an `Images`.

    Raises:
        OSError: a file cannot be read.
        ValueError: it is no packed set, or a damaged one.
    """
    path = pathlib.Path(path)
    images = read_array(path / "images.npy", mmap_mode="r")
    labels, names, groups = (read_array(path / f"{field}.npy") for field in Images._fields[1:])
    whole = images.ndim == 4 and images.dtype == np.uint8 and labels.shape == images.shape[:1]
    whole = whole and labels.dtype == np.int32 and names.ndim == 1
    if not whole or names.shape != groups.shape or names.dtype.kind != "U":
        raise ValueError(
            f"Expected uint8 images [rows, height, width, channels] with labels and names. "
            f"Received: images of shape {images.shape} and dtype {images.dtype}, labels of shape "
            f"{labels.shape}, names of shape {names.shape} and dtype {names.dtype}."
        )
    if labels.size and not 0 <= labels.min() <= labels.max() < len(names):
        raise ValueError(
            f"Expected labels of 0 to {len(names) - 1}, as there are {len(names)} names. Received: "
            f"{labels.min()} to {labels.max()}."
        )
    return Images(images, labels, names, groups)


def read_array(path, mmap_mode=None):
    """Reads a `.npy` file that holds all that its header says: numbers or text, no objects.

    Args:
        path: `pathlib.Path` of the file.
        mmap_mode: as `np.load` takes it.

    Returns:
        The array.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no such file. Nothing is allocated before that is known.
    """
    with path.open("rb") as file:
        shape, dtype = read_header(file)
        size, there = math.prod(shape) * dtype.itemsize, os.fstat(file.fileno()).st_size
        if there - file.tell() != size:
            raise ValueError(
                f"Expected {size} bytes in {path.name}, of shape {shape} and dtype {dtype}. "
                f"Received: {there - file.tell()}."
            )
    return np.load(path, mmap_mode=mmap_mode, allow_pickle=False)


def read_header(file):
    """Reads the beginning of a `.npy` file.

    Args:
        file: opened for reading bytes.

    Returns:
        `(shape, dtype)`, of numbers or text.

    Raises:
        ValueError: it is no such file, or one of Python objects.
    """
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"Expected version 1.0 of NumPy's format. Received: {version}.")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.kind not in "biufU" or any(length < 0 for length in shape):
        raise ValueError(f"Expected numbers or text. Received: shape {shape} and dtype {dtype}.")
    return shape, dtype


class Packer:
    """Takes images one by one, or many at a time, and writes them to disk as they come."""

    def __init__(self, folder):
        self._folder = pathlib.Path(folder)
        self._file = (self._folder / "images.npy").open("wb")
        self._file.write(bytes(_HEADER))  # until the number of images is known
        self._shape = None
        self._labels = []

    def add(self, images, labels):
        """Adds uint8 images `[n, height, width, channels]` and their labels `[n]`."""
        images = np.ascontiguousarray(images)
        if images.ndim != 4 or images.dtype != np.uint8:
            raise ValueError(
                "Expected uint8 images [n, height, width, channels]. Received: shape "
                f"{images.shape} and dtype {images.dtype}. Convert them first."
            )
        if self._shape not in (None, images.shape[1:]):
            raise ValueError(
                f"Expected images of one size, {self._shape}. Received: {images.shape[1:]}. "
                "Resize them first."
            )
        labels = np.asarray(labels)
        if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
            raise ValueError(
                f"Expected an integer label for each of {len(images)} images. Received: labels of "
                f"shape {labels.shape} and dtype {labels.dtype}. Give one a row."
            )
        self._shape = images.shape[1:]
        self._file.write(images.tobytes())
        self._labels.append(labels.astype(np.int32))

    def finish(self, names, groups=None):
        """Writes labels and names; the last call.

        Args:
            names: sequence of str, one a class.
            groups: sequence of str, one a class, or None.
        """
        labels = np.concatenate(self._labels) if self._labels else np.zeros([0], np.int32)
        if not labels.size:
            raise ValueError("Expected at least one image to pack. Received: none.")
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header,
            {"descr": "|u1", "fortran_order": False, "shape": (len(labels), *self._shape)},
        )
        self._file.seek(0)
        self._file.write(header.getvalue())
        self._file.close()
        np.save(self._folder / "labels.npy", labels)
        np.save(self._folder / "names.npy", np.array(names, dtype=str))
        np.save(self._folder / "groups.npy", np.array(groups or [""] * len(names), dtype=str))


def _make(place, name, make):
    """Writes beside and renames, so that no one reads half of it."""
    damaged = (place / name).is_dir() and _is_damaged(place / name)
    try:
        with files.whole_folder(place / name, replace=damaged) as folder:
            make(Packer(folder))
    except FileExistsError:
        _logger.debug("Another process was faster: %s", place / name)
    return load(place / name)


def _is_damaged(path):
    try:
        load(path)
    except (ValueError, EOFError, FileNotFoundError):
        return True
    return False


def writable(place):
    """Whether a folder can be written into; it is made where it does not exist."""
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    # To an administrator every directory is writable: heed that one is marked read-only.
    return bool(place.stat().st_mode & 0o222) and os.access(place, os.W_OK)
