"""Sums of gradients two at a time, which TensorFlow's graph optimizer leaves alone.

Symptom: where a tensor is used several times, a tape adds its gradients up by one `AddN`. Those of
three and more terms in a graph of large activations the memory optimizer rewrites as assignments to
a temporary variable: 8 % of a meta-step at 84x84. Additions are no way out: of a chain of them the
arithmetic optimizer makes an `AddN` again. An `AddN` of two terms nobody touches, and it works in
place.

The derivative of ReLU's derivative with respect to the place where that is taken is zero, and
TensorFlow adds as many zeros to such a sum as there are activations. They are left out.

Canaries: `tests/exact/test_sums.py`, which fails once a tape sums otherwise, and once ReLU has no
zeros to add.
"""

import functools

import tensorflow as tf
from tensorflow.python.ops import gen_math_ops

from maml_tf.exact import dispatch, guards, registry


def install():
    """Replaces what a tape sums with, inside of `guards.refusals`."""
    dispatch.install(gen_math_ops, "add_n", _add_n, here=guards.HERE)
    registry.correct("ReluGrad", _relu_grad_grad)


def _add_n(original, inputs, name=None):
    if len(inputs) <= 2:
        return original(inputs, name=name)
    return functools.reduce(lambda total, term: original([total, term]), inputs)


def _relu_grad_grad(original, op, upstream):
    return tf.raw_ops.ReluGrad(gradients=upstream, features=op.inputs[1]), None
