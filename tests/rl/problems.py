"""Small problems with known answers for the tests of reinforcement learning."""

import numpy as np
import tensorflow as tf

from maml_tf import inner_loop, inner_optimizers
from maml_tf.inner.description import InnerLoop
from maml_tf.rl import evaluation, meta_objective, objectives, policies


def sample(policy, weights, seed, tasks=3, rollouts=4, steps=5, scale=1.0):
    """Made-up rollouts with actions of `policy` at per-task `weights`, float64."""
    rng = np.random.default_rng(seed)
    size = policy.input_shape[-1]
    observation = tf.constant(rng.normal(size=(tasks, rollouts, steps, size)) * scale)
    flat = tf.reshape(observation, [tasks, -1, size])
    outputs = policies.apply_tasks(policy, weights, flat)
    outputs = {k: tf.reshape(v, [tasks, rollouts, steps, v.shape[-1]]) for k, v in outputs.items()}
    action = policies.distribution(outputs).sample(seed=[seed, 1])
    mask = np.ones((tasks, rollouts, steps))
    mask[0, 0, 3:] = 0
    advantage = rng.normal(size=mask.shape) * mask
    return {
        "observation": observation,
        "action": action,
        "advantage": tf.constant(advantage),
        "mask": tf.constant(mask),
        "outputs": outputs,
    }


def problem(kind="gaussian", inner_steps=1, *, context=0, adaptable=None, **kwargs):
    """`(objective, weights, before, after)` in float64."""
    make = {"gaussian": policies.gaussian, "categorical": policies.categorical}[kind]
    policy = make(3, 2, hidden=(5,), context=context, seed=1, dtype="float64")
    adaptable = inner_loop.adaptable_weights(adaptable, policy)
    loop = InnerLoop(
        inner_optimizers.SGD(0.3),
        adaptable=adaptable,
        first_order=kwargs.pop("first_order", False),
    )
    objective = meta_objective.MetaObjective(policy, loop, **kwargs)
    weights = [tf.convert_to_tensor(v) for v in policy.trainable_variables]
    # ReLU has kinks; biases off zero keep finite differences away from them.
    rng = np.random.default_rng(0)
    weights = [w + 0.1 * rng.normal(size=w.shape) for w in weights]
    before = []
    fast = [tf.repeat(w[None], 3, 0) for w in weights]
    for k in range(inner_steps):
        before.append(sample(policy, fast, seed=k))
        fast = objective.adapted(weights, before)
    return objective, weights, before, sample(policy, fast, seed=10)


def assert_training_teaches_to_adapt(make_learner, make_environment):
    """Twenty-five meta-iterations widen what one gradient step gains, beyond its interval."""
    made = make_learner()
    made.fit(make_environment(8, 10), 25, verbose=0)
    result = evaluation.evaluate(made, make_environment(20, 10), 1, seed=99)
    before = evaluation.evaluate(make_learner(), make_environment(20, 10), 1, seed=99)
    gain, gain_before = np.diff(result.mean)[0], np.diff(before.mean)[0]
    assert gain > gain_before + 0.5
    assert gain > result.interval[1]


def flat(tensors):
    """One vector of a list of tensors."""
    return np.concatenate([np.ravel(t) for t in tensors])


def unflat(vector, like):
    """The list of tensors of the shapes of `like`."""
    cuts = np.cumsum([np.size(t) for t in like])[:-1]
    return [
        tf.constant(part.reshape(t.shape))
        for part, t in zip(np.split(vector, cuts), like, strict=True)
    ]


def central_difference(function, x, direction, size=1e-5):
    """Derivative of `function` along `direction`."""
    ahead, behind = function(x + size * direction), function(x - size * direction)
    return (np.asarray(ahead) - np.asarray(behind)) / (2 * size)


__all__ = [
    "assert_training_teaches_to_adapt",
    "central_difference",
    "flat",
    "objectives",
    "problem",
    "sample",
    "unflat",
]
