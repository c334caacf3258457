"""A copy of a Keras model with variables of its own, which computes what the model computes.

Keras makes a model again from its configuration, and a configuration tells how layers are made, not
what they hold: which variables of which sublayer are frozen, the constants of an adapted
`Normalization`, the vocabulary of a lookup, the function of a `Lambda`, the values of any variable,
trained or not. `copy_of` carries all of it over, and compares the two where it is given an example.
"""

import tempfile

import keras
import numpy as np
import tensorflow as tf

from maml_tf import configuration, low_rank


def copy_of(model, example=None):
    """A model that computes the same and shares no variable with `model`.

    Args:
        model: a built `keras.Model`: functional, sequential or subclassed, nested or not. Nothing
            of it changes.
        example: inputs of the model, `[batch, ...]`, a tensor or a structure of them, on which the
            two are compared; a subclassed model needs it to be built.

    Returns:
        A built `keras.Model` with the values of all variables, trainable or not, and each of them
        and each layer frozen where it is in `model`.

    Raises:
        ValueError: a layer that cannot be made again from its configuration, that comes back with
            other variables or with those of `model` itself, or that computes something else.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> copy = copy_of(model)
        >>> copy.layers[0].kernel is model.layers[0].kernel
        False
    """
    copy = _made_again(model, example)
    pairs = _paired_layers(model, copy)
    low_rank.enable(copy, low_rank.described(model))
    # All is looked at before anything is assigned: a shared variable is one of the model's own.
    for layer, other in reversed(pairs):
        _refuse_other_variables(layer, other)
    for variable, other in zip(model.variables, copy.variables, strict=True):
        other.assign(variable.value)
    configuration.freeze(copy, configuration.frozen(model))
    for layer, other in pairs:
        _carry_attributes(layer, other)
    finalize(copy)
    if example is not None:
        _refuse_other_outputs(model, copy, pairs, example)
    return copy


def finalize(model):
    """Has layers compute anew what they keep of their variables, as `Normalization` does.

    To be called after variables were assigned by hand.
    """
    for layer in model._flatten_layers():
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()


def _made_again(model, example):
    known = {}

    def again(layer):
        if id(layer) not in known:
            known[id(layer)] = _layer_again(layer, again)
        return known[id(layer)]

    if isinstance(model, keras.Sequential) or getattr(model, "inputs", None):
        copy = keras.models.clone_model(model, clone_function=again, recursive=True)
        # Keras makes a plain functional model of a class whose constructor takes something else.
        if type(copy) is type(model):
            return copy
    copy = again(model)
    if not copy.built:
        if example is None:
            raise ValueError(
                f"Expected `example` inputs of the subclassed model {_named(model)}, which is "
                "built by calling it. Received: example=None. Give a batch of its inputs."
            )
        copy(example)
    return copy


def _layer_again(layer, again):
    try:
        if type(layer) is keras.layers.Lambda:
            # Through a configuration a function would lose the names that it uses.
            return keras.layers.Lambda(
                layer.function,
                output_shape=layer._output_shape,
                mask=layer.mask,
                arguments=dict(layer.arguments),
                name=layer.name,
                dtype=layer.dtype_policy,
            )
        # Some configurations hand on an inner layer itself.
        config = {
            key: again(value) if isinstance(value, keras.layers.Layer) else value
            for key, value in layer.get_config().items()
        }
        other = type(layer).from_config(config)
        if hasattr(layer, "save_assets"):
            with tempfile.TemporaryDirectory() as folder:
                layer.save_assets(folder)
                other.load_assets(folder)
        return other
    except Exception as error:
        # Whatever a constructor or `get_config` of the user's raises: tell which layer it was.
        raise ValueError(
            "Expected a model whose layers can be made again from their configuration. Received: "
            f"{_named(layer)}, where this ends in {type(error).__name__}: {error}\nGive the class "
            "a `get_config` that holds every argument of its constructor."
        ) from error


