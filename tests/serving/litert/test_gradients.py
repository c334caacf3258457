"""Each gradient written out for LiteRT against TensorFlow's own, in float64."""

import concurrent.futures
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from maml_tf import exact
from maml_tf.serving.litert import gradients

few = settings(
    max_examples=15, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate]
)
sides = st.tuples(st.integers(3, 8), st.integers(3, 8))
windows = st.tuples(st.integers(1, 3), st.integers(1, 3))
paddings = st.sampled_from(["SAME", "VALID"])


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def both(function, *inputs):
    """Gradients of `function` at `inputs`: those for LiteRT, and TensorFlow's own."""
    inputs = [tf.constant(x) for x in inputs]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(inputs)
        y = function(*inputs)
    upstream = tf.constant(normal(*y.shape, seed=1), y.dtype)
    own = tape.gradient(y, inputs, upstream)
    with gradients.in_place():
        ours = tape.gradient(y, inputs, upstream)
    return ours, own


def check(function, *inputs, rtol=1e-11):
    for ours, own in zip(*both(function, *inputs), strict=True):
        assert ours.dtype == own.dtype
        np.testing.assert_allclose(ours, own, rtol=rtol, atol=rtol)


@pytest.mark.parametrize(
    "name", ["relu", "relu6", "leaky_relu", "elu", "selu", "softsign", "softplus"]
)
def test_activations(name):
    at_the_kinks = [[0.0, 6.0, -0.0]]
    check(getattr(tf.nn, name), np.concatenate([4 * normal(1, 50), at_the_kinks], 1))


@pytest.mark.parametrize(
    ("module", "name"),
    [(tf.math, "erf"), (tf.math, "erfc"), (tf.nn, "gelu"), (keras.activations, "gelu")],
    ids=["erf", "erfc", "gelu", "gelu of Keras"],
)
def test_the_error_function_and_what_is_made_of_it(module, name):
    """In float32, in which alone LiteRT computes; TensorFlow's own is off by 3e-7, too."""
    x = tf.constant(np.linspace(-6, 6, 2001, dtype=np.float32))

    def traced():
        # Made anew each time: a trace is kept with the operations that it was made of.
        @tf.function(autograph=False)
        def derived(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                with exact.dispatch.replaced_here():
                    y = getattr(module, name)(x)
            return y, tape.gradient(y, x)

        return derived.get_concrete_function(x)

    own = traced()
    with gradients.in_place():
        ours = traced()
    kinds = [{op.type for op in f.graph.get_operations()} for f in (own, ours)]
    assert kinds[0] & {"Erf", "Erfc"}
    assert not kinds[1] & {"Erf", "Erfc"}
    for mine, theirs in zip(ours(x), own(x), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-6, atol=2e-6)
    if name == "erf":
        closed = [math.erf(value) for value in x.numpy().astype(np.float64)]
        np.testing.assert_allclose(ours(x)[0], closed, rtol=0, atol=5e-7)


@few
@given(sides, windows, st.integers(1, 3), paddings, st.sampled_from([1, 2, 3]))
def test_convolutions(side, window, stride, padding, groups):
    assume(padding == "SAME" or (side[0] >= window[0] and side[1] >= window[1]))

    def convolution(x, kernel):
        # TensorFlow's own gradient on the CPU knows no groups.
        parts = zip(tf.split(x, groups, 3), tf.split(kernel, groups, 3), strict=True)
        return tf.concat([tf.nn.conv2d(p, k, stride, padding) for p, k in parts], 3)

    x, kernel = normal(2, *side, 2 * groups), normal(*window, 2, 3 * groups)
    check(convolution, x, kernel)


def test_convolutions_in_groups():
    x, kernel = tf.constant(normal(2, 5, 5, 4)), tf.constant(normal(3, 3, 2, 6))

    @tf.function(autograph=False, jit_compile=True)
    def together(x, kernel):
        return tf.nn.conv2d(x, kernel, 2, "SAME")

    def apart(x, kernel):
        parts = zip(tf.split(x, 2, 3), tf.split(kernel, 2, 3), strict=True)
        return tf.concat([tf.nn.conv2d(p, k, 2, "SAME") for p, k in parts], 3)

    with gradients.in_place():
        _check_second_way(together, apart, x, kernel)


@few
@given(sides, windows, st.integers(1, 3), paddings)
def test_dilated_convolutions(side, window, dilation, padding):
    reach = [(n - 1) * dilation + 1 for n in window]
    assume(padding == "SAME" or (side[0] >= reach[0] and side[1] >= reach[1]))

    def taken_apart(x, kernel):
        # TensorFlow's own gradient on the CPU knows no dilations.
        return tf.nn.with_space_to_batch(
            x,
            [dilation, dilation],
            padding,
            lambda x, num_spatial_dims, padding: tf.nn.conv2d(x, kernel, 1, padding),
            kernel.shape[:2],
        )

    x, kernel = tf.constant(normal(2, *side, 2)), tf.constant(normal(*window, 2, 3))
    with gradients.in_place():
        _check_second_way(
            lambda x, k: tf.nn.conv2d(x, k, 1, padding, dilations=dilation), taken_apart, x, kernel
        )


def _check_second_way(function, second, *inputs):
    """Gradients of a function where TensorFlow has none, by another function that is the same."""
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(inputs)
        y, other = function(*inputs), second(*inputs)
    np.testing.assert_allclose(y, other, rtol=1e-11, atol=1e-11)
    upstream = tf.constant(normal(*y.shape, seed=1))
    pairs = zip(
        tape.gradient(y, inputs, upstream), tape.gradient(other, inputs, upstream), strict=True
    )
    for ours, own in pairs:
        np.testing.assert_allclose(ours, own, rtol=1e-11, atol=1e-11)


@few
@given(sides, windows, st.integers(1, 3), paddings)
def test_transposed_convolutions(side, window, stride, padding):
    assume(padding == "SAME" or (side[0] >= window[0] and side[1] >= window[1]))
    image = tf.zeros([1, *side, 1])
    size = tf.nn.conv2d(image, tf.zeros([*window, 1, 1]), stride, padding).shape[1:3]

    def transposed(x, kernel):
        return tf.nn.conv2d_transpose(x, kernel, [2, *side, 2], stride, padding)

    check(transposed, normal(2, *size, 3), normal(*window, 2, 3))


@few
@given(sides, windows, st.integers(1, 3), paddings, st.integers(1, 3))
def test_depthwise_convolutions(side, window, stride, padding, multiplier):
    assume(padding == "SAME" or (side[0] >= window[0] and side[1] >= window[1]))

    def depthwise(x, kernel):
        return tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], padding)

    check(depthwise, normal(2, *side, 3), normal(*window, 3, multiplier))


