import contextlib
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.nn import moments as imported_before

from maml_tf import exact

N = 5
X = tf.constant(np.random.default_rng(1).normal(size=N))
VECTOR = np.arange(N) ** 2 + 1.0
EXACT = 2 / N * (VECTOR - VECTOR.mean())
WITHOUT_A_TERM = 2 / N * VECTOR
NAMES = {
    "tf.nn": tf.nn.moments,
    "by-name": imported_before,
    "compat.v1": tf.compat.v1.nn.moments,
    "keras.ops": lambda x, axes: keras.ops.moments(x, axes),
}


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
    with exact.operations():
        received = tf.nn.moments(x, axes, keepdims=keepdims)
    expected = tf.nn.moments(x, axes, keepdims=keepdims)
    for one, other in zip(received, expected, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        np.testing.assert_array_equal(tf.cast(one, tf.float64), tf.cast(other, tf.float64))


def curvature(variance, inside=True):
    """The Hessian of `variance(x)` times a vector; its operations are replaced, if `inside`."""
    with tf.GradientTape() as outer:
        outer.watch(X)
        with tf.GradientTape() as inner:
            inner.watch(X)
            with exact.operations() if inside else contextlib.nullcontext():
                y = variance(X)
        gradient = inner.gradient(y, X)
    return outer.gradient(gradient, X, output_gradients=VECTOR)


def traced(variance, inside=True):
    return tf.function(lambda: curvature(variance, inside), autograph=False)()


@pytest.mark.parametrize("moments", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("compute", [curvature, traced])
def test_the_second_derivative_of_the_variance_is_exact_under_every_name(moments, compute):
    def variance(x):
        return moments(x, [0])[1]

    np.testing.assert_allclose(compute(variance), EXACT, atol=1e-12)
    # If this fails, TensorFlow has put it right and `maml_tf.exact.moments` may go.
    np.testing.assert_allclose(compute(variance, inside=False), WITHOUT_A_TERM, atol=1e-12)


@pytest.mark.parametrize("first", ["inside", "outside"])
def test_a_function_that_was_traced_on_the_other_side_is_traced_anew(first):
    """A layer's own `tf.function` keeps what it traced."""
    variance = tf.function(lambda x: tf.nn.moments(x, [0])[1], autograph=False)
    if first == "inside":
        traced(variance)
    else:
        variance(X)
        traced(variance, inside=False)
    np.testing.assert_allclose(traced(variance), EXACT, atol=1e-12)
    np.testing.assert_allclose(traced(variance, inside=False), WITHOUT_A_TERM, atol=1e-12)
    traces = variance.experimental_get_tracing_count()
    traced(variance)
    assert variance.experimental_get_tracing_count() == traces


def test_control_flow_sees_it_too():
    def variance(x):
        return tf.cond(
            tf.reduce_sum(x) < 100,
            lambda: tf.map_fn(lambda y: tf.nn.moments(y, [0])[1], x[tf.newaxis])[0],
            lambda: x[0],
        )

    np.testing.assert_allclose(traced(variance), EXACT, atol=1e-12)


def test_another_thread_sees_no_replacement():
    received = []

    def elsewhere():
        received.append(traced(lambda x: tf.nn.moments(x, [0])[1], inside=False))

    with exact.operations():
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    np.testing.assert_allclose(received[0], WITHOUT_A_TERM, atol=1e-12)


def test_other_stopped_gradients_stay_stopped():
    """`nn_impl` stops the gradient of labels, too, in the same words."""
    labels = tf.constant([[0.5, 0.5]])
    with tf.GradientTape() as tape, exact.operations():
        tape.watch(labels)
        loss = tf.compat.v1.nn.softmax_cross_entropy_with_logits(
            labels=labels, logits=tf.constant([[1.0, 2.0]])
        )
    assert tape.gradient(loss, labels) is None
