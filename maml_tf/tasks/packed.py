"""Sets of images packed into one file, once: what a sampler reads in place of thousands of files.

A packed set is a folder of `.npy` files. The images are memory-mapped when they are read, so they
may be larger than memory: the operating system fetches the rows that a batch asks for, and keeps
what fits.
"""

import contextlib
import io
import logging
import os
import pathlib
import shutil
import tempfile
from typing import NamedTuple

import numpy as np

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
                _logger.warning("Passing over a damaged packed set, %s: %s", place / name, error)
                shutil.rmtree(place / name, ignore_errors=True)
    _logger.info("Packing %s, once.", name)
    place = next((place for place in folders if _writable(place)), folders[-1])
    return _make(place, name, make)


def keras_datasets():
    """The folder in which Keras keeps data sets."""
    home = pathlib.Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    return home / "datasets"


def load(path):
    """Opens the packed set in the folder `path`: an `Images`."""
    path = pathlib.Path(path)
    images = np.load(path / "images.npy", mmap_mode="r", allow_pickle=False)
    labels, names, groups = (
        np.load(path / f"{field}.npy", allow_pickle=False) for field in Images._fields[1:]
    )
    whole = images.ndim == 4 and images.dtype == np.uint8 and labels.shape == images.shape[:1]
    if not whole or names.shape != groups.shape or names.dtype.kind != "U":
        raise ValueError(
            f"Expected uint8 images [rows, height, width, channels] with labels and names. "
            f"Received: images of shape {images.shape} and dtype {images.dtype}, labels of shape "
            f"{labels.shape}, names of shape {names.shape} and dtype {names.dtype}."
        )
    return Images(images, labels, names, groups)


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
    place.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".{name}.", dir=place))
    try:
        make(Packer(temporary))
        temporary.chmod(0o755)  # mkdtemp keeps others out
        with contextlib.suppress(OSError):  # another process was faster
            temporary.rename(place / name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return load(place / name)


def _writable(place):
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    # To an administrator every directory is writable: heed that one is marked read-only.
    return bool(place.stat().st_mode & 0o222) and os.access(place, os.W_OK)
