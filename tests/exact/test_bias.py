"""The gradient of a bias, which oneDNN must not merge with that of a kernel."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf import exact
from tests.problems import compiled, task_batch, traced_meta_gradient

CLASSES = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def meta_gradient():
    """Traced: two convolutions with biases through as many inner steps as made a cycle."""
    model = maml_tf.models.conv4(2, filters=4, input_shape=(8, 8, 3))
    inputs, query_y = task_batch((8, 8, 3), ())
    labels = {"support_y": tf.constant([[0, 1, 0, 1]] * 2)}
    learner = compiled(model, 0.1, loss=CLASSES, inner_steps=5)
    return traced_meta_gradient(learner, {**inputs, **labels}, tf.constant([[0, 1, 0]] * 2))


def shared(graph_def):
    """Biases' gradients that are taken of the same tensor as a kernel's."""
    found = []
    for function in [*graph_def.library.function]:
        kernels = {n.input[2] for n in function.node_def if n.op == "Conv2DBackpropFilter"}
        found += [n for n in function.node_def if n.op == "BiasAddGrad" and n.input[0] in kernels]
    return found


def test_no_gradient_of_a_bias_is_taken_of_the_tensor_that_a_kernels_is_taken_of():
    function = meta_gradient().get_concrete_function()
    assert shared(function.graph.as_graph_def()) == []
    for g in function()[1]:
        assert np.all(np.isfinite(g))


def test_elsewhere_it_is():
    """If this fails, TensorFlow takes it of another tensor, and `maml_tf/exact/bias.py` may go."""
    x, w, b = tf.ones([1, 4, 4, 2]), tf.ones([3, 3, 2, 2]), tf.zeros([2])

    @tf.function(autograph=False)
    def outer():
        @tf.function(autograph=False)
        def function():
            with tf.GradientTape() as tape:
                tape.watch([w, b])
                y = tf.tanh(tf.nn.bias_add(tf.nn.conv2d(x, w, 1, "SAME"), b))
            return tape.gradient(y, [w, b])

        return function()

    assert len(shared(outer.get_concrete_function().graph.as_graph_def())) == 1


@pytest.mark.parametrize("shape", [(2, 3, 3, 4), (5, 4)], ids=str)
def test_its_derivatives_are_those_of_an_addition(shape):
    rng = np.random.default_rng(0)
    x, b = tf.constant(rng.normal(size=shape)), tf.constant(rng.normal(size=shape[-1]))

    @tf.function(autograph=False)
    def derivatives(add):
        with exact.refusals(), tf.GradientTape() as outer:
            outer.watch([x, b])
            with tf.GradientTape() as inner:
                inner.watch([x, b])
                y = tf.reduce_sum(tf.sin(add(x, b)))
            first = inner.gradient(y, [x, b])
            scalar = tf.add_n([tf.reduce_sum(tf.exp(g)) for g in first])
            return [*first, *outer.gradient(scalar, [x, b])]

    for one, other in zip(derivatives(tf.nn.bias_add), derivatives(tf.add), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
