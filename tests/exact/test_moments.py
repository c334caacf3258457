import numpy as np
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from maml_tf import exact


@settings(max_examples=25, deadline=None)
@given(
    data=st.data(),
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    keepdims=st.booleans(),
    dtype=st.sampled_from(["float16", "bfloat16", "float32", "float64"]),
)
def test_moments_have_the_values_of_tensorflow(data, shape, keepdims, dtype):
    axes = data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1).map(sorted))
    x = tf.cast(tf.random.stateless_normal(shape, [0, len(shape)], 3.0, 2.0), dtype)
    received = exact.moments(x, axes, keepdims=keepdims)
    expected = tf.nn.moments(x, axes, keepdims=keepdims)
    for one, other in zip(received, expected, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        np.testing.assert_allclose(
            tf.cast(one, tf.float64), tf.cast(other, tf.float64), rtol=1e-6, atol=1e-6
        )


def test_the_second_derivative_of_the_variance_is_exact_and_that_of_tensorflow_is_not():
    n = 5
    x = tf.constant(np.random.default_rng(1).normal(size=n))

    def hessian(moments):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                variance = moments(x, [0])[1]
            gradient = inner.gradient(variance, x)
        return outer.jacobian(gradient, x)

    expected = 2 / n * (np.eye(n) - np.ones((n, n)) / n)
    np.testing.assert_allclose(hessian(exact.moments), expected, atol=1e-12)
    # If this fails, TensorFlow has put it right and `exact.moments` may go.
    np.testing.assert_allclose(hessian(tf.nn.moments), 2 / n * np.eye(n), atol=1e-12)
