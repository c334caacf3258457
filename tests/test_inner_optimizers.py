import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from maml_tf import inner_optimizers
from maml_tf.inner_optimizers import SGD, Adam

OPTIMIZERS = [
    pytest.param(SGD(0.1), id="sgd"),
    pytest.param(SGD([0.3, 0.2, 0.1]), id="sgd-rates"),
    pytest.param(SGD(0.1, momentum=0.9), id="momentum"),
    pytest.param(Adam(0.1), id="adam"),
    pytest.param(Adam((0.1, 0.01), beta_1=0.5, epsilon=1e-3), id="adam-rates"),
]


def descend(optimizer, weights, gradients, dtype=tf.float64):
    """Weights after each of the given gradients, one list of arrays a step."""
    weights = [tf.constant(w, dtype) for w in weights]
    slots, path = optimizer.init(weights), []
    for step, gradient in enumerate(gradients):
        gradient = [tf.constant(g, dtype) for g in gradient]
        weights, slots = optimizer.update(step, gradient, weights, slots)
        path.append([w.numpy() for w in weights])
    return path


def descend_in_keras(optimizer, weights, gradients):
    variables = [keras.Variable(w, dtype="float64") for w in weights]
    path = []
    for gradient in gradients:
        optimizer.apply(
            [tf.constant(g, tf.float64) for g in gradient], variables if not path else None
        )
        path.append([v.numpy().copy() for v in variables])
    return path


def steps_of(seed, steps):
    normal = np.random.default_rng(seed).normal
    return [normal(size=(2, 2)), normal(size=3)], [
        [normal(size=(2, 2)), normal(size=3)] for _ in range(steps)
    ]


def assert_paths_equal(received, expected, rtol):
    for one, other in zip(received, expected, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-12)


def test_sgd_moves_by_rate_times_gradient():
    path = descend(SGD(0.5), [[2.0, 3.0, 5.0]], [[[1.0, -2.0, 0.0]], [[4.0, 0.0, 1.0]]])
    np.testing.assert_array_equal(path[0][0], [1.5, 4.0, 5.0])
    np.testing.assert_array_equal(path[1][0], [-0.5, 4.0, 4.5])


def test_a_sequence_gives_each_step_its_rate_and_the_last_one_to_later_steps():
    path = descend(SGD([0.5, 0.25]), [[0.0]], [[[-1.0]]] * 4)
    assert [w.item() for (w,) in path] == [0.5, 0.75, 1.0, 1.25]


def test_momentum_starts_from_rest_and_accumulates_by_hand():
    path = descend(SGD(0.5, momentum=0.5), [[0.0]], [[[-1.0]]] * 3)
    assert [w.item() for (w,) in path] == [0.5, 1.25, 2.125]


# Keras rounds the numbers of an optimizer to float32: these it holds exactly.
sixty_fourths = st.integers(1, 63).map(lambda i: i / 64)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), rate=sixty_fourths, momentum=sixty_fourths | st.just(0.0))
def test_momentum_agrees_with_keras(seed, rate, momentum):
    weights, gradients = steps_of(seed, 4)
    ours = descend(SGD(rate, momentum), weights, gradients)
    theirs = descend_in_keras(keras.optimizers.SGD(rate, momentum), weights, gradients)
    assert_paths_equal(ours, theirs, rtol=1e-9)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 99),
    rate=st.floats(1e-3, 1.0),
    betas=st.tuples(st.floats(0.0, 0.99), st.floats(0.0, 0.9999)),
)
def test_adam_agrees_with_algorithm_1_of_its_paper(seed, rate, betas):
    weights, gradients = steps_of(seed, 4)
    path, w = [], list(weights)
    first, second = [np.zeros_like(x) for x in w], [np.zeros_like(x) for x in w]
    for t, gradient in enumerate(gradients, start=1):
        for i, g in enumerate(gradient):
            first[i] = betas[0] * first[i] + (1 - betas[0]) * g
            second[i] = betas[1] * second[i] + (1 - betas[1]) * g**2
            m_hat, v_hat = first[i] / (1 - betas[0] ** t), second[i] / (1 - betas[1] ** t)
            w[i] = w[i] - rate * m_hat / np.sqrt(v_hat + 1e-24)  # epsilon under the root
        path.append(list(w))
    ours = descend(Adam(rate, *betas, epsilon=1e-12), weights, gradients)
    assert_paths_equal(ours, path, rtol=1e-9)


def test_adam_agrees_with_keras():
    weights, gradients = steps_of(0, 5)
    numbers = {"learning_rate": 1 / 16, "beta_1": 0.75, "beta_2": 63 / 64, "epsilon": 2**-40}
    ours = descend(Adam(**numbers), weights, gradients)
    theirs = descend_in_keras(keras.optimizers.Adam(**numbers), weights, gradients)
    assert_paths_equal(ours, theirs, rtol=1e-9)


