"""The meta-gradient against closed forms and against finite differences in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import inner_loop
from maml_tf.inner.optimizers import SGD, Adam
from tests.problems import (
    adapt_by_hand,
    compiled,
    conv_by_hand,
    conv_model,
    dense_by_hand,
    dense_model,
    flat,
    layers,
    mean_squared,
    relative_error,
    task_batch,
    traced_meta_gradient,
)

pytestmark = pytest.mark.usefixtures("float64")


class Scale(keras.Model):
    """w * x for w = [2, 3, 5]."""

    def __init__(self, regularizer=None):
        super().__init__()
        self.w = self.add_weight(
            shape=(3,), initializer=lambda shape, dtype: [2.0, 3.0, 5.0], regularizer=regularizer
        )
        self.built = True

    def call(self, x):
        return self.w * x


def half_square(y, y_pred):
    """sum((w x - y)**2) / 2 for `Scale`: the gradient is x (w x - y)."""
    return tf.reduce_sum((y_pred - y) ** 2, -1) / 2


ONE = {"support_x": [[[1.0] * 3]], "support_y": [[[0.0] * 3]], "query_x": [[[1.0] * 3]]}
ONE = {name: np.array(value) for name, value in ONE.items()}
OF_ONE = np.array([[[1.0] * 3]])


def gradient_on_w(inputs, query_y, rate, regularizer=None, inner_loss=None, weight=None, **maml):
    learner = compiled(Scale(regularizer), rate, loss=half_square, **maml)
    if inner_loss is not None:
        learner.compile(optimizer="sgd", loss="mae", inner_loss=inner_loss)
    inputs = {name: tf.constant(value) for name, value in inputs.items()}
    loss, (gradient,), *_ = learner.meta_gradient(inputs, tf.constant(query_y), weight)
    return loss.numpy(), gradient.numpy()


def test_one_step_by_hand():
    # theta' = 0.9 w = [1.8, 2.7, 4.5], the query gradient there is theta' - 1
    loss, gradient = gradient_on_w(ONE, OF_ONE, 0.1)
    np.testing.assert_allclose(loss, (0.8**2 + 1.7**2 + 3.5**2) / 2, rtol=1e-7)
    np.testing.assert_allclose(gradient, [0.9 * 0.8, 0.9 * 1.7, 0.9 * 3.5], rtol=1e-7)


def test_one_step_first_order_by_hand():
    _, gradient = gradient_on_w(ONE, OF_ONE, 0.1, first_order=True)
    np.testing.assert_allclose(gradient, [0.8, 1.7, 3.5], rtol=1e-7)


def test_a_meta_batch_gives_the_mean_over_tasks_by_hand():
    two = {name: np.concatenate([value, 2 * value]) for name, value in ONE.items()}
    # second task: x = 2, theta' = (1 - 0.4) w, gradient 2 (2 theta' - 1) (1 - 0.4)
    _, gradient = gradient_on_w(two, np.concatenate([OF_ONE, OF_ONE]), 0.1)
    w = np.array([2.0, 3.0, 5.0])
    expected = (0.9 * (0.9 * w - 1) + 0.6 * 2 * (2 * 0.6 * w - 1)) / 2
    np.testing.assert_allclose(gradient, expected, rtol=1e-7)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize(
    ("rate", "steps", "factor"),
    [
        pytest.param(0.1, 0, 1.0, id="no-step"),
        pytest.param(0.1, 4, 0.9**4, id="four-steps"),
        pytest.param(SGD([0.5, 0.25, 0.1]), 4, 0.5 * 0.75 * 0.9 * 0.9, id="rates"),
        # v: -0.5, then -0.25 - 0.25 = -0.5, then -0.25 - 0 of the weight 1, 0.5, 0
        pytest.param(SGD(0.5, momentum=0.5), 3, -0.25, id="momentum"),
    ],
)
def test_several_steps_by_hand(rate, steps, factor, first_order):
    """From x = 1, y = 0 every rule multiplies w by a number: theta' = factor w."""
    _, gradient = gradient_on_w(ONE, OF_ONE, rate, inner_steps=steps, first_order=first_order)
    expected = (1.0 if first_order else factor) * (factor * np.array([2.0, 3.0, 5.0]) - 1)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_regularizers_count_in_both_losses_by_hand():
    # both losses have w**2 / 2 more: theta' = w - 0.1 (w + w) = 0.8 w
    w = np.array([2.0, 3.0, 5.0])
    for inner_loss in (None, half_square):
        l2 = keras.regularizers.L2(0.5)
        loss, gradient = gradient_on_w(ONE, OF_ONE, 0.1, l2, inner_loss)
        penalty = np.sum((0.8 * w) ** 2) / 2
        if inner_loss is None:
            outer, slope = np.sum((0.8 * w - 1) ** 2) / 2, 0.8 * w - 1
        else:
            outer, slope = np.mean(abs(0.8 * w - 1)), np.sign(0.8 * w - 1) / 3
        np.testing.assert_allclose(loss, outer + penalty, rtol=1e-7)
        np.testing.assert_allclose(gradient, 0.8 * (slope + 0.8 * w), rtol=1e-7)


