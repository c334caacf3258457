"""Sums of gradients of several terms, two at a time."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.ops import gen_math_ops

from maml_tf import exact


def gradient_of_three_uses(x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.sin(x) + tf.exp(x) + tf.square(x)
    return tape.gradient(y, x)


def sums(inside):
    """Numbers of terms of the sums in a graph of `gradient_of_three_uses`, and what it gives."""
    x = tf.constant([0.3, -1.2], tf.float64)

    @tf.function(autograph=False)
    def function(x):
        with exact.refusals() if inside else contextlib.nullcontext():
            return gradient_of_three_uses(x)

    graph = function.get_concrete_function(x).graph
    terms = [len(op.inputs) for op in graph.get_operations() if op.type == "AddN"]
    return terms, function(x) - (tf.cos(x) + tf.exp(x) + 2 * x)


def test_gradients_are_added_two_at_a_time():
    terms, error = sums(inside=True)
    assert terms == [2, 2]
    np.testing.assert_allclose(error, [0, 0], atol=1e-15)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_sum_of_any_number_of_terms_is_right(count):
    terms = [tf.constant([1.0 * i, 2.0]) for i in range(count)]
    with exact.refusals():
        total = tf.raw_ops.AddN(inputs=terms) if count == 1 else tf.add_n(terms)
        again = gen_math_ops.add_n(terms)
    np.testing.assert_array_equal(total, [sum(range(count)), 2.0 * count])
    np.testing.assert_array_equal(again, total)


def test_elsewhere_they_are_not():
    """If this fails, tapes sum otherwise, and `maml_tf/exact/sums.py` may go."""
    assert sums(inside=False)[0] == [3]


@pytest.mark.parametrize("eager", [True, False])
def test_sparse_gradients_are_summed_as_before(eager):
    table = tf.Variable(tf.ones([3, 2]))

    def function():
        with exact.refusals(), tf.GradientTape() as tape:
            rows = [tf.gather(table, [i, 2]) for i in range(3)]
            y = tf.add_n([tf.reduce_sum(r * (i + 1.0)) for i, r in enumerate(rows)])
            gradient = tape.gradient(y, table)
        return tf.convert_to_tensor(gradient)

    received = function() if eager else tf.function(function, autograph=False)()
    np.testing.assert_allclose(received, [[1, 1], [2, 2], [9, 9]])


def second_derivative_through(relu, x):
    v = tf.constant([0.5, 2.0], tf.float64)
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = tf.reduce_sum(relu(tf.matmul(x, x)) ** 3 * v)
        first = inner.gradient(y, x)
        return outer.gradient(first, x)


def second_of_relu(inside):
    """Names of the operations of a second derivative through ReLU, and its error."""
    x = tf.constant([[0.3, -1.2], [2.0, 0.0]], tf.float64)

    @tf.function(autograph=False)
    def function(x):
        with exact.refusals() if inside else contextlib.nullcontext():
            return second_derivative_through(tf.nn.relu, x)

    graph = function.get_concrete_function(x).graph
    expected = second_derivative_through(lambda z: tf.where(z > 0, z, 0.0), x)
    return [op.name for op in graph.get_operations()], function(x) - expected


def test_a_second_derivative_of_relu_adds_no_zeros():
    names, error = second_of_relu(inside=True)
    assert not any("zeros_like" in name for name in names)
    np.testing.assert_allclose(error, np.zeros([2, 2]), atol=1e-12)


def test_elsewhere_it_does():
    """If this fails, ReLU adds no zeros, and `sums` may leave it alone."""
    assert any("zeros_like" in name for name in second_of_relu(inside=False)[0])
