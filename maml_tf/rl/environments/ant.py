"""Ant that walks at a speed, in a direction or to a goal (Finn et al., 2017, section 5.3).

In the paper's physics (rllab's): 0.02 s a step, RK4; the speed is that of the centre of mass after
the step; reward = progress + 0.05 - 0.005 ||a||^2 - 0.0005 ||clip(contact forces, +-1)||^2, and 1
more for the speed task; observation of 125: qpos, qvel, contact forces, rotation of the torso,
centre of mass; it has fallen when the torso's height leaves [0.2, 1].
gymnasium's v5: 0.05 s, speed (x' - x) / dt, control cost 0.5 ||a||^2, 1 for being upright,
observation of 105. The contact forces are those of the new state, as in rllab; gymnasium keeps the
ones before the last frame.
"""

import concurrent.futures

import numpy as np

from maml_tf.rl.environments.locomotion import Direction, Locomotion, Velocity
from maml_tf.rl.environments.mujoco_models import mujoco

_START = [0, 0, 0.55, 1, 0, 0, 0, 0, 1, 0, -1, 0, -1, 0, 1]  # of rllab's model file
_CONTROL_COST = {"paper": 0.005, "v5": 0.5}
_UPRIGHT = {"paper": 0.05, "v5": 1.0}
_CONTACT_COST = 5e-4
_HEIGHTS = 0.2, 1.0


class Ant(Locomotion):
    """The robot; a family of tasks adds what progress is. Arguments as in `Locomotion`."""

    robot = "ant"

    def start(self):
        """The position `[15]` that resets scatter around."""
        return np.array(_START, float) if self.physics == "paper" else self.model.qpos0

    def measure(self):
        """Contact forces, rotation and centre of mass, which `mujoco.rollout` does not give."""
        rows, bodies = self.batch_size, self.model.nbody
        self.contact = np.empty((rows, bodies, 6))
        self.rotation = np.empty((rows, 9))
        self.centre, self.centre_velocity = np.empty((rows, 3)), np.empty((rows, 3))
        chunks = np.array_split(np.arange(rows), min(self._threads, rows))
        if len(chunks) == 1:
            self._measure_rows(self._data[0], chunks[0])
            return
        with concurrent.futures.ThreadPoolExecutor(len(chunks)) as pool:
            # MuJoCo works without the interpreter's lock. `list` raises what a thread raised.
            list(pool.map(self._measure_rows, self._data, chunks))

    def _measure_rows(self, data, rows):
        model = self.model
        for row in rows:
            data.qpos[:], data.qvel[:] = self.qpos[row], self.qvel[row]
            # The solver's first guess must not come from another row.
            data.qacc_warmstart[:] = 0
            data.ctrl[:] = 0
            mujoco.mj_forward(model, data)
            mujoco.mj_rnePostConstraint(model, data)
            mujoco.mj_subtreeVel(model, data)
            self.contact[row] = data.cfrc_ext
            self.rotation[row] = data.xmat[1]
            self.centre[row], self.centre_velocity[row] = (
                data.subtree_com[1],
                data.subtree_linvel[1],
            )

    def observe(self):
        """Float64 `[rows, 125]`, or `[rows, 105]` in v5."""
        rows = self.batch_size
        contact = np.clip(self.contact, -1, 1)
        if self.physics != "paper":
            parts = [self.qpos[:, 2:], self.qvel, contact[:, 1:].reshape(rows, -1)]
            return np.concatenate(parts, 1)
        parts = [self.qpos, self.qvel, contact.reshape(rows, -1), self.rotation, self.centre]
        return np.concatenate(parts, 1)

    def reward(self, action, before):
        """Float64 `[rows]`."""
        if self.physics == "paper":
            velocity = self.centre_velocity[:, :2]
        else:
            velocity = (self.qpos[:, :2] - before[:, :2]) / self._dt
        contact = (np.clip(self.contact, -1, 1) ** 2).sum((1, 2))
        cost = _CONTROL_COST[self.physics] * (action**2).sum(1) + _CONTACT_COST * contact
        return self.ant_progress(velocity) + _UPRIGHT[self.physics] - cost

    def ant_progress(self, velocity):
        """What the task rewards, for velocities `[rows, 2]` in the plane."""
        return self.progress(velocity[:, 0])

    def fallen(self):
        """Bool `[rows]`."""
        height = self.qpos[:, 2]
        return ~((height >= _HEIGHTS[0]) & (height <= _HEIGHTS[1]))


class AntDirection(Direction, Ant):
    """Ant, forward or backward; arguments as in `Locomotion`."""


class AntVelocity(Velocity, Ant):
    """Ant at a speed drawn from [0, 3] m/s; arguments as in `Locomotion`."""

    fastest = 3.0

    def ant_progress(self, velocity):
        """1 - |v - g|."""
        return 1 + self.progress(velocity[:, 0])


class AntGoal(Ant):
    """Ant that walks to a place within 3 m of the start, drawn evenly from the disk.

    Not in the paper; reward -|x - x_goal| - |y - y_goal| as in the work after it (Rothfuss et
    al., 2019). Arguments as in `Locomotion`.
    """

    task_shape = (2,)

    def sample_tasks(self, n, seed):
        """Goals, float32 `[n, 2]`, m."""
        rng = np.random.default_rng(seed)
        radius, angle = 3 * np.sqrt(rng.uniform(size=n)), rng.uniform(0, 2 * np.pi, n)
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).astype(np.float32)

    def ant_progress(self, velocity):
        """Minus the L1 distance to the goal after the step."""
        return -np.abs(self.qpos[:, :2] - self.row_tasks).sum(1)
