"""What the inner and the outer loop minimise, for the rollouts of one task.

    inner:  -mean(log pi(a|s) A)                     `"policy_gradient"`, Finn et al. (2017)
            -mean(pi(a|s) / stop(pi(a|s)) A)         `"ratio"`, Rothfuss et al. (2019), LVC
            -mean(box_t d_t)                         `"dice"`, Foerster et al. (2018)
    outer:  -mean(r A), r = pi'(a|s) / pi'_old(a|s)  `"ratio"`, TRPO
            -mean(min(r A, clip(r) A))               `"clipped"`, PPO (Schulman et al., 2017)

In `"dice"`, d_t are the temporal differences whose discounted sums the advantages are, and box_t =
exp(h_t - stop(h_t)) weights each by its history, h_t = sum over t' <= t of (gamma lambda)^(t - t')
log pi(a_t'|s_t'), as in Farquhar et al. (2019). All inner losses have the same gradient at the
policy that acted (`"dice"` but for the centring of advantages). They differ in the second
derivative, that is in what the meta-gradient knows about how the weights change the data: the
paper's leaves that out.
"""

import tensorflow as tf

from maml_tf.rl import advantages, policies

INNER = ("policy_gradient", "ratio", "dice")
OUTER = ("ratio", "clipped")


def inner_loss(kind, outputs, sample, decay=1.0):
    """Loss of the inner loop for one task.

    Args:
        kind: one of `INNER`.
        outputs: dict, the policy's outputs, `[R, H, ...]`.
        sample: dict with `action` `[R, H, A]` or `[R, H]`, `mask` float `[R, H]`, and `advantage`
            or (for `"dice"`) `error`, float `[R, H]`.
        decay: `float`, gamma lambda, for `"dice"`.

    Returns:
        Scalar.
    """
    log_prob = policies.distribution(outputs).log_prob(sample["action"])
    mask = sample["mask"]
    if kind == "dice":
        history = _decayed_sums(log_prob * mask, decay)
        weight = tf.exp(history - tf.stop_gradient(history))
        return -masked_mean(weight * sample["error"], mask)
    ratio = tf.exp(log_prob - tf.stop_gradient(log_prob))
    weight = log_prob if kind == "policy_gradient" else ratio
    return -masked_mean(weight * sample["advantage"], mask)


def _decayed_sums(x, decay):
    """`y_t = sum over t' <= t of decay^(t - t') x_t'` along the last axis."""
    return advantages.discounted_sums(x[..., ::-1], decay)[..., ::-1]


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
