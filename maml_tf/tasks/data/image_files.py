"""Pictures in folders: which there are, of which class and split."""

import logging
import os
import pathlib
import re
from typing import NamedTuple

import numpy as np

from maml_tf import arguments
from maml_tf.tasks import splits

# Those that TensorFlow decodes, and others: where Pillow cannot read one of these (HEIC needs
# pillow-heif) an error says so, while a picture that is passed over would not be missed.
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp"),
    *(".tif", ".tiff", ".avif", ".heic", ".heif"),
)
_SPLIT_FOLDERS = {
    "train": splits.NAMES[0],
    "training": splits.NAMES[0],
    "validation": splits.NAMES[1],
    "valid": splits.NAMES[1],
    "val": splits.NAMES[1],
    "test": splits.NAMES[2],
}
_logger = logging.getLogger(__name__)


class Listing(NamedTuple):
    """The pictures of a folder with one folder per class.

    Attributes:
        paths: list of `pathlib.Path` `[rows]`, class by class.
        labels: int32 array `[rows]`, positions in `names`.
        names: list of str `[classes]`, the names of the class folders.
        groups: list of str `[classes]`, the split that a class was found in: "train",
            "validation" or "test"; "" where the folder is not split.
    """

    paths: list
    labels: np.ndarray
    names: list
    groups: list


def list_folder(path, follow_links=False):
    """Lists the pictures of a folder that holds one folder per class.

    Where `path` holds `train/` and `test/` (and `validation/`, `valid/` or `val/`) with class
    folders in them, those are taken as splits. Classes and files are in natural order, `b2` before
    `b10`. Hidden files and all that has no picture's name (`EXTENSIONS`, in any case) are ignored.

    Args:
        path: path of the folder.
        follow_links: bool, whether links may lead out of the folder. Whoever packed it might
            have a link point to anything that you can read.

    Returns:
        A `Listing`.

    Raises:
        TypeError: `path` is no path.
        FileNotFoundError: there is no such folder.
        NotADirectoryError: it is a file.
        ValueError: there are no class folders, one holds no pictures, pictures lie beside them, or
            a class is in two splits, or a link leads out of the folder.

    Example:
        >>> listing = maml_tf.tasks.data.image_files.list_folder("pictures")
        >>> listing.names[listing.labels[0]] == listing.paths[0].parent.name
        True
    """
    root = _existing(path)
    parts = _split_folders(root)
    found = [
        (part, folder)
        for part, parent in (parts or {"": root}).items()
        for folder in _class_folders(parent)
    ]
    names = [folder.name for _, folder in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"Expected each class in one split of {str(root)!r} only. Received: {twice[:5]} in "
            "more than one. Few-shot splits share no class: rename or remove one of each."
        )
    files = [_images_of_class(folder) for _, folder in found]
    if not follow_links:
        check_links(root, [path for own in files for path in own])
    labels = np.repeat(np.arange(len(files)), [len(own) for own in files]).astype(np.int32)
    return Listing(sum(files, []), labels, names, [part for part, _ in found])


def list_images(path):
    """Lists the pictures that lie in a folder itself, in natural order.

    Args:
        path: path of the folder.

    Returns:
        List of `pathlib.Path`, empty where there are none.

    Raises:
        TypeError: `path` is no path.
        FileNotFoundError: there is no such folder.
        NotADirectoryError: it is a file.
    """
    return [p for p in _entries(_existing(path)) if p.suffix.lower() in EXTENSIONS and p.is_file()]


def check_links(root, paths):
    """Checks that no link leads from a folder to what lies outside.

    Args:
        root: path of the folder.
        paths: list of paths below it.

    Raises:
        ValueError: one does; the message names it.
    """
    inside = os.path.realpath(root)
    folders = {folder: os.path.realpath(folder) for folder in {path.parent for path in paths}}
    for path in paths:
        real = folders[path.parent]
        if path.is_symlink():
            real = os.path.realpath(path)
        if os.path.commonpath([inside, real]) != inside:
            raise ValueError(
                f"Expected pictures that lie in {str(root)!r}. Received: {str(path)!r}, a link to "
                f"{real!r}. Copy what it points to into the folder, or, if the links are your own, "
                "give `follow_links=True` (scripts: --follow-links)."
            )


def _existing(path):
    root = pathlib.Path(arguments.path("path", path, "the path of a folder of pictures"))
    if not root.exists():
        raise FileNotFoundError(
            f"Expected a folder of pictures. Received: {str(root)!r}, which does not exist (from "
            f"{os.getcwd()!r}). Give the folder that holds one folder per class."
        )
    if not root.is_dir():
        raise NotADirectoryError(
            f"Expected a folder of pictures. Received: {str(root)!r}, which is a file. Give the "
            "folder that holds one folder per class."
        )
    return root


def _entries(folder):
    """What is visible in a folder, in natural order; `__MACOSX` comes with a Mac's zip files."""
    visible = (p for p in folder.iterdir() if not p.name.startswith(".") and p.name != "__MACOSX")
    return sorted(visible, key=_natural)


def _natural(path):
    parts = re.split(r"(\d+)", path.name.casefold())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], path.name


def _split_folders(root):
    """`{split: folder}` in the order of `splits.NAMES`, or None where `root` is not split."""
    folders = [p for p in _entries(root) if p.is_dir()]
    named = [(p, _SPLIT_FOLDERS.get(p.name.lower())) for p in folders]
    # "train" may be a class of vehicles: a split holds folders and no pictures.
    parts = [(p, part) for p, part in named if part and not list_images(p) and _has_folders(p)]
    if not {"train", "test"} <= {part for _, part in parts}:
        return None
    if len({part for _, part in parts}) < len(parts):
        raise ValueError(
            f"Expected one folder for each split in {str(root)!r}. Received: "
            f"{[p.name for p, _ in parts]}. Merge those that mean the same split."
        )
    others = [p.name for p in folders if p not in dict(parts)]
    if others:
        _logger.warning("Ignoring %s beside the splits of %s.", others[:5], root)
    by_name = {part: p for p, part in parts}
    return {part: by_name[part] for part in splits.NAMES if part in by_name}


def _has_folders(folder):
    return any(p.is_dir() for p in _entries(folder))


def _class_folders(root):
    folders = [p for p in _entries(root) if p.is_dir()]
    loose = list_images(root)
    if loose:
        raise ValueError(
            f"Expected one folder per class in {str(root)!r}. Received: {len(loose)} pictures that "
            f"lie in it directly, such as {loose[0].name!r}, beside {len(folders)} folders. Move "
            "each into the folder of its class."
        )
    if not folders:
        raise ValueError(
            f"Expected one folder per class in {str(root)!r}. Received: no folders. Put the "
            "pictures of each class into a folder named after it."
        )
    return folders


def _images_of_class(folder):
    images = list_images(folder)
    if not images:
        inner = " but folders: give one folder up or down" if _has_folders(folder) else ""
        raise ValueError(
            f"Expected pictures in the class folder {str(folder)!r}. Received: none{inner}. Known "
            f"are {' '.join(EXTENSIONS)}. Fill the folder or remove it."
        )
    return images
