"""Advantages: the linear feature baseline and generalised advantage estimation.

The baseline is the one of Duan et al. (2016) that Finn et al. (2017) use: a ridge regression of
the returns on [o, o^2, t/100, (t/100)^2, (t/100)^3, 1], o clipped to +-10, fitted anew for every
task and every gradient step. Advantages are those of Schulman et al. (2016), equation 16, with
the value after the last step of a rollout taken as zero, as the paper's code has it.

Where a limit on the time ended a rollout, its task did not: `continuing_value` estimates what would
have come, which is added to the last reward where it is asked for (bootstrapping).
"""

import numpy as np
import tensorflow as tf


def estimate(
    observation,
    reward,
    mask,
    *,
    discount=0.99,
    gae_lambda=1.0,
    ridge=1e-5,
    last_observation=None,
    truncated=None,
):
    """Standardised advantages of every step, task by task.

    Args:
        observation: float `[T, R, H, O]`.
        reward: float `[T, R, H]`.
        mask: float `[T, R, H]`, 1 where the step belongs to its rollout, 0 after its end.
        discount: `float`, gamma.
        gae_lambda: `float`, lambda.
        ridge: `float`, weight of the squared coefficients in the baseline's fit.
        last_observation: float `[T, R, O]`, after the last step of each rollout; None, the paper's,
            for no value after any.
        truncated: bool `[T, R]`, with `last_observation`: which rollouts a limit on the time ended.
            `discount * continuing_value(...)` is added to their last rewards.

    Returns:
        `(advantage, error)`, float `[T, R, H]`, 0 where the mask is. Advantages have mean 0 and
        standard deviation 1 over the steps of a task that count, in whatever unit rewards are.
        Errors are the temporal differences that advantages are sums of, in the same unit, not
        centred. Both are 0 in a task whose rollouts do not differ in their returns: what the
        baseline leaves of them is its own error, and says nothing about actions.
    """
    returns = discounted_sums(reward * mask, discount)
    silent = _without_signal(reward, returns, mask)
    if last_observation is not None:
        data = (observation, returns, mask, last_observation, truncated)
        value = continuing_value(*data, discount, ridge)
        reward = reward + discount * value[..., None] * _is_last(mask)
        returns = discounted_sums(reward * mask, discount)
        # Equal rewards tell no rollout from another unless the task ended in one of them.
        silent &= ~_some_but_not_all(truncated, mask)
    values = linear_baseline(observation, returns, mask, ridge)
    errors = temporal_differences(reward, values, mask, discount)
    advantages = discounted_sums(errors, discount * gae_lambda) * mask
    centred, largest, deviation = _centred(advantages, mask)

    def standardised(x):
        # Not by the product, which may overflow or vanish.
        return tf.where(silent, tf.zeros_like(x), x / largest / deviation)

    return standardised(centred), standardised(errors)


def discounted_sums(x, discount):
    """`y_t = sum_{k >= t} discount^(k - t) x_k` along the last axis.

    Args:
        x: float `[..., H]`.
        discount: `float`.

    Returns:
        float `[..., H]`.
    """
    steps = tf.range(tf.shape(x)[-1])
    ahead = steps[:, None] - steps[None, :]  # [from, to]: how much later `from` is
    # One product with a triangular matrix in place of H dependent steps.
    powers = tf.pow(tf.constant(discount, x.dtype), tf.cast(tf.maximum(ahead, 0), x.dtype))
    kernel = tf.where(ahead >= 0, powers, tf.zeros_like(powers))
    return tf.linalg.matvec(kernel, x, transpose_a=True)


def temporal_differences(reward, values, mask, discount):
    """`r_t + discount V_{t+1} - V_t`; their sums discounted by gamma lambda are the advantages.

    Args:
        reward: float `[..., H]`.
        values: float `[..., H]`, the baseline at each step; it is 0 after the last one.
        mask: float `[..., H]`.
        discount: `float`, gamma.

    Returns:
        float `[..., H]`, 0 where the mask is.
    """
    values = values * mask
    following = tf.concat([values[..., 1:], tf.zeros_like(values[..., :1])], -1)
    return (reward + discount * following - values) * mask


def linear_baseline(observation, returns, mask, ridge=1e-5):
    """The values that a linear fit to the returns of each task predicts.

    Args:
        observation: float `[T, R, H, O]`.
        returns: float `[T, R, H]`, discounted.
        mask: float `[T, R, H]`; steps with 0 do not count.
        ridge: `float`.

    Returns:
        float `[T, R, H]`, of the dtype of `returns`.
    """
    features = baseline_features(observation) * tf.cast(mask, tf.float64)[..., None]
    shape = tf.shape(features)
    flat = tf.reshape(features, [shape[0], -1, features.shape[-1]])
    coefficients = _ridge_regression(flat, returns, mask, ridge)
    return tf.cast(tf.reshape(tf.matmul(flat, coefficients), shape[:3]), returns.dtype)