@few
@given(sides, windows, st.integers(1, 3), paddings)
def test_pooling(side, window, stride, padding):
    assume(padding == "SAME" or (side[0] >= window[0] and side[1] >= window[1]))
    x = normal(2, *side, 3)
    check(lambda x: tf.nn.max_pool2d(x, window, stride, padding), x)
    check(lambda x: tf.nn.avg_pool2d(x, window, stride, padding), x)
    # Of equal ones the first counts, as after a ReLU.
    check(lambda x: tf.nn.max_pool2d(x, window, stride, padding), np.maximum(x, 0))


SLICES = {
    "first": np.s_[1:],
    "last": np.s_[:, -1],
    "stride": np.s_[..., ::2],
    "backwards": np.s_[::-1, 1:6:2],
    "backwards by two": np.s_[:, 5:0:-2],
    "new axis": np.s_[:, None, 2],
    "ellipsis": np.s_[None, ..., 1:, ::-2],
    "from behind": np.s_[-3:-1, :-20:-1],
    "one": np.s_[2, 3, 4],
    "beyond": np.s_[-20:20, 3:50],
}


@pytest.mark.parametrize("cut", SLICES.values(), ids=SLICES)
def test_slices(cut):
    check(lambda x: 2 * x[cut], normal(5, 7, 6))


@pytest.mark.parametrize("repetitions", [(3, 1, 2), (1, 4, 1), (2, 2, 2), (1, 1, 1)])
def test_repetitions(repetitions):
    check(lambda x: tf.tile(x, repetitions), normal(2, 3, 4))


@pytest.mark.parametrize("method", ["bilinear", "nearest"])
@pytest.mark.parametrize("size", [(5, 4), (12, 13), (8, 6)])
@pytest.mark.parametrize("grid", ["half_pixel_centers", "align_corners"])
def test_resizing(method, size, grid):
    resize = {
        "bilinear": tf.raw_ops.ResizeBilinear,
        "nearest": tf.raw_ops.ResizeNearestNeighbor,
    }[method]
    x = normal(2, 8, 6, 3).astype(np.float32)
    # TensorFlow computes both in float32.
    check(lambda x: resize(images=x, size=size, **{grid: True}), x, rtol=2e-6)


def test_what_is_not_known_while_tracing_is_left_to_tensorflow():
    @tf.function(input_signature=[tf.TensorSpec([None, None, 4, 2])], autograph=False)
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.nn.max_pool2d(x, 2, 2, "VALID")
        with gradients.in_place():
            return tape.gradient(y, x)

    assert gradient(normal(1, 4, 4, 2)).shape == (1, 4, 4, 2)


LAYERS = {
    "ReluGrad": keras.ops.relu,
    # Which `maml_tf.exact` replaces, too, with a derivative of its own.
    "ResizeBilinearGrad": lambda x: tf.image.resize(x, (3, 5)),
}


@pytest.mark.parametrize(("lacking", "layer"), LAYERS.items(), ids=LAYERS)
def test_they_are_in_place_within_the_block_and_this_thread_alone(lacking, layer):
    x = tf.constant(normal(1, 4, 4, 2), tf.float32)

    def operations():
        @tf.function(autograph=False)
        def gradient(x):
            with exact.operations(), tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x)
            return tape.gradient(y, x)

        return {op.type for op in gradient.get_concrete_function(x).graph.get_operations()}

    with gradients.in_place():
        within = operations()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            elsewhere = pool.submit(operations).result()
    assert lacking not in within
    assert lacking in elsewhere
    assert lacking in operations()
