"""Rollouts of an environment that is NumPy itself, row by row.

Nothing is stepped that has ended: a row from its end on, and all of them once every one has.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf


class Rollouts(NamedTuple):
    """Rollouts of T tasks; what lies after the end of a rollout is masked."""

    observation: tf.Tensor  # [T, R, H, O], before the action
    action: tf.Tensor  # [T, R, H, A] or [T, R, H], as the policy drew it, not clipped
    reward: tf.Tensor  # [T, R, H]
    mask: tf.Tensor  # [T, R, H], 1 where the step belongs to its rollout
    outputs: dict  # [T, R, H, ...], the policy's outputs when it acted
    last_observation: tf.Tensor  # [T, R, O], after the last action; 0 where it is not `truncated`
    truncated: tf.Tensor  # bool [T, R], it ended at a limit on the time: the horizon, or another
    info: dict  # "success" [T, R, H]: 1 or 0, NaN where it is not known; empty where it never is

    def returns(self):
        """Undiscounted return of each rollout, `[T, R]`; NaN for one that was discarded."""
        totals = tf.reduce_sum(self.reward * self.mask, -1)
        none = tf.reduce_sum(self.mask, -1) == 0
        return tf.where(none, tf.constant(np.nan, totals.dtype), totals)

    def successes(self):
        """Whether any step of each rollout succeeded, 1 or 0, float32 `[T, R]`.

        NaN for a rollout that was discarded or whose environment did not say; None where the
        environment never says.
        """
        if "success" not in self.info:
            return None
        success = tf.where(self.mask > 0, self.info["success"], np.nan)
        any_step = tf.reduce_any(success > 0, -1)
        told = tf.reduce_any(~tf.math.is_nan(success), -1)
        return tf.where(told, tf.cast(any_step, tf.float32), np.nan)

    def success_rate(self):
        """The mean of `successes` that are known, `float`; None where none is."""
        successes = self.successes()
        if successes is None or np.isnan(successes).all():
            return None
        return float(np.nanmean(successes))


def draw(actors, environment):
    """One rollout in every row of an environment with `step_rows`, from its beginning.

    Args:
        actors: list of functions, one for each of `environment.blocks()`: `actor(observation, t)`
            gives the actions of step t and the policy's outputs, arrays, for observations
            `[tasks, rollouts, O]` of the block.
        environment: `maml_tf.rl.environments.rows.RowEnvironment`, its tasks set.

    Returns:
        `Rollouts` of arrays; its `info` says what the environment may tell, known or not.
    """
    sizes = (environment.tasks, environment.rollouts)
    whole = None
    for actor, block in zip(actors, environment.blocks(), strict=True):
        drawn = _block(actor, environment, block)
        if len(actors) == 1:
            return drawn
        if whole is None:
            whole = tf.nest.map_structure(
                lambda a: np.zeros((*sizes, *a.shape[2:]), a.dtype), drawn
            )
        for target, part in zip(tf.nest.flatten(whole), tf.nest.flatten(drawn), strict=True):
            target[block] = part
    return whole


def _block(actor, environment, block):
    """The rollouts of some rows, all of them at the same time."""
    rows = np.zeros((environment.tasks, environment.rollouts), bool)
    rows[block] = True
    shape, rows = rows[block].shape, rows.reshape(-1)
    # An environment without blocks need not know of rows.
    observation = environment.reset_rows() if rows.all() else environment.reset_rows(rows)
    broken = environment.discarded & rows
    running = rows & ~broken
    records = None
    last, truncated = np.zeros_like(observation), np.zeros(rows.shape, bool)
    for t in range(environment.horizon):
        if t and not running.any():
            break
        o = observation[rows].reshape(*shape, *observation.shape[1:])
        action, outputs = actor(o, t)
        taken = np.zeros((environment.batch_size, *action.shape[2:]), action.dtype)
        taken[rows] = action.reshape(-1, *action.shape[2:])
        moving = running.copy()
        observation, reward, ended, terminated = environment.step_rows(taken, moving=moving)
        reward = np.where(moving, reward, 0).astype(np.float32)
        step = (o, action, reward[rows].reshape(shape), moving[rows].reshape(shape), outputs)
        step = (*step, _info(environment, rows, shape))
        records = _empty(step, environment.horizon) if records is None else records
        for whole, part in zip(tf.nest.flatten(records), tf.nest.flatten(step), strict=True):
            whole[:, :, t] = part
        broken = broken | (environment.discarded & moving)
        limited = moving & ended & ~terminated & ~broken
        last[limited], truncated[limited] = observation[limited], True
        running = moving & ~ended
    o, action, reward, mask, outputs, info = records
    mask = mask & ~broken[rows].reshape(*shape, 1)
    # What a row did before it broke must not reach a sum as NaN * 0.
    reward = np.where(mask, reward, 0)
    info = {name: np.where(mask, values, np.nan) for name, values in info.items()}
    last = last[rows].reshape(*shape, *last.shape[1:])
    truncated = truncated[rows].reshape(shape)
    return Rollouts(o, action, reward, mask.astype(np.float32), outputs, last, truncated, info)


def _info(environment, rows, shape):
    """What the environment tells of the step beside observation and reward."""
    success = getattr(environment, "success", None)
    if success is None:
        return {}
    return {"success": np.asarray(success, np.float32)[rows].reshape(shape)}


def _empty(record, horizon):
    """Zeros for the records of all steps, `[T, R, H, ...]`."""
    return tf.nest.map_structure(
        lambda a: np.zeros((*a.shape[:2], horizon, *a.shape[2:]), a.dtype), record
    )
