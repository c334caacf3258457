"""The gradient of a kernel over few examples, as XLA computes it fast for many tasks on a CPU.

Symptom: where tasks are vectorised, the gradient towards a kernel is a product `x^T g` over the
examples of each task. Such products, whose first factor is transposed, XLA leaves to Eigen, task by
task: 37 microseconds for 25 tasks of 10 examples and a kernel of 40x40. As a sum over examples it
is one program of 11, of which the inner step becomes a part.

Beyond some 30 examples XLA cuts such a sum into parts, which takes ten times as long. The numbers
stand in `tests/benchmarks/NOTES.md`. Canary: `tests/exact/test_products.py`.
"""

import tensorflow as tf
from tensorflow.python.ops import gen_math_ops

from maml_tf.exact import dispatch, guards

_EXAMPLES = 20  # measured from 1 to 64


def install():
    """Replaces what a gradient of a product is computed with, inside of `guards.refusals`."""
    dispatch.install(gen_math_ops, "mat_mul", _mat_mul, here=guards.HERE)


def _mat_mul(original, a, b, transpose_a=False, transpose_b=False, **settings):
    if transpose_a and not transpose_b and _is_faster(a, b):
        return _sum_of_products(a, b)
    return original(a, b, transpose_a=transpose_a, transpose_b=transpose_b, **settings)


def _is_faster(x, g):
    if not dispatch.inside_vectorized() or not dispatch.inside_xla():
        return False
    if x.shape.rank != 2 or g.shape.rank != 2 or x.dtype not in (tf.float32, tf.float64):
        return False
    examples, inputs = x.shape
    few = examples is not None and examples <= _EXAMPLES
    vector = 1 in (inputs, g.shape[1])  # by a vector XLA multiplies fast
    return few and not vector and not tf.config.list_physical_devices("GPU")


@tf.custom_gradient
def _sum_of_products(x, g):
    """`x^T g`, with derivatives that are products of matrices again.

    Args:
        x: `[examples, inputs]`.
        g: `[examples, units]`.

    Returns:
        `[inputs, units]`.
    """

    def gradient(upstream):
        return tf.matmul(g, upstream, transpose_b=True), tf.matmul(x, upstream)

    return tf.reduce_sum(tf.expand_dims(x, 2) * tf.expand_dims(g, 1), 0), gradient
