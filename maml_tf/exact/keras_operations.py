"""Functions of `keras.ops` whose derivatives are silently wrong at points where they are smooth.

Symptoms:

- `logaddexp` and `logaddexp2` of equal numbers give the whole derivative to the first of them,
  and the second derivative is wrong as well.
- `hypot` with one side of length zero has a wrong second derivative.
- `pinv` and `lstsq` differentiate a singular value decomposition, and are wrong even in the first
  derivative where two singular values are equal: every orthogonal matrix.

Canaries: `tests/exact/test_corrected.py`. Once one fails, its replacement may go.
"""

import math

import keras
import tensorflow as tf
from keras.src.backend.tensorflow import linalg, numpy
from tensorflow.python.ops.linalg import linalg_impl

from maml_tf.exact import dispatch


def install():
    """Replaces them under all names that look them up in a module when they are called."""
    dispatch.install(numpy, "logaddexp", _logaddexp)
    dispatch.install(numpy, "logaddexp2", _logaddexp2)
    dispatch.install(numpy, "hypot", _hypot)
    for module in (tf.linalg, linalg_impl):
        dispatch.install(module, "pinv", _pinv)
    dispatch.install(linalg, "lstsq", _lstsq)


def _pair(x1, x2, *further):
    x1, x2 = keras.ops.convert_to_tensor(x1), keras.ops.convert_to_tensor(x2)
    dtype = keras.backend.result_type(x1.dtype, x2.dtype, *further)
    return tf.cast(x1, dtype), tf.cast(x2, dtype)


def _logaddexp(original, x1, x2, base=math.e):
    """The value of the original; the derivatives are shares of one."""
    x1, x2 = _pair(x1, x2, float)

    @tf.custom_gradient
    def function(x1, x2):
        def gradient(g):
            # Two infinities of one sign have no difference; each takes half.
            infinite = tf.equal(x1, x2) & tf.math.is_inf(x1)
            share = tf.sigmoid(math.log(base) * tf.where(infinite, tf.zeros_like(x1), x1 - x2))
            return g * share, g * (1 - share)

        return original(x1, x2), gradient

    return function(*_broadcast(x1, x2))


def _logaddexp2(original, x1, x2):
    return _logaddexp(original, x1, x2, base=2)


def _broadcast(x1, x2):
    shape = tf.broadcast_dynamic_shape(tf.shape(x1), tf.shape(x2))
    return tf.broadcast_to(x1, shape), tf.broadcast_to(x2, shape)


def _hypot(original, x1, x2):
    """A root of a sum of squares, scaled by a constant that keeps it from overflow."""
    x1, x2 = keras.ops.convert_to_tensor(x1), keras.ops.convert_to_tensor(x2)
    if not (x1.dtype.is_floating and x2.dtype.is_floating):
        return original(x1, x2)
    x1, x2 = _pair(x1, x2)
    largest = tf.stop_gradient(tf.maximum(tf.abs(x1), tf.abs(x2)))
    scale = tf.where(largest > 0, largest, tf.ones_like(largest))
    squares = tf.square(x1 / scale) + tf.square(x2 / scale)
    safe = tf.where(largest > 0, squares, tf.ones_like(squares))
    return tf.where(largest > 0, scale * tf.sqrt(safe), tf.zeros_like(safe))


def _pinv(original, a, *arguments, **settings):
    """Golub and Pereyra (1973), equation 4.12: no derivative of a decomposition."""

    @tf.custom_gradient
    def inverse(a):
        p = original(a, *arguments, **settings)

        def gradient(g):
            p = inverse(a)
            adjoint, upstream = tf.linalg.adjoint(p), tf.linalg.adjoint(g)
            beside = upstream - tf.matmul(a, tf.matmul(p, upstream))
            below = upstream - tf.matmul(tf.matmul(upstream, p), a)
            return (
                tf.matmul(tf.matmul(beside, p), adjoint)
                + tf.matmul(tf.matmul(adjoint, p), below)
                - tf.matmul(tf.matmul(adjoint, g), adjoint)
            )

        return p, gradient

    return inverse(tf.convert_to_tensor(a))


def _lstsq(original, a, b, rcond=None):
    """The product with the pseudoinverse, for matrices of a known shape."""
    a, b = keras.ops.convert_to_tensor(a), keras.ops.convert_to_tensor(b)
    if a.shape.rank != 2 or b.shape.rank not in (1, 2) or a.shape[0] != b.shape[0]:
        return original(a, b, rcond)

    def solved(a):
        # Made here, so that a gradient in another graph makes its own.
        identity = tf.eye(tf.shape(a)[0], dtype=a.dtype)
        identity.set_shape([a.shape[0], a.shape[0]])
        return original(a, identity, rcond)

    inverse = _pinv(solved, a)
    return tf.linalg.matvec(inverse, b) if b.shape.rank == 1 else tf.matmul(inverse, b)
