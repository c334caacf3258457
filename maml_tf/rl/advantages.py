"""Advantages: the linear feature baseline and generalised advantage estimation.

The baseline is the one of Duan et al. (2016) that Finn et al. (2017) use: a ridge regression of
the returns on [o, o^2, t/100, (t/100)^2, (t/100)^3, 1], o clipped to +-10, fitted anew for every
task and every gradient step. Advantages are those of Schulman et al. (2016), equation 16, with
the value after the last step of a rollout taken as zero, as the paper's code has it.
"""

import numpy as np
import tensorflow as tf


def estimate(observation, reward, mask, *, discount=0.99, gae_lambda=1.0, ridge=1e-5):
    """Standardised advantages of every step, task by task.

    Args:
        observation: float `[T, R, H, O]`.
        reward: float `[T, R, H]`.
        mask: float `[T, R, H]`, 1 where the step belongs to its rollout, 0 after its end.
        discount: `float`, gamma.
        gae_lambda: `float`, lambda.
        ridge: `float`, weight of the squared coefficients in the baseline's fit.

    Returns:
        `(advantage, error)`, float `[T, R, H]`, 0 where the mask is. Advantages have mean 0 and
        standard deviation 1 over the steps of a task that count, in whatever unit rewards are.
        Errors are the temporal differences that advantages are sums of, in the same unit, not
        centred. Both are 0 in a task whose rollouts do not differ in their returns: what the
        baseline leaves of them is its own error, and says nothing about actions.
    """
    returns = discounted_sums(reward * mask, discount)
    values = linear_baseline(observation, returns, mask, ridge)
    errors = temporal_differences(reward, values, mask, discount)
    advantages = discounted_sums(errors, discount * gae_lambda) * mask
    centred, largest, deviation = _centred(advantages, mask)
    silent = _without_signal(reward, returns, mask)

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
    targets = tf.reshape(tf.cast(returns * mask, tf.float64), [shape[0], -1, 1])
    # float64: the features are nearly collinear (1, t, t^2, t^3, and observations at rest).
    gram = tf.matmul(flat, flat, transpose_a=True)
    gram += ridge * tf.eye(features.shape[-1], dtype=tf.float64)
    moments = tf.matmul(flat, targets, transpose_a=True)
    coefficients = tf.linalg.cholesky_solve(tf.linalg.cholesky(gram), moments)
    return tf.cast(tf.reshape(tf.matmul(flat, coefficients), shape[:3]), returns.dtype)


def baseline_features(observation):
    """[o, o^2, t/100, (t/100)^2, (t/100)^3, 1], o clipped to +-10.

    Args:
        observation: float `[T, R, H, O]`.

    Returns:
        float64 `[T, R, H, 2 O + 4]`.
    """
    o = tf.clip_by_value(tf.cast(observation, tf.float64), -10.0, 10.0)
    time = tf.range(tf.shape(o)[2]) / 100
    time = tf.broadcast_to(time[:, None], tf.shape(o[..., :1]))
    return tf.concat([o, o**2, time, time**2, time**3, tf.ones_like(time)], -1)


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
