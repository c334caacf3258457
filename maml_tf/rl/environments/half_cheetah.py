"""Half-cheetah that runs at a speed or in a direction (Finn et al., 2017, section 5.3).

In the paper's physics (rllab's): 0.01 s a step; the speed is that of the centre of mass after the
step; reward = progress - 0.05 ||a||^2; observation of 20: qpos without x, qvel, centre of mass. In
gymnasium's v5: 0.05 s, speed (x' - x) / dt, reward = progress - 0.1 ||a||^2, observation of 17.
"""

import numpy as np

from maml_tf.rl.environments.locomotion import Direction, Locomotion, Velocity

_CONTROL_COST = {"paper": 0.05, "v5": 0.1}


class HalfCheetah(Locomotion):
    """The robot; a family of tasks adds what progress is. Arguments as in `Locomotion`."""

    robot = "half_cheetah"

    def measure(self):
        """Centre of mass and its velocity, by planar kinematics over all rows at once.

        Much cheaper than MuJoCo's own second pass over a row's tree, and equal to it.
        """
        if self.physics != "paper":
            return
        model = self.model
        # Per body, all in the x-z plane: origin, its velocity, angle about y and its rate.
        origin = {1: self.qpos[:, :2] + [0, model.body_pos[1][2]]}
        velocity = {1: self.qvel[:, :2]}
        angle, rate = {1: self.qpos[:, 2]}, {1: self.qvel[:, 2]}
        centre, momentum = 0, 0
        for body in range(1, model.nbody):
            if body > 1:
                parent = model.body_parentid[body]
                arm = _rotated(model.body_pos[body], angle[parent])
                origin[body] = origin[parent] + arm
                velocity[body] = velocity[parent] + _turned(arm, rate[parent])
                angle[body] = angle[parent] + self.qpos[:, body + 1]
                rate[body] = rate[parent] + self.qvel[:, body + 1]
            arm = _rotated(model.body_ipos[body], angle[body])
            centre += model.body_mass[body] * (origin[body] + arm)
            momentum += model.body_mass[body] * (velocity[body] + _turned(arm, rate[body]))
        self.centre = centre / model.body_mass.sum()
        self.centre_velocity = momentum / model.body_mass.sum()

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


def _rotated(vector, angle):
    cos, sin = np.cos(angle), np.sin(angle)
    x, z = vector[0], vector[2]
    return np.stack([cos * x + sin * z, cos * z - sin * x], 1)


def _turned(arm, rate):
    """Velocity of the end of an arm that turns about y."""
    return rate[:, None] * arm[:, ::-1] * [1, -1]
