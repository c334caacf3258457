"""mini-ImageNet few-shot classification, as in Finn, Abbeel & Levine 2017, section 5.2.

Each task tells N classes of photographs apart from K of each. The classes are shared out as by
Ravi & Larochelle 2017: 64 for training, 16 for validation, 20 for test.
"""

import dataclasses
import os
from typing import Any

import numpy as np

from maml_tf.tasks import class_lists, sampling, splits
from maml_tf.tasks.data.mini_imagenet import load_mini_imagenet
from maml_tf.tasks.episodes import Episodes


def mini_imagenet(
    ways: int = 5,
    shots: int = 1,
    queries: int = 15,
    test_queries: int | None = None,
    *,
    data_dir: str | os.PathLike | None = None,
    source: str | os.PathLike | None = None,
    csv_dir: str | os.PathLike | None = None,
    **episodes: Any,
) -> splits.TaskSets:
    """Builds the training, validation and test tasks of N-way K-shot mini-ImageNet.

    Every data set yields task batches `(inputs, query_y)` with static shapes:
    `inputs["support_x"]` float32 `[meta_batch, ways * shots, 84, 84, 3]` in [0, 1],
    `inputs["support_y"]` int32 `[meta_batch, ways * shots]`, `inputs["query_x"]` float32
    `[meta_batch, ways * queries, 84, 84, 3]`, `query_y` int32 `[meta_batch, ways * queries]`.

    Args:
        ways: int, N, classes a task.
        shots: int, K, support images a class.
        queries: int or None, query images a class in training; None stands for `shots`.
        test_queries: int or None, the same in `validation` and `test`; None stands for the shots
            there, as in the paper.
        data_dir: path or None, directory of TensorFlow Datasets; None is its own default.
        source: path or None, images of ImageNet to prepare the data from where they are not
            there: a folder in one of several layouts, or a tar. See `load_mini_imagenet`.
        csv_dir: path or None, folder of the lists that choose among ImageNet's images. See
            `load_mini_imagenet`.
        **episodes: `test_ways`, `test_shots`, `meta_batch`, `seed`, `start`, `validation_tasks`,
            `test_tasks`, as in `maml_tf.tasks.Episodes`.

    Returns:
        `(train, validation, test)`, each a `tf.data.Dataset`, with no class in common.
        `train` never ends; the others are finite and the same at every pass. `class_names` are
        English words, such as "golden retriever".

    Raises:
        ImportError: TensorFlow Datasets is not installed.
        FileNotFoundError: the data are not there, and no `source`; or there is no such `source`.
        TypeError: a number or `seed` is not an integer, or there is no option of such a name.
        ValueError: a number is too small, a task needs more classes or images than there are, or
            `source` does not have the images.

    Example:
        >>> train, validation, test = maml_tf.tasks.mini_imagenet(shots=5)
        >>> inputs, query_y = next(iter(train))
        >>> inputs["support_x"].shape, query_y.shape
        (TensorShape([4, 25, 84, 84, 3]), TensorShape([4, 75]))
    """
    given = {"ways": ways, "shots": shots, "queries": queries, "test_queries": test_queries}
    few = Episodes.asked_of(mini_imagenet, episodes, **given)
    if few.test_queries is None:
        few = dataclasses.replace(few, test_queries=few.of("test")["shots"])
    data = load_mini_imagenet(data_dir, source, csv_dir)
    classes = sampling.index_by_class(data.images, data.labels)
    words = class_lists.words()  # of a figure, where nobody knows a WordNet id
    names = np.asarray([words[wnid] for wnid in data.names])
    classes = dataclasses.replace(classes, labels=names[classes.labels])
    parts = [np.flatnonzero(data.groups == part) for part in splits.NAMES]
    return splits.three_way(classes, parts, few)
