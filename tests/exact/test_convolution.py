"""Convolutions as matrix products: the same function, and the same first and second derivatives."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from maml_tf import functional
from maml_tf.exact import convolution, dispatch

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
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    channels=st.integers(1, 4),
    padding=st.sampled_from(["SAME", "VALID"]),
)
def test_so_it_is_where_tasks_are_vectorised(size, kernel, strides, channels, padding):
    if padding == "VALID":
        kernel = tuple(map(min, kernel, size))
    x, w = pair((2, *size, channels), kernel, 3)
    with dispatch.vectorized_here():
        assert convolution._form(x, w, padding, "NHWC", None) == "sliced"
        agrees_with_tensorflow(x, w, strides, padding)


@pytest.mark.parametrize(("strides", "jit_compile"), [(1, False), (2, True)])
def test_tasks_with_filters_of_their_own_need_no_loop(strides, jit_compile):
    """Vectorised, through both derivatives; `tf.vectorized_map` alone falls back to loops."""
    tasks = [pair((2, 5, 5, 2), (3, 3), 3, seed) for seed in range(3)]
    x, w = (tf.stack(t) for t in zip(*tasks, strict=True))

    def one(element):
        with dispatch.vectorized_here():
            return _derivatives(
                lambda x, w: convolution.convolution(ORIGINAL, x, w, strides, "SAME"), *element, 1
            )

    mapped = tf.function(
        lambda *t: tf.vectorized_map(one, t), autograph=False, jit_compile=jit_compile
    )
    graph = mapped.get_concrete_function(x, w).graph.as_graph_def()
    called = [node.op for function in graph.library.function for node in function.node_def]
    assert not {"While", "StatelessWhile"} & {*called, *(node.op for node in graph.node)}
    expected = [derivatives(lambda x, w: ORIGINAL(x, w, strides, "SAME"), *task) for task in tasks]
    for ours, theirs in zip(mapped(x, w), zip(*expected, strict=True), strict=True):
        np.testing.assert_allclose(ours, np.stack(theirs), rtol=1e-9, atol=1e-9)


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


# Which form is taken, at its borders.
TINY, THIN, AS_IT_IS = "tiny", "thin", "as it is"
BORDERS = [
    # 32 taps times channels are thin, more are not.
    ((1, 9, 9, 8), (2, 2), 5, {}, THIN),
    ((1, 9, 9, 32), (1, 1), 5, {}, THIN),
    ((1, 9, 9, 33), (1, 1), 5, {}, AS_IT_IS),
    ((1, 9, 9, 11), (3, 1), 5, {}, AS_IT_IS),
    ((1, 9, 9, 11), (1, 3), 5, {}, AS_IT_IS),
    # 16 pixels with twice as many filters are tiny, and so are fewer pixels.
    ((1, 4, 4, 4), (3, 3), 32, {}, TINY),
    ((1, 4, 4, 4), (3, 3), 31, {}, AS_IT_IS),
    ((1, 1, 16, 4), (3, 3), 32, {"padding": "SAME"}, TINY),
    ((1, 1, 17, 4), (3, 3), 34, {"padding": "SAME"}, AS_IT_IS),
    ((1, 17, 1, 4), (3, 3), 34, {"padding": "SAME"}, AS_IT_IS),
    ((1, 3, 2, 4), (3, 3), 12, {"padding": "SAME"}, TINY),
    ((1, 3, 2, 4), (3, 3), 11, {"padding": "SAME"}, AS_IT_IS),
    ((1, 3, 2, 8), (3, 2), 12, {"padding": "VALID"}, TINY),
    ((1, 3, 2, 8), (2, 3), 12, {"padding": "VALID"}, AS_IT_IS),
    ((1, 2, 3, 8), (3, 2), 12, {"padding": "VALID"}, AS_IT_IS),
    # Whatever is not plain.
    ((1, 4, 4, 4), (3, 3), 32, {"dilations": 1}, TINY),
    ((1, 4, 4, 4), (3, 3), 32, {"dilations": [1, 1]}, TINY),
    ((1, 4, 4, 4), (3, 3), 32, {"dilations": (1, 2)}, AS_IT_IS),
    ((1, 4, 4, 4), (3, 3), 32, {"data_format": "NHWC"}, TINY),
    ((1, 4, 4, 1), (3, 3), 32, {"data_format": "NCHW"}, AS_IT_IS),
    ((1, 9, 9, 1), (3, 3), 5, {"padding": [[0, 0], [1, 1], [1, 1], [0, 0]]}, AS_IT_IS),
    ((1, 9, 1), (3,), 5, {}, AS_IT_IS),
    ((1, 5, 5, 5, 1), (2, 2, 2), 5, {}, AS_IT_IS),
]


class LeftError(Exception):
    """A convolution was left to TensorFlow, with these arguments."""


def form_of(x, w, **options):
    """The form that a convolution takes, and what it gives, or how TensorFlow's is called."""
    thin = []

    def original(*arguments):
        if arguments[1] is w:
            raise LeftError(arguments)
        thin.append(arguments)
        return ORIGINAL(*arguments)

    try:
        y = convolution.convolution(original, x, w, **options)
    except LeftError as error:
        return AS_IT_IS, error.args[0]
    return THIN if thin else TINY, y


