"""Tasks of features: what a frozen network makes of every example of a data set, computed once."""

import dataclasses
import os

import keras
import tensorflow as tf

from maml_tf import arguments
from maml_tf.backbones import networks, stored
from maml_tf.tasks import class_index, sampling, splits


def features(
    tasks: splits.TaskSets,
    backbone: keras.Model,
    *,
    cache: str | os.PathLike | None = None,
    batch_size: int = 32,
) -> splits.TaskSets:
    """The same tasks, of features in the place of pictures.

    Every example of the data set goes through the backbone once, in prediction mode. The features
    are kept in a folder on disk, named after the values of the backbone's variables, its layers
    and the examples: a second start reads them, a changed backbone or data set has others. They
    are read from there as they are needed, and may be larger than memory. Several processes may
    ask for the same ones at the same time.

    The tasks are those of `tasks`, with the same classes, labels and order. Random changes of
    pictures (augmentation) have no place here: the features of each are what they are.

    Args:
        tasks: what a family of tasks gave back, such as `maml_tf.tasks.image_folder`.
        backbone: a built `keras.Model` from examples to one tensor of numbers. Pictures go in as
            the tasks have them, float32 in [0, 1]: what scales them further is a layer of it, as
            in `maml_tf.backbones.pretrained`. A tokeniser such as
            `keras.layers.TextVectorization` in a model of its own is one, too.
        cache: path or None, folder for features; `$KERAS_HOME/datasets` (`~/.keras/datasets`) where
            not given.
        batch_size: int, examples that go through the backbone together.

    Returns:
        `maml_tf.tasks.splits.TaskSets`: `(train, validation, test)`, task batches whose
        `support_x` is `[T, S, ...]` and `query_x` `[T, Q, ...]` of features in the backbone's
        dtype.

    Raises:
        OSError: the features cannot be written.
        TypeError: `tasks` are not of a family of classes, or `backbone` is no `keras.Model`.
        ValueError: the backbone is not built, takes other examples than those of the tasks, or
            gives anything but one tensor of a fixed size.

    Example:
        >>> pictures = maml_tf.tasks.image_folder("pictures", queries=5, image_size=32)
        >>> layers = [keras.layers.Conv2D(8, 3), keras.layers.GlobalAveragePooling2D()]
        >>> network = keras.Sequential([keras.Input((32, 32, 3)), *layers])
        >>> tasks = maml_tf.backbones.features(pictures, network, cache="features")
        >>> inputs, query_y = next(iter(tasks[0]))
        >>> inputs["support_x"].shape
        TensorShape([4, 5, 8])
    """
    if not isinstance(tasks, splits.TaskSets) or not tasks.drawn_from:
        raise TypeError(
            "Expected `tasks` to be what a family of tasks of classes gave back, such as "
            f"`maml_tf.tasks.image_folder(...)`. Received: {arguments.received('tasks', tasks)}. "
            "Give all three data sets as they came; for arrays, make them by "
            "`maml_tf.tasks.splits.three_way`."
        )
    networks.check(backbone)
    size = arguments.integer("batch_size", batch_size, 1)
    if cache is not None:
        arguments.path("cache", cache, "a folder for features")
    made = {}  # all splits are of the same examples
    drawn_from = {}
    for split, (classes, episodes) in tasks.drawn_from.items():
        if id(classes.examples) not in made:
            made[id(classes.examples)] = _features(classes.examples, backbone, cache, size)
        drawn_from[split] = (
            dataclasses.replace(classes, examples=made[id(classes.examples)]),
            episodes,
        )
    return splits.TaskSets(
        [
            sampling.episodes(drawn_from[name][0], **drawn_from[name][1])
            if name in drawn_from
            else None
            for name in splits.NAMES
        ],
        drawn_from,
    )


def _features(examples, backbone, cache, batch_size):
    """The array `[rows, ...]`, a tensor where it is small, as `sampling.index_by_class` has it."""
    given = sampling.as_given(examples[:1])
    networks.check_takes(backbone, given.shape[1:], given.dtype.name)
    run = tf.function(lambda x: backbone(x, training=False), autograph=False)

    def batches():
        for start in range(0, len(examples), batch_size):
            yield run(sampling.as_given(examples[start : start + batch_size])).numpy()

    shape, dtype = networks.output_of(backbone)
    array = stored.open_or_make(
        stored.name_of(backbone, examples), cache, (len(examples), *shape), dtype, batches
    )
    return class_index.held(array)
