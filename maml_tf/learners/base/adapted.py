"""An ordinary Keras model of one task, which a learner adapted.

Where adapting gave weights of the learner's model, it is a copy of that model wherever one can be
made that predicts the same and that Keras can save as it is, and else the learner's model seen
through other weights, `AdaptedModel`. Where adapting gave something else, it is the learner itself
seen through what adapting gave and through the weights that it had then: `AdaptedLearner`.
"""

import logging

import tensorflow as tf

from maml_tf import configuration, copying, functional
from maml_tf.learners.base import specs
from maml_tf.learners.base.adapted_models import AdaptedLearner, AdaptedModel
from maml_tf.learners.base.reports import Before

_log = logging.getLogger(__name__)


def adapted_model(learner, weights, state, example):
    """A compiled model of one task; see `Learner.adapt`.

    Args:
        learner: a compiled `maml_tf.Learner`.
        weights: list of tensors, the fast weights.
        state: list of tensors, with the support set's mean and variance in batch normalisations.
        example: support inputs, a structure of tensors `[S, ...]`, on which a copy is compared.

    Returns:
        A compiled `keras.Model`.
    """
    model = learner.model
    expected, _ = functional.call(model, weights, state, example, training=False)
    try:
        adapted = _copy(model, weights, state, example, expected)
    except ValueError as error:
        _log.info("The adapted model is no copy of %r: %s", model.name, error)
        adapted = AdaptedModel(model, inputs=specs.of_examples(example))
        adapted.assign(weights, state)
    return _compiled_as(learner, adapted)


def _compiled_as(learner, adapted):
    """`adapted` with the loss and the metrics of a learner, where it has been compiled."""
    if learner.compiled:
        adapted.compile(**Before.compile_arguments(learner._compile_config.config))
    return adapted


def _copy(model, weights, state, example, expected):
    """A copy of `model` at these weights.

    Raises:
        ValueError: there is none that gives `expected` for `example`, or Keras would save it as
            another one.
    """
    if not configuration.kept_by_keras(model):
        raise ValueError("Keras loads no frozen sublayers and low-rank factors.")
    copy = copying.copy_of(model, example)
    pairs = zip(copy.trainable_variables, weights, strict=True)
    for variable, value in [*pairs, *zip(copy.non_trainable_variables, state, strict=True)]:
        variable.assign(value)
    copying.finalize(copy)
    if not copying.same(copy(example, training=False), expected):
        raise ValueError("it predicts otherwise for the support set at the adapted weights.")
    return copy


def seen_through(learner, value, example):
    """A compiled model of one task for learners whose adapted value is no list of weights.

    Args:
        learner: a `maml_tf.Learner`, compiled or not.
        value: what `learner.adapt_task` returned: dicts, lists and tuples of tensors.
        example: support inputs, a structure of tensors `[S, ...]`.

    Returns:
        `AdaptedLearner`.
    """
    spec = tf.nest.map_structure(lambda t: tf.TensorSpec(t.shape, t.dtype), value)
    adapted = AdaptedLearner(learner, spec, inputs=specs.of_examples(example))
    adapted.assign(learner.initial_values(), value)
    return _compiled_as(learner, adapted)
