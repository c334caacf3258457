"""A TF-Agents `PyEnvironment` of many rows, made of two functions on arrays.

`reset_rows` and `step_rows` are all that rollouts need (`maml_tf.rl.sampling`); TF-Agents' time
steps are made of what they give.
"""

import abc

import numpy as np

from maml_tf import arguments
from maml_tf.rl._tf_agents import py_environment, time_step
from maml_tf.rl.environments.base import TaskEnvironment

_FIRST, _MID, _LAST = 0, 1, 2


class RowEnvironment(TaskEnvironment, py_environment.PyEnvironment):
    """Rows of tasks and rollouts on arrays; see the top of this file.

    Attributes:
        discarded: bool `[rows]`, whether the row's rollout broke and is not to be learned from.
        first_error: `str`, why the first rollout broke, where the environment knows it.
        success: float32 `[rows]`, whether the last step of a row reached what the task asks for, 1
            or 0, NaN where that is not known; None for an environment that never knows it.
    """

    discarded: np.ndarray
    first_error: str = ""
    success: np.ndarray | None = None

    def __init__(self):
        # Rows restart by themselves, one by one: `PyEnvironment` could only restart all.
        super().__init__(handle_auto_reset=False)

    @abc.abstractmethod
    def reset_rows(self, moving=None):
        """Begins a rollout in every row; gives the observation, float32 `[rows, ...]`.

        Args:
            moving: bool `[rows]`, which rows begin; all by default. The others stay as they are.
        """

    @abc.abstractmethod
    def step_rows(self, action, moving=None):
        """One step of every row; one that had ended begins anew in place of it.

        Args:
            action: `[rows, ...]`.
            moving: bool `[rows]`, which rows step; all by default. The others stay as they are,
                at no cost, and what is returned for them means nothing: rollouts that have ended
                need no physics until all have.

        Returns:
            `(observation [rows, ...], reward [rows], ended [rows], terminated [rows])`;
            `terminated` where it ended for another reason than the horizon.
        """

    @abc.abstractmethod
    def ended_rows(self):
        """Which rows have ended and begin anew at the next step, bool `[rows]`."""

    def split(self):
        """Environments that work at the same time and hold this one's tasks, in order, each some.

        How many there are must not depend on the machine: it decides which numbers are drawn.
        """
        return [self]

    def blocks(self):
        """Which rollouts are drawn at the same time, one block after another.

        Returns:
            List of `(tasks, rollouts)`, slices; all at once by default. As with `split`, they must
            not depend on the machine.
        """
        return [(slice(0, self.tasks), slice(0, self.rollouts))]

    @property
    def batched(self):
        """True: TF-Agents shall not wrap it again."""
        return True

    @property
    def batch_size(self):
        """`int`, T * R rows."""
        return self.tasks * self.rollouts

    def _reset(self):
        return time_step.restart(self.reset_rows(), batch_size=self.batch_size)

    def _step(self, action):
        anew = self.ended_rows().copy()
        observation, reward, ended, terminated = self.step_rows(action)
        kind = np.where(anew, _FIRST, np.where(ended, _LAST, _MID)).astype(np.int32)
        # The horizon is a limit on the time, not an end of the task: its discount stays 1.
        discount = np.where(terminated, 0, 1).astype(np.float32)
        return time_step.TimeStep(kind, reward, discount, observation)


def checked_action(action, shape, finite=True):
    """`action` as an array of `shape`; `ValueError` where it is not, or not finite."""
    try:
        action = np.asarray(action)
    except (TypeError, ValueError):
        action = np.asarray(None)
    if action.dtype.kind not in "iufb":
        raise TypeError(
            f"Expected `action` to be an array of numbers of shape {shape}. Received: "
            f"{arguments.received('action', action)}. Give one for each of the {shape[0]} rows."
        )
    if action.shape != shape:
        raise ValueError(
            f"Expected `action` of shape {shape} (rows first). Received: action of shape "
            f"{action.shape}. Give one for each of the {shape[0]} rows."
        )
    if finite and not np.isfinite(action).all():
        row = int(np.argwhere(~np.isfinite(action))[0, 0])
        raise ValueError(
            f"Expected finite actions. Received: action={action[row].tolist()} in row {row}. Check "
            "whether the policy's weights have become NaN."
        )
    return action
