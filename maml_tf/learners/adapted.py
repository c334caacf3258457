"""An ordinary Keras model with the weights that a learner adapted to one task."""

import keras
import tensorflow as tf

from maml_tf import functional
from maml_tf.learners.reports import Before


def adapted_model(learner, support_x, support_y, steps):
    """A copy of `learner.model` after `steps` inner steps; see `Learner.adapt`.

    Args:
        learner: a compiled `maml_tf.Learner`.
        support_x: structure of tensors `[S, ...]`.
        support_y: structure of tensors `[S, ...]`.
        steps: `int`.

    Returns:
        A compiled `keras.Model`.
    """

    @tf.function(autograph=False)
    def adapted(support_x, support_y):
        weights, state = learner.initial_values()
        weights, state = learner.adapt_task_in_loop(weights, state, support_x, support_y, steps)
        # One example has no mean and variance of its own: the support set's go along.
        _, state = functional.call(
            learner.model, weights, state, support_x, training=False, batch_norm="store"
        )
        return weights, state

    weights, state = adapted(support_x, support_y)
    copy = _copy(learner.model, support_x)
    for variable, value in zip(copy.trainable_variables, weights, strict=True):
        variable.assign(value)
    for variable, value in zip(copy.non_trainable_variables, state, strict=True):
        variable.assign(value)
    copy.compile(**Before.compile_arguments(learner._compile_config.config))
    return copy


def _copy(model, example):
    """A model of the same architecture with variables of its own."""
    if isinstance(model, keras.Sequential) or getattr(model, "inputs", None):
        return keras.models.clone_model(model)
    copy = type(model).from_config(model.get_config())
    if not copy.built:
        copy(example)
    return copy
