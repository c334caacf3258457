"""Sums of gradients by additions, which TensorFlow's graph optimizer leaves alone.

Symptom: where a tensor is used several times, a tape adds its gradients up by one `AddN`. In a
graph of large activations the memory optimizer rewrites each of them as assignments to a temporary
variable: 8 % of a meta-step at 84x84, and with some graphs the rewritten one has a cycle and does
not run at all ("nodes in a cycle"). An addition of two takes no more time than an `AddN` of two, in
the memory of one of them, and most sums are of two.

Canary: `tests/exact/test_sums.py`, which fails once a tape sums otherwise.
"""

import functools

import tensorflow as tf
from tensorflow.python.ops import gen_math_ops

from maml_tf.exact import dispatch, registry


def install():
    """Replaces what a tape sums with, inside of `registry.refusals`."""
    dispatch.install(gen_math_ops, "add_n", _add_n, here=registry.HERE)


def _add_n(original, inputs, name=None):
    if not all(tf.is_tensor(t) and t.dtype.is_floating for t in inputs):
        return original(inputs, name=name)
    return functools.reduce(gen_math_ops.add_v2, inputs)
