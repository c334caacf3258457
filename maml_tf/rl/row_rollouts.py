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

    def returns(self):
        """Undiscounted return of each rollout, `[T, R]`; NaN for one that was discarded."""
        totals = tf.reduce_sum(self.reward * self.mask, -1)
        none = tf.reduce_sum(self.mask, -1) == 0
        return tf.where(none, tf.constant(np.nan, totals.dtype), totals)


def draw(actors, environment):
    """One rollout in every row of an environment with `step_rows`, from its beginning.

    Args:
        actors: list of functions, one for each of `environment.blocks()`: `actor(observation, t)`
            gives the actions of step t and the policy's outputs, arrays, for observations
            `[tasks, rollouts, O]` of the block.
        environment: `maml_tf.rl.environments.rows.RowEnvironment`, its tasks set.

    Returns:
        `Rollouts` of arrays.
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
    for t in range(environment.horizon):
        if t and not running.any():
            break
        o = observation[rows].reshape(*shape, *observation.shape[1:])
        action, outputs = actor(o, t)
        taken = np.zeros((environment.batch_size, *action.shape[2:]), action.dtype)
        taken[rows] = action.reshape(-1, *action.shape[2:])
        moving = running.copy()
        observation, reward, ended, _ = environment.step_rows(taken, moving=moving)
        reward = np.where(moving, reward, 0).astype(np.float32)
        record = Rollouts(
            o, action, reward[rows].reshape(shape), moving[rows].reshape(shape), outputs
        )
        records = _empty(record, environment.horizon) if records is None else records
        for whole, step in zip(tf.nest.flatten(records), tf.nest.flatten(record), strict=True):
            whole[:, :, t] = step
        broken = broken | (environment.discarded & moving)
        running = moving & ~ended
    mask = records.mask & ~broken[rows].reshape(*shape, 1)
    # What a row did before it broke must not reach a sum as NaN * 0.
    reward = np.where(mask, records.reward, 0)
    return records._replace(reward=reward, mask=mask.astype(np.float32))


def _empty(record, horizon):
    """Zeros for the records of all steps, `[T, R, H, ...]`."""
    return tf.nest.map_structure(
        lambda a: np.zeros((*a.shape[:2], horizon, *a.shape[2:]), a.dtype), record
    )
