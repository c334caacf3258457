"""What layers hold beside weights: constraints, state of their own, what they assign, freezing."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf.learners.base.adapted_models import AdaptedModel
from tests.problems import compiled, dense_model, layers, task_batch


def constrained(constraint):
    glorot = [keras.initializers.GlorotNormal(seed=i) for i in range(2)]
    return keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(5, "tanh", kernel_initializer=glorot[0], kernel_constraint=constraint),
            layers.Dense(2, kernel_initializer=glorot[1]),
        ]
    )


@pytest.mark.parametrize(
    "constraint", [keras.constraints.NonNeg(), keras.constraints.UnitNorm()], ids=["sign", "norm"]
)
def test_an_inner_step_holds_weights_to_their_constraints_as_keras_does(constraint):
    """One inner step is one step of a Keras optimizer on the support set."""
    inputs, _ = task_batch()
    x, y = inputs["support_x"][0], inputs["support_y"][0]
    learner = compiled(constrained(constraint), 0.3, inner_steps=1)
    adapted = learner.adapt(x, y)
    ordinary = constrained(constraint)
    ordinary.compile(keras.optimizers.SGD(0.3), "mse")
    ordinary.train_on_batch(x, y)
    for one, other in zip(adapted.get_weights(), ordinary.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    free = compiled(constrained(None), 0.3, inner_steps=1).adapt(x, y).get_weights()[0]
    assert np.abs(adapted.get_weights()[0] - free).max() > 1e-2


@pytest.mark.usefixtures("float64")
def test_the_meta_gradient_goes_through_a_constraint():
    """Central differences in float64."""
    model = constrained(keras.constraints.UnitNorm())
    learner = compiled(model, 0.3, inner_steps=2)
    inputs, query_y = task_batch()
    _, gradients, *_ = learner.meta_gradient(inputs, query_y)
    kernel = model.trainable_variables[0]
    direction = np.random.default_rng(0).normal(size=kernel.shape)
    value, losses = kernel.numpy(), []
    for sign in (1, -1):
        kernel.assign(value + sign * 1e-6 * direction)
        losses.append(float(learner.meta_gradient(inputs, query_y)[0]))
    expected = (losses[0] - losses[1]) / 2e-6
    np.testing.assert_allclose(np.sum(gradients[0] * direction), expected, rtol=1e-6)


def test_a_layer_that_assigns_its_weights_is_refused_by_name():
    model = keras.Sequential(
        [keras.Input((3,)), layers.SpectralNormalization(layers.Dense(2, name="normed"))]
    )
    learner = compiled(model)
    before = model.get_weights()
    with pytest.raises(NotImplementedError, match=r"assigns \[.*normed/kernel.*SpectralNormali"):
        learner.train_on_batch(*task_batch())
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "layer",
    [
        layers.LSTM(2, stateful=True, name="kept"),
        layers.Bidirectional(layers.GRU(2, stateful=True), name="kept"),
    ],
    ids=["lstm", "bidirectional"],
)
def test_a_stateful_layer_is_refused_by_name(layer):
    model = keras.Sequential([keras.Input((4, 3), batch_size=2), layer])
    with pytest.raises(ValueError, match=r"keep no state.*'kept'.*stateful=False"):
        maml_tf.MAML(model, 0.1)


def test_freezing_a_layer_takes_effect_at_the_next_compile_as_in_keras():
    model = dense_model()
    learner = maml_tf.MAML(model, 0.1, adaptable=lambda v: v.shape[-1] == 2)
    learner.compile("sgd", "mse")
    data = task_batch()
    learner.train_on_batch(*data)
    model.layers[0].trainable = False
    for call in (
        lambda: learner.train_on_batch(*data),
        lambda: learner.evaluate(*data, verbose=0),
        lambda: learner.adapt(data[0]["support_x"][0], data[0]["support_y"][0]),
    ):
        learner.train_function = learner.test_function = None
        learner._adapt_functions = {}
        with pytest.raises(ValueError, match=r"frozen or thawed.*compile"):
            call()
    learner.compile("sgd", "mse")
    frozen, kernel = (layer.kernel.numpy() for layer in model.layers)
    learner.train_on_batch(*data)
    np.testing.assert_array_equal(model.layers[0].kernel, frozen)
    assert np.abs(model.layers[1].kernel - kernel).max() > 1e-4
    assert learner.adaptable == [True, True]


def test_what_keras_can_copy_is_an_ordinary_model_of_its_own():
    model = dense_model()
    learner = compiled(model, 0.3)
    inputs, _ = task_batch()
    adapted = learner.adapt(inputs["support_x"][0], inputs["support_y"][0])
    assert (type(adapted), adapted.name) == (keras.Sequential, model.name)
    assert not {id(v) for v in adapted.variables} & {id(v) for v in model.variables}
    np.testing.assert_allclose(
        adapted(inputs["query_x"][0]), learner(inputs)[0], rtol=1e-5, atol=1e-6
    )


# Adapted models of which Keras can make no copy.


class Unknown(keras.Model):
    """Its configuration does not tell its size; it has dropout, statistics and penalties."""

    def __init__(self, units):
        super().__init__()
        self.first = layers.Dense(units, "tanh", kernel_regularizer=keras.regularizers.L2(0.1))
        self.norm, self.drop = layers.BatchNormalization(), layers.Dropout(0.5, seed=1)
        self.last = layers.Dense(2)

    def call(self, inputs, training=False):
        return self.last(self.drop(self.norm(self.first(inputs)), training=training))

    def get_config(self):
        raise NotImplementedError("no configuration")


def unknown():
    keras.utils.set_random_seed(1)
    model = Unknown(4)
    model(np.zeros((1, 3), "float32"))
    return model


@pytest.fixture(scope="module")
def adapted():
    learner = maml_tf.MAML(unknown(), 0.1, inner_steps=2, batch_norm="support")
    learner.compile("sgd", "mse", metrics=["mae"])
    inputs, query_y = task_batch()
    model = learner.adapt(inputs["support_x"][1], inputs["support_y"][1])
    return learner, model, inputs, query_y


def test_without_a_copy_it_is_the_learners_model_seen_through_other_weights(adapted):
    learner, model, inputs, query_y = adapted
    assert type(model) is AdaptedModel
    expected = learner.predict_on_batch(inputs)[1]
    x, y = inputs["query_x"][1], query_y[1]
    np.testing.assert_allclose(model.predict_on_batch(x), expected, rtol=1e-5, atol=1e-6)
    penalty = 0.1 * np.sum(np.square(model.trainable_variables[0]))
    loss, mae = model.test_on_batch(x, y)
    np.testing.assert_allclose(loss, np.mean((expected - y) ** 2) + penalty, rtol=1e-5)
    np.testing.assert_allclose(mae, np.mean(np.abs(expected - y)), rtol=1e-5)


def test_it_trains_as_keras_would_and_the_learner_does_not_move(adapted):
    learner, model, inputs, query_y = adapted
    before = learner.get_weights()
    x, y = inputs["support_x"][1], inputs["support_y"][1]
    twin = unknown()
    for variables, values in zip(
        (twin.trainable_variables, twin.non_trainable_variables),
        (model.trainable_variables, model.non_trainable_variables),
        strict=True,
    ):
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
    losses = []
    for one in (twin, model):
        one.compile(keras.optimizers.SGD(0.1), "mse")
        losses.append([one.train_on_batch(x, y, return_dict=True)["loss"] for _ in range(3)])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    for one, other in zip(
        model.trainable_variables + model.non_trainable_variables,
        twin.trainable_variables + twin.non_trainable_variables,
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    for one, other in zip(learner.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_it_is_saved_and_loaded_whole(tmp_path):
    model = AdaptedModel(dense_model())
    model.assign([v.value + 1 for v in model.trainable_variables], [])
    x = task_batch()[0]["query_x"][0]
    model.save(tmp_path / "adapted.keras")
    loaded = keras.saving.load_model(tmp_path / "adapted.keras")
    np.testing.assert_array_equal(loaded(x), model(x))
    assert np.abs(model(x) - dense_model()(x)).max() > 0.1


def test_its_variables_are_of_the_dtypes_of_the_models(adapted):
    """A layer's seed is no floating number, and what is float64 stays so under another policy."""
    pairs = adapted[1]._through.pairs
    assert [own.dtype for _, own in pairs] == [variable.dtype for variable, _ in pairs]
    assert len({own.dtype for _, own in pairs}) > 1
    exact = keras.Sequential([keras.Input((3,), dtype="float64"), layers.Dense(2, dtype="float64")])
    model = AdaptedModel(exact)
    model.assign([v.value for v in exact.trainable_variables], [])
    x = tf.constant(np.random.default_rng(0).normal(size=(4, 3)))
    np.testing.assert_array_equal(model(x), exact(x))
    assert model(x).dtype == "float64"


