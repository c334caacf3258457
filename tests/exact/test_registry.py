import inspect
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import ops

from maml_tf import exact
from maml_tf.exact import registry, second_derivatives
from tests.problems import compiled, layers, relative_error, task_batch, traced_meta_gradient


@pytest.fixture(autouse=True)
def installed():
    with exact.operations():
        pass


@pytest.mark.parametrize("name", second_derivatives.GIVEN)
def test_tensorflow_still_lacks_it(name):
    """If this fails, TensorFlow has it: it may go from `GIVEN`."""
    assert ops.gradient_registry.lookup(name) is second_derivatives.GIVEN[name]


@pytest.mark.parametrize("name", registry._LOST)
def test_tensorflow_still_loses_it(name):
    """If this fails, TensorFlow has put it right, or forgotten it: it may go from `_LOST`."""
    gradient = ops.gradient_registry.lookup(name)
    assert gradient.__module__ == registry.__name__
    original = inspect.getclosurevars(gradient).nonlocals["original"]
    assert (original is None) == (not name.startswith("ImageProjective"))


def rotated(x):
    angle = 0.3
    matrix = [np.cos(angle), -np.sin(angle), 1, np.sin(angle), np.cos(angle), -1, 0, 0]
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=x,
        transforms=tf.constant([matrix], tf.float32),
        output_shape=(5, 5),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )


def test_the_gradient_of_a_projective_transformation_is_still_none():
    """If this fails, TensorFlow has put it right: both may go from `_LOST`."""
    rng = np.random.default_rng(0)
    x, u = (tf.constant(rng.normal(size=(1, 5, 5, 1)), tf.float32) for _ in range(2))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = rotated(x)
    gradient = tape.gradient(y, x, output_gradients=u)
    # It is linear, so <u, A x> = <A^T u, x>.
    assert abs(tf.reduce_sum(u * y) - tf.reduce_sum(gradient * x)) > 0.1


def network(function):
    return keras.Sequential(
        [keras.Input((5, 5, 1)), layers.Conv2D(1, 1), layers.Lambda(function), layers.Flatten()]
        + [layers.Dense(2)]
    )


def lrn(x):
    return tf.nn.local_response_normalization(x)


TASKS = task_batch((5, 5, 1))


def sliced(x):
    """A part of the images in the middle, and the images with its square in a corner."""
    part = tf.slice(x, [0, 1, 2, 0], [-1, 3, 2, 1])
    return keras.ops.slice_update(x, (0, 0, 3, 0), part**2)


@pytest.mark.parametrize("task_map", ["loop", "vectorized"])
def test_slices_have_second_derivatives_under_xla(task_map):
    gradients = []
    for jit_compile in (False, True):
        learner = compiled(
            network(sliced), inner_steps=2, jit_compile=jit_compile, task_map=task_map
        )
        learner.set_weights(
            [np.random.default_rng(0).normal(size=w.shape) for w in learner.get_weights()]
        )
        gradients.append(traced_meta_gradient(learner, *TASKS)()[1])
    assert relative_error(*gradients) < 1e-5


@pytest.mark.parametrize("settings", [{}, {"rematerialize": True}], ids=str)
def test_what_has_no_second_derivative_is_refused_by_name(settings):
    learner = compiled(network(lrn), **settings)
    with pytest.raises(NotImplementedError, match="through `LRNGrad`, for which .*first_order"):
        learner.train_on_batch(*TASKS)


def test_first_order_is_not_refused_where_it_is_right():
    learner = compiled(network(lrn), first_order=True)
    assert np.all(np.isfinite(learner.train_on_batch(*TASKS)))
    assert np.all(np.isfinite(learner.predict_on_batch(TASKS[0])))


@pytest.mark.parametrize("first_order", [False, True])
def test_what_has_no_first_derivative_is_refused_in_both_orders(first_order):
    learner = compiled(network(rotated), first_order=first_order)
    with pytest.raises(NotImplementedError, match="through `ImageProjectiveTransformV3`"):
        traced_meta_gradient(learner, *TASKS).get_concrete_function()
    with pytest.raises(NotImplementedError, match="through `ImageProjectiveTransformV3`"):
        learner.predict_on_batch(TASKS[0])


def test_before_the_first_weights_it_is_not_refused():
    model = keras.Sequential(
        [keras.Input((5, 5, 1)), layers.RandomRotation(0.1, seed=1), layers.Flatten()]
        + [layers.Dense(2)]
    )
    traced_meta_gradient(compiled(model), *TASKS).get_concrete_function()


@pytest.mark.parametrize("run_eagerly", [False, True])
@pytest.mark.parametrize("first_order", [False, True])
def test_ctc_has_a_first_derivative_only(first_order, run_eagerly):
    model = keras.Sequential([keras.Input((6, 3)), layers.Dense(4)])
    inputs, _ = task_batch((6, 3))
    inputs["support_y"] = tf.ones([2, 4, 2], tf.int32)
    learner = compiled(
        model, loss=keras.losses.CTC(), first_order=first_order, run_eagerly=run_eagerly
    )
    query_y = tf.ones([2, 3, 2], tf.int32)
    if first_order:
        assert np.all(np.isfinite(learner.train_on_batch(inputs, query_y)))
    else:
        with pytest.raises(NotImplementedError, match="`ctc_loss`, which .*`first_order=True`"):
            learner.train_on_batch(inputs, query_y)


def test_the_first_derivative_of_ctc_is_tensorflows():
    rng = np.random.default_rng(0)
    labels, lengths = tf.constant([[1, 2], [2, 2]]), (tf.constant([2, 1]), tf.constant([5, 4]))
    logits = tf.constant(rng.normal(size=(2, 5, 4)), tf.float32)

    def gradient():
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = tf.nn.ctc_loss(labels, logits, *lengths, logits_time_major=False, blank_index=0)
        return loss, tape.gradient(loss, logits, output_gradients=tf.constant([1.0, 3.0]))

    expected = gradient()
    with exact.operations():
        received = gradient()
    for one, other in zip(received, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_another_thread_is_not_refused():
    received = []

    def elsewhere():
        x = tf.ones([1, 5, 5, 1])
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = rotated(x)
        received.append(tape.gradient(y, x))

    with exact.refusals():
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert received[0].shape == (1, 5, 5, 1)


def test_other_errors_of_look_ups_are_left_alone():
    with pytest.raises(KeyError, match="mine"), exact.refusals():
        raise KeyError("mine")
