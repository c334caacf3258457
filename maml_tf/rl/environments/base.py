"""What every environment here is besides a TF-Agents environment: a family of tasks.

An environment holds `tasks x rollouts` rows, task-major: row `i * rollouts + j` is rollout j of
task i. One step advances all rows. A row that has ended (`LAST`) begins anew at its next step,
whatever its action, as TF-Agents asks of a batched environment.
"""

import abc
import os
from typing import Any

import numpy as np

from maml_tf import arguments


class TaskEnvironment(abc.ABC):
    """Mixed into `PyEnvironment` or `TFEnvironment`: tasks to draw, and tasks to work on.

    Attributes:
        tasks: `int` T, the tasks worked on at a time.
        rollouts: `int` R, rollouts of each task; `batch_size` is T * R.
        horizon: `int` H, the steps after which a rollout ends (discount 1: a time limit).
        task_shape: shape of one task's parameters, `(2,)` for a goal in the plane.
        observe_task: the task is a part of the observation (its last entries): an oracle.
    """

    tasks: int
    rollouts: int
    horizon: int
    task_shape: tuple
    observe_task: bool = False

    @abc.abstractmethod
    def sample_tasks(self, n: int, seed: int) -> np.ndarray:
        """Draws tasks from the distribution of the family.

        Args:
            n: `int`, how many.
            seed: `int`; the same seed gives the same tasks.

        Returns:
            float32 `[n, *task_shape]`; or an array `[n]` of objects where tasks are such
            (`from_gymnasium`).

        Raises:
            TypeError: `n` or `seed` that is no integer.
            ValueError: `n` below 1, `seed` below 0.
        """

    @abc.abstractmethod
    def set_tasks(self, tasks: Any) -> None:
        """Works on these tasks from the next `reset` on.

        Args:
            tasks: `[T, *task_shape]`, as `sample_tasks` gives them.

        Raises:
            ValueError: another number or shape of tasks, or a value that is not finite.
        """

    @abc.abstractmethod
    def resized(self, tasks: int, rollouts: int, seed: int = 0) -> Any:
        """The same family, physics and horizon with other numbers of tasks and rollouts."""

    def checked_tasks(self, tasks: Any) -> np.ndarray:
        """`tasks` as float32 `[T, *task_shape]`; `TypeError`, `ValueError` where they are none."""
        try:
            array = np.asarray(tasks, np.float32)
        except (TypeError, ValueError) as error:
            raise TypeError(
                "Expected `tasks` to be an array of numbers. Received: "
                f"{arguments.received('tasks', tasks)}. Use `sample_tasks({self.tasks}, seed)`."
            ) from error
        expected = (self.tasks, *self.task_shape)
        if array.shape != expected:
            raise ValueError(
                f"Expected `tasks` of shape {expected}: {self.tasks} tasks of shape "
                f"{tuple(self.task_shape)}. Received: tasks of shape {array.shape}. Use "
                f"`sample_tasks({self.tasks}, seed)`, or `resized(tasks=..., rollouts=...)` for "
                "another number of tasks."
            )
        if not np.isfinite(array).all():
            raise ValueError(
                f"Expected finite `tasks`. Received: tasks={array.tolist()}. Use "
                f"`sample_tasks({self.tasks}, seed)`."
            )
        return array


def usable_cores() -> int:
    """The cores that this process may use: a container or `taskset` may leave it fewer."""
    # Not every system tells.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def checked_size(**sizes: Any) -> None:
    """Raises `TypeError` where a size is no integer, `ValueError` where it is below 1."""
    for name, value in sizes.items():
        arguments.integer(name, value, minimum=1)


def checked_draw(n: int, seed: int) -> None:
    """Raises as `checked_size` where `n` is not the number of some tasks or `seed` is none."""
    checked_size(n=n)
    arguments.integer("seed", seed, minimum=0)