def test_sample_weights_weigh_queries_by_hand():
    queries = {**ONE, "query_x": np.repeat(ONE["query_x"], 2, axis=1)}
    query_y = np.array([[[1.0] * 3, [0.0] * 3]])
    weight = tf.constant([[2.0, 4.0]])
    _, gradient = gradient_on_w(queries, query_y, 0.1, weight=weight)
    w = 0.9 * np.array([2.0, 3.0, 5.0])
    np.testing.assert_allclose(gradient, 0.9 * (2 * (w - 1) + 4 * w) / 2, rtol=1e-7)


# Finite differences.


def finite_differences(loss, variables, step=2e-5):
    """The gradient of `loss()`, element by element, by fourth-order central differences."""
    gradients = []
    for variable in variables:
        value = np.array(variable)
        gradient = np.zeros_like(value)
        for index in np.ndindex(value.shape):

            def at(change, value=value, index=index, variable=variable):
                moved = value.copy()
                moved[index] += change
                variable.assign(moved)
                return loss().numpy()

            near, far = at(step) - at(-step), at(2 * step) - at(-2 * step)
            gradient[index] = (8 * near - far) / (12 * step)
        variable.assign(value)
        gradients.append(gradient)
    return gradients


def sequential(shape, *parts):
    return keras.Sequential([keras.Input(shape), *parts, layers.Dense(2)])


def with_pooling():
    return sequential(
        (6, 6, 1),
        layers.Conv2D(2, 3),
        layers.BatchNormalization(),
        layers.Activation("softplus"),
        layers.MaxPooling2D(2),
        layers.Flatten(),
    )


def shared_layer():
    shared, x = layers.Dense(3, "tanh"), keras.Input((3,))
    return keras.Model(x, layers.Dense(2)(shared(layers.Activation("softplus")(shared(x)))))


def several_inputs():
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    product = layers.Dense(2, "tanh")(a) * layers.Dense(2)(b)
    return keras.Model({"a": a, "b": b}, layers.Dense(2)(product))


