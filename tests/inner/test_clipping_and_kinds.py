"""Clipping, decay, Nesterov, RMSprop, AdaGrad inside a task: steps, and the gradient through them.

`pytorch_values.json` is what PyTorch gets in float64; `pytorch_values.py` made it.
"""

import json
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf import inner_loop, inner_optimizers, serving
from tests.inner.test_optimizers import assert_paths_equal, descend, descend_in_keras, steps_of
from tests.wrong_calls import Wrong, check

STEPS = 3
VALUES = json.loads(pathlib.Path(__file__).with_name("pytorch_values.json").read_text())


def waves(count, *shape):
    i = np.arange(count * np.prod(shape, dtype=int), dtype=np.float64).reshape(count, *shape)
    return np.sin(1.7 * i * i + 0.3)


X = waves(12, 2)
Y = 2 * np.cos(3 * X @ np.array([[1.0, -0.5, 0.2], [0.7, 0.1, -1.0]]))
START = [0.5 * waves(2, 3), np.array([0.1, -0.2, 0.3])]


def loss(weights, x, y):
    prediction = tf.tanh(x @ weights[0]) + weights[1] ** 3 + weights[1]
    return tf.reduce_mean((prediction - y) ** 2)


def made(settings):
    settings = dict(settings)
    return getattr(inner_optimizers, settings.pop("kind"))(**settings)


def outer(optimizer, start):
    """The query loss after the inner steps, and the weights there."""
    weights = inner_loop.adapt(
        lambda w, state, step: (loss(w, X[:5], Y[:5]), state), start, [], optimizer, STEPS
    ).weights
    return loss(weights, X[5:], Y[5:]), weights


@pytest.mark.parametrize("name", VALUES)
def test_steps_and_meta_gradient_are_pytorchs(name):
    optimizer = made(VALUES[name]["settings"])
    start = [tf.constant(w) for w in START]
    with tf.GradientTape() as tape:
        tape.watch(start)
        value, weights = outer(optimizer, start)
    gradients = tape.gradient(value, start)
    for received, expected in (
        (weights, VALUES[name]["adapted"]),
        (gradients, VALUES[name]["meta_gradient"]),
    ):
        for one, other in zip(received, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", VALUES)
def test_the_meta_gradient_agrees_with_central_differences(name):
    optimizer, distance = made(VALUES[name]["settings"]), 1e-6
    value = tf.function(lambda start: outer(optimizer, start)[0], autograph=False)
    for i, expected in enumerate(map(np.array, VALUES[name]["meta_gradient"])):
        for position in np.ndindex(expected.shape):
            ends = []
            for sign in (1, -1):
                moved = [w.copy() for w in START]
                moved[i][position] += sign * distance
                ends.append(value([tf.constant(w) for w in moved]).numpy())
            difference = (ends[0] - ends[1]) / (2 * distance)
            np.testing.assert_allclose(difference, expected[position], rtol=1e-6, atol=1e-9)


def test_clipping_cuts_what_pytorch_was_asked_to_cut():
    """Otherwise the values above would say nothing of it."""
    start = [tf.constant(w) for w in START]
    with tf.GradientTape() as tape:
        tape.watch(start)
        value = loss(start, X[:5], Y[:5])
    gradients = [g.numpy() for g in tape.gradient(value, start)]
    norms = [np.linalg.norm(g) for g in gradients]
    biggest = max(np.abs(g).max() for g in gradients)
    assert biggest > 0.3 > min(np.abs(g).min() for g in gradients)
    assert max(norms) > 0.8 > min(norms)
    assert 0.9 < np.hypot(*norms) < 1e3


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"clipvalue": 2.0}, [[2.0, -2.0], [1.0]]),
        ({"clipnorm": 2.5}, [[1.5, -2.0], [1.0]]),
        ({"global_clipnorm": 13.0}, [[3.0, -4.0], [1.0]]),
        ({"global_clipnorm": np.sqrt(26.0) / 2}, [[1.5, -2.0], [0.5]]),
        ({}, [[3.0, -4.0], [1.0]]),
    ],
)
@pytest.mark.parametrize("dtype", [tf.float64, tf.float16])
def test_clipping_by_hand(settings, expected, dtype):
    gradients = [tf.constant([3.0, -4.0], dtype), tf.constant([1.0], dtype)]
    optimizer = inner_optimizers.SGD(1.0, **settings)
    moved, _ = optimizer.update(0, gradients, [0 * g for g in gradients], [])
    for one, other in zip(moved, expected, strict=True):
        assert one.dtype == dtype
        np.testing.assert_allclose(-one.numpy(), other, rtol=1e-3 if dtype == tf.float16 else 1e-12)


def test_a_norm_that_half_precision_cannot_hold_is_clipped():
    gradient = tf.constant([300.0, -400.0], tf.float16)
    (moved,), _ = inner_optimizers.SGD(1.0, clipnorm=5.0).update(0, [gradient], [0 * gradient], [])
    np.testing.assert_allclose(moved, [-3.0, 4.0], rtol=1e-3)


