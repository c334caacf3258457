"""Any gymnasium environment with a `set_task` as a family of tasks, spread over processes.

A few worker processes each step many environments, one message a step: a process an environment,
as gymnasium's own vector environments have it, would be hundreds of processes on two cores.
"""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from maml_tf import arguments
from maml_tf.rl._tf_agents import array_spec
from maml_tf.rl.environments.base import TaskEnvironment, checked_draw, checked_size, usable_cores
from maml_tf.rl.environments.gymnasium_spaces import Actions, observation_spec
from maml_tf.rl.environments.gymnasium_workers import STEP, Group, Orders, Worker, task_setter
from maml_tf.rl.environments.rows import RowEnvironment, checked_action
from maml_tf.rl.environments.task_values import as_tasks, chooser

_log = logging.getLogger(__name__)


def from_gymnasium(
    make_env: Callable[..., Any],
    tasks: Any,
    *,
    task_count: int = 1,
    rollouts: int = 1,
    horizon: int = 200,
    observe_task: bool = False,
    workers: int | None = None,
    at_once: int = 16,
    seed: int = 0,
) -> TaskEnvironment:
    """A family of tasks of a gymnasium environment.

    Args:
        make_env: function without arguments, a gymnasium environment whose `set_task(task)` (its
            own, or of the outermost of its wrappers that has one) chooses the task, before each
            `reset`. A wrapper that has one hides those that it wraps and passes the task on itself;
            wrappers without one (`TimeLimit`, `FlattenObservation`) may stand anywhere. Where there
            are workers it must be a function of a module, which other processes can import, and a
            script must keep what it does below `if __name__ == "__main__":`, because workers import
            the script too.
        tasks: `tasks(n, generator) -> [n, ...]`, which draws tasks by a `numpy.random.Generator`,
            or an array `[N, ...]` of tasks to choose from. Numbers come to `set_task` as float32
            arrays `[...]`. Where a task is something else (a named tuple such as Meta-World's
            `Task`, a dict, a name), give a list of N of them, or a function that gives a list of
            n: they come to `set_task` as they are. Workers are sent copies.
        task_count: `int` T, the tasks worked on at a time.
        rollouts: `int` R of each task.
        horizon: `int` H, steps after which a rollout ends.
        observe_task: the numbers of the task are appended to the observation (an oracle).
        workers: `int`, processes; the number of cores by default; 0 steps in this process.
        at_once: `int`, how many rollouts run at the same time when a meta-policy draws them: there
            are so many objects of the environment, in all workers together. It decides which
            numbers are drawn. (TF-Agents, which steps all rows at once, has an object for each.)
        seed: `int`, of the resets.

    Returns:
        `GymnasiumTasks`, a natively batched TF-Agents `PyEnvironment`. Entries of continuous
        actions that have two bounds are in [-1, 1], rescaled to them and clipped; those with one
        are clipped there, and those without stay. Whole numbers are rounded. A rollout whose
        environment raises, or gives NaN or an observation of another shape, ends and is marked in
        `discarded`. Where `info["success"]` or `info["is_success"]` is given at a step, a
        meta-policy logs the share of rollouts with such a step as `success_k`, and
        `maml_tf.rl.evaluation.evaluate` reports it.

    Raises:
        TypeError: no `set_task`, a `make_env` that is no function or that workers cannot import,
            spaces that are neither `Box` nor (for actions) `Discrete`.
        ValueError: sizes that are no positive `int`, tasks of which there are none, or one of
            which is None; `observe_task` where tasks are objects or observations are no vectors.

    Example:
        >>> import gymnasium
        >>> class Hill(gymnasium.Wrapper):
        ...     def set_task(self, task):
        ...         self.unwrapped.gravity = float(task[0])
        >>> environment = from_gymnasium(
        ...     lambda: Hill(gymnasium.make("MountainCar-v0")),
        ...     tasks=np.array([[0.002], [0.003]]),
        ...     rollouts=4,
        ...     workers=0,
        ... )
        >>> environment.set_tasks([[0.003]])
        >>> environment.reset().observation.shape
        (4, 2)
    """
    arguments.boolean("observe_task", observe_task)
    return GymnasiumTasks(
        make_env, tasks, task_count, rollouts, horizon, observe_task, workers, at_once, seed
    )


