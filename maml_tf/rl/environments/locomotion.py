"""Robots in MuJoCo, all rollouts of all tasks in one C++ call a step.

`Locomotion` holds the physics of T x R rows as arrays and steps them with `mujoco.rollout`; a robot
(`half_cheetah.py`, `ant.py`) adds its observation, its reward and when it has fallen. Each comes
in the physics of Finn et al. (2017) and in gymnasium's v5.

A row's random numbers follow from (seed, row, episode): a row does the same in a batch of any
size, and on any number of threads.
"""

import logging
from typing import Any

import numpy as np

from maml_tf import arguments
from maml_tf.rl._tf_agents import array_spec
from maml_tf.rl.environments.base import checked_size, usable_cores
from maml_tf.rl.environments.mujoco_models import PHYSICS, load, mujoco
from maml_tf.rl.environments.rows import RowEnvironment, checked_action

_CONTROL = mujoco.mjtState.mjSTATE_CTRL
_log = logging.getLogger(__name__)


class Locomotion(RowEnvironment):
    """What all robots share; see the top of this file.

    Args:
        tasks: `int` T.
        rollouts: `int` R of each task; `batch_size` is T * R, row `i * R + j` rollout j of task i.
        horizon: `int` H, steps of a rollout.
        physics: `"paper"` or `"v5"`.
        observe_task: the task is a part of the observation (an oracle).
        threads: of the physics; the cores that the process may use by default.
        seed: `int`, of the resets.

    Attributes:
        discarded: bool `[rows]`, whether the row's rollout broke (the physics diverged) and is
            not to be learned from.
    """

    robot: str
    task_shape = (1,)
    frame_skip = {"paper": 1, "v5": 5}

    def __init__(
        self,
        tasks: int = 1,
        rollouts: int = 1,
        *,
        horizon: int = 200,
        physics: str = "paper",
        observe_task: bool = False,
        threads: int | None = None,
        seed: int = 0,
    ) -> None:
        checked_size(tasks=tasks, rollouts=rollouts, horizon=horizon)
        arguments.choice("physics", physics, PHYSICS)
        arguments.boolean("observe_task", observe_task)
        arguments.integer("seed", seed, minimum=0)
        if threads is not None:
            checked_size(threads=threads)
        super().__init__()
        self.tasks, self.rollouts, self.horizon = tasks, rollouts, horizon
        self.physics, self.observe_task = physics, observe_task
        self.model = load(self.robot, physics)
        threads = threads or usable_cores()
        # 0: in the calling thread, without waking another.
        self._pool = mujoco.rollout.Rollout(nthread=threads if threads > 1 else 0)
        self._data = [mujoco.MjData(self.model) for _ in range(threads)]
        rows, nq, nv = tasks * rollouts, self.model.nq, self.model.nv
        self._threads, self._first_row = threads, 0
        self._out = np.zeros((rows, self.frame_skip[physics], 1 + nq + nv))
        self._state = {
            "qpos": np.tile(self.start(), (rows, 1)),
            "qvel": np.zeros((rows, nv)),
            "control": np.zeros((rows, self.model.nu)),
            "steps": np.zeros(rows, int),
            "episode": np.zeros(rows, int),
            "ended": np.ones(rows, bool),
            "discarded": np.zeros(rows, bool),
            "tasks": np.zeros((tasks, *self.task_shape), np.float32),
            "seed": np.array(seed),
        }
        self._dt = self.model.opt.timestep * self.frame_skip[physics]
        self.measure()
        self._observation_size = self.observation().shape[1]

    # What a robot defines.

    def start(self):
        """The position `[nq]` that resets scatter around."""
        return self.model.qpos0

    def measure(self):
        """Computes from the state what observation and reward need of it."""
        raise NotImplementedError

    def observe(self):
        """The observation without the task, `[rows, O]`."""
        raise NotImplementedError

    def reward(self, action, before):
        """Rewards `[rows]` for `action` `[rows, A]`, having been at qpos `before`."""
        raise NotImplementedError

    def fallen(self):
        """Whether a row has reached a state that ends it, bool `[rows]`."""
        return np.zeros(self.batch_size, bool)

    # The environment on arrays.

    @property
    def qpos(self):
        """Positions, float64 `[rows, nq]`."""
        return self._state["qpos"]

    @property
    def qvel(self):
        """Velocities, float64 `[rows, nv]`."""
        return self._state["qvel"]

    @property
    def discarded(self):
        """See the class."""
        return self._state["discarded"]

    @property
    def row_tasks(self):
        """The task of every row, float32 `[rows, *task_shape]`."""
        return np.repeat(self._state["tasks"], self.rollouts, 0)

    def observation(self):
        """Float32 `[rows, O]`, with the task where it is observed."""
        parts = [self.observe()]
        if self.observe_task:
            parts.append(self.row_tasks.reshape(self.batch_size, -1))
        return np.concatenate(parts, 1).astype(np.float32)

    def ended_rows(self):
        """See `RowEnvironment`."""
        return self._state["ended"]

    def reset_rows(self, moving=None):
        """See `RowEnvironment`."""
        self._restart(np.ones(self.batch_size, bool) if moving is None else moving)
        self.measure()
        return self.observation()

    def step_rows(self, action, moving=None):
        """See `RowEnvironment`; actions are clipped to [-1, 1]."""
        action = checked_action(action, (self.batch_size, self.model.nu))
        action = np.clip(action, -1, 1).astype(np.float64)
        moving = np.ones(self.batch_size, bool) if moving is None else moving
        anew = self._state["ended"] & moving
        before = self.qpos.copy()
        diverged = self._advance(action, np.flatnonzero(moving & ~anew))
        self._state["control"][moving] = action[moving]
        self._state["steps"][moving] += 1
        if anew.any():
            self._restart(anew)
        if diverged.any():
            self._discard(diverged)
        self.measure()
        reward = np.where(anew | diverged, 0, self.reward(action, before)).astype(np.float32)
        terminated = (self.fallen() | diverged) & ~anew
        ended = terminated | (self._state["steps"] >= self.horizon)
        ended = np.where(moving, ended, self._state["ended"])
        self._state["ended"] = ended
        # Copies: what is given out must not change at the next step.
        return self.observation(), reward, ended.copy(), terminated

    def _advance(self, action, rows):
        """Moves qpos and qvel of the numbered rows on; tells `[rows]` whose physics diverged."""
        diverged = np.zeros(self.batch_size, bool)
        if not rows.size:
            return diverged
        nq, out = self.model.nq, self._out[: rows.size]
        control = np.repeat(action[rows, None], self.frame_skip[self.physics], 1)
        self._simulate(self.model, self._data, rows, control, state=out)
        last = out[:, -1]
        self._state["qpos"][rows] = last[:, 1 : nq + 1]
        self._state["qvel"][rows] = last[:, nq + 1 :]
        # MuJoCo sets a bad state back to the beginning, the time too: to 0, not the 1 given.
        on_time = np.abs(last[:, 0] - 1 - self._dt) < 1e-9
        diverged[rows] = ~(on_time & np.isfinite(last).all(1))
        return diverged

    def _simulate(self, model, data, rows, control, **outputs):
        """Runs the numbered rows in one C++ call under `control` `[len(rows), frames, A]`."""
        self._pool.rollout(
            [model] * rows.size,
            data,
            np.concatenate([np.ones((rows.size, 1)), self.qpos[rows], self.qvel[rows]], 1),
            control,
            nstep=control.shape[1],
            control_spec=_CONTROL,
            skip_checks=True,
            **outputs,
        )

    def _restart(self, rows):
        state = self._state
        for row in np.flatnonzero(rows):
            counter = [0, 0, 0, int(state["episode"][row])]
            key = [int(state["seed"]), self._first_row + int(row)]
            generator = np.random.Generator(np.random.Philox(counter=counter, key=key))
            state["qpos"][row], state["qvel"][row] = self._scattered(generator)
        state["control"][rows] = 0
        state["episode"][rows] += 1
        state["steps"][rows] = 0
        state["ended"][rows] = False
        state["discarded"][rows] = False

    def _scattered(self, generator):
        nq, nv = self.model.nq, self.model.nv
        if self.physics == "paper":
            position = 0.01 * generator.normal(size=nq)
        else:
            position = generator.uniform(-0.1, 0.1, size=nq)
        return self.start() + position, 0.1 * generator.normal(size=nv)

    def _discard(self, rows):
        state = self._state
        state["discarded"] |= rows
        state["qpos"][rows], state["qvel"][rows], state["control"][rows] = self.start(), 0, 0
        _log.warning(
            "The physics diverged in %d of %d rollouts (rows %s): they end here and are not "
            "learned from.",
            rows.sum(),
            self.batch_size,
            (self._first_row + np.flatnonzero(rows)[:10]).tolist(),
        )

    # The same as a TF-Agents environment.

    def observation_spec(self):
        """Float32 `[O]`."""
        return array_spec.ArraySpec((self._observation_size,), np.float32, "observation")

    def action_spec(self):
        """Float32 `[A]` in [-1, 1]."""
        return array_spec.BoundedArraySpec((self.model.nu,), np.float32, -1.0, 1.0, "action")

    def seed(self, seed=0):
        """Begins the random numbers anew; the next reset is the first episode of `seed`."""
        self._state["seed"] = np.array(seed)
        self._state["episode"][:] = 0

    def get_state(self):
        """All that the future depends on: a dict of arrays."""
        return {key: value.copy() for key, value in self._state.items()}

    def set_state(self, state):
        """Goes on from what `get_state` gave."""
        self._state = {key: np.array(value) for key, value in state.items()}
        self.measure()

    # The family of tasks.

    def set_tasks(self, tasks: Any) -> None:
        """See `TaskEnvironment`."""
        self._state["tasks"] = self.checked_tasks(tasks)

    def current_tasks(self) -> np.ndarray:
        """The tasks that are worked on, float32 `[T, *task_shape]`."""
        return self._state["tasks"]

    def resized(self, tasks: int, rollouts: int, seed: int = 0) -> Any:
        """See `TaskEnvironment`."""
        return self._made(tasks, rollouts, self._threads, seed)

    def split(self):
        """See `RowEnvironment`: while the policy acts in one half, the other half moves."""
        if self.tasks == 1:
            return [self]
        first = self.tasks // 2
        sizes, threads = (first, self.tasks - first), max(1, self._threads // 2)
        halves = [self._made(size, self.rollouts, threads) for size in sizes]
        halves[1]._first_row = first * self.rollouts
        return halves

    def _made(self, tasks, rollouts, threads, seed=0):
        return type(self)(
            tasks,
            rollouts,
            horizon=self.horizon,
            physics=self.physics,
            observe_task=self.observe_task,
            threads=threads,
            seed=seed,
        )
