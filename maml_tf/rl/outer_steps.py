"""The outer steps of a meta-policy: functions of rollouts that change the policy's variables.

Each is `step(before, after) -> logs`: K samples before the inner steps, the sample after the last
one (see `maml_tf.rl.meta_objective`), scalars by name.
"""

import tensorflow as tf

from maml_tf.rl import trust_region


def trust_region_step(objective, settings):
    """TRPO (Finn et al., 2017, section 4.2, after Schulman et al., 2015).

    Args:
        objective: `MetaObjective`; the variables of its policy change.
        settings: `trust_region.TrustRegion`.

    Returns:
        `step(before, after) -> logs`, to be compiled.
    """
    variables = objective.policy.trainable_variables
    shapes = [v.shape for v in variables]

    def unflat(vector):
        sizes = [tf.TensorShape(shape).num_elements() for shape in shapes]
        parts = tf.split(vector, sizes)
        return [tf.reshape(part, shape) for part, shape in zip(parts, shapes, strict=True)]

    def step(before, after):
        weights = [tf.convert_to_tensor(v) for v in variables]
        surrogate, gradient = objective.value_and_gradient(weights, before, after)
        part = tf.nest.map_structure(lambda t: t[: settings.curvature_tasks], (before, after))
        made = trust_region.step(
            settings,
            _flat(weights),
            surrogate,
            _flat(gradient),
            lambda w: objective.value(unflat(w), before, after),
            _product(objective, settings, weights, unflat, part),
        )
        for variable, value in zip(variables, unflat(made.weights), strict=True):
            variable.assign(value)
        return {
            "surrogate_before": made.surrogate_before,
            "surrogate": made.surrogate,
            "divergence": made.divergence,
            "accepted": tf.cast(made.accepted, tf.float32),
            "backtracks": made.backtracks,
        }

    return step


def _product(objective, settings, weights, unflat, samples):
    if settings.product == "exact":
        curvature = objective.curvature(weights, *samples)
        return lambda x: _flat(curvature(unflat(x)))

    theta = _flat(weights)

    def difference(x):
        # The authors' step, 1 / ||theta||, is long: a curvature over some distance.
        size = 1 / (tf.norm(theta) + 1e-8)
        ahead = objective.divergence_gradient(unflat(theta + size * x), *samples)
        behind = objective.divergence_gradient(unflat(theta - size * x), *samples)
        return (_flat(ahead) - _flat(behind)) / (2 * size)

    return difference


def gradient_steps(objective, optimizer, updates):
    """Steps of a Keras optimizer on one batch of rollouts.

    With the clipped surrogate and several updates as in ProMP (Rothfuss et al., 2019); with the
    ratio and one update the vanilla policy gradient.

    Args:
        objective: `MetaObjective`; the variables of its policy change.
        optimizer: `keras.optimizers.Optimizer`, built for these variables.
        updates: `int`.

    Returns:
        `step(before, after) -> logs`, to be compiled.
    """
    variables = objective.policy.trainable_variables

    def step(before, after):
        surrogates = []
        for _ in range(updates):
            weights = [tf.convert_to_tensor(v) for v in variables]
            surrogate, gradient = objective.value_and_gradient(weights, before, after)
            surrogates.append(surrogate)
            optimizer.apply_gradients(zip(gradient, variables, strict=True))
        weights = [tf.convert_to_tensor(v) for v in variables]
        surrogate, divergence = objective.value(weights, before, after)
        return {
            "surrogate_before": surrogates[0],
            "surrogate": surrogate,
            "divergence": divergence,
        }

    return step


def _flat(tensors):
    return tf.concat([tf.reshape(t, [-1]) for t in tensors], 0)