@pytest.mark.parametrize(("shape", "kernel", "filters", "options", "form"), BORDERS, ids=str)
def test_the_borders_of_the_forms(shape, kernel, filters, options, form):
    x, w = pair(shape, kernel, filters)
    received, y = form_of(x, w, **options)
    assert received == form
    if form == AS_IT_IS:
        assert y[:2] == (x, w)
        names = ["strides", "padding", "data_format", "dilations", "name"]
        defaults = {"padding": "VALID"} | options
        assert y[2:] == tuple(defaults.get(name) for name in names)
    else:
        expected = ORIGINAL(x, w, **options)
        assert y.shape == expected.shape
        np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-12)


def test_large_patches_are_not_laid_out(monkeypatch):
    """Those of 2 x 2 x 8 elements in 8 x 8 places of each of three images, and no more."""
    monkeypatch.setattr(convolution, "_PATCHES", 3 * 64 * 32)
    for count, strides, form in [(3, 1, THIN), (4, 1, AS_IT_IS), (12, 2, THIN), (13, 2, AS_IT_IS)]:
        x, w = pair((count, 8, 8, 8), (2, 2), 5)
        assert form_of(x, w, strides=strides)[0] == form, count


def test_images_of_unknown_number_are_taken_for_few(monkeypatch):
    monkeypatch.setattr(convolution, "_PATCHES", 0)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, 8, 8, 8], tf.float64)])
    def run(x):
        assert form_of(x, pair((1, 8, 8, 8), (2, 2), 5)[1])[0] == THIN

    run.get_concrete_function()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_half_precision_is_left_to_tensorflow(dtype):
    x, w = (tf.cast(t, dtype) for t in pair((1, 4, 4, 4), (3, 3), 32))
    form, y = form_of(x, w)
    assert form == (TINY if dtype in ("float32", "float64") else AS_IT_IS)
    assert form == AS_IT_IS or y.dtype == dtype


def test_grouped_convolutions_are_left_to_tensorflow():
    x, _ = pair((1, 4, 4, 4), (3, 3), 32)
    _, w = pair((1, 4, 4, 2), (3, 3), 32)
    assert form_of(x, w)[0] == AS_IT_IS


@pytest.mark.parametrize(
    ("shape", "form", "static"),
    [
        ([None, 4, 4, 4], TINY, [None, 1, 1, 32]),
        ([None, 9, 9, 1], THIN, [None, 4, 4, 32]),
        ([2, None, 4, 4], AS_IT_IS, None),
        ([2, 4, 4, None], AS_IT_IS, None),
    ],
    ids=str,
)
def test_shapes_that_are_known_while_a_graph_is_traced(shape, form, static):
    channels = shape[3] or 4

    @tf.function(autograph=False, input_signature=[tf.TensorSpec(shape, tf.float64)])
    def traced(x):
        _, w = pair((1, 1, 1, channels), (3, 3), 32)
        received, y = form_of(x, w, strides=2, name="mine")
        assert received == form
        if static:
            assert y.shape.as_list() == static
            assert y.op.name.startswith("mine/")
            assert form_of(x, w)[1].op.name.startswith("convolution/")
        return x

    traced.get_concrete_function()


SIDES = [
    (length, taps, stride)
    for length in (1, 2, 3, 4)
    for taps in (1, 2, 3, 4)
    for stride in (1, 2, 3)
]


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_every_tiny_form_is_the_convolution_of_tensorflow(padding):
    """All lengths, taps and strides of both axes: a padding off by one shows in some of them."""
    sides = [s for s in SIDES if padding == "SAME" or s[0] >= s[1]]
    for i, (height, a, down) in enumerate(sides):
        # Each with another one: along both axes every side comes twice.
        for width, b, right in (sides[-1 - i], sides[(7 * i + 3) % len(sides)]):
            x, w = pair((2, height, width, 33), (a, b), 32, seed=i)
            form, y = form_of(x, w, strides=(down, right), padding=padding)
            expected = ORIGINAL(x, w, (down, right), padding)
            assert (form, y.shape) == (TINY, expected.shape)
            np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-9)
