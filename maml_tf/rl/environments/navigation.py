"""2D navigation (Finn et al., 2017, section 5.3): a point in the plane that shall reach a goal.

The point begins at (0, 0) and moves by 0.1 times the action, clipped to [-1, 1], in each direction.
The reward is minus the distance to the goal after the move, as in the authors' code (the text
says squared: `squared=True`). A rollout ends within 0.01 of the goal in both directions, or at the
horizon. A task is a goal, drawn evenly from [-0.5, 0.5]^2; the point does not see it.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from maml_tf import arguments
from maml_tf.rl._tf_agents import tensor_spec, tf_environment, time_step
from maml_tf.rl.environments.base import TaskEnvironment, checked_draw, checked_size

SPEED, NEAR, FAR = 0.1, 0.01, 0.5
_FIRST, _MID, _LAST = 0, 1, 2


class Navigation2D(TaskEnvironment, tf_environment.TFEnvironment):
    """2D navigation as a TF-Agents `TFEnvironment`: everything happens in the graph.

    Args:
        tasks: `int` T.
        rollouts: `int` R of each task; `batch_size` is T * R, row `i * R + j` rollout j of task i.
        horizon: `int` H.
        observe_task: the goal is a part of the observation `[x, y, goal x, goal y]` (an oracle).
        squared: the reward is minus the squared distance.
        seed: not used: nothing here is random but the tasks, which have their own seed.

    Example:
        >>> environment = Navigation2D(tasks=2, rollouts=3)
        >>> environment.set_tasks(environment.sample_tasks(2, seed=0))
        >>> environment.step(tf.zeros([6, 2])).reward.shape
        TensorShape([6])
    """

    task_shape = (2,)

    def __init__(
        self,
        tasks: int = 1,
        rollouts: int = 1,
        *,
        horizon: int = 100,
        observe_task: bool = False,
        squared: bool = False,
        seed: int = 0,
    ) -> None:
        checked_size(tasks=tasks, rollouts=rollouts, horizon=horizon)
        arguments.boolean("observe_task", observe_task)
        arguments.boolean("squared", squared)
        self.tasks, self.rollouts, self.horizon = tasks, rollouts, horizon
        self.observe_task, self.squared = observe_task, squared
        size = 4 if observe_task else 2
        super().__init__(
            time_step.time_step_spec(tensor_spec.TensorSpec([size], tf.float32, "observation")),
            tensor_spec.BoundedTensorSpec([2], tf.float32, -1.0, 1.0, "action"),
            batch_size=tasks * rollouts,
        )
        self._goals = tf.Variable(tf.zeros([tasks, 2]), trainable=False, name="goals")
        self._position = tf.Variable(tf.zeros([tasks, rollouts, 2]), trainable=False)
        self._steps = tf.Variable(tf.zeros([tasks, rollouts], tf.int32), trainable=False)
        self._type = tf.Variable(tf.zeros([tasks, rollouts], tf.int32), trainable=False)
        self._reward = tf.Variable(tf.zeros([tasks, rollouts]), trainable=False)
        self._discount = tf.Variable(tf.ones([tasks, rollouts]), trainable=False)

    # The family of tasks.

    def sample_tasks(self, n: int, seed: int) -> np.ndarray:
        """Goals, float32 `[n, 2]`."""
        checked_draw(n, seed)
        return np.random.default_rng(seed).uniform(-FAR, FAR, (n, 2)).astype(np.float32)

    def set_tasks(self, tasks: Any) -> None:
        """See `TaskEnvironment`."""
        self._goals.assign(self.checked_tasks(tasks))

    def current_tasks(self) -> np.ndarray:
        """The goals worked on, float32 `[T, 2]`."""
        return tf.convert_to_tensor(self._goals)

    def resized(self, tasks: int, rollouts: int, seed: int = 0) -> Any:
        """See `TaskEnvironment`."""
        return Navigation2D(
            tasks,
            rollouts,
            horizon=self.horizon,
            observe_task=self.observe_task,
            squared=self.squared,
        )

    # The dynamics as pure functions.

    def initial(self, goals: Any) -> Any:
        """State and observation at the beginning of a rollout.

        Args:
            goals: float32 `[T, 2]`.

        Returns:
            `(position [T, R, 2], observation [T, R, 2 or 4])`.
        """
        position = tf.zeros([self.tasks, self.rollouts, 2])
        return position, self._observation(position, goals)

    def transition(self, position: Any, action: Any, goals: Any) -> Any:
        """One step.

        Args:
            position: float32 `[T, R, 2]`.
            action: float32 `[T, R, 2]`.
            goals: float32 `[T, 2]`.

        Returns:
            `(position, observation, reward [T, R], terminated [T, R] bool)`.
        """
        position = position + SPEED * tf.clip_by_value(action, -1.0, 1.0)
        away = position - goals[:, None]
        squared = tf.reduce_sum(away**2, -1)
        reward = -squared if self.squared else -tf.sqrt(squared)
        terminated = tf.reduce_all(tf.abs(away) < NEAR, -1)
        return position, self._observation(position, goals), reward, terminated

    def _observation(self, position, goals):
        if not self.observe_task:
            return position
        return tf.concat([position, tf.broadcast_to(goals[:, None], tf.shape(position))], -1)

    # The same as a TF-Agents environment.

    def _reset(self):
        self._type.assign(tf.fill([self.tasks, self.rollouts], _LAST))
        return self._step(tf.zeros([self.batch_size, 2]))

    def _step(self, action):
        action = tf.convert_to_tensor(action, tf.float32)
        action.shape.assert_is_compatible_with([self.batch_size, 2])
        finite = tf.debugging.assert_all_finite(
            action, "Expected finite actions, received NaN or infinity."
        )
        action = tf.reshape(finite, [self.tasks, self.rollouts, 2])
        position, _, reward, terminated = self.transition(self._position, action, self._goals)
        anew = tf.equal(self._type, _LAST)  # the row ended: it begins again, whatever the action
        steps = tf.where(anew, 0, self._steps + 1)
        ended = tf.where(terminated | (steps >= self.horizon), _LAST, _MID)
        self._steps.assign(steps)
        self._type.assign(tf.where(anew, _FIRST, ended))
        self._position.assign(tf.where(anew[..., None], 0.0, position))
        self._reward.assign(tf.where(anew, 0.0, reward))
        # The horizon is a limit on the time, not an end of the task: its discount stays 1.
        self._discount.assign(tf.where(~anew & terminated, 0.0, 1.0))
        return self._current_time_step()

    def _current_time_step(self):
        observation = self._observation(tf.convert_to_tensor(self._position), self._goals)
        rows = [self.batch_size]
        return time_step.TimeStep(
            tf.reshape(self._type, rows),
            tf.reshape(self._reward, rows),
            tf.reshape(self._discount, rows),
            tf.reshape(observation, [*rows, observation.shape[-1]]),
        )