def test_what_layers_hold_beside_variables_is_saved_with_it(tmp_path):
    words = [layers.StringLookup(vocabulary=list(letters)) for letters in ("abc", "cab")]
    text = keras.Input((), dtype="string")
    sums = [layers.Embedding(4, 2)(lookup(text)) for lookup in words]
    model = AdaptedModel(keras.Model(text, layers.Subtract()(sums)))
    x = tf.constant(["a", "b", "c", "?"])
    model.save(tmp_path / "adapted.keras")
    loaded = keras.saving.load_model(tmp_path / "adapted.keras")
    np.testing.assert_array_equal(loaded(x), model(x))


@pytest.mark.parametrize("build", [dense_model, unknown])
def test_adapting_a_second_task_traces_nothing(build):
    class Counted(maml_tf.MAML):
        traces = 0

        def inner_objective(self, *arguments, **settings):
            self.traces += 1
            return super().inner_objective(*arguments, **settings)

    learner = Counted(build(), 0.1)
    learner.compile("sgd", "mse")
    inputs, _ = task_batch()
    tasks = list(zip(inputs["support_x"].numpy(), inputs["support_y"].numpy(), strict=True))
    weights = [learner.adapt(*task, inner_steps=k).get_weights() for task in tasks for k in (1, 2)]
    assert learner.traces == 1
    learner.model.trainable_variables[0].assign_add(
        tf.ones([3, learner.model.trainable_variables[0].shape[1]])
    )
    assert (
        np.abs(learner.adapt(*tasks[0], inner_steps=1).get_weights()[0] - weights[0][0]).max() > 0.5
    )