def _paired_layers(model, copy):
    """`(layer, its counterpart)`, parents before what is in them."""
    own, others = model._flatten_layers(), copy._flatten_layers()
    if [type(layer) for layer in own] != [type(layer) for layer in others]:
        raise ValueError(
            "Expected a model that its configuration makes again with the same layers. Received: "
            f"{_named(model)}, with {[layer.name for layer in own]}, again with "
            f"{[layer.name for layer in others]}. Layers that are set after the constructor must "
            "be told by `get_config`."
        )
    return list(zip(own, others, strict=True))


def _refuse_other_variables(layer, other):
    own, others = layer.variables, other.variables
    if {id(v) for v in own} & {id(v) for v in others}:
        raise ValueError(
            "Expected layers whose configuration makes variables anew. Received: "
            f"{_named(layer)}, whose copy holds variables of the layer itself. Have `get_config` "
            "serialize inner layers by `keras.saving.serialize_keras_object`."
        )
    described = [[(v.name, tuple(v.shape), v.dtype) for v in vs] for vs in (own, others)]
    if described[0] != described[1]:
        raise ValueError(
            "Expected layers that their configuration makes again with the same variables. "
            f"Received: {_named(layer)}, with {described[0]}, again with {described[1]}."
        )


def _carry_attributes(layer, other):
    """Arrays, tensors and plain `tf.Variable`s that a layer keeps as attributes."""
    for name, value in vars(layer).items():
        now = vars(other).get(name)
        if isinstance(value, keras.Variable):
            continue  # TensorFlow takes it for a tensor; its value has been assigned
        if isinstance(value, tf.Variable) and isinstance(now, tf.Variable) and now is not value:
            now.assign(value)
        elif isinstance(value, np.ndarray) and isinstance(now, np.ndarray):
            setattr(other, name, value.copy())
        elif tf.is_tensor(value) and tf.is_tensor(now) and not tf.is_symbolic_tensor(value):
            setattr(other, name, tf.identity(value))


def _refuse_other_outputs(model, copy, pairs, example):
    expected = _outputs(model, [layer for layer, _ in pairs], example)
    received = _outputs(copy, [other for _, other in pairs], example)
    for (layer, outputs), (_, others) in zip(expected, received, strict=False):
        if not same(outputs, others):
            raise ValueError(
                "Expected a model whose copy computes the same. Received: "
                f"{_named(layer)}, which computes something else when it is made again from its "
                "configuration. Does it draw or compute something in its constructor that "
                "`get_config` does not hold? Make it a variable by `add_weight`."
            )


def _outputs(model, layers, example):
    """`(layer, its outputs)` for every call of a layer, in the order in which they end."""
    seen = []

    def recorded(layer, method):
        def call(*args, **kwargs):
            outputs = method(*args, **kwargs)
            seen.append((layer, outputs))
            return outputs

        return call

    values = [
        [v.value for v in vs] for vs in (model.trainable_variables, model.non_trainable_variables)
    ]
    for layer in layers:
        # An instance attribute shadows the method.
        layer.__dict__["call"] = recorded(layer, layer.call)
    try:
        model.stateless_call(*values, example)
    finally:
        for layer in layers:
            del layer.__dict__["call"]
    return seen


def same(structure, other):
    """Whether two structures of tensors are equal but for rounding; NaN equals NaN.

    Args:
        structure: tensors or arrays, nested in any way.
        other: the same.

    Returns:
        `bool`.
    """
    pairs = [keras.tree.flatten(s) for s in (structure, other)]
    return len(pairs[0]) == len(pairs[1]) and all(map(_same_tensors, *pairs))


def _same_tensors(a, b):
    if not tf.is_tensor(a) and not isinstance(a, np.ndarray):
        return True
    a, b = (keras.ops.convert_to_numpy(t) for t in (a, b))
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not np.issubdtype(a.dtype, np.inexact):
        return bool((a == b).all())
    tolerance = float(np.sqrt(np.finfo(a.dtype).eps))
    largest = np.abs(a[np.isfinite(a)]).max(initial=0.0)
    return bool(np.allclose(a, b, rtol=tolerance, atol=tolerance * largest, equal_nan=True))


def _named(layer):
    return f"{type(layer).__name__} {layer.name!r}"
