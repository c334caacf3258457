"""Any gymnasium environment with a `set_task` as a family of tasks, spread over processes.

A few worker processes each step many environments, one message a step: a process an environment,
as gymnasium's own vector environments have it, would be hundreds of processes on two cores.
"""

import logging
import multiprocessing
import traceback

import gymnasium
import numpy as np

from maml_tf.rl._tf_agents import array_spec
from maml_tf.rl.environments.base import checked_size, usable_cores
from maml_tf.rl.environments.rows import RowEnvironment, checked_action

_log = logging.getLogger(__name__)
_STEP, _STAY = -1, -2  # in the place of the seed of a reset


def from_gymnasium(make_env, tasks, *, task_count=1, rollouts=1, horizon=200, workers=None, seed=0):
    """A family of tasks of a gymnasium environment.

    Args:
        make_env: function without arguments, a gymnasium environment whose `set_task(task)` (its
            own, or of what it wraps) chooses the task. Where there are workers it must be a
            function of a module, which other processes can import.
        tasks: `tasks(n, generator) -> [n, ...]`, which draws tasks by a `numpy.random.Generator`,
            or an array `[N, ...]` of tasks to choose from.
        task_count: `int` T, the tasks worked on at a time.
        rollouts: `int` R of each task.
        horizon: `int` H, steps after which a rollout ends.
        workers: `int`, processes; the number of cores by default; 0 steps in this process.
        seed: `int`, of the resets.

    Returns:
        `GymnasiumTasks`, a natively batched TF-Agents `PyEnvironment`. Continuous actions are in
        [-1, 1], rescaled to the environment's bounds and clipped. A rollout whose environment
        raises or gives NaN ends and is marked in `discarded`.

    Raises:
        TypeError: no `set_task`, or spaces that are neither `Box` nor (for actions) `Discrete`.
        ValueError: sizes that are no positive `int`.

    Example:
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
    return GymnasiumTasks(make_env, tasks, task_count, rollouts, horizon, workers, seed)


class GymnasiumTasks(RowEnvironment):
    """See `from_gymnasium`."""

    def __init__(self, make_env, tasks, task_count, rollouts, horizon, workers, seed):
        checked_size(task_count=task_count, rollouts=rollouts, horizon=horizon)
        super().__init__()
        self._arguments = (make_env, tasks, horizon, workers)
        self.tasks, self.rollouts, self.horizon = task_count, rollouts, horizon
        self._draw = tasks if callable(tasks) else _chooser(np.asarray(tasks, np.float32))
        self.task_shape = self.sample_tasks(1, 0).shape[1:]
        sample = make_env()
        _task_setter(sample)
        self._observation_spec, self._action_spec, self._scale = _specs(sample)
        sample.close()
        self._seed, self._episode = seed, 0
        self._steps = np.zeros(self.batch_size, int)
        self._ended = np.ones(self.batch_size, bool)
        self.discarded = np.zeros(self.batch_size, bool)
        count = min(usable_cores() if workers is None else workers, self.batch_size)
        self._chunks = np.array_split(np.arange(self.batch_size), max(count, 1))
        make_group = _Worker if count else _Group
        self._groups = [make_group(make_env, len(rows)) for rows in self._chunks]

    # The family of tasks.

    def sample_tasks(self, n, seed):
        """See `TaskEnvironment`."""
        return np.asarray(self._draw(n, np.random.default_rng(seed)), np.float32)

    def set_tasks(self, tasks):
        """See `TaskEnvironment`."""
        rows = np.repeat(self.checked_tasks(tasks), self.rollouts, 0)
        self._all("set_tasks", [rows[chunk] for chunk in self._chunks])

    def resized(self, tasks, rollouts, seed=0):
        """See `TaskEnvironment`."""
        make_env, draw, horizon, workers = self._arguments
        return GymnasiumTasks(make_env, draw, tasks, rollouts, horizon, workers, seed)

    # The environment on arrays.

    def observation_spec(self):
        """Float32, the shape of the environment's observation."""
        return self._observation_spec

    def action_spec(self):
        """Float32 in [-1, 1], or an integer."""
        return self._action_spec

    def seed(self, seed=0):
        """Begins the random numbers anew; the next reset is the first episode of `seed`."""
        self._seed, self._episode = seed, 0

    def ended_rows(self):
        """See `RowEnvironment`."""
        return self._ended

    def reset_rows(self):
        """See `RowEnvironment`."""
        self._ended[:] = True
        return self.step_rows(np.zeros((self.batch_size, *self._action_spec.shape)))[0]

    def step_rows(self, action, moving=None):
        """See `RowEnvironment`."""
        action = checked_action(action, (self.batch_size, *self._action_spec.shape))
        if self._scale is not None:
            low, high = self._scale
            action = low + (np.clip(action, -1, 1) + 1) / 2 * (high - low)
        moving = np.ones(self.batch_size, bool) if moving is None else moving
        anew = self._ended & moving
        # A row's random numbers follow from (seed, row, episode).
        seeds = np.where(moving, _STEP, _STAY)
        if anew.any():
            rows = np.flatnonzero(anew)
            seeds[rows] = [self._reset_seed(row) for row in rows]
            self._episode += 1
        parts = [(action[chunk], seeds[chunk]) for chunk in self._chunks]
        results = self._all("step", parts)
        observation, reward, terminated, truncated, broken = (
            np.concatenate(part) for part in list(zip(*results, strict=True))[:5]
        )
        self._report(broken, [error for result in results for error in result[5]])
        self._steps = np.where(anew, 0, self._steps + moving)
        self.discarded = np.where(anew, broken, self.discarded | broken)
        terminated = terminated | broken
        ended = terminated | truncated | (self._steps >= self.horizon)
        self._ended = np.where(moving, ended, self._ended)
        observation = observation.reshape(self.batch_size, *self._observation_spec.shape)
        return observation, reward, self._ended.copy(), terminated

    def close(self):
        """Ends the worker processes."""
        for group in self._groups:
            group.close()

    def _reset_seed(self, row):
        mixed = np.random.SeedSequence([self._seed, int(row), self._episode])
        return int(mixed.generate_state(1)[0] >> 1)

    def _report(self, broken, errors):
        if broken.any():
            _log.warning(
                "%d of %d rollouts broke and are not learned from; the first one: %s",
                broken.sum(),
                self.batch_size,
                errors[0],
            )

    def _all(self, method, arguments):
        """Calls a method of every group, all at the same time."""
        for group, argument in zip(self._groups, arguments, strict=True):
            group.send(method, argument)
        return [group.receive() for group in self._groups]


