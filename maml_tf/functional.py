"""A Keras model as a pure function of its weights, exact to the second derivative.

`call` runs any built `keras.Model` with given weights and state in place of its variables, as
`model.stateless_call` does, and puts two things right that meta-learning cannot do without:

- operations of TensorFlow whose derivatives are wrong or slow are replaced (`maml_tf.exact`).
- what a batch normalisation normalises with is chosen per call and apart from `training`, which
  switches dropout too (see `batch_norm` of `call`).
"""

import contextlib
import threading

import keras
import tensorflow as tf

from maml_tf import exact
from maml_tf.exact import keras_internals

# Tracing replaces attributes of shared objects for a moment; two threads must not interleave.
_LOCK = threading.RLock()


@contextlib.contextmanager
def in_place_of(variables, tensors):
    """While open, tensors stand in the place of variables, for whatever reads or assigns them.

    Scopes nest: what stands in the place of other variables around this one stays there. What is
    assigned within is forgotten at the end; `scope.get_current_value(variable)` tells it before.

    Args:
        variables: list of `keras.Variable`.
        tensors: list of tensors in their order and shapes.

    Yields:
        A `keras.StatelessScope`, which collects the losses that layers add.

    Example:
        >>> rate = keras.Variable(0.1)
        >>> with in_place_of([rate], [tf.constant(0.5)]):
        ...     print(float(rate.value))
        0.5
    """
    around = keras_internals.open_scope()
    mapping = zip(variables, tensors, strict=True)
    scope = keras_internals.Scope(state_mapping=mapping, collect_losses=True)
    if around is not None:
        scope.state_mapping = {**around.state_mapping, **scope.state_mapping}
    with scope:
        yield scope


def flattened(z):
    """Embeddings of several axes as vectors, `[n, D]`."""
    if z.shape.rank == 2:
        return z
    return tf.reshape(z, [-1, z.shape[1:].num_elements()])


@contextlib.contextmanager
def sealed():
    """While open, what is assigned in a scope of `in_place_of` is forgotten at the end.

    In the body of a loop it has to be: outside of the loop its tensors do not exist.
    """
    if keras_internals.open_scope() is None:
        yield
    else:
        with in_place_of([], []):
            yield


def values_of(variables):
    """What stands in the place of variables now: a list of tensors."""
    return [tf.convert_to_tensor(variable.value) for variable in variables]


def assign(variables, tensors):
    """Puts tensors in the place of variables.

    Raises:
        RuntimeError: no scope of `in_place_of` is open, and the variables themselves would change.
    """
    if keras_internals.open_scope() is None:
        raise RuntimeError(
            "Expected to run where tensors stand in the place of a learner's variables. Received: "
            "no such scope. Open it by `with learner.with_values(*learner.initial_values()):`."
        )
    for variable, tensor in zip(variables, tensors, strict=True):
        variable.assign(tensor)


