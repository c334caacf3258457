"""What is computed once for many calls: the same function, cut where it should be."""

import numpy as np
import tensorflow as tf

from maml_tf.rl import partial_evaluation
from tests.rl.problems import flat, problem, unflat


def dense(known, vector):
    """A product that is linear in `vector`, behind a network of `known`."""
    w, x = known["w"], known["x"]
    hidden = tf.nn.relu(tf.reshape(x, [-1, 3]) @ w)
    return {"y": tf.exp(hidden) * (tf.reshape(x, [-1, 3]) @ vector), "hidden": hidden, "x": x}


def arguments():
    rng = np.random.default_rng(0)
    known = {
        "w": tf.constant(rng.normal(size=(3, 2))),
        "x": tf.constant(rng.normal(size=(2, 2, 3))),
    }
    return known, tf.constant(rng.normal(size=(3, 2)))


def test_both_parts_together_are_the_function():
    known, vector = arguments()
    prepare, finish = partial_evaluation.split(dense, known, vector)
    got = finish(known, prepare(known), vector)
    expected = dense(known, vector)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value)


def test_what_is_kept_is_computed_once_and_views_are_not_kept():
    known, vector = arguments()
    calls = []

    def counted(known, vector):
        hidden = tf.numpy_function(lambda w: calls.append(1) or w * 2, [known["w"]], tf.float64)
        hidden.set_shape(known["w"].shape)
        return tf.reshape(hidden, [2, 3]) * tf.reshape(vector, [2, 3])

    prepare, finish = partial_evaluation.split(counted, known, vector)
    kept = prepare(known)
    assert [tuple(k.shape) for k in kept] == [(3, 2)]  # before it was reshaped
    for factor in (1.0, 3.0):
        got = finish(known, kept, factor * vector)
        expected = tf.reshape(known["w"] * 2, [2, 3]) * tf.reshape(factor * vector, [2, 3])
        np.testing.assert_array_equal(got, expected)
    assert len(calls) == 1


def test_nothing_is_kept_where_nothing_can_be():
    known, vector = arguments()
    prepare, finish = partial_evaluation.split(lambda k, v: k["w"] * v, known, vector)
    assert prepare(known) == []
    np.testing.assert_array_equal(finish(known, [], vector), known["w"] * vector)


def test_variables_are_read_and_loops_may_call_it():
    known, vector = arguments()
    rate = tf.Variable(2.0, dtype=tf.float64)

    @tf.function(autograph=False)
    def twice(known, vector):
        prepare, finish = partial_evaluation.split(
            lambda k, v: tf.exp(k["w"] * rate) * v * rate, known, vector
        )
        kept = prepare(known)
        return tf.while_loop(
            lambda i, v: i < 2, lambda i, v: (i + 1, finish(known, kept, v)), (0, vector)
        )[1]

    for value in (2.0, 0.5):
        rate.assign(value)
        expected = np.square(np.exp(known["w"] * value) * value) * vector
        np.testing.assert_allclose(twice(known, vector), expected, rtol=1e-12)


def test_one_curvature_serves_many_vectors():
    objective, weights, before, after = problem()
    curvature = objective.curvature(weights, before, after)
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(weights)
        gradient = objective.divergence_gradient(weights, before, after)
    rng = np.random.default_rng(6)
    for _ in range(2):
        vector = unflat(rng.normal(size=flat(weights).size), weights)
        twice = outer.gradient(gradient, weights, output_gradients=vector)
        np.testing.assert_allclose(flat(curvature(vector)), flat(twice), rtol=1e-9, atol=1e-12)
