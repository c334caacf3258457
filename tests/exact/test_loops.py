"""Loops whose sums of large tensors TensorFlow rewrites, run twice."""

import numpy as np
import pytest
import tensorflow as tf

from maml_tf import inner_loop
from maml_tf.exact import loops
from maml_tf.inner.optimizers import SGD

LARGE = 24_000_000  # numbers: few such tensors are more than the memory optimizer leaves alone


def descended(guarded):
    """Two steps of w + (.9 v - .1 w), the body of a loop: a sum of three."""

    @tf.function(autograph=False)
    def run(w):
        def body(step, w, v):
            if guarded:
                w, v = loops.carried(w, v)
            move = -0.1 * w
            v = 0.9 * v + move
            return step + 1, w + (0.9 * v + move), v

        start = (tf.constant(0), w, tf.zeros_like(w))
        return tf.while_loop(lambda step, *_: step < 2, body, start)[1][:2]

    return run


# By hand, beginning at 1: w = 1 - .09 - .1, v = -.1; then v = -.09 - .081.
TWO_STEPS = 0.81 - 0.9 * 0.171 - 0.081


def test_tensorflow_does_not_run_a_loop_with_such_a_sum_twice():
    """Once it does, `maml_tf/exact/loops.py` may go."""
    run, ones = descended(guarded=False), tf.ones([LARGE])
    np.testing.assert_allclose(run(ones), [TWO_STEPS] * 2, rtol=1e-6)
    with pytest.raises(tf.errors.AlreadyExistsError):
        run(ones)


def test_guarded_it_runs_as_often_as_it_is_called():
    run = descended(guarded=True)
    for _ in range(3):
        np.testing.assert_allclose(run(tf.ones([LARGE])), [TWO_STEPS] * 2, rtol=1e-6)


def half_square(weights, state, step):
    return tf.reduce_sum(weights[0] ** 2) / 2, state


MOMENTUM = SGD(0.1, momentum=0.9, nesterov=True)


def test_adapting_by_momentum_runs_as_often_as_it_is_called():
    @tf.function(autograph=False)
    def adapted(w):
        return inner_loop.adapt_in_loop(half_square, [w], [], MOMENTUM, 2)[0][0][:2]

    for _ in range(2):
        np.testing.assert_allclose(adapted(tf.ones([LARGE])), [TWO_STEPS] * 2, rtol=1e-6)


def test_rematerialized_steps_run_as_often_as_they_are_called():
    def objective(weights, state, step):
        return tf.reduce_sum(tf.sin(weights[0]) * weights[0]), state

    @tf.function(autograph=False)
    def adapted(w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            end = inner_loop.adapt(objective, [w], [], SGD(0.1), 2, rematerialize=True)
            total = tf.reduce_sum(end.weights[0])
        return end.weights[0][:2], tape.gradient(total, w)[:2]

    w, factor = 1.0, 1.0
    for _ in range(2):
        factor *= 1 - 0.1 * (2 * np.cos(w) - w * np.sin(w))
        w -= 0.1 * (np.sin(w) + w * np.cos(w))
    for _ in range(2):
        end, gradient = adapted(tf.ones([LARGE]))
        np.testing.assert_allclose(end, [w] * 2, rtol=1e-6)
        np.testing.assert_allclose(gradient, [factor] * 2, rtol=1e-6)
