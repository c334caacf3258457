"""Gradients of kernels over few examples, as XLA computes them fast for many tasks on a CPU.

Symptom: where tasks are vectorised, the gradient towards a kernel is a product `x^T g` over the
examples of each task. Such products, whose first factor is transposed, XLA leaves to Eigen, task by
task: 37 microseconds for 25 tasks of 10 examples and a kernel of 40x40. Two other forms are faster:

- where each task needs its own, for its inner step: a sum over examples, one program of 11
  microseconds of which the step becomes a part (`_sum_of_products`). Beyond some 30 examples XLA
  cuts such a sum into parts, which takes ten times as long;
- where they are only added up over tasks, as the terms of the meta-gradient are: one product over
  the examples of all tasks, of 12 (`apart`, `sum_over_tasks`).

Numbers by shape: `tests/benchmarks/NOTES.md`. Canary: `tests/exact/test_products.py`.
"""

import tensorflow as tf
from tensorflow.python.ops import gen_math_ops

from maml_tf.exact import dispatch, guards

_EXAMPLES = 20  # measured from 1 to 64
# What marks a product `x^T g`: the two.
_MARK = "_maml_tf_factors"


def install():
    """Replaces what a gradient of a product is computed with, inside of `guards.refusals`."""
    dispatch.install(gen_math_ops, "mat_mul", _mat_mul, here=guards.HERE)


def apart(gradient):
    """A gradient of one task as the products and the rest that it is a sum of.

    Args:
        gradient: tensor of the graph of one task.

    Returns:
        `(rest, factors)`: a list of one tensor or none, and a list of pairs `x`, `g`, of which
        `x^T g` are terms.
    """
    rest, factors, waiting = [], [], [gradient]
    while waiting:
        term = waiting.pop()
        if hasattr(term, _MARK):
            # Of this graph's own, as vectorising wants what a function returns to be.
            factors.append([tf.identity(t) for t in getattr(term, _MARK)])
        elif term.op.type in ("Identity", "IdentityN"):
            waiting.append(term.op.inputs[term.value_index])
        elif term.op.type == "AddN":
            waiting.extend(term.op.inputs)
        else:
            rest.append(term)
    if not factors:
        return [gradient], []
    return [tf.identity(tf.add_n(rest))] if rest else [], factors


def sum_over_tasks(rest, factors):
    """The sum over tasks of gradients that `apart` took apart before tasks were vectorised.

    Args:
        rest: list of one `[tasks, ...]`, or of none.
        factors: list of pairs `[tasks, examples, inputs]`, `[tasks, examples, units]`.
    """
    sums = [tf.reduce_sum(t, 0) for t in rest]
    for x, g in factors:
        rows = [tf.reshape(t, [-1, t.shape[-1]]) for t in (x, g)]
        sums.append(tf.matmul(*rows, transpose_a=True))
    return sum(sums[1:], sums[0])


def _mat_mul(original, a, b, transpose_a=False, transpose_b=False, **settings):
    if not transpose_a or transpose_b or not _is_slow(a, b):
        return original(a, b, transpose_a=transpose_a, transpose_b=transpose_b, **settings)
    few = a.shape[0] is not None and a.shape[0] <= _EXAMPLES
    product = _sum_of_products(a, b) if few else original(a, b, transpose_a=True, **settings)
    setattr(product, _MARK, (a, b))
    return product


def _is_slow(x, g):
    if not dispatch.inside_vectorized() or not dispatch.inside_xla():
        return False
    if x.shape.rank != 2 or g.shape.rank != 2 or x.dtype not in (tf.float32, tf.float64):
        return False
    vector = 1 in (x.shape[1], g.shape[1])  # by a vector XLA multiplies fast
    return not vector and not tf.config.list_physical_devices("GPU")


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
