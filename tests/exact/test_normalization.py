"""Batch normalisation in closed form: values and derivatives of the first three orders."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import exact, functional
from maml_tf.exact.normalization import batch_normalization
from tests.problems import compiled, relative_error, task_batch, traced_meta_gradient

EPSILON = 1e-3
SHAPE = (2, 3, 2, 4)
GIVEN = [(True, True), (True, False), (False, True), (False, False)]


def values(scale, offset, shape=SHAPE, seed=0):
    """x and, where they are trained, a scale (one of them zero) and an offset."""
    rng = np.random.default_rng(seed)
    parts = [rng.normal(0.7, 1.3, size=shape)]
    parts += [np.append(rng.normal(size=shape[-1] - 1), 0.0)] if scale else []
    parts += [rng.normal(size=shape[-1])] if offset else []
    return [tf.constant(p) for p in parts]


def ours(scale, offset):
    def function(x, *given):
        given = list(given)
        s = given.pop(0) if scale else None
        return batch_normalization(x, s, given.pop(0) if offset else None, EPSILON)

    return function


def plain(scale, offset):
    def function(x, *given):
        given = list(given)
        mean = tf.reduce_mean(x, [0, 1, 2])
        variance = tf.reduce_mean(tf.square(x - mean), [0, 1, 2])
        y = (x - mean) / tf.sqrt(variance + EPSILON)
        y = y * given.pop(0) if scale else y
        return y + given.pop(0) if offset else y

    return function


def chain(function, order):
    """Scalars of the value, of its gradient, of the gradient of that, and so on."""

    def scalar(inputs):
        rng = np.random.default_rng(order)
        if order == 0:
            y = function(*inputs)
            return tf.reduce_sum(tf.sin(y) * tf.constant(rng.normal(size=y.shape), y.dtype))
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            below = chain(function, order - 1)(inputs)
        gradients = tape.gradient(below, inputs)
        return tf.add_n(
            [tf.reduce_sum(tf.tanh(g) * tf.constant(rng.normal(size=g.shape))) for g in gradients]
        )

    return scalar


def gradient(scalar, inputs):
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y = scalar(inputs)
    return tape.gradient(y, inputs)


def traced(function, *arguments):
    return tf.function(function, autograph=False)(*arguments)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize(("scale", "offset"), GIVEN)
def test_derivatives_are_those_of_central_differences(scale, offset, order):
    inputs = values(scale, offset)
    scalar = tf.function(chain(ours(scale, offset), order), autograph=False)
    for received, i in zip(gradient(scalar, inputs), range(len(inputs)), strict=True):
        x = inputs[i].numpy()
        expected = np.zeros_like(x)
        for place in np.ndindex(*x.shape):
            sides = []
            for step in (1e-5, -1e-5):
                moved = x.copy()
                moved[place] += step
                sides.append(scalar([*inputs[:i], tf.constant(moved), *inputs[i + 1 :]]))
            expected[place] = (sides[0] - sides[1]) / 2e-5
        np.testing.assert_allclose(received, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize(("scale", "offset"), GIVEN)
@pytest.mark.parametrize("graph", [True, False], ids=["graph", "eager"])
def test_derivatives_are_those_of_the_plain_operations(scale, offset, order, graph):
    """The third order, too, which a learner that descends along curvature asks for."""
    inputs = values(scale, offset, seed=1)
    run = traced if graph else lambda function, *arguments: function(*arguments)
    received, expected = (
        run(gradient, chain(make(scale, offset), order), inputs) for make in (ours, plain)
    )
    for one, other in zip(received, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-10)


def second_order(function, inputs):
    """Value, gradient along random directions and its gradient, in the dtype of the inputs."""
    rng = np.random.default_rng(5)
    with tf.GradientTape() as outer:
        outer.watch(inputs)
        with tf.GradientTape() as inner:
            inner.watch(inputs)
            y = function(*inputs)
            loss = tf.reduce_sum(y * y * tf.constant(rng.normal(size=y.shape), y.dtype))
        first = inner.gradient(loss, inputs)
        directions = [tf.constant(rng.normal(size=g.shape), g.dtype) for g in first]
        scalar = tf.add_n([tf.reduce_sum(g * d) for g, d in zip(first, directions, strict=True)])
    return [y, *first, *outer.gradient(scalar, inputs)]


@pytest.mark.parametrize("shape", [(5, 7, 7, 64), (3, 16, 15, 8), (2, 1, 1, 3), (1, 2, 3, 1)])
@pytest.mark.parametrize(("scale", "offset"), GIVEN)
def test_the_fused_kernels_of_single_precision_give_the_same(scale, offset, shape):
    inputs = values(scale, offset, shape, seed=2)
    expected = traced(second_order, plain(scale, offset), inputs)
    single = [tf.cast(t, tf.float32) for t in inputs]
    received = traced(second_order, ours(scale, offset), single)
    for one, other in zip(received, expected, strict=True):
        assert one.dtype == tf.float32
        # Of two examples nearly everything cancels; what is left is rounding of numbers near 1.
        size = max(1.0, np.abs(other).max(initial=0.0))
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * size)


def test_a_mean_that_is_large_beside_the_deviation_costs_no_digits():
    x = values(False, False, (4, 9, 9, 8))[0]
    expected = traced(second_order, plain(False, False), [x])
    received = traced(second_order, ours(False, False), [tf.cast(x + 64.0, tf.float32)])
    for one, other in zip(received, expected, strict=True):
        assert relative_error(one, other) < 1e-4


def operations_of(layer, x, mode="batch", jit_compile=False, **settings):
    """Types of the operations of a layer that normalises in graph mode, and its model's answer."""
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    kinds = model.trainable_variables, model.non_trainable_variables
    weights, state = ([v.value for v in kind] for kind in kinds)

    def run(x):
        return functional.call(
            model, weights, state, x, training=True, batch_norm=mode, **settings
        )[0]

    function = tf.function(run, autograph=False, jit_compile=jit_compile)
    graph = function.get_concrete_function(x).graph
    return {op.type for op in graph.get_operations()}, function(x)