class GymnasiumTasks(RowEnvironment):
    """See `from_gymnasium`.

    Attributes:
        first_error: `str`, traceback of the first rollout that broke since `seed`, or empty.
    """

    def __init__(
        self, make_env, tasks, task_count, rollouts, horizon, observe_task, workers, at_once, seed
    ):
        checked_size(task_count=task_count, rollouts=rollouts, horizon=horizon, at_once=at_once)
        if workers is not None:
            workers = arguments.integer("workers", workers, minimum=0)
        self._seed = arguments.integer("seed", seed, minimum=0)
        if not callable(make_env):
            raise TypeError(
                "Expected `make_env` to be a function without arguments that makes an environment. "
                f"Received: {arguments.received('make_env', make_env)}. Give the function, such "
                "as `lambda: gymnasium.make(...)` with `workers=0`."
            )
        super().__init__()
        self._arguments = (make_env, tasks, horizon, observe_task, workers, at_once)
        self.observe_task = observe_task
        self.tasks, self.rollouts, self.horizon = task_count, rollouts, horizon
        self._draw = tasks if callable(tasks) else chooser(tasks)
        example = self.sample_tasks(1, 0)
        self.task_shape, self._of_objects = example.shape[1:], example.dtype == object
        self._row_tasks = None
        sample = make_env()
        task_setter(sample)
        seen = observation_spec(sample.observation_space)
        self._observation_spec = self._with_task(seen) if observe_task else seen
        self._shown = seen.shape[0] if observe_task else None  # entries that are not the task's
        self._actions = Actions(sample.action_space)
        sample.close()
        rows = self.batch_size
        self._episode, self._steps = np.zeros(rows, int), np.zeros(rows, int)
        self._ended, self.discarded = np.ones(rows, bool), np.zeros(rows, bool)
        self.success = np.full(rows, np.nan, np.float32)
        self.first_error = ""
        self._at_once = at_once
        count = min(usable_cores() if workers is None else workers, rows, at_once)
        make_group = Worker if count else Group
        self._groups = [make_group(make_env, seen.shape) for _ in range(max(count, 1))]

    # The family of tasks.

    def sample_tasks(self, n, seed):
        """See `TaskEnvironment`."""
        checked_draw(n, seed)
        drawn = as_tasks(self._draw(n, np.random.default_rng(seed)))
        if drawn.shape[:1] != (n,):
            raise ValueError(
                "Expected `tasks(n, generator)` to give an array or a list [n, ...]. Received: "
                f"shape {drawn.shape} for n={n}. Give one task for each of the n."
            )
        return drawn

    def checked_tasks(self, tasks):
        """See `TaskEnvironment`; where tasks are objects, an array of them `[T]`."""
        if not self._of_objects:
            return super().checked_tasks(tasks)
        array = as_tasks(tasks)
        if array.shape != (self.tasks,) or array.dtype != object:
            raise ValueError(
                f"Expected `tasks` to be a list of {self.tasks} objects, of the kind that "
                f"`sample_tasks` gives. Received: {arguments.received('tasks', tasks)}. Use "
                f"`sample_tasks({self.tasks}, seed)`, or `resized(tasks=..., rollouts=...)` for "
                "another number of tasks."
            )
        return array

    def set_tasks(self, tasks):
        """See `TaskEnvironment`."""
        self._row_tasks = np.repeat(self.checked_tasks(tasks), self.rollouts, 0)

    def resized(self, tasks, rollouts, seed=0):
        """See `TaskEnvironment`."""
        make_env, draw, *others = self._arguments
        return GymnasiumTasks(make_env, draw, tasks, rollouts, *others, seed)

    # The environment on arrays.

    def observation_spec(self):
        """Float32, the shape of the environment's observation."""
        return self._observation_spec

    def action_spec(self):
        """Float32, in [-1, 1] where the environment has two bounds, or an integer from 0."""
        return self._actions.spec

    def seed(self, seed=0):
        """Begins the random numbers anew; the next reset is the first episode of `seed`."""
        self._seed, self.first_error = seed, ""
        self._episode[:] = 0

    def blocks(self):
        """See `RowEnvironment`: no more than `at_once` rollouts."""
        some_tasks = -(-self.tasks // max(1, self._at_once // self.rollouts))
        some_rollouts = -(-self.rollouts // self._at_once)
        return [
            (slice(a[0], a[-1] + 1), slice(b[0], b[-1] + 1))
            for a in np.array_split(np.arange(self.tasks), some_tasks)
            for b in np.array_split(np.arange(self.rollouts), some_rollouts)
        ]

    def ended_rows(self):
        """See `RowEnvironment`."""
        return self._ended

    def reset_rows(self, moving=None):
        """See `RowEnvironment`."""
        moving = np.ones(self.batch_size, bool) if moving is None else moving
        self._ended[moving] = True
        return self.step_rows(np.zeros((self.batch_size, *self.action_spec().shape)), moving)[0]

    def step_rows(self, action, moving=None):
        """See `RowEnvironment`."""
        action = checked_action(action, (self.batch_size, *self.action_spec().shape))
        moving = np.ones(self.batch_size, bool) if moving is None else moving
        anew = self._ended & moving
        self._steps = np.where(anew, 0, self._steps + moving)
        observation = np.zeros((self.batch_size, *self._observation_spec.shape), np.float32)
        shown = observation[:, : self._shown] if self.observe_task else observation
        reward = np.zeros(self.batch_size, np.float32)
        terminated, truncated, broken = np.zeros((3, self.batch_size), bool)
        self.success = np.full(self.batch_size, np.nan, np.float32)
        rows = np.flatnonzero(moving)
        errors = []
        for some, results in self._done(rows, self._actions(action[rows]), anew):
            shown[some], reward[some] = results.observation, results.reward
            terminated[some], truncated[some] = results.terminated, results.truncated
            broken[some], self.success[some] = results.broken, results.success
            errors += results.errors
        if self.observe_task and self._row_tasks is not None:
            observation[rows, shown.shape[1] :] = self._row_tasks[rows].reshape(rows.size, -1)
        self._report(errors)
        self.discarded = np.where(anew, broken, self.discarded | broken)
        terminated |= broken
        ended = terminated | truncated | (self._steps >= self.horizon)
        self._ended = np.where(moving, ended, self._ended)
        return observation, reward, self._ended.copy(), terminated

    def close(self):
        """Ends the worker processes."""
        for group in self._groups:
            group.close()

    def _with_task(self, spec):
        """The spec of observations that end with the task."""
        if self._of_objects or len(spec.shape) != 1:
            what = "tasks that are objects" if self._of_objects else f"observations {spec.shape}"
            raise ValueError(
                "Expected tasks of numbers and observations that are vectors, to append the one to "
                f"the other. Received: observe_task=True with {what}. Leave `observe_task` out, or "
                "show the task by a wrapper of your own."
            )
        size = spec.shape[0] + int(np.prod(self.task_shape))
        return array_spec.ArraySpec((size,), spec.dtype, spec.name)

    def _done(self, rows, action, anew):
        """Has every group do its share of the rows; `(rows, Results)` of each."""
        # A row's random numbers follow from (seed, row, episode).
        seeds = np.full(rows.size, STEP)
        for i in np.flatnonzero(anew[rows]):
            seeds[i] = self._reset_seed(rows[i])
        self._episode[rows[anew[rows]]] += 1
        last = self._steps[rows] >= self.horizon
        # Neighbours, which run at the same time, are in different processes.
        shares = [rows % len(self._groups) == i for i in range(len(self._groups))]
        busy = [(g, s) for g, s in zip(self._groups, shares, strict=True) if s.any()]
        for group, share in busy:
            task = None
            if self._row_tasks is not None and anew[rows[share]].any():
                task = list(self._row_tasks[rows[share]])
            group.send(Orders(rows[share], action[share], seeds[share], last[share], task))
        return [(rows[share], group.receive()) for group, share in busy]

    def _reset_seed(self, row):
        mixed = np.random.SeedSequence([self._seed, int(row), int(self._episode[row])])
        return int(mixed.generate_state(1)[0] >> 1)

    def _report(self, errors):
        if errors:
            self.first_error = self.first_error or errors[0]
            _log.warning(
                "%d of %d rollouts broke and are not learned from; the first one: %s",
                len(errors),
                self.batch_size,
                errors[0],
            )