@pytest.mark.parametrize("name", ["clipvalue", "clipnorm", "global_clipnorm"])
@pytest.mark.parametrize("kind", ["SGD", "Adam", "RMSprop", "Adagrad"])
def test_a_gradient_of_zero_has_a_derivative(name, kind):
    zero = tf.zeros([2])
    optimizer = getattr(inner_optimizers, kind)(0.5, **{name: 1.0})
    with tf.GradientTape() as tape:
        tape.watch(zero)
        moved, _ = optimizer.update(0, [zero], [tf.ones([2])], optimizer.init([zero]))
    derivative = tape.gradient(moved, zero)
    assert np.isfinite(derivative).all()
    assert (derivative.numpy() < 0).all()


NEW = {
    "nesterov": (inner_optimizers.SGD, keras.optimizers.SGD, {"momentum": 0.75, "nesterov": True}),
    "decay": (inner_optimizers.SGD, keras.optimizers.SGD, {"weight_decay": 0.25}),
    "rmsprop": (inner_optimizers.RMSprop, keras.optimizers.RMSprop, {"rho": 0.75}),
    "rmsprop-momentum": (
        inner_optimizers.RMSprop,
        keras.optimizers.RMSprop,
        {"rho": 0.75, "momentum": 0.5},
    ),
    "adagrad": (
        inner_optimizers.Adagrad,
        keras.optimizers.Adagrad,
        {"initial_accumulator_value": 0.5},
    ),
    "clipvalue": (inner_optimizers.SGD, keras.optimizers.SGD, {"clipvalue": 0.5}),
    "clipnorm": (inner_optimizers.SGD, keras.optimizers.SGD, {"clipnorm": 0.5}),
    "global_clipnorm": (inner_optimizers.SGD, keras.optimizers.SGD, {"global_clipnorm": 0.5}),
}


@pytest.mark.parametrize("name", NEW)
def test_the_new_kinds_agree_with_keras(name):
    """Keras' numbers are float32, and its epsilon stands inside of the root: both are tiny here."""
    ours, theirs, settings = NEW[name]
    tiny = {"epsilon": 2.0**-60} if ours is not inner_optimizers.SGD else {}
    weights, gradients = steps_of(0, 5)
    received = descend(ours(1 / 16, **settings, **tiny), weights, gradients)
    expected = descend_in_keras(theirs(1 / 16, **settings, **tiny), weights, gradients)
    assert_paths_equal(received, expected, rtol=1e-7)


@pytest.mark.parametrize("name", VALUES)
def test_configuration_goes_into_json_and_comes_back(name):
    optimizer = made(VALUES[name]["settings"])
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(optimizer)))
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == optimizer.get_config()
    settings = {k: v for k, v in VALUES[name]["settings"].items() if k != "kind"}
    assert settings.items() <= again.get_config().items()


@pytest.mark.parametrize("name", ["adagrad-decay", "rmsprop-momentum", "nesterov"])
@pytest.mark.parametrize("dtype", [tf.float64, tf.bfloat16])
def test_a_loop_carries_the_slots(name, dtype):
    def square(weights, state, step):
        return tf.reduce_sum(weights[0] ** 2) / 2, state

    optimizer, weights = made(VALUES[name]["settings"]), [tf.constant([1.0, -2.0], dtype)]
    looped, _ = inner_loop.adapt_in_loop(square, weights, [], optimizer, tf.constant(3))
    unrolled = inner_loop.adapt(square, weights, [], optimizer, 3).weights
    assert looped[0].dtype == dtype
    np.testing.assert_array_equal(looped[0].numpy(), unrolled[0].numpy())


def test_learned_rates_clip_too():
    rates = inner_optimizers.LearnedRates(0.5, global_clipnorm=5.0)
    rates.build([[2]])
    (moved,), _ = rates.update(0, [tf.constant([30.0, -40.0])], [tf.zeros([2])], [])
    np.testing.assert_allclose(moved, [-1.5, 2.0], rtol=1e-6)
    again = inner_optimizers.LearnedRates.from_config(rates.get_config())
    assert again.clipping.given == {"global_clipnorm": 5.0}


def test_an_outlier_ends_a_task_without_clipping_and_not_with_it(tmp_path):
    """And the learner that clips is saved and exported as it is."""
    network = keras.Sequential([keras.Input([2]), keras.layers.Dense(1, kernel_initializer="ones")])
    x = np.array([[1.0, 2.0], [1e6, -1e6], [0.5, 0.1]], np.float32)
    y = np.ones([3, 1], np.float32)
    plain = maml_tf.MAML(network, 0.1, inner_steps=8)
    plain.compile(loss="mse")
    with pytest.raises(FloatingPointError, match="finite"):
        plain.adapt(x, y)
    learner = maml_tf.MAML(network, inner_optimizers.SGD(0.1, global_clipnorm=1.0), inner_steps=8)
    learner.compile(loss="mse")
    expected = learner.adapt(x, y).predict(x, verbose=0)
    learner.save(tmp_path / "learner.keras")
    again = keras.saving.load_model(tmp_path / "learner.keras")
    np.testing.assert_array_equal(again.adapt(x, y).predict(x, verbose=0), expected)
    path = serving.export(learner, tmp_path / "exported")
    served = tf.saved_model.load(str(path)).signatures["serving_default"](
        support_x=x, support_y=y, query_x=x, inner_steps=8
    )
    np.testing.assert_allclose(served["predictions"], expected, rtol=1e-5)