def test_adam_moves_by_the_rate_in_its_first_step_whatever_the_gradient():
    (((moved),),) = descend(Adam(0.25), [[0.0, 0.0, 0.0]], [[[1e-3, -7.0, 1e4]]])
    np.testing.assert_allclose(moved, [-0.25, 0.25, -0.25], rtol=1e-6)


def test_adam_is_differentiable_where_a_gradient_is_zero():
    optimizer, zero = Adam(0.1, epsilon=0.5), tf.zeros([1], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(zero)
        weight = tf.stop_gradient(zero)
        (moved,), _ = optimizer.update(0, [zero], [weight], optimizer.init([weight]))
    # moved = -rate * g / sqrt(g**2 + epsilon**2) in the first step
    np.testing.assert_allclose(tape.gradient(moved, zero), [-0.1 / 0.5], rtol=1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_numbers_keep_the_precision_of_the_weights(optimizer):
    """0.1 is 0.1 in float64, not the nearest float32."""
    weights, gradients = steps_of(1, 3)
    exact = descend(optimizer, weights, gradients)

    config = {
        k: tuple(np.float64(x) for x in v) if isinstance(v, (list, tuple)) else np.float64(v)
        for k, v in optimizer.get_config().items()
    }
    again = descend(type(optimizer)(**config), weights, gradients)
    assert_paths_equal(exact, again, rtol=1e-14)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_number_may_be_a_tensor(optimizer):
    weights, gradients = steps_of(2, 4)
    by_int = descend(optimizer, weights, gradients)
    w = [tf.constant(x) for x in weights]
    stacked = [tf.stack([g[i] for g in gradients]) for i in range(len(w))]

    def body(step, w, slots):
        return step + 1, *optimizer.update(step, [g[step] for g in stacked], w, slots)

    *_, w, _ = tf.function(tf.while_loop, autograph=False)(
        lambda step, *_: step < 4, body, (tf.constant(0), w, optimizer.init(w))
    )
    assert_paths_equal([[x.numpy() for x in w]], by_int[-1:], rtol=1e-12)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_slots_keep_their_structure_and_the_dtype_of_the_weights(optimizer):
    weights = [tf.ones([2, 3], tf.float64), tf.ones([1], tf.float64)]
    before = optimizer.init(weights)
    moved, after = optimizer.update(0, weights, weights, before)
    for a, b in [*zip(before, after, strict=True), *zip(weights, moved, strict=True)]:
        assert (a.dtype, a.shape) == (b.dtype, b.shape)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_configuration_round_trip_through_json(optimizer):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(optimizer)))
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(optimizer)
    weights, gradients = steps_of(3, 3)
    assert_paths_equal(
        descend(again, weights, gradients), descend(optimizer, weights, gradients), rtol=0
    )


def test_get_takes_an_inner_optimizer_or_a_rate():
    optimizer = Adam(0.1)
    assert inner_optimizers.get(optimizer) is optimizer
    assert inner_optimizers.get(0.3).get_config() == SGD(0.3).get_config()
    assert inner_optimizers.get(1).learning_rate == 1


@pytest.mark.parametrize(
    "identifier",
    [keras.optimizers.SGD(0.1), "sgd", None, True, SGD],
    # An address in a name would differ between the processes of a run.
    ids=["of keras", "a name", "none", "a bool", "a class"],
)
def test_get_refuses_what_assigns_variables_or_is_no_rate(identifier):
    with pytest.raises(TypeError, match="one of maml_tf.inner_optimizers"):
        inner_optimizers.get(identifier)


@pytest.mark.parametrize(
    "rate", [0, -0.1, float("nan"), float("inf"), "0.1", None, [], [0.1, -0.1], [[0.1]]], ids=repr
)
@pytest.mark.parametrize("optimizer", [SGD, Adam])
def test_a_step_size_must_be_positive_and_finite(optimizer, rate):
    with pytest.raises(ValueError, match="must be a positive number"):
        optimizer(rate)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: SGD(0.1, momentum=1.0), "`momentum` must be in"),
        (lambda: SGD(0.1, momentum=-0.1), "`momentum` must be in"),
        (lambda: Adam(0.1, beta_1=1.0), "beta_1=1.0"),
        (lambda: Adam(0.1, beta_2=-0.5), "beta_2=-0.5"),
        (lambda: Adam(0.1, epsilon=0), "epsilon=0"),
    ],
)
def test_other_settings_are_checked(make, match):
    with pytest.raises(ValueError, match=match):
        make()
