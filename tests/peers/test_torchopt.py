"""What TorchOpt (metaopt/torchopt) tests of differentiable optimizers, with its numbers; README.md.

TorchOpt's references are `torch.optim.SGD` and `torch.optim.Adam`, whose rules are written out here
in NumPy, and once more for the meta-gradient.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf.inner_optimizers import SGD, Adam
from tests.problems import layers, relative_error

pytestmark = pytest.mark.usefixtures("float64")

RATES = [1e-2, 1e-3, 1e-4]
BETAS = [(0.9, 0.999), (0.95, 0.9995)]
UPDATES = 5


def torch_sgd(weights, gradients, rate, momentum):
    """`torch.optim.SGD` without dampening; `rate(step)` gives the step size."""
    velocity = np.zeros_like(weights)
    for step, gradient in enumerate(gradients):
        velocity = momentum * velocity + gradient
        weights = weights - rate(step) * velocity
    return weights


def torch_adam(weights, gradients, rate, betas):
    """`torch.optim.Adam` with epsilon 1e-8; `rate(step)` gives the step size."""
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    for step, gradient in enumerate(gradients):
        first = betas[0] * first + (1 - betas[0]) * gradient
        second = betas[1] * second + (1 - betas[1]) * gradient**2
        corrections = [1 - beta ** (step + 1) for beta in betas]
        root = np.sqrt(second) / np.sqrt(corrections[1]) + 1e-8
        weights = weights - rate(step) / corrections[0] * first / root
    return weights


def after(optimizer, weights, gradients):
    """The weights after our updates by given gradients."""
    weights, slots = [tf.constant(weights)], optimizer.init([tf.constant(weights)])
    for step, gradient in enumerate(gradients):
        weights, slots = optimizer.update(step, [tf.constant(gradient)], weights, slots)
    return weights[0]


def problem():
    rng = np.random.default_rng(42)
    return rng.normal(size=(6, 4)), rng.normal(size=(UPDATES, 6, 4))


@pytest.mark.parametrize("momentum", [0.0, 0.1])
@pytest.mark.parametrize("rate", RATES)
def test_sgd_takes_the_steps_of_torch(rate, momentum):
    """`test_sgd`, `test_SGD`: five updates."""
    received = after(SGD(rate, momentum), *problem())
    expected = torch_sgd(*problem(), lambda step: rate, momentum)
    np.testing.assert_allclose(received, expected, rtol=1e-12)


@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("rate", RATES)
def test_adam_takes_the_steps_of_torch(rate, betas):
    """`test_adam`, `test_Adam`: five updates."""
    received = after(Adam(rate, *betas, epsilon=1e-8), *problem())
    expected = torch_adam(*problem(), lambda step: rate, betas)
    np.testing.assert_allclose(received, expected, rtol=1e-12)


@pytest.mark.parametrize("total", [UPDATES, 2 * UPDATES])
@pytest.mark.parametrize("rate", RATES[:2])
def test_a_linear_schedule_is_that_of_torch(rate, total):
    """`test_lr_linear_schedule`: from the rate to a tenth of it, in 5 or 10 updates."""
    schedule = keras.optimizers.schedules.PolynomialDecay(rate, total, 0.1 * rate)

    def torch_rate(step):
        return rate * (1 - 0.9 * min(step, total) / total)

    # Keras computes a schedule in float32.
    for optimizer, expected in (
        (SGD(schedule), torch_sgd(*problem(), torch_rate, 0.0)),
        (Adam(schedule), torch_adam(*problem(), torch_rate, BETAS[0])),
    ):
        np.testing.assert_allclose(after(optimizer, *problem()), expected, rtol=1e-6)


def test_a_linear_schedule_ends_where_it_should():
    """`test_linear_schedule`: from 1 to 0 in ten steps."""
    optimizer = SGD(keras.optimizers.schedules.PolynomialDecay(1.0, 10, 0.0))
    rates = [optimizer.rate(step, tf.float64).numpy() for step in range(10)]
    np.testing.assert_allclose(rates, 1 - np.arange(10) / 10, rtol=1e-6)


@pytest.mark.parametrize("staircase", [False, True])
@pytest.mark.parametrize("steps", [10, 100])
@pytest.mark.parametrize("decay", [1e-2, 1e-3])
@pytest.mark.parametrize("rate", [1.0, 1e-1])
def test_an_exponential_schedule_is_its_power(rate, decay, steps, staircase):
    """`test_exponential_decay`, without its `transition_begin` and `end_value`."""
    schedule = keras.optimizers.schedules.ExponentialDecay(rate, steps, decay, staircase)
    for step in (0, 1, steps // 2, steps - 1, steps, 2 * steps + 1):
        power = step // steps if staircase else step / steps
        received = SGD(schedule).rate(step, tf.float64)
        np.testing.assert_allclose(received, rate * decay**power, rtol=1e-5)


# test_alias.py `test_maml_adam`, test_meta_optim.py `test_maml_meta_adam`: 2, 3 or 5 inner updates
# on the batch that the outer loss is taken on too, through two normalised layers and a softmax.
# Theirs runs through; here the meta-gradient is that of plain tapes over the rules of torch.


def normalised_layers():
    keras.utils.set_random_seed(42)
    parts = []
    for _ in range(2):
        parts += [layers.Dense(8), layers.BatchNormalization(epsilon=1e-5), layers.ReLU()]
    last = layers.Dense(10, "softmax", use_bias=False)
    return keras.Sequential([keras.Input((16,)), *parts, last])


def by_hand(weights, x):
    for i in (0, 4):
        kernel, bias, gamma, beta = weights[i : i + 4]
        x = x @ kernel + bias
        x = x - tf.reduce_mean(x, 0)
        x = tf.nn.relu(x / tf.sqrt(tf.reduce_mean(x**2, 0) + 1e-5) * gamma + beta)
    return tf.nn.softmax(x @ weights[8])


def cross_entropy(y, y_pred):
    """As in theirs, which takes for logits what is a softmax already."""
    y = tf.cast(y, tf.int32)  # Keras makes floats of them for a function
    return -tf.gather(tf.nn.log_softmax(y_pred), y, batch_dims=1)


def mean_cross_entropy(weights, x, y):
    return tf.reduce_mean(cross_entropy(y, by_hand(weights, x)))


def adam_by_hand(weights, x, y, rate, betas, steps):
    first, second = ([tf.zeros_like(w) for w in weights] for _ in range(2))
    for t in range(1, steps + 1):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            loss = mean_cross_entropy(weights, x, y)
        gradients = tape.gradient(loss, weights)
        moved = []
        for i, (w, g) in enumerate(zip(weights, gradients, strict=True)):
            first[i] = betas[0] * first[i] + (1 - betas[0]) * g
            second[i] = betas[1] * second[i] + (1 - betas[1]) * g**2
            root = tf.sqrt(second[i] / (1 - betas[1] ** t)) + 1e-8
            moved.append(w - rate / (1 - betas[0] ** t) * first[i] / root)
        weights = moved
    return weights


@pytest.mark.parametrize(
    ("steps", "rate", "betas"), [(2, 1e-2, BETAS[0]), (3, 1e-3, BETAS[1]), (5, 1e-4, BETAS[0])]
)
def test_the_meta_gradient_through_adam_is_that_of_tapes(steps, rate, betas):
    model = normalised_layers()
    learner = maml_tf.MAML(model, Adam(rate, *betas), steps)
    learner.compile("sgd", cross_entropy)
    rng = np.random.default_rng(42)
    x, y = rng.uniform(-1, 1, (64, 16)), rng.integers(0, 10, 64)
    task = {"support_x": x[None], "support_y": y[None], "query_x": x[None]}
    loss, gradients, *_ = learner.meta_gradient(
        tf.nest.map_structure(tf.constant, task), tf.constant(y[None])
    )
    start = [tf.constant(v.numpy()) for v in model.trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(start)
        adapted = adam_by_hand(start, x, y, rate, betas, steps)
        expected = mean_cross_entropy(adapted, x, y)
    np.testing.assert_allclose(loss, expected, rtol=1e-9)
    assert relative_error(gradients, tape.gradient(expected, start)) < 1e-7
