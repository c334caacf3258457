"""What higher (facebookresearch/higher) tests, with its models and numbers; see README.md beside.

higher is content where 60 % of its gradient checks pass, at a tolerance of 10 %, in float32; here
all must, in float64, at 1e-6.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf import functional, inner_loop
from maml_tf.inner_optimizers import SGD, Adam
from tests.problems import flat, layers, mean_squared, relative_error

pytestmark = pytest.mark.usefixtures("float64")

# tests/test_optim.py, tests/test_patch.py: five small networks.


def simple():
    parts = [layers.Dense(3, "relu"), layers.Dense(4, "sigmoid", use_bias=False), layers.Dense(2)]
    return keras.Sequential([keras.Input((4,)), *parts])


def shared():
    """One layer under two names, whose outputs are added."""
    x, dense = keras.Input((4,)), layers.Dense(2)
    return keras.Model(x, layers.Add()([dense(x), dense(x)]))


def shared_in_a_chain():
    """One layer at two places."""
    proj = layers.Dense(3)
    x = keras.Input((4,))
    y = layers.Dense(4, "sigmoid")(layers.ReLU()(proj(x)))
    return keras.Model(x, layers.Dense(2)(layers.Activation("tanh")(proj(y))))


class Product(layers.Layer):
    """x a, and a matrix b that nothing uses."""

    def build(self, shape):
        self.a = self.add_weight(shape=(4, 3), initializer="random_uniform")
        self.b = self.add_weight(shape=(4, 3), initializer="random_uniform")

    def call(self, x):
        return x @ self.a


def partially_used():
    return keras.Sequential([keras.Input((4,)), Product()])


def batch_normed():
    def normed(units, activation):
        return [layers.Dense(units, activation), layers.BatchNormalization(epsilon=1e-5)]

    parts = [*normed(3, "relu"), *normed(4, "sigmoid"), layers.Dense(2)]
    return keras.Sequential([keras.Input((4,)), *parts])


MODELS = [simple, shared, shared_in_a_chain, partially_used]
WITH_BATCH_NORM = [*MODELS, batch_normed]
# The step size of all of them is .1. Of Adam the decays are numbers that float32 holds exactly, as
# Keras wants them, and epsilon, which Keras adds elsewhere, is next to nothing.
ADAM = {"beta_1": 0.875, "beta_2": 0.9375, "epsilon": 1e-12}
OPTIMIZERS = {
    "sgd": (SGD(0.1), lambda: keras.optimizers.SGD(0.1)),
    "sgd_momentum": (SGD(0.1, 0.1), lambda: keras.optimizers.SGD(0.1, 0.1)),
    "adam": (Adam(0.1, **ADAM), lambda: keras.optimizers.Adam(0.1, **ADAM)),
}


def built(build, seed=0):
    """The model, its weights and its state as tensors; no bias is 0."""
    keras.utils.set_random_seed(seed)
    model = build()
    return model, *moved(model, seed)


def moved(model, seed):
    """Moves the weights of a model at random; what they and its state are then."""
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign_add(0.1 * rng.normal(size=variable.shape))
    return (
        [tf.convert_to_tensor(v.value) for v in model.trainable_variables],
        [tf.convert_to_tensor(v.value) for v in model.non_trainable_variables],
    )


def batches(number, seed=1, shape=(10, 4)):
    return [tf.constant(x) for x in np.random.default_rng(seed).uniform(size=(number, *shape))]


def unrolled(model, xs, loss, optimizer, weights, state):
    """The weights after one inner step on each of `xs`."""

    def objective(weights, state, step):
        y, state = functional.call(model, weights, state, xs[step], training=True)
        return loss(y), state

    return inner_loop.adapt(objective, weights, state, optimizer, len(xs)).weights


def squares(y):
    return tf.reduce_sum(y**2)


def squared_sum(y):
    return tf.reduce_sum(y) ** 2


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("build", MODELS)
def test_unrolled_optimizers_take_the_steps_of_plain_ones(build, optimizer):
    """`testDiffOptCorrectness`: three steps, from rest, from three beginnings (ten in theirs)."""
    model, start, _ = built(build)
    ours, theirs = OPTIMIZERS[optimizer]
    for seed in range(3):
        model.set_weights(start)
        weights, state = moved(model, seed)
        xs, plain = batches(3, seed), theirs()
        weights = unrolled(model, xs, squares, ours, weights, state)
        for x in xs:
            with tf.GradientTape() as tape:
                loss = squares(model(x, training=True))
            trained = [v.value for v in model.trainable_variables]
            gradients = tape.gradient(loss, trained, unconnected_gradients="zero")
            plain.apply(gradients, model.trainable_variables if x is xs[0] else None)
        # Keras holds the numbers of its optimizers in float32.
        assert relative_error(weights, model.trainable_variables) < 1e-6


def central_differences(function, weights, step=1e-6):
    """The gradient of a function of tensors, element by element."""
    gradients = []
    for i, weight in enumerate(weights):
        gradient = np.zeros(weight.shape)
        for index in np.ndindex(*weight.shape):
            move = np.zeros(weight.shape)
            move[index] = step
            above, below = (
                function([*weights[:i], weight + sign * move, *weights[i + 1 :]])
                for sign in (1, -1)
            )
            gradient[index] = (above - below) / (2 * step)
        gradients.append(gradient)
    return gradients


def assert_slope(function, weights, gradients, direction, step=1e-6):
    """The gradient along a direction is what a central difference of length `step` gives."""
    size = np.linalg.norm(flat(direction))
    above, below = (
        function([w + sign * step / size * d for w, d in zip(weights, direction, strict=True)])
        for sign in (1, -1)
    )
    slope = flat(gradients) @ flat(direction) / size
    np.testing.assert_allclose(slope, (above - below) / (2 * step), rtol=1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("build", MODELS)
def test_gradients_through_a_step_agree_with_differences(build, optimizer):
    """`testGradientCorrectness`: a step on one batch, the loss on another."""
    model, weights, state = built(build)
    xs = batches(2)

    @tf.function(autograph=False)
    def loss_and_gradient(weights):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            adapted = unrolled(model, xs[:1], squares, OPTIMIZERS[optimizer][0], weights, state)
            loss = squares(functional.call(model, adapted, state, xs[1], training=True)[0])
        return loss, tape.gradient(loss, weights, unconnected_gradients="zero")

    _, received = loss_and_gradient(weights)
    expected = central_differences(lambda w: loss_and_gradient(w)[0].numpy(), weights)
    assert relative_error(received, expected) < 1e-6
    if build is partially_used:
        assert not received[1].numpy().any()


@pytest.mark.parametrize("build", WITH_BATCH_NORM)
def test_a_model_called_with_its_weights_is_itself(build):
    """`testGet`, `testForward`, `testBackward`."""
    model, weights, state = built(build)
    for x in batches(3, shape=(8, 4)):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            y, _ = functional.call(model, weights, state, x, training=True)
            loss = squared_sum(y)
        with tf.GradientTape() as plain_tape:
            plain = model(x, training=True)
            plain_loss = squared_sum(plain)
        np.testing.assert_allclose(y, plain, rtol=1e-12)
        expected = plain_tape.gradient(plain_loss, [v.value for v in model.trainable_variables])
        gradients = tape.gradient(loss, weights)
        assert [g is None for g in gradients] == [g is None for g in expected]
        known = [(g, e) for g, e in zip(gradients, expected, strict=True) if g is not None]
        # Of a bias before a batch normalisation the gradient is nothing but rounding.
        assert relative_error(*zip(*known, strict=True)) < 1e-9


@pytest.mark.parametrize("build", WITH_BATCH_NORM)
def test_ten_unrolled_steps_are_differentiable(build):
    """`testUnrollSGD`, `testCtxManager`, `testMiniMAML`.

    Theirs take steps of .1, with which some of the networks run away on this loss, and take it
    after the last step too, where it is next to nothing and its differences are rounding.
    """
    model, weights, state = built(build)
    *xs, last = batches(11, shape=(8, 4))

    def losses(weights):
        adapted = unrolled(model, xs, squared_sum, SGD(0.001), weights, state)
        y, _ = functional.call(model, adapted, state, last, training=True)
        return squares(y), tf.add_n([tf.reduce_sum(w) for w in adapted])

    with tf.GradientTape(persistent=True) as tape:
        tape.watch(weights)
        both = losses(weights)
    rng = np.random.default_rng(0)
    direction = [rng.normal(size=w.shape) for w in weights]
    for i, loss in enumerate(both):
        gradients = tape.gradient(loss, weights, unconnected_gradients="zero")
        assert_slope(lambda w, i=i: losses(w)[i], weights, gradients, direction)


@pytest.mark.parametrize("cell", [layers.SimpleRNN, layers.LSTM, layers.GRU])
def test_recurrent_networks_are_unrolled_through(cell):
    """`testRNNForward`, `testRNNUnrollSGD`: 5 steps of 10 features, twice 20 units."""
    parts = [cell(20, return_sequences=True, unroll=True), cell(20, unroll=True)]
    model, weights, state = built(lambda: keras.Sequential([keras.Input((5, 10)), *parts]))
    first, last = batches(2, shape=(3, 5, 10))
    y, _ = functional.call(model, weights, state, first, training=False)
    np.testing.assert_allclose(y, model(first), rtol=1e-12)

    def loss_at(weights):
        adapted = unrolled(model, [first], squared_sum, SGD(0.1), weights, state)
        return squared_sum(functional.call(model, adapted, state, last, training=True)[0])

    with tf.GradientTape() as tape:
        tape.watch(weights)
        loss = loss_at(weights)
    gradients = tape.gradient(loss, weights)
    assert all(np.linalg.norm(g) > 0 for g in gradients)
    assert_slope(loss_at, weights, gradients, gradients, step=1e-8)


def test_a_frozen_layer_stays_and_the_next_one_moves():
    """`testFrozenParameters`: 16 examples, 30-50-1, the first layer frozen, a step of .1."""
    x, first, last = keras.Input((30,)), layers.Dense(50, trainable=False), layers.Dense(1)
    model = keras.Model(x, last(first(x)))
    learner = maml_tf.MAML(model, 0.1)
    learner.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    inputs = np.random.default_rng(0).normal(size=(16, 30))
    labels = np.repeat([1.0, 0.0], 8)[:, None]
    adapted = learner.adapt(inputs, labels)
    for i, (one, other) in enumerate(zip(adapted.weights, model.weights, strict=True)):
        assert np.array_equal(one, other) == (i < 2)
    # The reference: one step of logistic regression on what the first layer gives.
    hidden = inputs @ first.kernel.numpy() + first.bias.numpy()
    error = 1 / (1 + np.exp(-(hidden @ last.kernel.numpy() + last.bias.numpy()))) - labels
    expected = last.kernel.numpy() - 0.1 * hidden.T @ error / 16
    np.testing.assert_allclose(adapted.weights[2], expected, rtol=1e-6)


# tests/test_higher.py: three blocks of convolution, batch normalisation, ReLU and max-pooling on 7
# pictures of 28 x 28 x 3, ten steps of .01, beside the same network by hand.

FILTERS = 8  # 64 in theirs


def blocks():
    parts = []
    for _ in range(3):
        parts += [layers.Conv2D(FILTERS, 3), layers.BatchNormalization(epsilon=1e-5)]
        parts += [layers.ReLU(), layers.MaxPooling2D(2)]
    return keras.Sequential([keras.Input((28, 28, 3)), *parts, layers.Flatten(), layers.Dense(5)])


def blocks_by_hand(weights, x):
    for i in range(0, 12, 4):
        kernel, bias, gamma, beta = weights[i : i + 4]
        x = tf.nn.conv2d(x, kernel, 1, "VALID") + bias
        x = x - tf.reduce_mean(x, [0, 1, 2])
        x = x / tf.sqrt(tf.reduce_mean(x**2, [0, 1, 2]) + 1e-5) * gamma + beta
        x = tf.nn.max_pool2d(tf.nn.relu(x), 2, 2, "VALID")
    return tf.reshape(x, [len(x), -1]) @ weights[12] + weights[13]


def test_unrolled_blocks_equal_the_network_by_hand():
    """`testUnrollEqualityForward`, `testUnrollEqualityBackward`, `testRandomForwards`."""
    model, weights, state = built(blocks)
    xs = batches(11, shape=(7, 28, 28, 3))
    ys = batches(11, seed=2, shape=(7, 5))

    def objective(weights, state, step):
        y, state = functional.call(model, weights, state, xs[step], training=True)
        return mean_squared(ys[step], y), state

    def ours(weights):
        adapted = inner_loop.adapt(objective, weights, state, SGD(0.01), 10)
        return objective(adapted.weights, state, 10)[0], adapted.weights, adapted.losses

    def by_hand(weights):
        losses = []
        for x, y in zip(xs[:10], ys[:10], strict=True):
            with tf.GradientTape() as tape:
                tape.watch(weights)
                losses.append(mean_squared(y, blocks_by_hand(weights, x)))
            gradients = tape.gradient(losses[-1], weights)
            weights = [w - 0.01 * g for w, g in zip(weights, gradients, strict=True)]
        return mean_squared(ys[10], blocks_by_hand(weights, xs[10])), weights, losses

    results = []
    for way in (ours, by_hand):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            loss, adapted, losses = way(weights)
        results.append((loss, adapted, losses, tape.gradient(loss, weights)))
    (loss, adapted, losses, gradients), expected = results
    np.testing.assert_allclose(loss, expected[0], rtol=1e-9)
    np.testing.assert_allclose(losses, expected[2], rtol=1e-9)
    assert relative_error(adapted, expected[1]) < 1e-9
    assert relative_error(gradients, expected[3]) < 1e-7