def call(model, weights, state, x, *, training, batch_norm=None, counted=None, then=lambda y: y):
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
        counted: bool `[batch]`, the examples whose mean and variance are taken where those of `x`
            are; None for all of them.
        then: applied to the predictions while the weights are still in place, so that it may
            use `model.losses`; what it returns takes the place of the predictions.

    Returns:
        `(then(predictions), new_state)`.

    Raises:
        NotImplementedError: a layer assigns a trainable weight while it is called, or `counted`
            is given and a batch normalisation does not see one example a row.
    """
    kinds = (model.trainable_variables, weights), (model.non_trainable_variables, state)
    pairs = [pair for variables, tensors in kinds for pair in zip(variables, tensors, strict=True)]
    with (
        _LOCK,
        exact.operations(),
        _batch_norm(model, batch_norm, counted),
        in_place_of([v for v, _ in pairs], [t for _, t in pairs]) as scope,
    ):
        given = [scope.get_current_value(v) for v in model.trainable_variables]
        result = then(model(x, training=training))
    _refuse_assigned_weights(model, given, scope)
    kept = set()
    if batch_norm == "batch":
        kept = {id(v) for layer in batch_norm_layers(model) for v in layer.non_trainable_variables}
    return result, [
        value if id(v) in kept else scope.get_current_value(v)
        for v, value in zip(model.non_trainable_variables, state, strict=True)
    ]


def _refuse_assigned_weights(model, given, scope):
    """Raises where a call put other values in the place of the weights that it was given.

    The inner loop owns the weights: an assignment would be lost, and the model would be trained
    as another function than it is evaluated as.
    """
    assigned = [
        variable.path
        for variable, value in zip(model.trainable_variables, given, strict=True)
        if scope.get_current_value(variable) is not value
    ]
    if assigned:
        raise NotImplementedError(
            "Expected layers that leave their trainable weights to the optimizer. Received: "
            f"model={model.name!r}, which assigns {assigned} while it is called in training "
            "(`keras.layers.SpectralNormalization` does), where the inner loop has fast weights of "
            "its own. Leave that layer out, or normalise the kernel inside of `call` without "
            "assigning it."
        )


@contextlib.contextmanager
def _batch_norm(model, mode, counted=None):
    """While open, the batch normalisations of `model` normalise as `mode` says, in this thread."""
    layers = [] if mode is None and counted is None else batch_norm_layers(model)
    for layer in layers:
        # An instance attribute shadows the method; `Layer.__call__` passes `training` by keyword.
        layer.__dict__["call"] = _normalising(layer, mode, threading.get_ident(), counted)
    try:
        yield
    finally:
        for layer in layers:
            del layer.__dict__["call"]


def _normalising(layer, mode, thread, counted):
    method = layer.call

    def call(*args, **kwargs):
        if threading.get_ident() != thread:
            # Somebody else predicts with the same model at this moment.
            return method(*args, **kwargs)
        if mode is not None:
            kwargs["training"] = mode != "moving"
        if counted is not None and mode != "moving":
            inputs = args[0] if args else kwargs["inputs"]
            kwargs["mask"] = _counted_entries(layer, counted, inputs, kwargs.get("mask"))
        if mode != "store":
            return method(*args, **kwargs)
        # The layer with another momentum, which no other thread may see.
        view = object.__new__(type(layer))
        view.__dict__.update({**layer.__dict__, "momentum": 0.0})
        del view.__dict__["call"]
        return type(layer).call(view, *args, **kwargs)

    return call


def _counted_entries(layer, counted, inputs, mask):
    """A mask, `[batch, ...]` without the axis of channels, of the entries of counted examples."""
    sizes = counted.shape[0], inputs.shape[0]
    if layer.axis not in (-1, len(inputs.shape) - 1) or (
        None not in sizes and sizes[0] != sizes[1]
    ):
        raise NotImplementedError(
            "Expected batch normalisations of one example a row, channels last, where support "
            f"examples have weights. Received: {layer.name!r} of inputs of shape "
            f"{tuple(inputs.shape)} with axis={layer.axis}, for {sizes[0]} examples. Leave the "
            "weights out, or use another normalisation."
        )
    rows = tf.reshape(counted, [-1, *[1] * (len(inputs.shape) - 2)])
    rows = tf.broadcast_to(rows, tf.shape(inputs)[:-1])
    return rows if mask is None else rows & tf.cast(mask, tf.bool)


def batch_norm_layers(model):
    """All `keras.layers.BatchNormalization` in `model`, nested ones too."""
    return [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]


def distinct_seeds(variables, values, index):
    """Values in which every seed generator has a stream of its own for task `index`.

    Without it, all tasks of a meta-batch would drop the same units. Task 0 keeps the model's own
    stream, so its state is the one to keep after a training step.

    Args:
        variables: list of `keras.Variable`, the state of a model.
        values: list of tensors in their place.
        index: int32 scalar, the task's place in the meta-batch.
    """
    spread = []
    for variable, value in zip(variables, values, strict=True):
        if variable.path.endswith("seed_generator_state"):
            # 2**32 / golden ratio: neighbouring indices land far apart; uint32 wraps round.
            offset = tf.cast(index, value.dtype) * tf.constant(2654435769, value.dtype)
            value = value + tf.stack([offset, tf.zeros_like(offset)])
        spread.append(value)
    return spread
