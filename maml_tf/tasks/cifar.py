"""CIFAR-FS (Bertinetto et al. 2019) and FC100 (Oreshkin et al. 2018): CIFAR-100 split by class.

Both have 100 classes of 600 images, 32x32 in colour: training and test images of CIFAR-100 put
together. CIFAR-FS shares the classes out at random, 64 / 16 / 20; FC100 by superclass, 60 / 20 /
20, so that test classes have no relatives among the training classes: the more difficult one.
"""

from typing import Any

from maml_tf.tasks import class_lists
from maml_tf.tasks.from_tfds import from_tfds
from maml_tf.tasks.splits import TaskSets


def cifar_fs(ways: int = 5, shots: int = 1, queries: int = 15, **options: Any) -> TaskSets:
    """Builds the training, validation and test tasks of CIFAR-FS.

    Args:
        ways: int, N, classes a task.
        shots: int, K, support images a class.
        queries: int or None, query images a class in training; None stands for `shots`.
        **options: `data_dir`, `download`, and those of `maml_tf.tasks.Episodes`, all as in
            `maml_tf.tasks.from_tfds`.

    Returns:
        `(train, validation, test)` as `maml_tf.tasks.from_tfds` gives them, of 64, 16 and 20
        classes; images `[32, 32, 3]`.

    Raises:
        ImportError, FileNotFoundError, TypeError, ValueError: as `maml_tf.tasks.from_tfds`.

    Example:
        >>> train, validation, test = maml_tf.tasks.cifar_fs(shots=5, download=True)
    """
    split = class_lists.load("cifar_fs")
    return from_tfds("cifar100", ways, shots, queries, classes=split, **options)


def fc100(ways: int = 5, shots: int = 1, queries: int = 15, **options: Any) -> TaskSets:
    """Builds the training, validation and test tasks of FC100, with 60, 20 and 20 classes.

    Arguments, results and errors are those of `cifar_fs`.

    Example:
        >>> train, validation, test = maml_tf.tasks.fc100(shots=5, download=True)
    """
    split = class_lists.load("fc100")
    return from_tfds("cifar100", ways, shots, queries, classes=split, **options)
