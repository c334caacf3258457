"""Half-cheetah that runs at a speed or in a direction (Finn et al., 2017, section 5.3).

In the paper's physics (rllab's): 0.01 s a step; the speed is that of the centre of mass after the
step; reward = progress - 0.05 ||a||^2; observation of 20: qpos without x, qvel, centre of mass. In
gymnasium's v5: 0.05 s, speed (x' - x) / dt, reward = progress - 0.1 ||a||^2, observation of 17.
"""

import functools

import numpy as np

from maml_tf.rl.environments.locomotion import Locomotion
from maml_tf.rl.environments.speed_tasks import Direction, Velocity

_CONTROL_COST = {"paper": 0.05, "v5": 0.1}


class HalfCheetah(Locomotion):
    """The robot; a family of tasks adds what progress is. Arguments as in `Locomotion`."""

    robot = "half_cheetah"

    @functools.cached_property
    def _levers(self):
        """How joints turn bodies `[7, 7]`, and the centre of mass over the bodies' angles.

        Turning body b moves the mass that hangs on it: its own and, at their joints, its
        children's subtrees. The centre of mass is the root's place plus, per body, that lever
        (x and z, `[7]` each, m) turned by the body's angle.
        """
        model, bodies = self.model, range(1, self.model.nbody)
        turns = np.eye(len(bodies))
        for body in bodies[1:]:
            turns[:, body - 1] += turns[:, model.body_parentid[body] - 1]
        moment = model.body_mass[1:, None] * model.body_ipos[1:]
        for body in bodies[1:]:
            moment[model.body_parentid[body] - 1] += (
                model.body_subtreemass[body] * model.body_pos[body]
            )
        x, _, z = moment.T / model.body_subtreemass[1]
        return turns, x, z

    def measure(self):
        """Centre of mass and its velocity, by planar kinematics over all rows at once.

        Much cheaper than MuJoCo's own second pass over a row's tree, and equal to it.
        """
        if self.physics != "paper":
            return
        turns, x, z = self._levers
        # Sums, not matrix products: a row must not depend on how many there are.
        angle = (self.qpos[:, 2:, None] * turns).sum(1)
        rate = (self.qvel[:, 2:, None] * turns).sum(1)
        cos, sin = np.cos(angle), np.sin(angle)
        ahead, above = cos * x + sin * z, cos * z - sin * x
        height = self.model.body_pos[1][2]
        self.centre = self.qpos[:, :2] + np.stack([ahead.sum(1), height + above.sum(1)], 1)
        self.centre_velocity = self.qvel[:, :2] + np.stack(
            [(rate * above).sum(1), -(rate * ahead).sum(1)], 1
        )

    def observe(self):
        """Float64 `[rows, 20]`, or `[rows, 17]` in v5."""
        if self.physics != "paper":
            return np.concatenate([self.qpos[:, 1:], self.qvel], 1)
        x, z = self.centre[:, :1], self.centre[:, 1:]
        return np.concatenate([self.qpos[:, 1:], self.qvel, x, np.zeros_like(x), z], 1)

    def reward(self, action, before):
        """Float64 `[rows]`."""
        if self.physics == "paper":
            speed = self.centre_velocity[:, 0]
        else:
            speed = (self.qpos[:, 0] - before[:, 0]) / self._dt
        return self.progress(speed) - _CONTROL_COST[self.physics] * (action**2).sum(1)


class HalfCheetahDirection(Direction, HalfCheetah):
    """Half-cheetah, forward or backward; arguments as in `Locomotion`."""


class HalfCheetahVelocity(Velocity, HalfCheetah):
    """Half-cheetah at a speed drawn from [0, 2] m/s; arguments as in `Locomotion`."""

    fastest = 2.0
