"""Gradients that are written by hand, and the weights that they forget.

Symptom: a function of `tf.custom_gradient` gives gradients of its arguments, and of the
`tf.Variable`s that it reads. While a learner calls its model, tensors stand in the place of the
variables, so that a weight which such a function reads for itself gets no gradient, silently: it
would neither adapt nor be trained. TensorFlow refuses the same with variables, and so it is
refused here.

`tf.recompute_grad`, in which `keras.RematScope` and `keras.remat` end, is such a function, and its
gradient runs the layer again when the tensors are no longer in place. Here it calls the layer as it
is: the numbers are those of the layer, and no memory is saved (learners have `rematerialize=True`).

Symptom: within `tf.cond` and `tf.switch_case` such a function (`tf.nn.silu` is one) whose argument
was made outside ends in an AssertionError: its gradient works on a tensor that a branch of the
backward pass has no way to. The argument is brought into the branch first.

The first two stay as long as tensors stand in the place of variables; canary of the third:
`tests/exact/test_handwritten.py`.
"""

import inspect

import tensorflow as tf
from tensorflow.python.framework import ops
from tensorflow.python.ops import custom_gradient

from maml_tf.exact import dispatch, guards, keras_internals

_RECOMPUTED = f"{custom_gradient.recompute_grad.__name__}.<locals>.inner"


class _Here:
    """While a model is called, and while a gradient is taken: a gradient may be such a function."""

    @property
    def depth(self):
        """Above 0 in a thread where the replacement is to be used."""
        return guards.HERE.depth + guards.HERE.calling


def install():
    """Replaces the two functions that run what `tf.custom_gradient` decorates."""
    for name in ("_graph_mode_decorator", "_eager_mode_decorator"):
        dispatch.install(custom_gradient, name, _decorated)
    dispatch.install(custom_gradient, "_graph_mode_decorator", _brought, here=_Here())


def _decorated(original, function, args, kwargs):
    """Without what recomputes, and without reading a weight."""
    if getattr(function, "__qualname__", "") == _RECOMPUTED:
        return inspect.getclosurevars(function).nonlocals["f"](*args, **kwargs)
    with keras_internals.reading() as found:
        result = original(function, args, kwargs)
    forgotten = sorted({variable.path for variable in found if variable.trainable})
    if forgotten:
        name = getattr(function, "__name__", type(function).__name__)
        raise NotImplementedError(
            "Expected functions of `tf.custom_gradient` that are given the weights which they "
            f"use, as arguments. Received: `{name}`, which reads {forgotten} for itself, so that "
            "these would get no gradient. Give it their values, and return their gradients."
        )
    return result


def _brought(original, function, args, kwargs):
    """With arguments of the graph that is open."""
    graph = ops.get_default_graph()

    def here(tensor):
        outside = tf.is_tensor(tensor) and getattr(tensor, "graph", graph) is not graph
        return tf.identity(tensor) if outside else tensor

    return original(function, tf.nest.map_structure(here, args), kwargs)
