"""Where gymnasium environments run: in this process, or in others, a message a step.

A `Group` holds as many environment objects as rollouts run in it at once. A row takes one at its
reset and leaves it at its end to the row that comes next.
"""

import multiprocessing
import pickle
import traceback
from typing import NamedTuple

import gymnasium
import numpy as np

STEP = -1  # in the place of the seed of a reset
# What environments call it in `info`: Meta-World, and gymnasium-robotics.
SUCCESS = ("success", "is_success")


class Orders(NamedTuple):
    """What some rows shall do."""

    rows: np.ndarray  # int [n]
    action: np.ndarray  # [n, ...], as the environment takes them
    seed: np.ndarray  # int [n]: of a reset, or `STEP`
    last: np.ndarray  # bool [n], whether the rollout ends with this step, whatever happens
    task: list | None  # of the rows, for a reset; None: their environments have one already


class Results(NamedTuple):
    """What became of them."""

    observation: np.ndarray  # float32 [n, ...]
    reward: np.ndarray  # float32 [n]
    terminated: np.ndarray  # bool [n]
    truncated: np.ndarray  # bool [n]
    broken: np.ndarray  # bool [n]: it raised, or gave what cannot be learned from
    success: np.ndarray  # float32 [n]: what `info` said, 1 or 0; NaN where it said nothing
    errors: list  # of str, tracebacks of those that broke


def task_setter(env):
    """`set_task` of an environment or of the outermost of its wrappers that has one.

    Raises:
        TypeError: not an environment of gymnasium, or none of them has one.
    """
    if not isinstance(env, gymnasium.Env):
        raise TypeError(
            "Expected `make_env` to give a gymnasium environment. Received: "
            f"{env!r} (of type {type(env).__name__}). Create a `gymnasium.Env` in it."
        )
    if not env.has_wrapper_attr("set_task"):
        raise TypeError(
            f"Expected an environment with a method `set_task(task)`. Received: {env}. Add one to "
            "the environment, or wrap it in a `gymnasium.Wrapper` that has one."
        )
    return env.get_wrapper_attr("set_task")


class Group:
    """Some rows, stepped one after another in this process.

    Args:
        make_env: function without arguments, a gymnasium environment.
        shape: of an observation.
    """

    def __init__(self, make_env, shape):
        self._make, self._shape = make_env, shape
        self._of_row, self._free = {}, []
        self._answer = None

    def send(self, orders):
        """Does what `Orders` say."""
        self._answer = self.step(orders)

    def receive(self):
        """The `Results`."""
        return self._answer

    def close(self):
        """Closes all environments."""
        for env in [*self._of_row.values(), *self._free]:
            env.close()
        self._of_row, self._free = {}, []

    def step(self, orders):
        """`Results` of `Orders`."""
        tasks = orders.task or [None] * len(orders.rows)
        each = zip(*orders[:4], tasks, strict=True)
        rows = [self._row(int(row), a, int(s), last, task) for row, a, s, last, task in each]
        columns = list(zip(*rows, strict=True))
        return Results(*map(np.array, columns[:6]), [error for error in columns[6] if error])

    def _row(self, row, action, seed, last, task):
        env = self._of_row.pop(row, None)
        try:
            if env is None:
                env = self._free.pop() if self._free else self._make()
            observation, reward, terminated, truncated, success = _moved(
                env, action, seed, task, self._shape
            )
        except Exception:
            # Whatever a user's environment raises: its rollout is given up, the others go on, and
            # an environment in an unknown state is not used again.
            _close(env)
            zeros = np.zeros(self._shape, np.float32)
            return zeros, np.float32(0), False, False, True, np.nan, traceback.format_exc()
        # The next row may have it.
        if terminated or truncated or last:
            self._free.append(env)
        else:
            self._of_row[row] = env
        return observation, reward, terminated, truncated, False, success, ""


def _moved(env, action, seed, task, shape):
    if seed == STEP:
        observation, reward, terminated, truncated, info = env.step(action)
    else:
        if task is not None:
            task_setter(env)(task)
        observation, _ = env.reset(seed=seed)
        reward, terminated, truncated, info = 0.0, False, False, {}
    numbers = np.asarray(observation, np.float32)
    if numbers.shape != shape:
        raise ValueError(
            f"Expected an observation of shape {shape}, that of the environment's "
            f"`observation_space`. Received: one of shape {numbers.shape}."
        )
    single = np.asarray(reward, np.float32)
    if single.size != 1 or not np.isfinite(single).all() or not np.isfinite(numbers).all():
        raise FloatingPointError(
            f"Expected a reward and an observation of finite numbers. Received: reward={reward}, "
            f"observation={numbers.tolist()}."
        )
    ended = bool(terminated), bool(truncated)
    return numbers, single.reshape(())[()], *ended, _success(info)


def _success(info):
    """What `info` says of success, 1.0 or 0.0; NaN where it says nothing."""
    for name in SUCCESS:
        if isinstance(info, dict) and info.get(name) is not None:
            return float(np.any(info[name]))
    return np.nan


def _close(env):
    try:
        if env is not None:
            env.close()
    except Exception:
        # It broke already, and is told of with the error that it broke by.
        return


class Worker:
    """A `Group` in a process of its own; arguments as there.

    Raises:
        TypeError: a `make_env` that another process cannot import.
    """

    def __init__(self, make_env, shape):
        try:
            pickle.dumps(make_env)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise TypeError(
                "Expected `make_env` to be a function of a module, which worker processes can "
                f"import. Received: make_env={make_env!r} ({error}). Define it at the top of a "
                "module, or use `workers=0`, which steps the environments in this process."
            ) from error
        # Not fork: TensorFlow's threads do not survive it.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make_env, shape), daemon=True)
        self._process.start()
        theirs.close()

    def send(self, orders):
        """See `Group`."""
        try:
            self._pipe.send(orders)
        except (BrokenPipeError, OSError) as error:
            raise self._gone() from error

    def receive(self):
        """See `Group`."""
        try:
            kind, answer = self._pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            raise self._gone() from error
        if kind == "error":
            raise RuntimeError(f"A worker process of the environment failed:\n{answer}")
        return answer

    def close(self):
        """Ends the process."""
        self._pipe.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.terminate()

    def _gone(self):
        self._process.join(5)
        return RuntimeError(
            "Expected the worker processes of the environment to go on. Received: one that ended "
            f"by itself, with exit code {self._process.exitcode}. Use `workers=0`, which runs the "
            "environments in this process, where one sees why; and make environments of a script "
            "below `if __name__ == '__main__':`, as workers import the script."
        )


def _serve(pipe, make_env, shape):
    group = Group(make_env, shape)
    while True:
        try:
            orders = pipe.recv()
        except EOFError:
            group.close()
            return
        try:
            pipe.send(("answer", group.step(orders)))
        except Exception:
            pipe.send(("error", traceback.format_exc()))
