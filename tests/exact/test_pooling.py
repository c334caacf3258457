"""Max-pooling that leaves the shape as it is: TensorFlow's second derivative of it is zero."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import exact
from tests.exact.test_ops import Case, deviations

pytestmark = pytest.mark.usefixtures("float64")
# No two elements are nearer to each other than a step of central differences.
IMAGE = np.random.default_rng(0).permutation(60).reshape(1, 5, 4, 3) * 0.1


def unknown(x, shape):
    """The tensor, of which a graph knows no more than this."""
    return tf.reshape(tf.ensure_shape(tf.reshape(x, tf.shape(x) + 0), shape), tf.shape(x))


POOLINGS = {
    "same": lambda x: tf.nn.max_pool2d(x, 2, 1, "SAME"),
    "same-of-three": lambda x: tf.nn.max_pool2d(x, 3, 1, "SAME"),
    "layer": lambda x: keras.layers.MaxPooling2D(3, strides=1, padding="same")(x),
    "one-axis": lambda x: tf.nn.max_pool1d(x[0], 2, 1, "SAME"),
    "window-of-one": lambda x: tf.nn.max_pool2d(x, 1, 1, "VALID"),
    "explicit": lambda x: tf.nn.max_pool2d(x, 3, 1, [[0, 0], [1, 1], [1, 1], [0, 0]]),
    "image-of-one": lambda x: tf.nn.max_pool2d(tf.reshape(x, (15, 1, 1, 4)), 2, 2, "SAME"),
    "unknown-size": lambda x: tf.nn.max_pool2d(unknown(x, [None] * 3 + [3]), 2, 2, "SAME"),
    "unknown-size-same": lambda x: tf.nn.max_pool2d(unknown(x, [None] * 4), 2, 1, "SAME"),
    "in-a-map": lambda x: tf.map_fn(lambda i: tf.nn.max_pool2d(i[None], 2, 1, "SAME")[0], x),
}


@pytest.mark.parametrize("pool", POOLINGS.values(), ids=POOLINGS)
def test_within_a_graph_the_second_derivative_is_right(pool):
    first, second = deviations(Case(lambda x: pool(1.01 * x), IMAGE, traced=True))
    assert first < 1e-6
    assert second < 1e-6


@pytest.mark.parametrize("window", [(1, 2, 2), (2, 2, 2)])
def test_in_three_dimensions_too(window):
    def pool(x):
        return tf.nn.max_pool3d(1.01 * tf.reshape(x, (1, 3, 5, 4, 1)), window, 1, "SAME")

    first, second = deviations(Case(pool, 5 * IMAGE, single=True, traced=True))
    assert first < 2e-3
    assert second < 2e-3


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_values_are_tensorflows(padding, size):
    x = tf.constant(IMAGE)
    with exact.operations():
        received = tf.nn.max_pool2d(x, size, 1, padding)
    np.testing.assert_array_equal(received, tf.nn.max_pool2d(x, size, 1, padding))


def test_tensorflows_second_derivative_is_still_another_within_a_graph():
    """Canary: once this fails, `maml_tf.exact.pooling` need not pad any more."""

    def product(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = tf.nn.max_pool2d(tf.nn.max_pool2d(x, 2, 1, "SAME"), 2, 1, "SAME")
                y = tf.reduce_sum(tf.sin(y))
            gradient = inner.gradient(y, x)
        return outer.gradient(gradient, x)

    x = tf.constant(IMAGE)
    assert np.any(product(x))
    assert not np.any(tf.function(product)(x))