FUSED = "FusedBatchNormV3"


@pytest.mark.parametrize("mode", ["batch", "store"])
@pytest.mark.parametrize("settings", [{}, {"scale": False}, {"center": False}], ids=str)
def test_a_layer_of_keras_takes_it(mode, settings):
    x = tf.random.stateless_normal([4, 5, 5, 3], [0, 1])
    found, y = operations_of(keras.layers.BatchNormalization(**settings), x, mode)
    assert FUSED in found
    np.testing.assert_allclose(tf.math.reduce_std(y, [0, 1, 2]), np.ones(3), rtol=1e-3)
    np.testing.assert_allclose(tf.reduce_mean(y, [0, 1, 2]), np.zeros(3), atol=1e-6)


NORM = keras.layers.BatchNormalization
OTHERS = {
    "moving averages": (NORM, (4, 5, 5, 3), "moving", {}),
    "vectors": (NORM, (4, 3), "batch", {}),
    "channels first": (lambda: NORM(axis=1), (4, 3, 5, 5), "batch", {}),
    "frozen": (lambda: NORM(trainable=False), (4, 5, 5, 3), "batch", {}),
    "counted": (NORM, (4, 5, 5, 3), "batch", {"counted": tf.constant([True] * 4)}),
    "layers": (keras.layers.LayerNormalization, (4, 5, 5, 3), "batch", {}),
    "XLA": (NORM, (4, 5, 5, 3), "batch", {"jit_compile": True}),
}


@pytest.mark.parametrize(("build", "shape", "mode", "settings"), OTHERS.values(), ids=OTHERS)
def test_what_else_normalises_is_left_alone(build, shape, mode, settings):
    x = tf.random.stateless_normal(shape, [0, 1])
    assert FUSED not in operations_of(build(), x, mode, **settings)[0]


def test_vectorised_it_is_left_alone():
    with exact.dispatch.vectorized_here():
        x = tf.random.stateless_normal([4, 5, 5, 3], [0, 1])
        assert FUSED not in operations_of(NORM(), x)[0]


