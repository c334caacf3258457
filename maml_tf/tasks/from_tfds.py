"""Any labelled image set of TensorFlow Datasets as few-shot tasks."""

import dataclasses
import os
import pathlib
from typing import Any

import tensorflow as tf

from maml_tf.tasks import sampling, splits
from maml_tf.tasks.data import image_decoding, packed, prepared
from maml_tf.tasks.episodes import Episodes

_SPLIT = (0.64, 0.16, 0.2)


def from_tfds(
    name: str,
    ways: int = 5,
    shots: int = 1,
    queries: int = 15,
    *,
    image_size: int | tuple[int, int] | None = None,
    classes: Any = _SPLIT,
    split_seed: int = 0,
    data_dir: str | os.PathLike | None = None,
    download: bool = False,
    **episodes: Any,
) -> splits.TaskSets:
    """Builds the training, validation and test tasks of a data set with images and labels.

    All splits of the data set are put together and shared out anew, by class: a test task has
    classes that no training task has. The images are read once and packed into one file, from
    which training reads its batches, whatever the size of the data set.

    Args:
        name: str, as `tfds.builder` takes it: `"oxford_flowers102"`, `"caltech_birds2011"`, or
            with a config, `"emnist/balanced"`.
        ways: int, N, classes a task.
        shots: int, K, support images a class.
        queries: int or None, query images a class in training; None stands for `shots`.
        image_size: int, a pair `(height, width)`, or None: to what images are resized, the middle
            being cut out where the shape is another. None where all have one size already.
        classes: which classes are for training, validation and test: three fractions of them, or
            a dict with lists of class names for "train", "validation" and "test".
        split_seed: int, of the shares where `classes` are fractions.
        data_dir: path or None, directory of TensorFlow Datasets; None is its own default.
        download: bool, whether to download and prepare the data where they are not there.
        **episodes: `test_ways`, `test_shots`, `test_queries`, `meta_batch`, `seed`, `start`,
            `validation_tasks`, `test_tasks`, as in `maml_tf.tasks.Episodes`.

    Returns:
        `(train, validation, test)`, each a `tf.data.Dataset` of `(inputs, query_y)`:
        `inputs["support_x"]` float32 `[meta_batch, ways * shots, height, width, channels]` in
        [0, 1], `inputs["support_y"]` int32 `[meta_batch, ways * shots]`, `inputs["query_x"]`
        `[meta_batch, ways * queries, height, width, channels]`, `query_y` int32
        `[meta_batch, ways * queries]`.

    Raises:
        ImportError: TensorFlow Datasets is not installed.
        FileNotFoundError: the data are not there and `download` is False.
        TypeError: a number or `seed` is not an integer, or there is no option of such a name.
        ValueError: the data set has no images or no labels, its images have several sizes and
            `image_size` is None, or there are too few classes or images for such tasks.

    Example:
        >>> sets = maml_tf.tasks.from_tfds("oxford_flowers102", image_size=84, download=True)
    """
    # What is wrong is told before data are looked for.
    few = Episodes.asked_of(from_tfds, episodes, ways=ways, shots=shots, queries=queries)
    check = splits.check_parts if isinstance(classes, dict) else splits.check_fractions
    check("classes", classes)
    splits.check_split_seed("split_seed", split_seed)
    data = load_tfds_images(name, image_size, data_dir, download)
    indexed = sampling.index_by_class(data.images, data.labels)
    names = data.names[indexed.labels]  # a class without images is not there
    indexed = dataclasses.replace(indexed, labels=names)
    if isinstance(classes, dict):
        parts = splits.by_name(names, classes)
    else:
        parts = splits.shuffled(len(names), classes, split_seed)
    return splits.three_way(indexed, parts, few)


def load_tfds_images(
    name: str,
    image_size: int | tuple[int, int] | None = None,
    data_dir: str | os.PathLike | None = None,
    download: bool = False,
) -> packed.Images:
    """Loads all images of a data set of TensorFlow Datasets with their labels.

    Args:
        name: as in `from_tfds`.
        image_size: as in `from_tfds`.
        data_dir: as in `from_tfds`.
        download: as in `from_tfds`.

    Returns:
        A `maml_tf.tasks.data.packed.Images`, memory-mapped; a class belongs to the group "".

    Raises:
        ImportError, FileNotFoundError, ValueError: as `from_tfds`.
    """
    size = None if image_size is None else image_decoding.check_size(image_size)
    builder = prepared.open_builder(name, data_dir, download)
    image, label = _features(builder)
    if size is None and None in builder.info.features[image].shape:
        raise ValueError(
            f"Expected `image_size` for {name!r}, whose images have several sizes "
            f"({builder.info.features[image].shape}). Received: image_size=None. Give, for "
            "example, image_size=84."
        )
    shown = "x".join(map(str, size or builder.info.features[image].shape[:2]))
    stored = f"{builder.info.full_name.replace('/', '-')}-{shown}-centre-antialias"
    return packed.open_or_make(
        stored,
        pathlib.Path(builder.data_path),
        lambda packer: _pack(packer, builder, image, label, size),
    )


def _features(builder):
    """Names of the image and of the label among a data set's features."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    images = [k for k in features if type(features[k]) is tfds.features.Image]
    labels = [k for k in features if isinstance(features[k], tfds.features.ClassLabel)]
    supervised = builder.info.supervised_keys or ()
    if len(supervised) == 2 and supervised[0] in images and supervised[1] in labels:
        return supervised
    if "label" in labels:
        labels = ["label"]
    if len(images) != 1 or len(labels) != 1:
        raise ValueError(
            "Expected a data set with one image and one class label an example. Received: "
            f"{builder.info.full_name} with images {images} and labels {labels} among the "
            f"features {sorted(features)}. Choose another one, or give its arrays to "
            "`maml_tf.tasks.sampling.episodes`."
        )
    return images[0], labels[0]


def _pack(packer, builder, image, label, size):
    """Reads every split, in the order of their names, and packs it as it comes."""
    for split in sorted(builder.info.splits):
        examples = builder.as_dataset(split=split, shuffle_files=False)
        if size is not None:
            examples = examples.map(
                lambda e: {image: centre(e[image], *size), label: e[label]},
                num_parallel_calls=tf.data.AUTOTUNE,
                deterministic=True,
            )
        for batch in examples.batch(256).prefetch(2).as_numpy_iterator():
            known = batch[label] >= 0  # where labels are held back they are -1
            packer.add(batch[image][known], batch[label][known])
    packer.finish(builder.info.features[label].names)


def centre(image, height, width):
    """Cuts the largest middle part of the wanted shape out of an image and resizes it.

    Args:
        image: uint8 `[any, any, channels]`.
        height: int, pixels.
        width: int, pixels.

    Returns:
        uint8 `[height, width, channels]`, bilinear with antialiasing.
    """
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    scale = tf.reduce_min(size / [height, width])
    part = tf.minimum(tf.cast(tf.round(scale * [height, width]), tf.int32), tf.shape(image)[:2])
    part = tf.maximum(part, 1)
    corner = (tf.shape(image)[:2] - part) // 2
    image = tf.image.crop_to_bounding_box(image, corner[0], corner[1], part[0], part[1])
    image = tf.image.resize(image, [height, width], antialias=True)
    return tf.cast(tf.round(tf.clip_by_value(image, 0.0, 255.0)), tf.uint8)