class _Group:
    """Some environments, stepped one after another in this process."""

    def __init__(self, make_env, count):
        self._make = make_env
        self._envs = [make_env() for _ in range(count)]
        self._tasks = [None] * count
        self._answer = None

    def send(self, method, argument):
        self._answer = getattr(self, method)(argument)

    def receive(self):
        return self._answer

    def close(self):
        for env in self._envs:
            env.close()

    def set_tasks(self, tasks):
        self._tasks = list(tasks)

    def step(self, argument):
        """Steps every environment, or resets it where its seed is one, or lets it be."""
        rows = [self._row(i, a, int(s)) for i, (a, s) in enumerate(zip(*argument, strict=True))]
        errors = [row[5] for row in rows if row[5]]
        return (*(np.array(column) for column in list(zip(*rows, strict=True))[:5]), errors)

    def _row(self, i, action, seed):
        space = self._envs[i].observation_space
        if seed == _STAY:
            zeros = np.zeros(space.shape, np.float32)
            return zeros, np.float32(0), False, False, False, ""
        try:
            if seed >= 0:
                if self._tasks[i] is not None:
                    _task_setter(self._envs[i])(self._tasks[i])
                observation, _ = self._envs[i].reset(seed=seed)
                reward, terminated, truncated = 0.0, False, False
            else:
                discrete = isinstance(self._envs[i].action_space, gymnasium.spaces.Discrete)
                observation, reward, terminated, truncated, _ = self._envs[i].step(
                    int(action) if discrete else action
                )
            observation = np.asarray(observation, np.float32)
            if not (np.isfinite(observation).all() and np.isfinite(reward)):
                raise FloatingPointError(f"reward {reward}, observation {observation.tolist()}")
            return observation, np.float32(reward), bool(terminated), bool(truncated), False, ""
        except Exception:
            # Whatever a user's environment raises: its rollout is given up, the others go on, and
            # an environment in an unknown state is not used again.
            error = traceback.format_exc()
            self._envs[i] = self._make()
            zeros = np.zeros(space.shape, np.float32)
            return zeros, np.float32(0), False, False, True, error


class _Worker:
    """A `_Group` in a process of its own."""

    def __init__(self, make_env, count):
        # Not fork: TensorFlow's threads do not survive it.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make_env, count), daemon=True)
        self._process.start()
        theirs.close()

    def send(self, method, argument):
        try:
            self._pipe.send((method, argument))
        except (BrokenPipeError, OSError) as error:
            raise self._gone() from error

    def receive(self):
        try:
            kind, answer = self._pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            raise self._gone() from error
        if kind == "error":
            raise RuntimeError(f"A worker process of the environment failed:\n{answer}")
        return answer

    def close(self):
        self._pipe.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.terminate()

    def _gone(self):
        self._process.join(5)
        return RuntimeError(
            "A worker process of the environment ended by itself, with exit code "
            f"{self._process.exitcode}. `workers=0` runs the environments in this process, where "
            "one sees why."
        )


def _serve(pipe, make_env, count):
    try:
        group = _Group(make_env, count)
    except Exception:
        pipe.send(("error", traceback.format_exc()))
        return
    while True:
        try:
            method, argument = pipe.recv()
        except EOFError:
            group.close()
            return
        try:
            pipe.send(("answer", getattr(group, method)(argument)))
        except Exception:
            pipe.send(("error", traceback.format_exc()))


def _task_setter(env):
    for candidate in (env, env.unwrapped):
        if hasattr(candidate, "set_task"):
            return candidate.set_task
    raise TypeError(
        f"Expected an environment with a method `set_task(task)`, received {env}. Add one to the "
        "environment, or wrap it in a gymnasium.Wrapper that has one."
    )


def _specs(env):
    """Specs of observation and action, and the bounds that actions are rescaled to."""
    observation, action = env.observation_space, env.action_space
    box, discrete = gymnasium.spaces.Box, gymnasium.spaces.Discrete
    if not isinstance(observation, box) or not isinstance(action, (box, discrete)):
        raise TypeError(
            "Expected a `Box` observation and a `Box` or `Discrete` action, received "
            f"{observation} and {action}. gymnasium.wrappers has flattening ones."
        )
    observation_spec = array_spec.ArraySpec(observation.shape, np.float32, "observation")
    if isinstance(action, discrete):
        if action.start != 0:
            raise TypeError(f"Expected discrete actions from 0 on, received {action}.")
        spec = array_spec.BoundedArraySpec((), np.int32, 0, int(action.n) - 1, "action")
        return observation_spec, spec, None
    bounded = np.isfinite(action.low).all() and np.isfinite(action.high).all()
    spec = array_spec.BoundedArraySpec(action.shape, np.float32, -1.0, 1.0, "action")
    return observation_spec, spec, (action.low, action.high) if bounded else None


def _chooser(tasks):
    def choose(n, generator):
        return tasks[generator.integers(0, len(tasks), n)]

    return choose
