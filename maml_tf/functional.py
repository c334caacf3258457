"""A Keras model as a pure function of its weights, exact to the second derivative.

`call` runs any built `keras.Model` with given weights and state in place of its variables, as
`model.stateless_call` does, and puts some things right that meta-learning cannot do without:

- `tf.nn.moments` stops the gradient of the mean inside the variance. That is no error in a first
  derivative (the term is zero there) but it drops a term of the second, so that the meta-gradient
  through any Keras normalisation layer would be wrong by several per cent. While our calls run,
  `tf.nn.moments` is replaced by the same function without the stop.
- small convolutions run as matrix products, which are faster (`maml_tf.convolution`).
- what a batch normalisation normalises with is chosen per call and apart from `training`, which
  switches dropout too (see `batch_norm` of `call`).
- the second derivative of max-pooling, which XLA gets wrong on the CPU, is found in the traced
  graph and refused (`refuse_wrong_xla`).
"""

import contextlib
import functools
import threading

import keras
import tensorflow as tf

from maml_tf import convolution

# Tracing replaces attributes of shared objects for a moment; two threads must not interleave.
_LOCK = threading.RLock()

# Operations whose second derivative XLA computes wrongly on the CPU.
_WRONG_IN_XLA = {"MaxPoolGradGrad", "MaxPoolGradGradV2", "MaxPool3DGradGrad"}


def call(model, weights, state, x, *, training, batch_norm=None, then=lambda y: y):
    """Runs `model(x, training=training)` on given weights; nothing of the model is assigned.

    Args:
        model: a built `keras.Model`.
        weights: tensors in the order and shapes of `model.trainable_variables`.
        state: tensors in the order and shapes of `model.non_trainable_variables`.
        x: inputs of the model, `[batch, ...]`, a tensor or a nested structure of them.
        training: passed to the model.
        batch_norm: what `keras.layers.BatchNormalization` normalises with, whatever `training`:
            `"batch"`: the mean and variance of `x`; the moving averages stay as they are.
            `"store"`: the same, and they replace the moving averages in the returned state.
            `"moving"`: the moving averages in `state`.
            `None`: what Keras does for `training`.
            Layers with `trainable=False` keep to their moving averages, as in Keras.
        then: applied to the predictions while the weights are still in place, so that it may
            use `model.losses`; what it returns takes the place of the predictions.

    Returns:
        `(then(predictions), new_state)`.
    """
    mapping = [
        *zip(model.trainable_variables, weights, strict=True),
        *zip(model.non_trainable_variables, state, strict=True),
    ]
    with (
        _LOCK,
        _replaced_operations(),
        _batch_norm(model, batch_norm),
        keras.StatelessScope(state_mapping=mapping, collect_losses=True) as scope,
    ):
        result = then(model(x, training=training))
    kept = set()
    if batch_norm == "batch":
        kept = {id(v) for layer in batch_norm_layers(model) for v in layer.non_trainable_variables}
    return result, [
        value if id(v) in kept else scope.get_current_value(v)
        for v, value in zip(model.non_trainable_variables, state, strict=True)
    ]


@contextlib.contextmanager
def _replaced_operations():
    originals = tf.nn.moments, tf.nn.convolution
    tf.nn.moments = moments
    tf.nn.convolution = functools.partial(convolution.convolution, tf.nn.convolution)
    try:
        yield
    finally:
        tf.nn.moments, tf.nn.convolution = originals


def moments(x, axes, shift=None, keepdims=False, name=None):
    """`tf.nn.moments` whose derivatives of every order are exact; the same values.

    Args:
        x: a tensor. float16 is computed in float32, as in TensorFlow.
        axes: the axes that are averaged over, a list of `int`.
        shift: not used, as in `tf.nn.moments`.
        keepdims: whether the result keeps the averaged axes with size 1.
        name: of the operations.

    Returns:
        `(mean, variance)` of the dtype of `x`.
    """
    del shift
    with tf.name_scope(name or "moments"):
        wide = tf.cast(x, tf.float32) if x.dtype == tf.float16 else x
        mean = tf.reduce_mean(wide, axes, keepdims=True)
        variance = tf.reduce_mean(tf.math.squared_difference(wide, mean), axes, keepdims=keepdims)
        if not keepdims:
            mean = tf.squeeze(mean, axes)
        return tf.cast(mean, x.dtype), tf.cast(variance, x.dtype)


@contextlib.contextmanager
def _batch_norm(model, mode):
    """While open, the batch normalisations of `model` normalise as `mode` says."""
    layers = [] if mode is None else batch_norm_layers(model)
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        # An instance attribute shadows the method; `Layer.__call__` passes `training` by keyword.
        layer.__dict__["call"] = _with_training(layer.call, mode != "moving")
        if mode == "store":
            layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            del layer.__dict__["call"]
            layer.momentum = momentum


def _with_training(method, training):
    def forced(*args, **kwargs):
        return method(*args, **{**kwargs, "training": training})

    return forced


def batch_norm_layers(model):
    """All `keras.layers.BatchNormalization` in `model`, nested ones too."""
    return [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]


def distinct_seeds(model, state, index):
    """State in which every seed generator of `model` has a stream of its own for task `index`.

    Without it, all tasks of a meta-batch would drop the same units. Task 0 keeps the model's own
    stream, so its state is the one to keep after a training step.

    Args:
        model: a built `keras.Model`.
        state: tensors in the order of `model.non_trainable_variables`.
        index: int32 scalar, the task's place in the meta-batch.
    """
    spread = []
    for variable, value in zip(model.non_trainable_variables, state, strict=True):
        if variable.path.endswith("seed_generator_state"):
            # 2**32 / golden ratio: neighbouring indices land far apart; uint32 wraps round.
            offset = tf.cast(index, value.dtype) * tf.constant(2654435769, value.dtype)
            value = value + tf.stack([offset, tf.zeros_like(offset)])
        spread.append(value)
    return spread


def refuse_wrong_xla(jit_compile, first_order):
    """Raises where the graph being traced holds a second derivative that XLA gets wrong.

    Raises:
        NotImplementedError: `jit_compile` and second order on a machine whose device is a CPU,
            through max-pooling.
    """
    if (
        not jit_compile
        or first_order
        or tf.executing_eagerly()
        or tf.config.list_physical_devices("GPU")
    ):
        return
    graph = tf.compat.v1.get_default_graph()
    wrong = sorted({op.type for op in graph.get_operations()} & _WRONG_IN_XLA)
    if wrong:
        raise NotImplementedError(
            "Expected a model whose second derivative XLA computes correctly on the CPU, received "
            f"one with max-pooling (operations {wrong}), for which compiled second-order "
            "gradients are off by up to 2e-2. Use `compile(jit_compile=False)`, or "
            "`first_order=True`, or strided convolutions, or average pooling in place of the "
            "max-pooling."
        )
