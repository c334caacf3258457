"""The images of mini-ImageNet made 84x84, class by class, before they are a data set.

What `mini_imagenet` and the builder in `tfds_builders` both need stands here, below them.
"""

import concurrent.futures
import hashlib
import io
import os
import pathlib

import numpy as np

from maml_tf import files
from maml_tf.tasks.data import image_decoding, packed

SIZE = 84
FILTER = "lanczos"  # the filter of the script that came with the MAML paper
IMAGES = 600  # of each class; smaller in tests


def stage(pictures, folder, progress):
    """Resizes images class by class into a folder; what is there already is not done again.

    Args:
        pictures: dict of lists of `imagenet_layouts.Picture` by class.
        folder: path, made where it is missing.
        progress: `tqdm.tqdm` or something of its kind.

    Returns:
        A dict of paths by class: `.npy` files, uint8 `[images, 84, 84, 3]` each. A name tells
        from which files it was made, so that other files are never taken for the same.

    Raises:
        ImportError: Pillow is not installed.
        ValueError: an image cannot be read; the message names it.
    """
    check_pillow()
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    total = sum(map(len, pictures.values()))
    with progress(total=total, desc="Resizing", unit=" images") as bar:
        for wnid, chosen in pictures.items():
            paths[wnid] = folder / f"{wnid}-{_fingerprint(chosen)}.npy"
            if _is_whole(paths[wnid], len(chosen)):
                bar.update(len(chosen))
            else:
                with files.whole(paths[wnid]) as beside:
                    np.save(beside, _shrink_all(chosen, bar))
    return paths


def check_pillow():
    """Raises ImportError where Pillow is not installed."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"Preparing mini-ImageNet needs Pillow, which could not be imported ({error}). "
            'Install it with: pip install "maml_tf[datasets]"'
        ) from error


def _fingerprint(pictures):
    identity = repr([SIZE, FILTER, [picture.identity() for picture in pictures]])
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def _is_whole(path, count):
    try:
        images = packed.read_array(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return False
    return images.shape == (count, SIZE, SIZE, 3) and images.dtype == np.uint8


def _shrink_all(pictures, bar):
    images = np.empty([len(pictures), SIZE, SIZE, 3], np.uint8)
    # Pillow lets go of Python's lock while it decodes and resizes.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for image, row in zip(pool.map(shrink, pictures), images, strict=True):
            row[...] = image
            bar.update(1)
    return images


def shrink(picture):
    """Makes an image 84x84: uint8 `[84, 84, 3]`, RGB.

    Pillow reads what is in ImageNet: grey images, JPEGs in CMYK, a PNG that is named JPEG.

    Args:
        picture: an `imagenet_layouts.Picture`.

    Returns:
        A uint8 array `[84, 84, 3]`.

    Raises:
        ValueError: it cannot be read.
    """
    import PIL.Image

    try:
        with image_decoding.opened(io.BytesIO(picture.read())) as image:
            image = image.convert("RGB")
    except Exception as error:  # each of Pillow's decoders has errors of its own
        where = picture.path if picture.offset is None else f"{picture.name} of {picture.path}"
        raise ValueError(
            f"Expected an image in {where}. Reading it failed: {error}. Put a whole one there, "
            "and start again: it goes on where it was."
        ) from error
    if image.size != (SIZE, SIZE):
        image = image.resize((SIZE, SIZE), PIL.Image.Resampling.LANCZOS)
    return np.asarray(image)
