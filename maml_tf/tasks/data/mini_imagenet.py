"""mini-ImageNet as one array: 100 classes of ImageNet, 600 images each, 84x84 in colour.

Vinyals et al. 2016, "Matching networks for one shot learning"; the classes and their split are
those of Ravi & Larochelle 2017, "Optimization as a model for few-shot learning".
"""

import os

from maml_tf import arguments
from maml_tf.tasks import class_lists, splits
from maml_tf.tasks.data import imagenet_source, mini_imagenet_staging, packed


def load_mini_imagenet(
    data_dir: str | os.PathLike | None = None,
    source: str | os.PathLike | None = None,
    csv_dir: str | os.PathLike | None = None,
) -> packed.Images:
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
        from maml_tf.tasks.data.tfds_builders.mini_imagenet import MiniImagenet
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
        part: len(names) * mini_imagenet_staging.IMAGES
        for part, names in class_lists.load(builder.name).items()
    }
    received = {part: info.num_examples for part, info in builder.info.splits.items()}
    if received != expected:
        raise ValueError(
            f"Expected {expected} images in {builder.data_path}. Received: {received}. Remove that "
            "folder and prepare it anew."
        )


def _pack(builder, packer):
    for part in splits.NAMES:
        examples = builder.as_dataset(split=part).batch(mini_imagenet_staging.IMAGES)
        for batch in examples.as_numpy_iterator():
            packer.add(batch["image"], batch["label"])
    parts = class_lists.load(builder.name)
    packer.finish(
        names=[wnid for names in parts.values() for wnid in names],
        groups=[part for part, names in parts.items() for _ in names],
    )
