"""Tasks as arrays: of numbers, or of objects where a task is one, such as Meta-World's `Task`."""

import numbers

import numpy as np

from maml_tf import arguments


def as_tasks(tasks):
    """Tasks as an array that can be indexed, repeated and compared by its shape.

    Args:
        tasks: `[n, ...]`: an array, or a list of numbers, of arrays or of lists of numbers; or a
            list of n objects of any other type.

    Returns:
        float32 `[n, ...]`, or an array of objects `[n]`, each as it was given.

    Raises:
        TypeError, ValueError: neither, or a task of None.
    """
    listed = isinstance(tasks, np.ndarray) and tasks.dtype == object
    listed = listed or type(tasks) in (list, tuple)
    if not (listed and any(map(_is_object, tasks))):
        return np.asarray(tasks, np.float32)
    if any(task is None for task in tasks):
        raise ValueError(
            "Expected tasks that are numbers, arrays or objects. Received: "
            f"{arguments.received('tasks', tasks)}, with None among them. Leave it out."
        )
    array = np.empty(len(tasks), object)
    for number, task in enumerate(tasks):
        # One by one: of named tuples NumPy would make one array of their entries.
        array[number] = task
    return array


def chooser(tasks):
    """A function `choose(n, generator)` that draws from a list or array of tasks.

    Raises:
        ValueError: `tasks` of which there are none, or that are none.
    """
    try:
        array = as_tasks(tasks)
    except (TypeError, ValueError):
        array = np.zeros(0)
    if not array.ndim or not len(array):
        raise ValueError(
            "Expected `tasks` to be a function, an array [N, ...] or a list of one task or more. "
            f"Received: {arguments.received('tasks', tasks)}. Give an array such as "
            "[[-1.0], [1.0]], or a list of what `set_task` takes."
        )

    def choose(n, generator):
        return array[generator.integers(0, len(array), n)]

    return choose


def _is_object(task):
    """Whether it is no number, array of numbers or list of such."""
    if type(task) in (list, tuple):
        return any(map(_is_object, task))
    if isinstance(task, numbers.Real):
        return False
    return not hasattr(task, "__array__") or np.asarray(task).dtype.kind not in "biuf"
