"""Ant that walks at a speed, in a direction or to a goal (Finn et al., 2017, section 5.3).

In the paper's physics (rllab's): 0.02 s a step, RK4; the speed is that of the centre of mass after
the step; reward = progress + 0.05 - 0.005 ||a||^2 - 0.0005 ||clip(contact forces, +-1)||^2, and 1
more for the speed task; observation of 125: qpos, qvel, contact forces, rotation of the torso,
centre of mass; it has fallen when the torso's height leaves [0.2, 1].
gymnasium's v5: 0.05 s, speed (x' - x) / dt, control cost 0.5 ||a||^2, 1 for being upright,
observation of 105. The contact forces are those of the new state, as in rllab; gymnasium keeps the
ones before the last frame.
"""

import functools

import numpy as np

from maml_tf.rl.environments.base import checked_draw
from maml_tf.rl.environments.locomotion import Locomotion
from maml_tf.rl.environments.mujoco_models import HAS_CONTACT_SENSORS, load_sensing, mujoco
from maml_tf.rl.environments.speed_tasks import Direction, Velocity

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

    @functools.cached_property
    def _sensing(self):
        """The model that measures, and a `mujoco.MjData` of it for each thread."""
        model = load_sensing(self.robot, self.physics)
        return model, [mujoco.MjData(model) for _ in range(self._threads)]

    def measure(self):
        """Contact forces, rotation and centre of mass of the state, read off sensors.

        `mujoco.rollout` gives no contact forces and its sensors lag a step behind, so the state is
        evaluated once more, in one C++ call, by a copy of the model that only measures. The
        motors hold on to the last action, as in rllab.
        """
        self.rotation = _rotation(self.qpos[:, 3:7])
        if HAS_CONTACT_SENSORS:
            self._measure_by_sensors()
        else:
            self._measure_by_rows()

    def _measure_by_sensors(self):
        rows, bodies = self.batch_size, self.model.nbody
        model, data = self._sensing
        read = np.empty((rows, 1, model.nsensordata))
        control = self._state["control"][:, None]
        self._simulate(model, data, np.arange(rows), control, sensordata=read)
        self.centre, self.centre_velocity = read[:, 0, :3], read[:, 0, 3:6]
        wrench = read[:, 0, 6:].reshape(rows, bodies - 1, 3, 3)
        force, torque, place = wrench[:, :, 0], wrench[:, :, 1], wrench[:, :, 2]
        # MuJoCo's `cfrc_ext`: torque about the centre of mass, then force, on each body; the
        # sensors tell what the body does to the ground. Nothing acts on the world.
        self.contact = np.zeros((rows, bodies, 6))
        self.contact[:, 1:, :3] = -torque - np.cross(place - self.centre[:, None], force)
        self.contact[:, 1:, 3:] = -force

    def _measure_by_rows(self):
        """The same with MuJoCo's own functions, row after row: several times slower."""
        rows, model = self.batch_size, self.model
        data = mujoco.MjData(model)  # its own: those of the rollouts stay as they are
        self.contact = np.zeros((rows, model.nbody, 6))
        self.centre, self.centre_velocity = np.zeros((2, rows, 3))
        for row in range(rows):
            mujoco.mj_resetData(model, data)  # no warm start from another row
            data.qpos[:], data.qvel[:] = self.qpos[row], self.qvel[row]
            data.ctrl[:] = self._state["control"][row]
            mujoco.mj_forward(model, data)
            mujoco.mj_rnePostConstraint(model, data)
            mujoco.mj_subtreeVel(model, data)
            self.contact[row] = data.cfrc_ext
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
    al., 2019). It goes on where it falls: where every step costs, an ant learns to end its life.
    Arguments as in `Locomotion`.
    """

    task_shape = (2,)

    def sample_tasks(self, n: int, seed: int) -> np.ndarray:
        """Goals, float32 `[n, 2]`, m."""
        checked_draw(n, seed)
        rng = np.random.default_rng(seed)
        radius, angle = 3 * np.sqrt(rng.uniform(size=n)), rng.uniform(0, 2 * np.pi, n)
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).astype(np.float32)

    def ant_progress(self, velocity):
        """Minus the L1 distance to the goal after the step."""
        return -np.abs(self.qpos[:, :2] - self.row_tasks).sum(1)

    def fallen(self):
        """False `[rows]`."""
        return Locomotion.fallen(self)


def _rotation(quaternion):
    """Rotation matrices `[rows, 9]`, row by row, of quaternions `[rows, 4]`."""
    w, x, y, z = (quaternion / np.linalg.norm(quaternion, axis=1, keepdims=True)).T
    entries = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return np.stack(entries, 1)
