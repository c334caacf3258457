"""Python code in a graph: refused where a derivative goes through it, and only there."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import exact
from tests.problems import compiled, layers, task_batch

TASKS = task_batch((3,))


def by_numpy(x):
    return tf.ensure_shape(tf.numpy_function(lambda x: np.sin(x), [x], x.dtype), x.shape)


def by_python(x):
    return tf.ensure_shape(tf.py_function(tf.sin, [x], x.dtype), x.shape)


FUNCTIONS = {"numpy_function": by_numpy, "py_function": by_python}
every_function = pytest.mark.parametrize("name", FUNCTIONS)


def learner_of(*between, **settings):
    model = keras.Sequential([keras.Input((3,)), *between, layers.Dense(2)])
    return compiled(model, **settings)


@every_function
@pytest.mark.parametrize("settings", [{}, {"first_order": True}, {"run_eagerly": True}], ids=str)
def test_behind_weights_it_is_refused_by_name(name, settings):
    learner = learner_of(layers.Dense(3), layers.Lambda(FUNCTIONS[name]), **settings)
    with pytest.raises(NotImplementedError, match=f"through `{name}`, .*`tf.stop_gradient`"):
        learner.train_on_batch(*TASKS)


@every_function
def test_in_a_function_within_the_graph_too(name):
    inner = tf.function(FUNCTIONS[name])
    learner = learner_of(layers.Dense(3), layers.Lambda(lambda x: inner(x)))
    with pytest.raises(NotImplementedError, match=f"through `{name}`"):
        learner.train_on_batch(*TASKS)


@every_function
def test_before_the_first_weights_and_as_a_constant_it_is_not(name):
    function = FUNCTIONS[name]
    constant = layers.Lambda(lambda x: x + function(tf.stop_gradient(x)))
    learner = learner_of(layers.Lambda(function), layers.Dense(3), constant)
    assert np.all(np.isfinite(learner.train_on_batch(*TASKS)))


@pytest.mark.parametrize("outputs", [tf.int32, []], ids=["integers", "nothing"])
def test_what_gives_no_floating_numbers_is_left_alone(outputs):
    def counting(x):
        tf.numpy_function(lambda x: np.int32(len(x)) if outputs else None, [x], outputs)
        return x

    learner = learner_of(layers.Dense(3), layers.Lambda(counting))
    assert np.all(np.isfinite(learner.train_on_batch(*TASKS)))


def test_tensorflow_still_loses_both():
    """If this fails, TensorFlow has put it right: one entry may go."""

    @tf.function
    def derivatives(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape(persistent=True) as inner:
                inner.watch(x)
                y, z = by_numpy(x), by_python(x)
            first = inner.gradient(z, x)
            assert inner.gradient(y, x) is None
        assert outer.gradient(first, x) is None
        return first

    derivatives(tf.constant([0.3, 0.7]))


def test_outside_of_a_learner_nothing_is_changed():
    with exact.operations():
        pass
    x = tf.constant([0.3, 0.7])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = by_python(x)
    np.testing.assert_allclose(tape.gradient(y, x), tf.cos(x), rtol=1e-6)