def test_a_mean_of_other_examples_is_left_alone():
    """Such as that of a part of the batch, whose derivative is another one."""
    x = tf.random.stateless_normal([4, 3, 3, 2], [0, 1])
    with exact.operations():
        mean, variance = keras.ops.moments(x[:2], [0, 1, 2])
        y = keras.ops.batch_normalization(x, mean, variance, -1)
    expected = (x - mean) / tf.sqrt(variance + 1e-3)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_renormalisation_keeps_its_derivatives():
    """Its scale depends on the mean and variance."""
    layer = NORM(renorm=True, dtype="float64", momentum=0.5)
    x = values(False, False)[0]
    model = keras.Sequential([keras.Input(SHAPE[1:], dtype="float64"), layer])
    state = [v.value + 0.3 for v in model.non_trainable_variables]

    def function(x):
        weights = [v.value for v in model.trainable_variables]
        return functional.call(model, weights, state, x, training=True)[0]

    def as_it_is(x):
        with exact.dispatch.kept_here("batch_normalization"):
            return function(x)

    received, expected = (traced(second_order, f, [x]) for f in (function, as_it_is))
    for one, other in zip(received, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-10)


def normalised(x):
    mean, variance = keras.ops.moments(x, [0, 1, 2])
    return keras.ops.batch_normalization(x, mean, variance, -1, epsilon=EPSILON)


def biased(normalise, beside):
    """A convolution with a bias, normalised by its own mean; beside it the convolution itself."""

    def function(x, kernel, bias):
        total = keras.ops.add(tf.nn.conv2d(x, kernel, 1, "SAME"), tf.reshape(bias, [1, 1, 1, -1]))
        y = normalise(total)
        return y * tf.tanh(y) + beside * tf.sin(total)

    return function


def biased_inputs(dtype=tf.float64):
    rng = np.random.default_rng(4)
    return [tf.constant(rng.normal(size=s), dtype) for s in [(2, 4, 3, 2), (3, 3, 2, 3), (3,)]]


@pytest.mark.parametrize("beside", [0.0, 0.7], ids=["leaves", "used elsewhere, too"])
@pytest.mark.parametrize("graph", [True, False], ids=["graph", "eager"])
def test_a_bias_leaves_with_the_mean(beside, graph):
    run = traced if graph else lambda function, *arguments: function(*arguments)

    def with_operations(*inputs):
        with exact.operations():
            return biased(normalised, beside)(*inputs)

    inputs = biased_inputs()
    received = run(second_order, with_operations, inputs)
    expected = run(second_order, biased(plain(False, False), beside), inputs)
    for one, other in zip(received, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-10)
    if not beside:  # of both orders, and not only within rounding
        for i in (3, 6):
            np.testing.assert_array_equal(received[i], np.zeros(3))


def test_moving_averages_know_the_bias():
    x, kernel, bias = biased_inputs(tf.float32)
    model = keras.Sequential([keras.Input(x.shape[1:]), keras.layers.Conv2D(3, 3), NORM()])
    model.layers[0].set_weights([kernel, bias])
    weights = [v.value for v in model.trainable_variables]
    state = [v.value for v in model.non_trainable_variables]
    settings = {"training": True, "batch_norm": "store"}
    _, stored = functional.call(model, weights, state, x, **settings)
    mean = tf.reduce_mean(model.layers[0](x), [0, 1, 2])
    np.testing.assert_allclose(stored[0], mean, rtol=1e-5, atol=1e-6)


def test_a_meta_gradient_takes_no_biases_along():
    kernels = keras.initializers.HeNormal(seed=0)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Conv2D(3, 3, kernel_initializer=kernels, bias_initializer="ones"),
            NORM(),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dense(2, use_bias=False, kernel_initializer=kernels),
        ]
    )
    function = traced_meta_gradient(compiled(model, inner_steps=2), *task_batch((6, 6, 1), (2,)))
    library = function.get_concrete_function().graph.as_graph_def().library.function
    assert not any(node.op == "BiasAddGrad" for f in library for node in f.node_def)
    gradients = function()[1]
    np.testing.assert_array_equal(gradients[1], np.zeros(3))
    assert np.abs(gradients[0]).max() > 0
