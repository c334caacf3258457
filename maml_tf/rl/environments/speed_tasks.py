"""What a robot is asked for, a direction or a speed; mixed into a `Locomotion`."""

import numpy as np

from maml_tf.rl.environments.base import checked_draw


class Direction:
    """Tasks +1 and -1: forward and backward, each with probability 1/2."""

    def sample_tasks(self, n: int, seed: int) -> np.ndarray:
        """Float32 `[n, 1]`."""
        checked_draw(n, seed)
        return np.random.default_rng(seed).choice([-1.0, 1.0], (n, 1)).astype(np.float32)

    def progress(self, velocity):
        """The speed in the direction of the task, `[rows]`."""
        return self.row_tasks[:, 0] * velocity


class Velocity:
    """Tasks are speeds from 0 to `fastest`, m/s."""

    fastest: float

    def sample_tasks(self, n: int, seed: int) -> np.ndarray:
        """Float32 `[n, 1]`."""
        checked_draw(n, seed)
        return np.random.default_rng(seed).uniform(0, self.fastest, (n, 1)).astype(np.float32)

    def progress(self, velocity):
        """Minus the distance from the speed of the task, `[rows]`."""
        return -np.abs(velocity - self.row_tasks[:, 0])
