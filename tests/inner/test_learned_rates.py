"""Inner optimizers that learn: rates against SGD and central differences, and a network."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf import inner_optimizers
from maml_tf.inner.optimizers import SGD, LearnedRates
from tests.problems import (
    adapt_by_hand,
    dense_by_hand,
    dense_model,
    layers,
    mean_squared,
    relative_error,
    task_batch,
    traced_meta_gradient,
)


def learner_with(optimizer, inner_steps=2, **settings):
    learner = maml_tf.MAML(dense_model(), optimizer, inner_steps, **settings)
    learner.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss="mse")
    return learner


def assert_same(received, expected):
    for one, other in zip(received, expected, strict=True):
        np.testing.assert_array_equal(one, other)


KINDS = {
    "per-weight": {},
    "per-weight-and-step": {"steps": 2},
    "per-tensor": {"per": "tensor"},
    "per-tensor-and-step": {"per": "tensor", "steps": 2},
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_constant_rates_are_plain_gradient_descent_bit_for_bit(kind):
    """Eagerly: in a graph TensorFlow takes common factors out of sums, of scalars only."""
    inputs, query_y = task_batch()
    learned, plain = learner_with(LearnedRates(0.1, **kind)), learner_with(SGD(0.1))
    received, expected = (learner.meta_gradient(inputs, query_y) for learner in (learned, plain))
    of_model = {id(v) for v in learned.model.trainable_variables}
    gradients = [
        g
        for v, g in zip(learned.trainable_variables, received[1], strict=True)
        if id(v) in of_model
    ]
    assert_same(gradients, expected[1])
    assert_same([received[0], received[3]], [expected[0], expected[3]])


def shapes_of(learner):
    return [tuple(rate.shape) for rate in learner.inner_optimizer.rates]


def test_rates_have_the_shapes_of_what_they_are_for():
    weights = [(3, 5), (5,), (5, 2), (2,)]
    per_weight = learner_with(LearnedRates(0.1))
    assert shapes_of(per_weight) == weights
    assert shapes_of(learner_with(LearnedRates(0.1, steps=3))) == [(3, *s) for s in weights]
    assert shapes_of(learner_with(LearnedRates(0.1, per="tensor"))) == [()] * 4
    assert shapes_of(learner_with(LearnedRates(0.1, per="tensor", steps=3))) == [(3,)] * 4
    assert shapes_of(learner_with(LearnedRates(0.1), adaptable=[False, False, True, True])) == [
        (5, 2),
        (2,),
    ]
    assert len(per_weight.trainable_variables) == 8


def loss_by_hand(weights, rates, tasks, steps, rate_of):
    """The outer loss of MAML with these rates, a plain loop."""
    losses = []
    for x, y, query_x, labels in tasks:
        fast = weights
        for step in range(steps):
            with tf.GradientTape() as tape:
                tape.watch(fast)
                loss = mean_squared(y, dense_by_hand(fast, x))
            gradients = tape.gradient(loss, fast)
            fast = [
                w - rate_of(rate, step) * g
                for w, rate, g in zip(fast, rates, gradients, strict=True)
            ]
        losses.append(mean_squared(labels, dense_by_hand(fast, query_x)))
    return tf.reduce_mean(losses)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("rematerialize", [False, True], ids=["kept", "rematerialized"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_gradient_of_rates_agrees_with_central_differences(kind, rematerialize):
    learner = learner_with(LearnedRates(0.1, **kind), rematerialize=rematerialize)
    rates = learner.inner_optimizer.rates
    random = np.random.default_rng(0)
    for rate in rates:
        rate.assign(random.uniform(0.05, 0.3, rate.shape))
    inputs, query_y = task_batch()
    loss, gradients, *_ = traced_meta_gradient(learner, inputs, query_y)()
    received = {id(v): g for v, g in zip(learner.trainable_variables, gradients, strict=True)}

    def at(value, step):
        return value if learner.inner_optimizer.steps is None else value[step]

    weights = [tf.constant(v.numpy()) for v in learner.model.trainable_variables]
    tasks = [[part[i] for part in (*inputs.values(), query_y)] for i in range(2)]

    @tf.function(autograph=False)
    def outer(values):
        return loss_by_hand(weights, values, tasks, 2, at)

    values = [rate.numpy() for rate in rates]
    np.testing.assert_allclose(loss, outer([tf.constant(v) for v in values]), rtol=1e-12)
    slopes = []
    for place, value in enumerate(values):
        slope = np.zeros_like(value)
        for index in np.ndindex(value.shape):
            terms = []
            for change in (-2e-3, -1e-3, 1e-3, 2e-3):
                moved = [np.array(v) for v in values]
                moved[place][index] += change
                terms.append(float(outer([tf.constant(v) for v in moved])))
            far, near, nearer, farther = terms
            slope[index] = (far - 8 * near + 8 * nearer - farther) / 12e-3
        slopes.append(slope)
    received = [received[id(rate)].numpy() for rate in rates]
    assert all(np.abs(g).max() > 1e-4 for g in received)
    assert relative_error(received, slopes) < 1e-8


def test_a_while_loop_takes_the_same_steps_and_the_last_rates_for_later_ones():
    optimizer = LearnedRates(0.1, per="tensor", steps=2)
    learner = learner_with(optimizer)
    for i, rate in enumerate(optimizer.rates):
        rate.assign([0.1 + 0.05 * i, 0.3 - 0.05 * i])
    inputs, _ = task_batch()
    path = learner.predict_path(inputs, 4).numpy()
    weights = [v.value for v in learner.model.trainable_variables]
    x, y, query_x = (part[0] for part in inputs.values())
    for step in range(4):
        before = weights
        # Descent at a rate of 1 gives the gradients: each tensor then takes its own part of them.
        moved = adapt_by_hand(dense_by_hand, before, x, y, 1.0, 1)
        weights = [
            w + rate.value[min(step, 1)] * (m - w)
            for w, m, rate in zip(before, moved, optimizer.rates, strict=True)
        ]
        expected = dense_by_hand(weights, query_x)
        np.testing.assert_allclose(path[0, step + 1], expected, rtol=1e-4, atol=1e-5)


@keras.saving.register_keras_serializable("tests")
class Coordinatewise(keras.layers.Layer):
    """A small network gives each weight's move from its gradient and the loss.

    As of Andrychowicz et al. (2016), without a memory.
    """

    takes_loss = True

    def __init__(self, units=3, **settings):
        super().__init__(**settings)
        self.units = units
        self.hidden = layers.Dense(
            units, "tanh", kernel_initializer=keras.initializers.GlorotUniform(seed=0)
        )
        self.last = layers.Dense(1, kernel_initializer=keras.initializers.Constant(0.1))

    def build(self, shapes):
        del shapes
        self.hidden.build((None, 2))
        self.last.build((None, self.units))

    def init(self, weights):
        return [tf.zeros_like(w) for w in weights]

    def update(self, step, gradients, weights, slots, loss):
        moved, kept = [], []
        for w, g, slot in zip(weights, gradients, slots, strict=True):
            column = tf.reshape(g, [-1, 1])
            seen = tf.concat([column, tf.fill(tf.shape(column), loss)], 1)
            move = tf.reshape(self.last(self.hidden(seen)), w.shape)
            kept.append(0.5 * slot + move)
            moved.append(w - 0.1 * g - 0.1 * kept[-1])
        return moved, kept

    def get_build_config(self):
        return

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def kept_after_saving(learner, folder):
    """Trains, saves, loads and exports; returns the loaded one."""
    inputs, query_y = task_batch()
    own = learner.inner_optimizer.trainable_variables
    before = [v.numpy() for v in own]
    learner.fit(inputs, query_y, batch_size=2, epochs=3, verbose=0)
    assert all(np.abs(v.numpy() - b).max() > 1e-6 for v, b in zip(own, before, strict=True))
    learner.save(folder / "learner.keras")
    loaded = keras.saving.load_model(folder / "learner.keras")
    assert_same(loaded.get_weights(), learner.get_weights())
    expected = learner(inputs).numpy()
    np.testing.assert_array_equal(loaded(inputs), expected)
    for one in (learner, loaded):
        one.fit(inputs, query_y, batch_size=2, verbose=0)
    assert_same(loaded.get_weights(), learner.get_weights())
    expected = learner(inputs).numpy()
    exported = tf.saved_model.load(
        str(maml_tf.serving.export(learner, folder / "model", warm_up=False))
    )
    request = {name: part[0] for name, part in inputs.items()}
    answer = exported.signatures["adapt_and_predict"](**request, inner_steps=tf.constant(2))
    np.testing.assert_allclose(answer["predictions"], expected[0], rtol=1e-5, atol=1e-6)
    adapted = learner.adapt(inputs["support_x"][0], inputs["support_y"][0])
    np.testing.assert_allclose(adapted(inputs["query_x"][0]), expected[0], rtol=1e-5, atol=1e-6)
    return loaded


def test_rates_are_saved_exported_and_restored(tmp_path):
    loaded = kept_after_saving(
        learner_with(LearnedRates(0.1, per="tensor", steps=2, constraint="non_neg")), tmp_path
    )
    optimizer = loaded.inner_optimizer
    assert (optimizer.per, optimizer.steps) == ("tensor", 2)
    assert isinstance(optimizer.constraint, keras.constraints.NonNeg)


@pytest.mark.parametrize(
    "rematerialize",
    [pytest.param(False, marks=pytest.mark.slow, id="kept"), pytest.param(True, id="remade")],
)
def test_an_optimizer_that_is_a_network_trains_and_is_kept(tmp_path, rematerialize):
    learner = learner_with(Coordinatewise(), rematerialize=rematerialize)
    kept_after_saving(learner, tmp_path)


def test_rematerializing_changes_no_gradient_of_a_network_that_optimizes():
    inputs, query_y = task_batch()
    received = [
        learner_with(Coordinatewise(), rematerialize=again).meta_gradient(inputs, query_y)[1]
        for again in (False, True)
    ]
    assert relative_error(list(received[1]), list(received[0])) < 1e-6


class Preconditioned(keras.layers.Layer):
    """Multiplies gradients by a weight of the model, which does not adapt."""

    def __init__(self, variable, **settings):
        super().__init__(**settings)
        self._read = lambda: tf.convert_to_tensor(variable)  # not tracked: it is the model's

    def build(self, shapes):
        del shapes

    def init(self, weights):
        return []

    def update(self, step, gradients, weights, slots):
        rate = tf.exp(tf.reduce_sum(self._read()))
        return [w - 0.1 * rate * g for w, g in zip(weights, gradients, strict=True)], slots


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("rematerialize", [False, True], ids=["kept", "rematerialized"])
def test_a_weight_that_does_not_adapt_but_is_read_gets_its_gradient(rematerialize):
    model = dense_model()
    first_bias = model.trainable_variables[1]
    optimizer = Preconditioned(first_bias)
    learner = maml_tf.MAML(
        model,
        optimizer,
        2,
        adaptable=[False, False, True, True],
        rematerialize=rematerialize,
        task_map="loop",
    )
    learner.compile("sgd", loss="mse")
    first_bias.assign([0.1, -0.2, 0.3, 0.0, 0.05])
    inputs, query_y = task_batch()
    compute = traced_meta_gradient(learner, inputs, query_y)
    gradient = compute()[1][[v is first_bias for v in learner.trainable_variables].index(True)]
    value, slope = first_bias.numpy(), np.zeros(5)
    for index in range(5):
        terms = []
        for change in (-2e-3, -1e-3, 1e-3, 2e-3):
            moved = np.array(value)
            moved[index] += change
            first_bias.assign(moved)
            terms.append(float(compute()[0]))
        far, near, nearer, farther = terms
        slope[index] = (far - 8 * near + 8 * nearer - farther) / 12e-3
    assert relative_error(gradient, slope) < 1e-8


def test_an_optimizer_serves_one_learner():
    optimizer = LearnedRates(0.1)
    learner_with(optimizer)
    other = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    with pytest.raises(ValueError, match=r"weights of shapes \[\(4, 1\), .*Make a new one"):
        maml_tf.MAML(other, optimizer)


def test_configuration_round_trip():
    given = LearnedRates(0.2, per="tensor", steps=3, constraint="non_neg")
    config = keras.saving.serialize_keras_object(given)
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == given.get_config()
    assert isinstance(again.constraint, keras.constraints.NonNeg)
    assert inner_optimizers.get(again) is again


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"learning_rate": 0.0}, ValueError, "`learning_rate` to be a finite number above 0"),
        ({"per": "layer"}, ValueError, "`per` to be one of 'weight', 'tensor'"),
        ({"steps": 0}, ValueError, "`steps` to be an integer of at least 1"),
        ({"steps": True}, TypeError, "`steps` to be an integer"),
    ],
    ids=["rate", "per", "steps", "truth-value"],
)
def test_wrong_settings_are_refused(settings, error, match):
    with pytest.raises(error, match=match):
        LearnedRates(**settings)
