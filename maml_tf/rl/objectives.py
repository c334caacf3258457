"""What the inner and the outer loop minimise, for the rollouts of one task.

    inner:  -mean(log pi(a|s) A)                     `"policy_gradient"`, Finn et al. (2017)
            -mean(pi(a|s) / stop(pi(a|s)) A)         `"ratio"`, Rothfuss et al. (2019), LVC
            -mean over steps of box_t A_t            `"dice"`, Foerster et al. (2018)
    outer:  -mean(r A), r = pi'(a|s) / pi'_old(a|s)  `"ratio"`, TRPO
            -mean(min(r A, clip(r) A))               `"clipped"`, PPO (Schulman et al., 2017)

The first two inner losses have the same gradient at the policy that acted; the last one's box_t =
exp(sum of log pi - stop(log pi) up to t) weights whole histories. They differ in the second
derivative, that is in what the meta-gradient knows about how the weights change the data: the
paper's leaves that out.
"""

import tensorflow as tf

from maml_tf.rl import policies

INNER = ("policy_gradient", "ratio", "dice")
OUTER = ("ratio", "clipped")


def inner_loss(kind, outputs, action, advantage, mask):
    """Loss of the inner loop for one task.

    Args:
        kind: one of `INNER`.
        outputs: dict, the policy's outputs, `[R, H, ...]`.
        action: `[R, H, A]` or `[R, H]`.
        advantage: float `[R, H]`. For `"dice"`, the reward less its baseline at each step.
        mask: float `[R, H]`.

    Returns:
        Scalar.
    """
    log_prob = policies.distribution(outputs).log_prob(action)
    if kind == "policy_gradient":
        weight = log_prob
    elif kind == "ratio":
        weight = tf.exp(log_prob - tf.stop_gradient(log_prob))
    else:
        history = tf.cumsum(log_prob * mask, axis=-1)
        weight = tf.exp(history - tf.stop_gradient(history))
    return -masked_mean(weight * advantage, mask)


def outer_loss(kind, outputs, old_outputs, action, advantage, mask, clip=0.2):
    """Loss of the outer loop for one task.

    Args:
        kind: one of `OUTER`.
        outputs: dict, the adapted policy's outputs, `[R, H, ...]`.
        old_outputs: the same when it acted.
        action: `[R, H, A]` or `[R, H]`.
        advantage: float `[R, H]`.
        mask: float `[R, H]`.
        clip: `float`, how far `"clipped"` lets the ratio go from 1.

    Returns:
        Scalar.
    """
    log_prob = policies.distribution(outputs).log_prob(action)
    old = tf.stop_gradient(policies.distribution(old_outputs).log_prob(action))
    ratio = tf.exp(log_prob - old)
    gain = ratio * advantage
    if kind == "clipped":
        gain = tf.minimum(gain, tf.clip_by_value(ratio, 1 - clip, 1 + clip) * advantage)
    return -masked_mean(gain, mask)


def divergence(outputs, old_outputs, mask):
    """Mean Kullback-Leibler divergence from the old policy to the new one, nats.

    Args:
        outputs: dict `[R, H, ...]`.
        old_outputs: dict `[R, H, ...]`.
        mask: float `[R, H]`.

    Returns:
        Scalar.
    """
    old = policies.distribution(tf.nest.map_structure(tf.stop_gradient, old_outputs))
    return masked_mean(old.kl_divergence(policies.distribution(outputs)), mask)


def masked_mean(x, mask):
    """Mean of `x` where `mask` is 1; 0 where it is 1 nowhere."""
    # x may be anything where the mask is 0, and NaN * 0 is NaN.
    counted = tf.where(mask > 0, x, tf.zeros_like(x))
    return tf.reduce_sum(counted) / tf.maximum(tf.reduce_sum(mask), 1)