def continuing_value(observation, returns, mask, last_observation, truncated, discount, ridge=1e-5):
    """What each task would have given after the rollouts that a limit on the time ended.

    V(o) is linear in [o, o^2, 1], without the time: what is left of a limit says nothing of a task
    that goes on. It is the least-squares solution of

        V(o_t) = r_t + discount r_{t+1} + ... + discount^n V(o_last),    n steps to the last one

    over all steps of a task, the last term only where the rollout was truncated; where none was,
    this is the regression of the returns. (The returns alone would tell what is left until the
    limit, which is nothing at its end.)

    Args:
        observation: float `[T, R, H, O]`.
        returns: float `[T, R, H]`, discounted sums of the rewards that were seen.
        mask: float `[T, R, H]`.
        last_observation: float `[T, R, O]`, after the last step.
        truncated: bool `[T, R]`.
        discount: `float`, gamma. Of 1, no sum of rewards tells how much is to come: V is then
            known but for a constant, which is taken as small.
        ridge: `float`, weight of the squared coefficients.

    Returns:
        float `[T, R]`, V(o_last); 0 where the rollout was not truncated.
    """
    left = tf.cast(tf.cumsum(mask, -1, reverse=True), tf.float64)  # n, with the step itself
    goes_on = tf.cast(truncated, tf.float64)
    share = tf.pow(tf.constant(discount, tf.float64), left) * goes_on[..., None]
    last = _state_features(last_observation)
    features = _state_features(observation) - share[..., None] * last[:, :, None]
    features *= tf.cast(mask, tf.float64)[..., None]
    flat = tf.reshape(features, [tf.shape(features)[0], -1, features.shape[-1]])
    coefficients = _ridge_regression(flat, returns, mask, ridge)
    value = tf.matmul(last, coefficients)[..., 0] * goes_on
    return tf.cast(value, returns.dtype)


def baseline_features(observation):
    """[o, o^2, t/100, (t/100)^2, (t/100)^3, 1], o clipped to +-10.

    Args:
        observation: float `[T, R, H, O]`.

    Returns:
        float64 `[T, R, H, 2 O + 4]`.
    """
    o, squares, one = _state_columns(observation)
    time = tf.range(tf.shape(o)[2]) / 100
    time = tf.broadcast_to(time[:, None], tf.shape(o[..., :1]))
    return tf.concat([o, squares, time, time**2, time**3, one], -1)


def _ridge_regression(flat, returns, mask, ridge):
    """Coefficients float64 `[T, F, 1]` of features `[T, R * H, F]`, 0 where the mask is."""
    targets = tf.reshape(tf.cast(returns * mask, tf.float64), [tf.shape(flat)[0], -1, 1])
    # float64: the features are nearly collinear (1, t, t^2, t^3, and observations at rest).
    gram = tf.matmul(flat, flat, transpose_a=True)
    gram += ridge * tf.eye(flat.shape[-1], dtype=tf.float64)
    moments = tf.matmul(flat, targets, transpose_a=True)
    return tf.linalg.cholesky_solve(tf.linalg.cholesky(gram), moments)


def _state_features(observation):
    """[o, o^2, 1], o clipped to +-10: float64 `[..., 2 O + 1]`."""
    return tf.concat(_state_columns(observation), -1)


def _state_columns(observation):
    o = tf.clip_by_value(tf.cast(observation, tf.float64), -10.0, 10.0)
    return o, o**2, tf.ones_like(o[..., :1])


def _centred(advantages, mask):
    """Advantages less their mean over a task's steps, and two factors of their deviation.

    The largest of them, and the standard deviation in its unit: squares of large rewards would be
    infinite, those of small ones nothing.
    """
    count = tf.maximum(tf.reduce_sum(mask, [1, 2], keepdims=True), 1)
    mean = tf.reduce_sum(advantages * mask, [1, 2], keepdims=True) / count
    centred = (advantages - mean) * mask
    largest = tf.reduce_max(tf.abs(centred), [1, 2], keepdims=True)
    constant = tf.equal(largest, 0)
    largest = tf.where(constant, tf.ones_like(largest), largest)
    squares = tf.reduce_sum((centred / largest) ** 2, [1, 2], keepdims=True)
    deviation = tf.sqrt(squares / count)
    return centred, largest, tf.where(constant, tf.ones_like(deviation), deviation)


def _without_signal(reward, returns, mask):
    """Tasks whose rollouts have the same returns at every step, bool `[T, 1, 1]`.

    Where only one rollout counts there is none to compare it with: whether its reward is constant.
    """
    rollouts = tf.math.count_nonzero(tf.reduce_any(mask > 0, -1), 1)[:, None, None]
    alike = _is_constant(returns, mask, [1])
    return tf.where(rollouts > 1, alike, _is_constant(reward, mask, [1, 2]))


def _is_last(mask):
    """1 at the last step of each rollout that has any, `[T, R, H]`."""
    following = tf.concat([mask[..., 1:], tf.zeros_like(mask[..., :1])], -1)
    return mask * (1 - following)


def _some_but_not_all(truncated, mask):
    """Tasks of which some rollouts were truncated and others ended by themselves, `[T, 1, 1]`."""
    counts = tf.reduce_any(mask > 0, -1)
    some = tf.reduce_any(counts & truncated, -1)
    others = tf.reduce_any(counts & ~truncated, -1)
    return (some & others)[:, None, None]


def _is_constant(x, mask, axes):
    """Whether `x` varies by no more than rounding along `axes` where `mask` is 1."""
    counts, limit = mask > 0, tf.constant(x.dtype.max, x.dtype)
    top = tf.reduce_max(tf.where(counts, x, -limit), axes, keepdims=True)
    bottom = tf.reduce_min(tf.where(counts, x, limit), axes, keepdims=True)
    spread = tf.where(tf.reduce_any(counts, axes, keepdims=True), top - bottom, tf.zeros_like(top))
    spread = tf.reduce_max(spread, [1, 2], keepdims=True)
    size = tf.reduce_max(tf.abs(x * mask), [1, 2], keepdims=True)
    rounding = tf.constant(16 * np.finfo(x.dtype.as_numpy_dtype).eps, x.dtype)
    # What is not finite is no silence: it must be seen.
    return (spread <= rounding * size) & tf.math.is_finite(size)
