"""Pictures decoded from files, many at a time.

Pillow decodes, not TensorFlow: it turns photographs upright as their EXIF orientation says, which
TensorFlow ignores; and TensorFlow 2.21 takes the palette indices of a BMP for shades of grey, and
some animated WebP files end the whole process. Pillow lets other threads run while it decodes and
resizes, so that tf.data keeps all cores busy.
"""

import contextlib
import logging
import os
import pathlib
import threading

import numpy as np
import tensorflow as tf

from maml_tf import arguments

# What pictures are. Others are not tried, whatever the file is called: to read a PostScript file,
# for one, Pillow starts Ghostscript, which runs the program that such a file is.
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "BMP", "WEBP", "TIFF", "AVIF", "HEIF")
# A file of some kilobytes may claim any size. So many pixels take up to 400 MB while they are
# turned, flattened and resized; of larger pictures than _LARGE one at a time.
MOST_PIXELS = 100_000_000
_LARGE = 16_000_000
_one_at_a_time = threading.Lock()
_BATCH = 32
_logger = logging.getLogger(__name__)


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
        TypeError: a size is not an integer, or `paths` is one path.
        ValueError: a size, `channels` or `on_error` out of range; or, while reading, a file that
            cannot be decoded, with its name and the reason.

    Example:
        >>> paths = maml_tf.tasks.data.image_files.list_images("pictures/cats")
        >>> for positions, images in maml_tf.tasks.data.image_decoding.read(paths, (60, 80)):
        ...     print(len(positions), images.shape[1:])
        12 (60, 80, 3)
    """
    shape = check_settings(image_size, channels, on_error)
    if isinstance(paths, (str, bytes, os.PathLike)) or not np.iterable(paths):
        raise TypeError(
            "Expected `paths` to be a sequence of paths. Received: "
            f"{arguments.received('paths', paths)}. Put it into a list."
        )
    for path in paths:
        arguments.path("paths", path, "a sequence of paths of pictures")
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
    size = check_size(image_size)
    arguments.choice("channels", channels, (1, 3))
    arguments.choice("on_error", on_error, ("raise", "skip"))
    return (*size, channels)


def check_size(image_size):
    """Checks a size of pictures, in pixels.

    Returns:
        `(height, width)`.

    Raises:
        TypeError: a side is not an integer.
        ValueError: a side is below 1, or there are not two of them.
    """
    pair = isinstance(image_size, (list, tuple, np.ndarray)) and np.ndim(image_size) == 1
    if pair and len(image_size) != 2:
        raise ValueError(
            "Expected `image_size` to be an int or (height, width). Received: "
            f"{arguments.received('image_size', image_size)}. Give one number or two."
        )
    size = image_size if pair else (image_size, image_size)
    return tuple(arguments.integer("image_size", side, 1) for side in size)


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
        _logger.warning("Leaving out %r, which cannot be decoded: %s", str(path), reason)
        return
    raise ValueError(
        f"Expected pictures that can be decoded. Received: {str(path)!r}: {reason}. Mend or remove "
        'it, convert it to JPEG or PNG, or give `on_error="skip"` to leave such files out.'
    )


def _decode(path, shape):
    """One picture, uint8 `[height, width, channels]`."""
    from PIL import ImageOps

    height, width, channels = shape
    # A JPEG is decoded at an eighth of its size in a tenth of the time; twice the wanted size is
    # left to the resize. Whether the picture lies on its side is not known yet.
    with opened(path, draft=2 * max(height, width)) as image:
        # A picture with a broken EXIF block is shown as it lies, as every viewer does.
        upright = _flat(_turned(image))
        upright = upright.convert("L" if channels == 1 else "RGB")
        fitted = ImageOps.fit(upright, (width, height), _pillow().Resampling.LANCZOS)
    return np.asarray(fitted).reshape(shape)


@contextlib.contextmanager
def opened(file, draft=None):
    """Opens a picture with Pillow, not yet decoded, if it is one that may be.

    Args:
        file: path, or a file opened for reading bytes.
        draft: int or None, pixels; where the format can, it is decoded smaller than it is, but
            not smaller than that in height or width.

    Yields:
        A `PIL.Image.Image`.

    Raises:
        ValueError: it has more than `MOST_PIXELS`.
        Exception: of Pillow's kinds, it is not of one of `FORMATS`, or damaged.
    """
    pillow = _pillow()
    pillow.init()
    with pillow.open(file, formats=[name for name in FORMATS if name in pillow.OPEN]) as image:
        if draft is not None:
            image.draft(None, (draft, draft))
        pixels = image.size[0] * image.size[1]
        if pixels > MOST_PIXELS:
            raise ValueError(
                f"it has {image.size[0]:,} x {image.size[1]:,} pixels, more than the "
                f"{MOST_PIXELS:,} that are decoded"
            )
        with _one_at_a_time if pixels > _LARGE else contextlib.nullcontext():
            yield image


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
