"""What every measurement does with a data set of task batches: check it, and take so many tasks."""

import numpy as np
import tensorflow as tf

from maml_tf import arguments


def check_tasks(tasks):
    """Checks that this is a data set of task batches, without weights.

    Raises:
        TypeError: it is no `tf.data.Dataset`.
        ValueError: its elements are no task batches `(inputs, query_y)`.
    """
    if not isinstance(tasks, tf.data.Dataset):
        raise TypeError(
            "Expected `tasks` to be a `tf.data.Dataset` of task batches `(inputs, query_y)`. "
            f"Received: {arguments.received('tasks', tasks)}. Make one with `maml_tf.tasks`, or "
            "with `tf.data.Dataset.from_tensors` of one task batch."
        )
    spec = tasks.element_spec
    if not isinstance(spec, tuple) or len(spec) != 2:
        raise ValueError(
            "Expected a data set of task batches `(inputs, query_y)`, without sample weights. "
            f"Received: one with elements {spec}. Give both, such as `maml_tf.tasks` makes them."
        )


def over_tasks(values_of, tasks, num_tasks):
    """The values of the first `num_tasks` tasks of a data set.

    Args:
        values_of: function of a task batch, an array `[T, ...]`.
        tasks: a `tf.data.Dataset` of task batches.
        num_tasks: `int`.

    Returns:
        An array `[num_tasks, ...]`.

    Raises:
        ValueError: the data set ends early.
    """
    batches, count = [], 0
    for inputs, query_y in tasks:
        batches.append(values_of(inputs, query_y))
        count += len(batches[-1])
        if count >= num_tasks:
            break
    if not count:
        raise ValueError(
            "Expected `tasks` to hold task batches. Received: a data set that is empty. Give "
            "one of which nothing was taken away."
        )
    if count < num_tasks:
        raise ValueError(
            f"Expected at least num_tasks={num_tasks} tasks. Received a data set that ended after "
            f"{count}. Make it longer, or give `num_tasks={count}`."
        )
    return np.concatenate(batches)[:num_tasks]
