"""Low-rank factors go on where they were: saved and loaded, copied, adapted."""

import keras
import numpy as np
import pytest

import maml_tf
from maml_tf import configuration, copying, low_rank
from tests.problems import layers


def dense():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4, "tanh"), layers.Dense(2)])
    model.layers[0].enable_lora(2, lora_alpha=6)
    return model


def embedding():
    model = keras.Sequential(
        [
            keras.Input((3,), dtype="int32"),
            layers.Embedding(5, 4),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )
    model.layers[0].enable_lora(2, lora_alpha=3)
    return model


def einsum():
    x = keras.Input((3,))
    model = keras.Model(x, layers.Dense(2)(layers.EinsumDense("ab,bc->ac", 4)(x)))
    model.layers[1].enable_lora(2)
    return model


def convolution():
    x = keras.Input((3,))
    y = layers.Conv1D(4, 2)(layers.Reshape((3, 1))(x))
    model = keras.Model(x, layers.Dense(2)(layers.Flatten()(y)))
    model.layers[2].enable_lora(1)
    return model


def attention():
    """Factors of a sublayer, of which no configuration tells."""
    x = keras.Input((3,))
    attend = layers.MultiHeadAttention(1, 4)
    y = layers.Reshape((3, 1))(x)
    model = keras.Model(x, layers.Dense(2)(layers.Flatten()(attend(y, y))))
    for part in (attend._query_dense, attend._value_dense):
        part.enable_lora(2, lora_alpha=4)
    return model


def nested():
    x = keras.Input((3,))
    return keras.Model(x, layers.Dense(2)(attention()(x)))


def with_dropout():
    """Keras saves no seeds either."""
    x = keras.Input((3,))
    model = keras.Model(x, layers.Dense(2)(layers.Dropout(0.5, seed=1)(layers.Dense(4)(x))))
    model.layers[1].enable_lora(2)
    return model


MODELS = [dense, embedding, einsum, convolution, attention, nested, with_dropout]


def learner_of(build):
    keras.utils.set_random_seed(0)
    model = build()
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(size=variable.shape) / 2)
    learner = maml_tf.MAML(model, 0.1, task_map="loop")
    # Eagerly: there is more to trace than to compute.
    learner.compile("adam", "mse", run_eagerly=True)
    return learner


def batch(learner):
    rng = np.random.default_rng(1)

    def draw(n, width):
        if width == 3 and "int" in learner.model.inputs[0].dtype:
            return rng.integers(0, 5, (2, n, 3)).astype(np.int32)
        return rng.normal(size=(2, n, width)).astype(np.float32)

    inputs = {"support_x": draw(4, 3), "support_y": draw(4, 2), "query_x": draw(3, 3)}
    return inputs, draw(3, 2)


def equal(one, other):
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("build", MODELS)
def test_a_loaded_learner_goes_on_exactly_where_it_was(build, tmp_path):
    learner = learner_of(build)
    data = batch(learner)
    learner.train_on_batch(*data)
    learner.save(tmp_path / "learner.keras")
    again = keras.saving.load_model(tmp_path / "learner.keras")
    equal(learner, again)
    assert low_rank.described(again.model) == low_rank.described(learner.model)
    one, other = (x.predict_on_batch(data[0]) for x in (learner, again))
    np.testing.assert_array_equal(one, other)
    before = learner.get_weights()
    for x in (learner, again):
        x.train_on_batch(*data)
    equal(learner, again)
    # The factors train, the kernels beside them do not.
    for variable, old in zip(learner.weights, before, strict=True):
        if not variable.trainable or "lora" in variable.path:
            assert np.array_equal(variable, old) is not variable.trainable, variable.path
    # Saving has changed nothing, and a second round trip loses nothing.
    again.save(tmp_path / "again.keras")
    equal(again, keras.saving.load_model(tmp_path / "again.keras"))


@pytest.mark.parametrize("build", [dense, attention])
def test_weights_alone_come_back_too(build, tmp_path):
    learner, other = learner_of(build), learner_of(build)
    learner.train_on_batch(*batch(learner))
    learner.save_weights(tmp_path / "learner.weights.h5")
    other.load_weights(tmp_path / "learner.weights.h5")
    equal(learner.model, other.model)


@pytest.mark.parametrize("build", MODELS)
def test_an_adapted_model_keeps_its_factors_and_trains_on_after_loading(build, tmp_path):
    learner = learner_of(build)
    inputs, query_y = batch(learner)
    before = learner.get_weights()
    adapted = learner.adapt(inputs["support_x"][0], inputs["support_y"][0])
    expected = learner.predict_on_batch(inputs)[0]
    query_x = inputs["query_x"][0]
    np.testing.assert_allclose(adapted(query_x), expected, rtol=1e-5, atol=1e-6)
    assert len(adapted.trainable_variables) == len(learner.model.trainable_variables)
    adapted.save(tmp_path / "adapted.keras")
    again = keras.saving.load_model(tmp_path / "adapted.keras")
    np.testing.assert_array_equal(again(query_x), adapted(query_x))
    for one in (adapted, again):
        one.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
        one.train_on_batch(query_x, query_y[0])
    equal(adapted, again)
    for value, old in zip(learner.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)


@pytest.mark.parametrize("build", MODELS)
def test_a_copy_keeps_its_factors(build):
    learner = learner_of(build)
    inputs, _ = batch(learner)
    copy = copying.copy_of(learner.model, inputs["query_x"][0])
    assert low_rank.described(copy) == low_rank.described(learner.model) != []
    equal(copy, learner.model)
    assert [v.trainable for v in copy.weights] == [v.trainable for v in learner.model.weights]


def test_a_file_of_before_loads_with_merged_kernels(tmp_path, monkeypatch):
    """As Keras writes it: the predictions are kept, the factors begin anew."""
    learner = learner_of(dense)
    data = batch(learner)
    monkeypatch.setattr(low_rank, "save", lambda model, store: None)
    before = configuration.model_config

    def config_of_before(model, name):
        return {k: v for k, v in before(model).items() if k != "low_rank"}

    monkeypatch.setattr("maml_tf.learners.base.saving.model_config", config_of_before)
    learner.model.layers[0].lora_alpha = 2  # the only one that Keras keeps: the rank
    learner.save(tmp_path / "old.keras")
    again = keras.saving.load_model(tmp_path / "old.keras")
    np.testing.assert_array_equal(again.model.layers[0].lora_kernel_b, 0)
    # Without an inner step, for the gradient is another.
    learner.inner_steps = again.inner_steps = 0
    expected = learner.predict_on_batch(data[0])
    np.testing.assert_allclose(again.predict_on_batch(data[0]), expected, rtol=1e-5, atol=1e-6)


def test_a_model_of_other_layers_is_told():
    model = dense()
    with pytest.raises(ValueError, match=r"low-rank factors as number 7.*'4 layers'"):
        low_rank.enable(model, [{"layer": 7, "rank": 2, "alpha": 2}])
    with pytest.raises(ValueError, match=r"low-rank factors as number 0"):
        low_rank.enable(model, [{"layer": 0, "rank": 2, "alpha": 2}])