def test_labels_of_another_rank_and_wrong_calls_leave_later_ones_alone():
    learner = compiled(dense_model(), loss=keras.losses.SparseCategoricalCrossentropy(True))
    x = task_batch()[0]["support_x"][0]
    labels = np.array([0, 1, 0, 1])
    first = learner.adapt(x, labels).get_weights()
    column = learner.adapt(x, labels[:, None]).get_weights()
    with pytest.raises(ValueError, match="rank"):
        learner.adapt(x, np.zeros([4, 7], "int32"))
    for one, other, again in zip(
        first, column, learner.adapt(x, labels).get_weights(), strict=True
    ):
        np.testing.assert_allclose(other, one, rtol=1e-6)
        np.testing.assert_array_equal(again, one)


def test_adaptation_that_runs_away_is_told():
    learner = compiled(dense_model(), 1e6, inner_steps=40)
    inputs, _ = task_batch()
    with pytest.raises(FloatingPointError, match=r"inner_steps=40 with learning_rate=1000000"):
        learner.adapt(inputs["support_x"][0] * 1e3, inputs["support_y"][0])


def test_an_adapted_model_that_looks_through_another_is_no_network(adapted):
    with pytest.raises(TypeError, match="looks through the learner's network"):
        maml_tf.MAML(adapted[1], 0.1)


def test_it_is_exported_with_the_inputs_that_it_was_adapted_to(adapted, tmp_path):
    _, model, inputs, _ = adapted
    x = inputs["query_x"][1]
    expected = model.predict_on_batch(x)
    model.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(str(tmp_path / "exported"))
    np.testing.assert_allclose(exported.serve(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weights", ["queries", "tasks", "classes"])
def test_weights_of_numpy_work_eagerly(weights):
    inputs, query_y = task_batch()
    settings = {
        "queries": {"sample_weight": np.full([2, 3], 2.0, "float32")},
        "tasks": {"sample_weight": np.full([2], 2.0, "float32")},
        "classes": {"class_weight": {0: 2.0, 1: 2.0}},
    }[weights]
    losses = []
    for eager in (True, False):
        learner = compiled(
            dense_model(),
            loss=keras.losses.SparseCategoricalCrossentropy(True),
            run_eagerly=eager,
            optimizer=keras.optimizers.SGD(0.0),
        )
        batch = {**inputs, "support_y": np.array([[0, 1, 0, 1]] * 2)}
        labels = np.array([[0, 1, 1], [1, 0, 0]])
        plain = learner.train_on_batch(batch, labels, return_dict=True)["loss"]
        learner.reset_metrics()
        losses.append(learner.train_on_batch(batch, labels, return_dict=True, **settings)["loss"])
        np.testing.assert_allclose(losses[-1], 2 * plain, rtol=1e-5)
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
