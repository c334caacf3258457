"""Pictures in folders: which there are, and decoded ones, many at a time.

Pillow decodes, not TensorFlow: it turns photographs upright as their EXIF orientation says, which
TensorFlow ignores; and TensorFlow 2.21 takes the palette indices of a BMP for shades of grey, and
some animated WebP files end the whole process. Pillow lets other threads run while it decodes and
resizes, so that tf.data keeps all cores busy.
"""

import logging
import os
import pathlib
import re
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from maml_tf.tasks import splits, streams

# Those that TensorFlow decodes, and others: where Pillow cannot read one of these (HEIC needs
# pillow-heif) an error says so, while a picture that is passed over would not be missed.
EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp")
EXTENSIONS += (".tif", ".tiff", ".avif", ".heic", ".heif")
_SPLIT_FOLDERS = {
    "train": splits.NAMES[0],
    "training": splits.NAMES[0],
    "validation": splits.NAMES[1],
    "valid": splits.NAMES[1],
    "val": splits.NAMES[1],
    "test": splits.NAMES[2],
}
_BATCH = 32
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


def list_folder(path):
    """Lists the pictures of a folder that holds one folder per class.

    Where `path` holds `train/` and `test/` (and `validation/`, `valid/` or `val/`) with class
    folders in them, those are taken as splits. Classes and files are in natural order, `b2` before
    `b10`. Hidden files and all that has no picture's name (`EXTENSIONS`, in any case) are ignored.

    Args:
        path: path of the folder.

    Returns:
        A `Listing`.

    Raises:
        FileNotFoundError: there is no such folder.
        NotADirectoryError: it is a file.
        ValueError: there are no class folders, one holds no pictures, pictures lie beside them, or
            a class is in two splits.

    Example:
        >>> listing = maml_tf.tasks.image_files.list_folder("pictures")
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
    labels = np.repeat(np.arange(len(files)), [len(own) for own in files]).astype(np.int32)
    return Listing(sum(files, []), labels, names, [part for part, _ in found])


def list_images(path):
    """Lists the pictures that lie in a folder itself, in natural order.

    Args:
        path: path of the folder.

    Returns:
        List of `pathlib.Path`, empty where there are none.

    Raises:
        FileNotFoundError: there is no such folder.
        NotADirectoryError: it is a file.
    """
    return [p for p in _entries(_existing(path)) if p.suffix.lower() in EXTENSIONS and p.is_file()]


def read(paths, image_size=84, channels=3, on_error="raise"):
    """Decodes pictures as a stream, several files at a time.

    Each is turned upright (EXIF), laid on white where it is transparent, cut to the largest middle
    part of the wanted proportions and resized without aliasing. 16 bits a channel become 8, of an
    animation the first frame is taken.

    Args:
        paths: sequence of paths.
        image_size: int, or `(height, width)`, in pixels.
        channels: int, 3 for colour or 1 for grey.
        on_error: "raise" at the first file that cannot be decoded, or "skip": log a warning that
            names it and leave it out.

    Returns:
        An iterator of `(positions, images)`: int array `[n]` of positions in `paths`, increasing,
        and uint8 array `[n, height, width, channels]`.

    Raises:
        ImportError: Pillow is not installed.
        TypeError: a size is not an integer.
        ValueError: a size, `channels` or `on_error` out of range; or, while reading, a file that
            cannot be decoded, with its name and the reason.

    Example:
        >>> paths = maml_tf.tasks.image_files.list_images("pictures/cats")
        >>> for positions, images in maml_tf.tasks.image_files.read(paths, (60, 80)):
        ...     print(len(positions), images.shape[1:])
        12 (60, 80, 3)
    """
    shape = check_settings(image_size, channels, on_error)
    _pillow().init()  # all decoders, before several threads ask for them
    return _stream([pathlib.Path(path) for path in paths], shape, on_error)


def check_settings(image_size, channels, on_error):
    """Checks the settings of `read`.

    Returns:
        `(height, width, channels)`.

    Raises:
        TypeError: a size is not an integer.
        ValueError: a size, `channels` or `on_error` out of range.
    """
    size = (image_size, image_size) if np.ndim(image_size) == 0 else tuple(image_size)
    if len(size) != 2:
        raise ValueError(
            f"Expected `image_size` to be an int or (height, width). Received: {image_size!r}."
        )
    for length in size:
        streams.check_counts(image_size=length)
    if channels not in (1, 3):
        raise ValueError(
            f"Expected `channels` to be 1 (grey) or 3 (colour). Received: {channels!r}."
        )
    if on_error not in ("raise", "skip"):
        raise ValueError(f'Expected `on_error` to be "raise" or "skip". Received: {on_error!r}.')
    return (*size, channels)


def _stream(paths, shape, on_error):
    def decode(path):
        try:
            return _decode(os.fsdecode(path), shape), b""
        except Exception as error:  # Pillow's decoders let out whatever broken bytes bring about
            return np.zeros(shape, np.uint8), (str(error) or type(error).__name__).encode()

    def decode_in_graph(path):
        image, error = tf.numpy_function(decode, [path], [tf.uint8, tf.string], stateful=False)
        return tf.ensure_shape(image, shape), tf.ensure_shape(error, [])

    # On a machine with a GPU the images must not go there.
    with tf.device("CPU:0"):
        dataset = tf.data.Dataset.from_tensor_slices([os.fsencode(path) for path in paths] or [""])
        dataset = dataset.take(len(paths))
        dataset = dataset.map(decode_in_graph, tf.data.AUTOTUNE, deterministic=True)
        dataset = dataset.batch(_BATCH).prefetch(2)
    for batch, (images, errors) in enumerate(dataset.as_numpy_iterator()):
        for i in np.flatnonzero(errors != b""):
            _report(paths[batch * _BATCH + i], errors[i].decode(), on_error)
        good = np.flatnonzero(errors == b"")
        yield batch * _BATCH + good, images[good]


def _report(path, reason, on_error):
    if on_error == "skip":
        _logger.warning("Leaving out %s, which cannot be decoded: %s", path, reason)
        return
    raise ValueError(
        f"Expected pictures that can be decoded. Received: {str(path)!r}: {reason}. Mend or remove "
        'it, convert it to JPEG or PNG, or give `on_error="skip"` to leave such files out.'
    )


def _decode(path, shape):
    """One picture, uint8 `[height, width, channels]`."""
    from PIL import ImageOps

    height, width, channels = shape
    with _pillow().open(path) as image:
        # A JPEG is decoded at an eighth of its size in a tenth of the time; twice the wanted size
        # is left to the resize. Whether the picture lies on its side is not known yet.
        image.draft(None, (2 * max(height, width),) * 2)
        # A picture with a broken EXIF block is shown as it lies, as every viewer does.
        upright = _flat(_turned(image))
    upright = upright.convert("L" if channels == 1 else "RGB")
    fitted = ImageOps.fit(upright, (width, height), _pillow().Resampling.LANCZOS)
    return np.asarray(fitted).reshape(shape)


def _turned(image):
    from PIL import ImageOps

    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def _flat(image):
    """The picture with 8 bits a channel and without transparency."""
    if image.mode.startswith("I"):
        image = _pillow().fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    if image.has_transparency_data:
        # A drawing on a transparent ground is black on black where only alpha is dropped.
        image = image.convert("RGBA")
        white = _pillow().new("RGBA", image.size, "white")
        image = _pillow().alpha_composite(white, image)
    return image


def _pillow():
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            f"Pictures are decoded with Pillow, which could not be imported ({error}). Install it "
            'with: pip install "maml_tf[datasets]"'
        ) from error
    return Image


def _existing(path):
    root = pathlib.Path(path)
    if not root.exists():
        raise FileNotFoundError(
            f"Expected a folder of pictures. Received: {str(root)!r}, which does not exist (from "
            f"{os.getcwd()!r})."
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