SGD, RMSprop, Adagrad = inner_optimizers.SGD, inner_optimizers.RMSprop, inner_optimizers.Adagrad
WRONG = [
    Wrong(lambda: SGD(0.1, clipvalue=0), ValueError, "`clipvalue`", "clipvalue=0"),
    Wrong(lambda: SGD(0.1, clipnorm=-1.0), ValueError, "`clipnorm`", "clipnorm=-1.0"),
    Wrong(lambda: SGD(0.1, global_clipnorm="1"), TypeError, "`global_clipnorm`", "='1'"),
    Wrong(
        lambda: SGD(0.1, clipvalue=1, clipnorm=2), ValueError, "at most one", "clipvalue=1.0 and"
    ),
    Wrong(lambda: SGD(0.1, clip_norm=1.0), TypeError, "`clipnorm`", "clip_norm=1.0", "mean"),
    Wrong(lambda: SGD(0.1, weight_decay=-0.1), ValueError, "`weight_decay`", "-0.1"),
    Wrong(lambda: SGD(0.1, nesterov=True), ValueError, "momentum", "nesterov=True"),
    Wrong(lambda: SGD(0.1, 0.9, nesterov=1), TypeError, "`nesterov`", "nesterov=1"),
    Wrong(lambda: RMSprop(0.1, rho=1.0), ValueError, "`rho`", "rho=1.0"),
    Wrong(lambda: RMSprop(0.1, momentum=1.0), ValueError, "`momentum`", "momentum=1.0"),
    Wrong(lambda: RMSprop(0.1, epsilon=0), ValueError, "`epsilon`", "epsilon=0"),
    Wrong(lambda: RMSprop(0), ValueError, "`learning_rate`", "RMSprop(0.01)"),
    Wrong(lambda: RMSprop(0.1, decay=0.9), TypeError, "`weight_decay`", "decay=0.9"),
    Wrong(
        lambda: Adagrad(0.1, initial_accumulator_value=-1),
        ValueError,
        "`initial_accumulator_value`",
        "=-1",
    ),
    Wrong(lambda: Adagrad(0.1, epsilon=None), TypeError, "`epsilon`", "epsilon=None"),
    Wrong(
        lambda: inner_optimizers.LearnedRates(0.1, clipvalue=1, clipnorm=1),
        ValueError,
        "at most one",
        "clipnorm=1.0",
    ),
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_wrong_calls_are_explained(wrong):
    check(wrong)


@pytest.mark.parametrize("kind", ["clipnorm", "global_clipnorm"])
def test_a_gradient_whose_square_is_infinite_is_clipped_as_others(kind):
    gradients = [tf.constant([3e25, 0.0]), tf.constant([0.0, -4e25])]
    clipped = inner_optimizers.SGD(1.0, **{kind: 2.0}).clipped(gradients)
    together = [[1.2, 0.0], [0.0, -1.6]]
    each = [[2.0, 0.0], [0.0, -2.0]]
    np.testing.assert_allclose(clipped, each if kind == "clipnorm" else together, rtol=1e-6)


def test_the_derivative_of_a_gradient_that_is_made_smaller_is_that_of_its_direction():
    clip = inner_optimizers.SGD(1.0, clipnorm=1.0).clipped
    x = tf.constant([3e25, 4e25])
    with tf.GradientTape() as tape:
        tape.watch(x)
        first = clip([x])[0][0]
    # d(x / |x|) = (1 - x x^T / |x|^2) / |x|
    np.testing.assert_allclose(tape.gradient(first, x), [0.64 / 5e25, -0.48 / 5e25], rtol=1e-5)


def test_a_gradient_that_is_infinite_is_no_step_that_looks_like_one():
    clipped = inner_optimizers.SGD(1.0, clipnorm=1.0).clipped([tf.constant([np.inf, 1.0])])
    assert not np.isfinite(clipped[0]).any()


def test_where_nothing_is_said_numbers_are_those_of_keras_and_rates_those_of_pytorch():
    for name, rate in (("Adam", 0.001), ("RMSprop", 0.001), ("Adagrad", 0.01)):
        ours = getattr(inner_optimizers, name)().get_config()
        theirs = getattr(keras.optimizers, name)().get_config()
        shared = (set(ours) & set(theirs)) - {"epsilon", "learning_rate"}
        assert shared
        assert {k: ours[k] for k in shared} == {k: theirs[k] for k in shared}
        assert (ours["epsilon"], ours["learning_rate"]) == (1e-8, rate)
