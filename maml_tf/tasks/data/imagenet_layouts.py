"""Where ImageNet's images lie in the layouts in which people keep them, tars included.

Nothing is unpacked: an image in a tar is read from its place in there.
"""

import contextlib
import os
import pathlib
import tarfile
from typing import NamedTuple

_SUFFIXES = (".jpg", ".jpeg", ".png")
# Bytes; the largest image of ImageNet has 15 MB. A tar may claim any size.
_LARGEST_FILE = 2**28
_TRAIN_TAR = "ILSVRC2012_img_train.tar"
# Where a class that is there twice is read from: in the first of these.
_PLACES = ("", "images", "train", "val", "validation", "test")


class Picture(NamedTuple):
    """An image file, not yet read.

    Attributes:
        name: str, its file name.
        path: str, the file, or the tar that it is in.
        offset: int, byte at which it begins in the tar; None where it is a file of its own.
        size: int, its bytes in the tar; None where it is a file of its own.
    """

    name: str
    path: str
    offset: int | None = None
    size: int | None = None

    def read(self):
        """The bytes of the image file.

        Raises:
            OSError: it cannot be read.
            ValueError: it is too large to be an image.
        """
        size = os.path.getsize(self.path) if self.size is None else self.size
        if size > _LARGEST_FILE:
            raise ValueError(
                f"it has {size:,} bytes, more than the {_LARGEST_FILE:,} that are read"
            )
        with open(self.path, "rb") as file:
            file.seek(self.offset or 0)
            return file.read(size)

    def identity(self):
        """A tuple that is another one when the image is another one."""
        status = os.stat(self.path)
        return self.name, self.size or status.st_size, status.st_mtime_ns


def list_pictures(source, wnids, labels, progress=iter):
    """Lists all images that there are of some classes, in whichever layout.

    Args:
        source: `pathlib.Path` of a folder or of a tar of tars.
        wnids: list of str, the classes to look for.
        labels: dict of classes by file name, where all images lie in one folder and their names do
            not begin with the class.
        progress: function that passes an iterable on, such as `tqdm.tqdm`.

    Returns:
        A dict of lists of `Picture`s by class, of those classes that are there.

    Raises:
        ValueError: `source` has none of the layouts, or a tar is damaged.
    """
    if source.is_file():
        found = _in_tar_of_tars(source, wnids, progress)
    else:
        found = (
            _in_class_folders(source, wnids)
            or _in_class_tars(source, wnids, progress)
            or _in_tar_of_tars(source / _TRAIN_TAR, wnids, progress)
            or _in_one_folder(source, wnids, labels)
        )
    if not found:
        raise ValueError(_unknown_layout(source, wnids[0]))
    return found


def _in_class_folders(source, wnids):
    found = {}
    for place in _PLACES:
        for wnid in wnids:
            folder = source / place / wnid
            if wnid not in found and folder.is_dir():
                found[wnid] = [Picture(name, str(folder / name)) for name in _images(folder)]
    return found


def _in_one_folder(source, wnids, labels):
    known = set(wnids)
    found = {}
    for place in _PLACES:
        if not (source / place).is_dir():
            continue
        for name in _images(source / place):
            wnid = labels.get(name, name[:9])
            if wnid in known:
                picture = Picture(name, str(source / place / name))
                found.setdefault(wnid, {}).setdefault(name, picture)
    return {wnid: list(pictures.values()) for wnid, pictures in found.items()}


def _in_class_tars(source, wnids, progress):
    paths = {}
    for place in _PLACES:
        for wnid in wnids:
            path = source / place / f"{wnid}.tar"
            if wnid not in paths and path.is_file():
                paths[wnid] = path
    found = {}
    for wnid, path in progress(paths.items()) if paths else ():
        with path.open("rb") as stream:
            found[wnid] = _in_tar(path, stream)
    return found


def _in_tar_of_tars(path, wnids, progress):
    if not path.is_file():
        return {}
    found = {}
    with _whole(path), tarfile.open(path, mode="r:") as outer:
        # Links and folders are no tars, wherever they point.
        inner = {pathlib.PurePath(member.name).name: member for member in _files(outer)}
        present = [wnid for wnid in wnids if f"{wnid}.tar" in inner]
        for wnid in progress(present) if present else ():
            member = inner[f"{wnid}.tar"]
            with outer.extractfile(member) as stream:
                found[wnid] = _in_tar(path, stream, member.offset_data)
    return found


def _in_tar(path, stream, start=0):
    """Lists the images of the tar in `stream`, which begins at byte `start` of the file `path`."""
    with _whole(path), tarfile.open(fileobj=stream, mode="r:") as tar:
        return [
            Picture(name, str(path), start + member.offset_data, member.size)
            for member in _files(tar)
            if _is_image(name := pathlib.PurePath(member.name).name)
        ]


def _files(tar):
    """The members that lie in the tar as they are: at their offset, in one piece."""
    return (member for member in tar if member.isreg() and not member.issparse())


@contextlib.contextmanager
def _whole(path):
    """Names the tar in an error of reading it."""
    try:
        yield
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise ValueError(
            f"Expected {path} to be a whole tar, not compressed. Reading it failed: {error}. "
            "Compare its size with the one published, and get it anew."
        ) from error


def _images(folder):
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if _is_image(entry.name) and entry.is_file()]


def _is_image(name):
    # macOS leaves "._name.jpg" beside the files that it copies.
    return name.lower().endswith(_SUFFIXES) and not name.startswith(".")


def some(texts, most=5):
    """Joins the first few of `texts`, and says how many more there are."""
    texts = list(texts)
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def _unknown_layout(source, wnid):
    if source.is_file():
        holds = "a tar without such tars"
    else:
        names = sorted(entry.name for entry in source.iterdir())
        holds = some(names) if names else "nothing"
    return (
        f"Expected images of ImageNet in {source}, in one of these layouts: class folders, "
        f"{wnid}/*.jpg, there or in images, train, val and test; all images in the folder or in "
        f"images, {wnid}00000005.jpg, with train.csv, val.csv and test.csv; the file {_TRAIN_TAR}; "
        f"or its inner tars, {wnid}.tar. Found: {holds}."
    )
