"""The inner loop as one value: it cannot be changed, and takes the steps of `inner_loop`."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import inner_loop
from maml_tf.inner.description import InnerLoop
from maml_tf.inner.optimizers import SGD

WEIGHTS = [tf.constant([2.0, -3.0]), tf.constant([[1.0]])]
STATE = [tf.constant(0)]


def objective(weights, state, step):
    """The loss pulls the first weight to 0 and the second to the first; the state counts."""
    loss = tf.reduce_sum(weights[0] ** 2) + tf.reduce_sum((weights[1] - weights[0]) ** 2)
    return loss, [state[0] + 1]


SETTINGS = {
    "adaptable": [False, True],
    "constraints": [None, keras.constraints.NonNeg()],
    "first_order": True,
    "rematerialize": True,
}


def described(**settings):
    return InnerLoop(SGD(0.1, momentum=0.5), 3, **settings)


def assert_same(received, expected):
    flat = zip(tf.nest.flatten(received), tf.nest.flatten(expected), strict=True)
    for one, other in flat:
        np.testing.assert_array_equal(one, other)


def test_it_cannot_be_changed():
    loop = described()
    for field in dataclasses.fields(loop):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(loop, field.name, None)
    assert dataclasses.replace(loop, steps=5).steps == 5
    assert loop.steps == 3


@pytest.mark.parametrize("settings", [{}, SETTINGS], ids=["plain", "all"])
@pytest.mark.parametrize("steps", [None, 0, 5])
def test_its_steps_are_those_of_the_inner_loop(settings, steps):
    loop, taken = described(**settings), 3 if steps is None else steps
    expected = inner_loop.adapt(objective, WEIGHTS, STATE, loop.optimizer, taken, **settings)
    assert_same(loop.adapt(objective, WEIGHTS, STATE, steps), expected)
    of_loop = {k: settings[k] for k in ("adaptable", "constraints") if k in settings}
    weights, state = inner_loop.adapt_in_loop(
        objective, WEIGHTS, STATE, loop.optimizer, taken, **of_loop
    )
    assert_same(loop.adapt_in_loop(objective, WEIGHTS, STATE, steps), (weights, state))
    *_, seen = loop.adapt_in_loop(objective, WEIGHTS, STATE, steps, lambda w, s: (w[1], s[0]))
    np.testing.assert_array_equal(seen[1], np.arange(taken + 1))
    np.testing.assert_array_equal(seen[0][-1], weights[1])
    slots, carried = loop.initial_slots(WEIGHTS), (WEIGHTS, STATE)
    for number in range(taken):
        *carried, slots = loop.step(objective, number, *carried, slots)
    np.testing.assert_allclose(carried[0][1], weights[1], rtol=1e-6)
    assert_same(carried[1], state)


@pytest.mark.parametrize("first_order", [False, True])
def test_whether_second_derivatives_are_taken_is_its_own(first_order):
    loop = InnerLoop(SGD(0.1), 1, first_order=first_order)
    with tf.GradientTape() as tape:
        tape.watch(WEIGHTS)
        adapted = loop.adapt(objective, WEIGHTS, STATE).weights
        loss = tf.reduce_sum(adapted[1])
    (gradient,) = tape.gradient(loss, WEIGHTS[1:])
    # w' = w - 0.1 * 2 sum_i (w - a_i): its slope is 1 - 0.4.
    np.testing.assert_allclose(gradient, [[1.0 if first_order else 0.6]], rtol=1e-6)


def test_only_what_adapts_is_fast():
    loop = described(adaptable=[False, True])
    assert loop.fast(WEIGHTS)[0] is WEIGHTS[1]
    merged = loop.among(WEIGHTS, [tf.constant([[9.0]])])
    assert merged[0] is WEIGHTS[0]
    np.testing.assert_array_equal(merged[1], [[9.0]])
    assert [tuple(s.shape) for s in loop.initial_slots(WEIGHTS)] == [(1, 1)]
    everything = described()
    assert_same(everything.among(WEIGHTS, everything.fast(WEIGHTS)), WEIGHTS)


def test_where_nothing_is_said_it_takes_one_exact_step_of_all_weights():
    loop = InnerLoop(SGD(0.1))
    received = {field.name: getattr(loop, field.name) for field in dataclasses.fields(loop)}
    assert received == {
        "optimizer": loop.optimizer,
        "steps": 1,
        "adaptable": None,
        "constraints": None,
        "first_order": False,
        "rematerialize": False,
    }
    with tf.GradientTape() as tape:
        tape.watch(WEIGHTS)
        loss = tf.reduce_sum(loop.adapt(objective, WEIGHTS, STATE).weights[1])
    np.testing.assert_allclose(tape.gradient(loss, WEIGHTS)[1], [[0.6]], rtol=1e-6)


@pytest.mark.parametrize("rematerialize", [False, True])
def test_whether_steps_run_again_on_the_way_back_is_its_own(rematerialize):
    called = []

    def counted(weights, state, step):
        called.append(step)
        return objective(weights, state, step)

    loop = InnerLoop(SGD(0.1), 2, rematerialize=rematerialize)
    with tf.GradientTape() as tape:
        tape.watch(WEIGHTS)
        loss = tf.reduce_sum(loop.adapt(counted, WEIGHTS, STATE).weights[1])
    tape.gradient(loss, WEIGHTS)
    assert called == ([0, 1, 1, 0] if rematerialize else [0, 1])
