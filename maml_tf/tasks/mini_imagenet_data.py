"""mini-ImageNet as one array: 100 classes of ImageNet, 600 images each, 84x84 in colour.

Vinyals et al. 2016, "Matching networks for one shot learning"; the classes and their split are
those of Ravi & Larochelle 2017, "Optimization as a model for few-shot learning".
"""

import concurrent.futures
import hashlib
import io
import os
import pathlib

import numpy as np

from maml_tf import arguments, files
from maml_tf.tasks import class_lists, image_decoding, imagenet_source, packed, splits

SIZE = 84
FILTER = "lanczos"  # the filter of the script that came with the MAML paper
_IMAGES = 600  # of each class; smaller in tests


def load_mini_imagenet(data_dir=None, source=None, csv_dir=None):
    """Loads mini-ImageNet, for `sampling.episodes` or anything else.

    ImageNet may not be handed on, so there is nothing to download: give, once, the images that
    you have. They are resized to 84x84 by Lanczos with antialiasing, whatever their shape, made
    RGB, and stored by TensorFlow Datasets; images of 84x84 are kept as they are. A preparation
    that was interrupted goes on where it was. It takes minutes, and some 2.5 GB of disk: for the
    prepared data set, and for the packed array, which is what later calls open, in a fraction of
    a second and without reading it into memory.

    Args:
        data_dir: path or None, directory of TensorFlow Datasets; None is its own default
            (`$TFDS_DATA_DIR` or `~/tensorflow_datasets`).
        source: path or None, the images to prepare it from, where it is not there. Its layout is
            recognised:
            class folders such as `n01532829` with 600 images each, or `train`, `val` and `test`
            with such folders; a folder of all 60,000 images, or with `images` of them, and
            `train.csv`, `val.csv` and `test.csv`; ImageNet's training images in class folders;
            `ILSVRC2012_img_train.tar`, or a folder of its inner tars (tars are read in place, and
            nothing is unpacked).
        csv_dir: path or None, folder of Ravi & Larochelle's `train.csv`, `val.csv` and
            `test.csv`, which say which 600 of about 1,300 images a class are taken from ImageNet;
            None looks for them in `source`. Without them the first 600 by number are taken:
            the same classes and sizes, but not the published images.

    Returns:
        A `packed.Images`: `images` uint8 `[60000, 84, 84, 3]`, memory-mapped, class after class;
        `labels` int32 `[60000]`; `names` str `[100]`, WordNet ids in the order of the published
        split; `groups` str `[100]`, "train", "validation" or "test".

    Raises:
        ImportError: TensorFlow Datasets, or Pillow where there is something to prepare, is not
            installed.
        FileNotFoundError: the data are not there, and no `source`; or there is no such `source`.
        ValueError: `source` has none of the layouts, too few images of a class, or a damaged file.

    Example:
        >>> data = maml_tf.tasks.load_mini_imagenet(source="ILSVRC2012_img_train.tar")
        >>> data.images.shape, data.groups[data.labels[0]]
        ((60000, 84, 84, 3), 'train')
    """
    if data_dir is not None:
        arguments.path("data_dir", data_dir, "the directory of TensorFlow Datasets")
    imagenet_source.check_paths(source, csv_dir)
    builder = _builder(data_dir, source, csv_dir)
    if not builder.is_prepared():
        if source is None:
            raise FileNotFoundError(_not_there(builder, data_dir))
        builder.download_and_prepare()
    _check_prepared(builder)
    # The version does not tell which 600 images were chosen; the bytes of the data set do.
    name = f"mini_imagenet-{builder.version}-{int(builder.info.dataset_size)}"
    return packed.open_or_make(name, builder.data_path, lambda packer: _pack(builder, packer))


def _builder(data_dir, source, csv_dir):
    try:
        from maml_tf.tasks.tfds_builders.mini_imagenet import MiniImagenet
    except ImportError as error:
        raise ImportError(
            "mini-ImageNet is stored by TensorFlow Datasets, which could not be imported "
            f'({error}). Install it with: pip install "maml_tf[datasets]"'
        ) from error
    return MiniImagenet(data_dir=data_dir, source=source, csv_dir=csv_dir)


def _not_there(builder, data_dir):
    where = "" if data_dir is None else f"data_dir={os.fspath(data_dir)!r}, "
    return (
        f"Expected mini-ImageNet in {builder.data_path}. Found none there. Give the `data_dir` "
        "that holds it, or prepare it once from images of ImageNet: "
        f"maml_tf.tasks.load_mini_imagenet({where}source=...)"
    )


def _check_prepared(builder):
    expected = {
        part: len(names) * _IMAGES for part, names in class_lists.load(builder.name).items()
    }
    received = {part: info.num_examples for part, info in builder.info.splits.items()}
    if received != expected:
        raise ValueError(
            f"Expected {expected} images in {builder.data_path}. Received: {received}. Remove that "
            "folder and prepare it anew."
        )


def _pack(builder, packer):
    for part in splits.NAMES:
        examples = builder.as_dataset(split=part).batch(_IMAGES)
        for batch in examples.as_numpy_iterator():
            packer.add(batch["image"], batch["label"])
    parts = class_lists.load(builder.name)
    packer.finish(
        names=[wnid for names in parts.values() for wnid in names],
        groups=[part for part, names in parts.items() for _ in names],
    )


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
