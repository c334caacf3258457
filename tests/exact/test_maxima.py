"""Max-pooling over windows side by side, with a ReLU and a normalisation before it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import exact, functional
from maml_tf.exact.dispatch import kept_here, vectorized_here
from tests.exact.test_ops import Case, deviations
from tests.problems import compiled, relative_error, task_batch

SHAPE = (2, 6, 5, 3)
# No two elements are nearer to each other, or to zero, than steps of central differences.
APART = (np.random.default_rng(0).permutation(180).reshape(SHAPE) - 89.5) * 0.02
# Many equal ones, zero and negative zero among them, and windows of nothing else.
EQUAL = np.random.default_rng(1).integers(-2, 2, size=(8, 6, 4, 3)) * 1.0
EQUAL[0] = 0.0
EQUAL[1] = -0.0
EQUAL[2] = -1.0
EQUAL[3] = 1.0


def pooled_relu(x):
    return tf.nn.max_pool2d(tf.nn.relu(x), 2, 2, "VALID")


def used_twice(x):
    h = tf.nn.relu(x)
    return tf.concat([tf.reshape(tf.nn.max_pool2d(h, 2, 2, "VALID"), [-1]), tf.reshape(h, [-1])], 0)


def pooled_twice(x):
    h = tf.nn.relu(x)
    twice = [tf.nn.max_pool2d(h, size, size, "VALID") for size in (2, [1, 2])]
    return tf.concat([tf.reshape(y, [-1]) for y in twice], 0)


def outside(x):
    h = tf.nn.relu(x)
    return tf.map_fn(lambda i: tf.nn.max_pool2d(h, 2, 2, "VALID") * i, x[:2, 0, 0, 0])


FUNCTIONS = {
    "relu": pooled_relu,
    "alone": lambda x: tf.nn.max_pool2d(x, 2, 2, "VALID"),
    "leaky": lambda x: tf.nn.max_pool2d(tf.nn.leaky_relu(x), 2, 2, "VALID"),
    "relu-of-pooled": lambda x: pooled_relu(
        pooled_relu(tf.pad(x, [[0, 0], [1, 1], [2, 1], [0, 0]]))
    ),
    "relu-used-twice": used_twice,
    "relu-pooled-twice": pooled_twice,
    "same": lambda x: tf.nn.max_pool2d(tf.nn.relu(x[:, :, :4]), 2, 2, "SAME"),
    "wide": lambda x: tf.nn.max_pool2d(tf.nn.relu(x), [1, 4], [1, 4], "VALID"),
    "one-axis": lambda x: tf.nn.max_pool1d(tf.nn.relu(x[:, 0]), 2, 2, "VALID"),
    "three": lambda x: tf.nn.max_pool2d(tf.nn.relu(x), 3, 3, "VALID"),
    "overlapping": lambda x: tf.nn.max_pool2d(tf.nn.relu(x), 2, 1, "VALID"),
    "relu-outside": outside,
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_both_derivatives_are_those_of_central_differences(function):
    first, second = deviations(Case(lambda x: function(1.01 * x), APART, traced=True))
    assert first < 1e-6
    assert second < 1e-6


def derivatives(function, x, kept=()):
    """The value, and its gradient, the gradient of that and so on up to the third order."""
    rng = np.random.default_rng(3)
    with tf.GradientTape() as third:
        third.watch(x)
        with tf.GradientTape() as second:
            second.watch(x)
            with exact.operations(), kept_here(*kept), tf.GradientTape() as first:
                first.watch(x)
                y = function(x)
                weights = tf.constant(rng.normal(size=y.shape), y.dtype)
                loss = tf.reduce_sum(y * y * y * weights)
            with exact.refusals():
                one = first.gradient(loss, x)
            directions = tf.constant(rng.normal(size=x.shape), x.dtype)
            scalar = tf.reduce_sum(one * one * directions)
        with exact.refusals():
            two = second.gradient(scalar, x)
        scalar = tf.reduce_sum(two * directions)
    with exact.refusals():
        return [y, one, two, third.gradient(scalar, x)]


def orders(function, x, kept=()):
    """`derivatives` and the graph that computes them."""
    run = tf.function(lambda x: derivatives(function, x, kept), autograph=False)
    return run(tf.constant(x)), run.get_concrete_function(tf.constant(x)).graph


# Three orders through a loop take a quarter of a minute to trace.
UNROLLED = {name: function for name, function in FUNCTIONS.items() if function is not outside}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("function", UNROLLED.values(), ids=UNROLLED)
def test_of_equal_elements_the_same_one_counts_as_in_tensorflow(function, dtype):
    x = EQUAL.astype(dtype)
    received, expected = (orders(function, x, kept)[0] for kept in ((), ("max_pool", "MaxPool")))
    for one, other in zip(received, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6 if dtype == "float32" else 1e-12)


@pytest.mark.parametrize("function", [pooled_relu, used_twice], ids=["alone", "used twice"])
def test_what_is_not_a_number_stays_none(function):
    x = EQUAL.astype("float32")
    x[0, 0, 0, 0], x[1, 1, 1, 1], x[2, 3, 2, 0] = np.nan, np.inf, -np.inf
    received, expected = (orders(function, x, kept)[0][0] for kept in ((), ("max_pool",)))
    np.testing.assert_array_equal(received, expected)


def needed(graph):
    """Operations on which the outputs of a graph depend."""
    waiting, seen = [t.op for t in graph.outputs], set()
    while waiting:
        op = waiting.pop()
        if op not in seen:
            seen.add(op)
            waiting += [*(t.op for t in op.inputs), *op.control_inputs]
    return seen


def full_size(graph, kinds):
    """Types of those among the needed operations that are as large as the input."""
    size = graph.inputs[0].shape.num_elements()
    found = [op for op in needed(graph) if op.type in kinds]
    return {op.type for op in found if op.outputs[0].shape.num_elements() == size}


RELU = ("Relu", "ReluGrad")


def test_no_relu_is_as_large_as_the_images():
    x = EQUAL.astype("float32")
    assert full_size(orders(pooled_relu, x, ["max_pool"])[1], RELU) == set(RELU)
    graph = orders(pooled_relu, x)[1]
    assert full_size(graph, RELU) == set()
    assert "MaxPoolGradGrad" not in {op.type for op in needed(graph)}


def test_a_gradient_towards_the_result_of_the_relu_is_that_of_pooling():
    x, rng = tf.constant(EQUAL), np.random.default_rng(4)

    @tf.function(autograph=False)
    def towards(kept):
        with exact.operations(), kept_here(*kept), tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            h = tf.nn.relu(x)
            y = tf.nn.max_pool2d(h, 2, 2, "VALID")
            loss = tf.reduce_sum(y * tf.constant(rng.normal(size=y.shape)))
        with exact.refusals():
            below = tape.gradient(loss, h)
            # Of another ReLU it is any upstream gradient.
            with tf.GradientTape() as other:
                other.watch(x)
                z = tf.nn.relu(x - 0.5)
            return below, other.gradient(z, x, output_gradients=below)

    rng = np.random.default_rng(4)
    received = towards(())
    rng = np.random.default_rng(4)
    for one, other in zip(received, towards(("max_pool",)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.any(received[0][0])  # also where nothing is above zero


def block(x, scale=None):
    """Normalised, rectified, pooled."""
    mean, variance = keras.ops.moments(x, [0, 1, 2])
    y = keras.ops.batch_normalization(x, mean, variance, -1, offset=x[0, 0, 0], scale=scale)
    return pooled_relu(y)


SCALES = {"none": None, "positive": [0.5, 1.5, 1.0], "negative": [0.5, -1.5, 0.0]}


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
def test_after_a_normalisation_derivatives_are_those_of_tensorflow(scale):
    def function(x):
        return block(x, None if scale is None else tf.constant(scale, x.dtype))

    expected = orders(function, APART, ["max_pool", "batch_normalization"])[0]
    received, graph = orders(function, APART.astype("float32"))
    for one, other in zip(received, expected, strict=True):
        assert relative_error(one, other) < 2e-5
    normalised = [op.outputs[0] for op in needed(graph) if op.type == "FusedBatchNormV3"]
    images = [op.inputs[0] for op in needed(graph) if op.type == "MaxPoolGrad"]
    own = any(image is y for image in images for y in normalised)
    assert own == (scale is SCALES["negative"])


def model():
    """Two blocks of a network for images."""
    layers = [keras.Input((9, 8, 2))]
    for i in range(2):
        glorot = keras.initializers.GlorotNormal(seed=i)
        layers += [
            keras.layers.Conv2D(4, 3, padding="same", kernel_initializer=glorot),
            keras.layers.BatchNormalization(scale=False),
            keras.layers.ReLU(),
            keras.layers.MaxPooling2D(2),
        ]
    glorot = keras.initializers.GlorotNormal(seed=9)
    return keras.Sequential(
        [*layers, keras.layers.Flatten(), keras.layers.Dense(2, kernel_initializer=glorot)]
    )


WAYS = {
    "second order": {},
    "first order": {"first_order": True},
    "rematerialized": {"rematerialize": True},
    "eager": {},
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("way", WAYS)
def test_a_meta_gradient_is_the_same(way):
    inputs, query_y = task_batch((9, 8, 2), (2,))
    network = model()
    learner = compiled(network, 0.1, **WAYS[way])
    received = (learner.meta_gradient if way == "eager" else tf.function(learner.meta_gradient))(
        inputs, query_y
    )
    learner = compiled(network, 0.1, first_order=learner.first_order)
    with kept_here("max_pool", "batch_normalization"):
        expected = tf.function(learner.meta_gradient)(inputs, query_y)
    np.testing.assert_allclose(received[0], expected[0], rtol=1e-9)
    assert relative_error(received[1], expected[1]) < 1e-9


def kinds_of(jit_compile=False, **settings):
    """Types of the operations of a pooling within a model."""
    pool = keras.Sequential([keras.Input((6, 4, 3)), keras.layers.MaxPooling2D(**settings)])

    @tf.function(autograph=False, jit_compile=jit_compile)
    def run(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = tf.reduce_sum(functional.call(pool, [], [], x, training=True)[0] ** 2)
            gradient = tape.gradient(y, x)
        return outer.gradient(gradient, x)

    graph = run.get_concrete_function(tf.constant(EQUAL, tf.float32)).graph
    return {op.type for op in graph.get_operations()}


def test_which_windows_it_takes():
    for taken in ({}, {"pool_size": (1, 2)}, {"padding": "same"}, {"pool_size": (2, 4)}):
        assert "MaxPoolGradGrad" not in kinds_of(**taken), taken
    for left in ({"pool_size": 3}, {"strides": 1}, {"pool_size": (4, 4), "padding": "same"}):
        assert "MaxPoolGradGrad" in kinds_of(**left), left


def test_vectorised_and_compiled_it_is_left_alone():
    with vectorized_here():
        assert "MaxPoolGradGrad" in kinds_of()
    assert "AvgPool" not in kinds_of(jit_compile=True)
    assert "AvgPool" in kinds_of()
