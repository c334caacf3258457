"""What a learner should beat: the nearest support example or class mean, on the inputs as they are.

They learn nothing and take seconds: what a network gains over them is what meta-learning was for.
On features of a backbone, class means are what that backbone does by itself.
"""

import numpy as np
import tensorflow as tf

from maml_tf import arguments
from maml_tf.evaluation.batches import check_tasks, over_tasks
from maml_tf.evaluation.result import Result


def nearest_neighbour(tasks: tf.data.Dataset, num_tasks: int = 600) -> Result:
    """Accuracy of the nearest support example, by Euclidean distance of the inputs as they are.

    Every query gets the label of the support example that is nearest to it (of several that are
    equally near, one of them). An input of several parts is compared by all of them together.

    Args:
        tasks: a `tf.data.Dataset` of task batches `(inputs, query_y)` with labels that are
            integers, `[T, S]` and `[T, Q]`, or one-hot vectors.
        num_tasks: `int`, how many tasks, the first ones of the data set.

    Returns:
        `Result` of the metric "accuracy" with values `[num_tasks, 1]`: the same tasks as those that
        `evaluate` takes, to be compared with.

    Raises:
        TypeError: `tasks` is no data set, its inputs are no numbers, or `num_tasks` no integer.
        ValueError: `num_tasks` is too small, the data set ends early, or its elements are no task
            batches.

    Example:
        >>> _, _, test = maml_tf.tasks.glyphs(ways=5, shots=1)
        >>> baseline = maml_tf.evaluation.nearest_neighbour(test, num_tasks=100)
        >>> print(0.4 < baseline.mean[0] < 0.5)  # chance is 0.2
        True
    """
    check_tasks(tasks)
    num_tasks = arguments.integer("num_tasks", num_tasks, 1)

    def values_of(inputs, query_y):
        nearest = nearest_support(inputs["support_x"], inputs["query_x"])
        predicted = tf.gather(inputs["support_y"], nearest, batch_dims=1)
        same = np.equal(predicted, query_y).reshape(*nearest.shape, -1).all(axis=-1)
        return same.mean(axis=-1, dtype=np.float64, keepdims=True)

    return Result("accuracy", over_tasks(values_of, tasks, num_tasks))


def nearest_class_mean(
    tasks: tf.data.Dataset, num_tasks: int = 600, distance: str = "cosine"
) -> Result:
    """Accuracy of the nearest mean of a class, of the inputs as they are.

    On `maml_tf.backbones.features` it says what a pretrained backbone does without any training:
    meta-training is worth what it adds to that.

    Args:
        tasks: a `tf.data.Dataset` of task batches `(inputs, query_y)`, inputs one array of
            numbers, `[T, S, ...]` and `[T, Q, ...]`, labels integers `[T, S]` and `[T, Q]`.
        num_tasks: `int`, how many tasks, the first ones of the data set.
        distance: `"cosine"`, in which all examples and all means count with length 1, or
            `"squared_euclidean"`.

    Returns:
        `Result` of the metric "accuracy" with values `[num_tasks, 1]`.

    Raises:
        TypeError: `tasks` is no data set, its inputs are not one array of numbers, or `num_tasks`
            no integer.
        ValueError: `num_tasks` is too small, an unknown `distance`, the data set ends early, or
            its elements are no task batches.

    Example:
        >>> _, _, test = maml_tf.tasks.glyphs(ways=5, shots=5)
        >>> means = maml_tf.evaluation.nearest_class_mean(test, num_tasks=100)
        >>> means.values.shape
        (100, 1)
    """
    check_tasks(tasks)
    num_tasks = arguments.integer("num_tasks", num_tasks, 1)
    arguments.choice("distance", distance, ("cosine", "squared_euclidean"))

    def values_of(inputs, query_y):
        rows = zip(
            inputs["support_x"], inputs["support_y"], inputs["query_x"], query_y, strict=True
        )
        right = [
            np.mean(nearest_mean(x, y, query, distance) == np.reshape(wanted, -1))
            for x, y, query, wanted in rows
        ]
        return np.array(right, np.float64)[:, np.newaxis]

    return Result("accuracy", over_tasks(values_of, tasks, num_tasks))


def nearest_mean(support_x, support_y, query_x, distance="cosine"):
    """The labels of one task's queries by the nearest mean of a class.

    Args:
        support_x: numbers `[S, ...]`.
        support_y: integers `[S]` or `[S, 1]`.
        query_x: numbers `[Q, ...]`.
        distance: as in `nearest_class_mean`.

    Returns:
        Array `[Q]` of labels.

    Raises:
        TypeError: the inputs are not one array of numbers.

    Example:
        >>> nearest_mean(np.eye(2), np.array([3, 7]), np.array([[0.1, 0.9]]))
        array([7])
    """
    support, query = _rows(support_x), _rows(query_x)
    labels = np.reshape(support_y, -1)
    names = np.unique(labels)
    if distance == "cosine":
        support, query = _unit(support), _unit(query)
    means = np.stack([support[labels == name].mean(axis=0) for name in names])
    if distance == "cosine":
        means = _unit(means)
    return names[_nearest([means], [query])]


def _unit(rows):
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def nearest_support(support_x, query_x):
    """Positions of the nearest support examples.

    Args:
        support_x: numbers `[T, S, ...]`, or a structure of such where there are several inputs.
        query_x: numbers `[T, Q, ...]`, the same structure.

    Returns:
        int64 array `[T, Q]`, positions along S.

    Raises:
        TypeError: the inputs are no numbers.

    Example:
        >>> nearest_support(np.array([[[0.0], [1.0]]]), np.array([[[0.9], [0.2], [2.0]]]))
        array([[1, 0, 1]])
    """
    supports, queries = tf.nest.flatten(support_x), tf.nest.flatten(query_x)
    tasks = range(len(queries[0]))
    return np.stack([_nearest([p[t] for p in supports], [p[t] for p in queries]) for t in tasks])


def _nearest(supports, queries):
    """The positions for one task, `[Q]`: of a task at a time there is room in float64."""
    distance = 0.0
    for support, query in zip(map(_rows, supports), map(_rows, queries), strict=True):
        # The square of the query is the same for every support example. In float64 what is
        # taken off is exact enough to tell any two pictures of 8 bits apart.
        distance = distance + np.sum(support * support, axis=-1) - 2 * query @ support.T
    return np.argmin(distance, axis=-1)


def _rows(part):
    part = np.asarray(part)
    if part.dtype.kind not in "biuf" and part.dtype.name != "bfloat16":
        raise TypeError(
            "Expected inputs that are numbers, to take distances of. Received: inputs of dtype "
            f"{part.dtype}. Turn them into numbers first."
        )
    return part.reshape(len(part), -1).astype(np.float64)
