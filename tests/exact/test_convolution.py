"""Convolutions as matrix products: the same function, and the same first and second derivatives."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from maml_tf import functional
from maml_tf.exact import convolution

ORIGINAL = tf.nn.convolution


def pair(shape, kernel, filters, seed=0):
    rng = np.random.default_rng(seed)
    x = tf.constant(rng.normal(size=shape))
    return x, tf.constant(rng.normal(size=(*kernel, shape[-1], filters)))


def derivatives(function, x, w, seed=1):
    """Output, first derivatives, and those of a scalar of the first ones: all that MAML uses.

    In a graph: TensorFlow's eager convolutions have no second derivative.
    """
    return tf.function(_derivatives, autograph=False)(function, x, w, seed)


def _derivatives(function, x, w, seed):
    rng = np.random.default_rng(seed)
    with tf.GradientTape() as outer:
        outer.watch([x, w])
        with tf.GradientTape() as inner:
            inner.watch([x, w])
            y = function(x, w)
            loss = tf.reduce_sum(tf.tanh(y) * tf.constant(rng.normal(size=y.shape)))
        first = inner.gradient(loss, [x, w])
        scalar = tf.add_n([tf.reduce_sum(tf.sin(g)) for g in first])
    return [y, *first, *outer.gradient(scalar, [x, w])]


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    channels=st.integers(1, 4),
    padding=st.sampled_from(["SAME", "VALID"]),
    filters=st.sampled_from([2, 40]),
)
def test_it_is_the_convolution_of_tensorflow(size, kernel, strides, channels, padding, filters):
    if padding == "VALID" and (size[0] < kernel[0] or size[1] < kernel[1]):
        return
    x, w = pair((2, *size, channels), kernel, filters)
    agrees_with_tensorflow(x, w, strides, padding)


def agrees_with_tensorflow(x, w, strides, padding):
    ours = derivatives(lambda x, w: convolution.convolution(ORIGINAL, x, w, strides, padding), x, w)
    theirs = derivatives(lambda x, w: ORIGINAL(x, w, strides, padding), x, w)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.sampled_from(["SAME", "VALID"]),
)
def test_so_it_is_in_its_tiny_form(size, kernel, strides, padding):
    """Few pixels and many channels, as in the last layers: patches by a matrix."""
    channels, filters = 33 // (kernel[0] * kernel[1]) + 1, 2 * size[0] * size[1]
    if padding == "VALID":
        kernel = tuple(map(min, kernel, size))
        channels = 33 // (kernel[0] * kernel[1]) + 1
    x, w = pair((2, *size, channels), kernel, filters)
    assert counted(x, w, strides, padding)[1] == []
    agrees_with_tensorflow(x, w, strides, padding)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_the_last_layers_of_omniglots_networks_pad_as_tensorflow_does(size, stride):
    x, w = pair((2, size, size, 8), (3, 3), 40)
    assert counted(x, w, stride, "SAME")[1] == []
    agrees_with_tensorflow(x, w, stride, "SAME")


def counted(*arguments):
    calls = []

    def original(*inner, **keywords):
        calls.append(inner[1].shape[-1])
        return ORIGINAL(*inner, **keywords)

    y = convolution.convolution(original, *arguments)
    return y, calls


@pytest.mark.parametrize(
    ("shape", "filters", "calls"),
    [
        pytest.param((2, 28, 28, 1), 64, [9], id="thin: patches by the identity kernel"),
        pytest.param((2, 4, 4, 64), 64, [], id="tiny: patches by a matrix"),
        pytest.param((2, 14, 14, 64), 64, [64], id="neither: as it is"),
    ],
)
def test_which_form_is_taken(shape, filters, calls):
    assert counted(*pair(shape, (3, 3), filters), 2, "SAME")[1] == calls


@pytest.mark.parametrize("extra", [(None, "NHWC", 2), (None, "NCHW", 1)], ids=str)
def test_dilated_and_channels_first_convolutions_are_left_alone(extra):
    seen = []
    x, w = pair((1, 4, 4, 4), (3, 3), 64)
    convolution.convolution(lambda *a: seen.append(a), x, w, extra[0], "SAME", *extra[1:])
    assert len(seen) == 1


def test_a_kernel_larger_than_the_image_is_left_to_tensorflow():
    x, w = pair((1, 2, 2, 8), (3, 3), 64)
    assert convolution.convolution(ORIGINAL, x, w, 1, "VALID").shape == ORIGINAL(x, w, 1).shape


def test_a_model_gives_what_it_gives_in_keras():
    layers = [keras.layers.Conv2D(40, 3, 2, "same", activation="relu") for _ in range(3)]
    model = keras.Sequential([keras.Input((12, 12, 1)), *layers])
    x = np.random.default_rng(0).normal(size=(3, 12, 12, 1)).astype("float32")
    weights = [v.value for v in model.trainable_variables]
    y, _ = functional.call(model, weights, [], x, training=False)
    np.testing.assert_allclose(y, model(x), rtol=1e-5, atol=1e-6)
    assert tf.nn.convolution is ORIGINAL