class Residual(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = layers.Dense(3, "tanh")
        self.last = layers.Dense(2)
        self.gain = self.add_weight(shape=(), initializer="ones", name="gain")

    def call(self, x, training=False):
        return self.last(self.gain * x + self.hidden(x) ** 2)


def subclassed():
    model = Residual()
    model(np.zeros((1, 3)))
    return model


def words():
    inputs, query_y = task_batch((3,))
    tokens = {
        k: v if k == "support_y" else tf.cast(abs(v) * 3, "int32") % 4 for k, v in inputs.items()
    }
    return tokens, query_y


IMAGES = {"x": (6, 6, 1)}
MODELS = {
    "dense": (dense_model, {}, {"inner_steps": 3}),
    "dense-vectorized": (dense_model, {}, {"task_map": "vectorized", "rematerialize": True}),
    "dense-adaptable": (dense_model, {}, {"adaptable": [False, True, True, False]}),
    "dense-momentum": (dense_model, {}, {"rate": SGD([0.2, 0.1], 0.9), "inner_steps": 3}),
    "dense-adam": (dense_model, {}, {"rate": Adam(0.05, epsilon=1e-2), "inner_steps": 2}),
    "conv-pool-batch-norm": (with_pooling, IMAGES, {"inner_steps": 2}),
    "conv-support-batch-norm": (conv_model, IMAGES, {"batch_norm": "support"}),
    "conv-rematerialized": (conv_model, IMAGES, {"rematerialize": True, "inner_steps": 2}),
    "layer-norm": (
        lambda: sequential((3,), layers.Dense(4), layers.LayerNormalization(), layers.ELU()),
        {},
        {},
    ),
    "group-norm": (
        lambda: sequential((3,), layers.Dense(6), layers.GroupNormalization(2), layers.ELU()),
        {},
        {},
    ),
    "shared-layer": (shared_layer, {}, {"inner_steps": 2}),
    "several-inputs": (several_inputs, {"x": {"a": (3,), "b": (2,)}}, {"inner_steps": 2}),
    "subclassed": (subclassed, {}, {"inner_steps": 2}),
    "recurrent": (lambda: sequential((3, 2), layers.GRU(2)), {"x": (3, 2), "tasks": 1}, {}),
    "embedding": (
        lambda: sequential((3,), layers.Embedding(4, 2), layers.Flatten()),
        words,
        {"inner_steps": 2},
    ),
}


@pytest.mark.parametrize(("build", "batch", "settings"), MODELS.values(), ids=MODELS)
def test_meta_gradient_equals_finite_differences(build, batch, settings):
    keras.utils.set_random_seed(1)
    model = build()
    inputs, query_y = batch() if callable(batch) else task_batch(**batch)
    compute = traced_meta_gradient(compiled(model, **{"rate": 0.1, **settings}), inputs, query_y)
    gradients = compute()[1]
    expected = finite_differences(lambda: compute()[0], model.trainable_variables)
    assert relative_error(gradients, expected) < 1e-7
    gradient, slope = flat(gradients), flat(expected)
    for direction in np.random.default_rng(0).normal(size=(5, slope.size)):
        np.testing.assert_allclose(direction @ gradient, direction @ slope, rtol=1e-5, atol=1e-9)


def test_through_batch_norm_keras_own_stateless_call_is_wrong_in_second_order():
    """Why `functional.call` exists. If this fails, Keras has put it right."""
    model = conv_model()
    inputs, query_y = task_batch((6, 6, 1), tasks=1)

    @tf.function(autograph=False)
    def compute():
        weights = [tf.convert_to_tensor(v) for v in model.trainable_variables]
        state = [tf.convert_to_tensor(v) for v in model.non_trainable_variables]

        def loss_of(weights, x, y):
            return mean_squared(y, model.stateless_call(weights, state, x, training=True)[0])

        def objective(weights, state, step):
            return loss_of(weights, inputs["support_x"][0], inputs["support_y"][0]), state

        with tf.GradientTape() as tape:
            tape.watch(weights)
            adapted = inner_loop.adapt(objective, weights, state, SGD(0.1), 1).weights
            loss = loss_of(adapted, inputs["query_x"][0], query_y[0])
        return loss, tape.gradient(loss, weights)

    expected = finite_differences(lambda: compute()[0], model.trainable_variables)
    assert relative_error(compute()[1], expected) > 1e-3
    ours = traced_meta_gradient(compiled(model, 0.1), inputs, query_y)()
    np.testing.assert_allclose(compute()[0], ours[0], rtol=1e-6)
    assert relative_error(ours[1], expected) < 1e-6


@pytest.mark.parametrize(
    ("build", "by_hand", "shape"),
    [
        pytest.param(dense_model, dense_by_hand, (3,), id="dense"),
        pytest.param(conv_model, conv_by_hand, (6, 6, 1), id="conv"),
    ],
)
@pytest.mark.parametrize("steps", [1, 3])
def test_first_order_is_the_query_gradient_at_the_adapted_weights(build, by_hand, shape, steps):
    model = build()
    inputs, query_y = task_batch(shape, tasks=1)
    learner = compiled(model, 0.1, inner_steps=steps, first_order=True)
    loss, gradients, _, y_pred, _ = learner.meta_gradient(inputs, query_y)

    initial = [tf.constant(v.numpy()) for v in model.trainable_variables]
    support = inputs["support_x"][0], inputs["support_y"][0]
    adapted = adapt_by_hand(by_hand, initial, *support, 0.1, steps)
    with tf.GradientTape() as tape:
        tape.watch(adapted)
        expected_pred = by_hand(adapted, inputs["query_x"][0])
        expected = mean_squared(query_y[0], expected_pred)
    np.testing.assert_allclose(loss, expected, rtol=1e-7)
    np.testing.assert_allclose(y_pred[0], expected_pred, rtol=1e-6)
    assert relative_error(gradients, tape.gradient(expected, adapted)) < 1e-7
