"""mini-ImageNet few-shot classification, as in Finn, Abbeel & Levine 2017, section 5.2.

Each task tells N classes of photographs apart from K of each. The classes are shared out as by
Ravi & Larochelle 2017: 64 for training, 16 for validation, 20 for test.
"""

import numpy as np

from maml_tf.tasks import sampling, splits
from maml_tf.tasks.mini_imagenet_data import load_mini_imagenet


def mini_imagenet(
    ways=5,
    shots=1,
    queries=15,
    test_queries=None,
    meta_batch=4,
    seed=0,
    start=0,
    data_dir=None,
    source=None,
    csv_dir=None,
    validation_tasks=600,
    test_tasks=600,
):
    """Builds the training, validation and test tasks of N-way K-shot mini-ImageNet.

    Every data set yields task batches `(inputs, query_y)` with static shapes:
    `inputs["support_x"]` float32 `[meta_batch, ways * shots, 84, 84, 3]` in [0, 1],
    `inputs["support_y"]` int32 `[meta_batch, ways * shots]`, `inputs["query_x"]` float32
    `[meta_batch, ways * queries, 84, 84, 3]`, `query_y` int32 `[meta_batch, ways * queries]`.

    Args:
        ways: int, N, classes a task.
        shots: int, K, support images a class.
        queries: int or None, query images a class in training; None stands for `shots`.
        test_queries: int or None, the same in `validation` and `test`; None stands for `shots`,
            as in the paper.
        meta_batch: int, T, tasks a batch, in all three data sets.
        seed: int; the same seed gives the same tasks.
        start: int, index of the first training batch: a training resumed after `n` steps takes
            `start=n` and sees what it would have seen. Validation and test do not depend on it.
        data_dir: path or None, directory of TensorFlow Datasets; None is its own default.
        source: path or None, images of ImageNet to prepare the data from where they are not
            there: a folder in one of several layouts, or a tar. See `load_mini_imagenet`.
        csv_dir: path or None, folder of the lists that choose among ImageNet's images. See
            `load_mini_imagenet`.
        validation_tasks: int, tasks in `validation`, rounded up to whole batches.
        test_tasks: int, tasks in `test`, rounded up to whole batches.

    Returns:
        `(train, validation, test)`, each a `tf.data.Dataset`, with no class in common.
        `train` never ends; the others are finite and the same at every pass.

    Raises:
        ImportError: TensorFlow Datasets is not installed.
        FileNotFoundError: the data are not there, and no `source`; or there is no such `source`.
        TypeError: a number or `seed` is not an integer.
        ValueError: a number is too small, a task needs more classes or images than there are, or
            `source` does not have the images.

    Example:
        >>> train, validation, test = maml_tf.tasks.mini_imagenet(shots=5)
        >>> inputs, query_y = next(iter(train))
        >>> inputs["support_x"].shape, query_y.shape
        (TensorShape([4, 25, 84, 84, 3]), TensorShape([4, 75]))
    """
    settings = {
        "ways": ways,
        "shots": shots,
        "queries": queries,
        "test_queries": shots if test_queries is None else test_queries,
        "meta_batch": meta_batch,
        "seed": seed,
        "start": start,
        "validation_tasks": validation_tasks,
        "test_tasks": test_tasks,
    }
    splits.check(**settings)
    data = load_mini_imagenet(data_dir, source, csv_dir)
    classes = sampling.index_by_class(data.images, data.labels)
    parts = [np.flatnonzero(data.groups == part) for part in splits.NAMES]
    return splits.three_way(classes, parts, **settings)
