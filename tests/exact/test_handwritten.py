"""Gradients that are written by hand: they forget no weight, or they are refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import exact
from tests.exact.test_ops import POSITIVE, Case, deviations
from tests.problems import compiled, layers, numpy, relative_error, task_batch

TASKS = task_batch((3,))


class Scaled(keras.layers.Layer):
    """Multiplies by a weight in a function whose gradient is written by hand."""

    def __init__(self, given, **kwargs):
        super().__init__(**kwargs)
        self.given = given

    def build(self, shape):
        self.scale = self.add_weight(shape=shape[1:], initializer="ones", name="scale")

    def call(self, x):
        @tf.custom_gradient
        def scaled(x, *weights):
            scale = weights[0] if weights else tf.convert_to_tensor(self.scale)

            def backward(g, variables=None):
                del variables
                of_scale = [tf.reduce_sum(g * x, 0)] if weights else []
                return [g * scale, *of_scale]

            return x * scale, backward

        return scaled(x, tf.convert_to_tensor(self.scale)) if self.given else scaled(x)


def learner_of(layer, **settings):
    return compiled(keras.Sequential([keras.Input((3,)), layer, layers.Dense(2)]), **settings)


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_a_weight_that_it_reads_for_itself_is_refused_by_name(run_eagerly):
    learner = learner_of(Scaled(given=False, name="mine"), run_eagerly=run_eagerly)
    with pytest.raises(NotImplementedError, match=r"Received: `scaled`, .*mine/scale'\]"):
        learner.train_on_batch(*TASKS)


def test_a_weight_that_is_its_argument_is_not():
    learner = learner_of(Scaled(given=True), first_order=True)
    _, gradients, *_ = learner.meta_gradient(*TASKS)
    assert all(np.any(g) for g in numpy(gradients))


def test_one_that_is_frozen_is_not():
    layer = Scaled(given=False)
    layer.trainable = False
    assert np.all(np.isfinite(learner_of(layer).train_on_batch(*TASKS)))


class Again(keras.layers.Layer):
    """Runs another layer within `keras.remat`, as its documentation shows it."""

    def __init__(self, layer, **kwargs):
        super().__init__(**kwargs)
        self.layer = layer
        self.again = keras.remat(layer.call)

    def build(self, shape):
        self.layer.build(shape)

    def call(self, x):
        return self.again(x)


def meta_gradient(build):
    """Of a model whose second layer normalises, so that plain second derivatives would be wrong."""
    begin = [keras.initializers.GlorotNormal(seed=seed) for seed in range(2)]
    between = build(
        lambda: layers.Dense(4, "tanh", kernel_initializer=begin[0]), layers.LayerNormalization
    )
    last = layers.Dense(2, kernel_initializer=begin[1])
    model = keras.Sequential([keras.Input((3,)), *between, last])
    learner = compiled(model, inner_steps=2)
    return numpy(learner.meta_gradient(*TASKS)[1])


def test_layers_of_keras_remat_are_differentiated_as_they_are():
    expected = meta_gradient(lambda first, second: (first(), second()))

    def within(first, second):
        with keras.RematScope(mode="full"):
            return first(), second()

    received = meta_gradient(lambda first, second: (Again(first()), Again(second())))
    assert relative_error(received, expected) < 1e-6
    assert relative_error(meta_gradient(within), expected) < 1e-6


def test_tensorflow_still_forgets_them():
    """If this fails, `tf.recompute_grad` may be left to itself."""
    x, w = tf.constant([0.3, 0.4]), tf.constant([0.5, 0.7])
    with tf.GradientTape() as tape:
        tape.watch([x, w])
        y = tf.recompute_grad(lambda x: x * w)(x)
    assert tape.gradient(y, [x, w])[1] is None
    with exact.operations(), tf.GradientTape() as tape:
        tape.watch([x, w])
        y = tf.recompute_grad(lambda x: x * w)(x)
    np.testing.assert_array_equal(tape.gradient(y, [x, w])[1], x)


def within_a_branch(x):
    return tf.cond(tf.reduce_sum(x) > 0, lambda: tf.nn.silu(x), lambda: 2 * tf.nn.silu(x))


@pytest.mark.usefixtures("float64")
def test_in_a_branch_they_have_both_derivatives():
    assert max(deviations(Case(within_a_branch, POSITIVE, traced=True))) < 1e-6


def test_tensorflow_still_fails_in_a_branch():
    """If this fails, arguments need not be brought into a branch any more."""

    @tf.function(autograph=False)
    def nested(x):
        with tf.GradientTape() as outer, tf.GradientTape() as inner:
            inner.watch(x)
            outer.watch(x)
            y = within_a_branch(x)
        return inner.gradient(y, x)

    with pytest.raises(AssertionError):
        nested(tf.constant([0.3, 0.7]))
