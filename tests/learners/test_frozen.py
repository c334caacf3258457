"""What is frozen stays frozen when a learner, or what it adapted, is saved and loaded."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from tests.problems import layers, task_batch


def frozen_attention():
    """An attention whose sublayers are frozen with it, under a dense layer that trains."""
    keras.utils.set_random_seed(0)
    x = keras.Input((4, 3))
    attention = layers.MultiHeadAttention(1, 2)
    y = layers.Dense(2, name="head")(layers.Flatten()(attention(x, x)))
    attention.trainable = False
    return keras.Model(x, y)


def frozen_sublayer():
    model = frozen_attention()
    for layer in model.layers:
        layer.trainable = True
    model.layers[1]._query_dense.trainable = False
    return model


def frozen_variable():
    model = frozen_attention()
    model.layers[1].trainable = True
    model.layers[-1].kernel.trainable = False
    return model


@pytest.mark.parametrize("adaptable", [None, "head/bias"])
@pytest.mark.parametrize("build", [frozen_attention, frozen_sublayer, frozen_variable])
def test_a_learner_comes_back_with_what_is_frozen(build, adaptable, tmp_path):
    learner = maml_tf.MAML(build(), 0.1, adaptable=adaptable, task_map="loop")
    learner.compile("adam", "mse")
    data = task_batch((4, 3))
    learner.train_on_batch(*data)
    learner.save(tmp_path / "learner.keras")
    again = keras.saving.load_model(tmp_path / "learner.keras")
    paths = [v.path for v in learner.trainable_variables]
    assert [v.path for v in again.trainable_variables] == paths
    assert len(paths) < len(learner.model.variables)
    for one in (learner, again):
        one.train_on_batch(*data)
    for one, other in zip(learner.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("build", [frozen_attention, frozen_sublayer, frozen_variable])
def test_an_adapted_model_keeps_what_is_frozen(build, tmp_path):
    learner = maml_tf.MAML(build(), 0.1, task_map="loop")
    learner.compile("adam", "mse")
    inputs, _ = task_batch((4, 3))
    adapted = learner.adapt(inputs["support_x"][0], inputs["support_y"][0])
    expected = [v.path for v in learner.model.trainable_variables]
    assert len(adapted.trainable_variables) == len(expected)
    np.testing.assert_allclose(
        adapted.predict_on_batch(inputs["query_x"][0]),
        learner.predict_on_batch(inputs)[0],
        rtol=1e-5,
        atol=1e-6,
    )
    adapted.save(tmp_path / "adapted.keras")
    again = keras.saving.load_model(tmp_path / "adapted.keras")
    assert len(again.trainable_variables) == len(expected)
    query_x, query_y = inputs["query_x"][0], inputs["query_x"][0, :, 0, :2]
    for one in (adapted, again):
        one.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
        one.train_on_batch(query_x, query_y)
    np.testing.assert_array_equal(again(query_x), adapted(query_x))
    # The copy that is saved is seen by nobody else.
    for one, other in zip(adapted.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_adapted_model_comes_back_with_its_vocabulary_and_its_scales(tmp_path):
    """Neither is a weight, and what is frozen inside lets Keras save no plain copy."""
    keras.utils.set_random_seed(0)
    words, scale = layers.StringLookup(), layers.Normalization()
    words.adapt(np.array(["b", "a", "b", "c"]))
    scale.adapt(np.random.default_rng(0).normal(10, 5, (50, 3)))
    word, number = keras.Input((4,), dtype="string"), keras.Input((4, 3))
    x = layers.Concatenate()([layers.Embedding(5, 2)(words(word)), scale(number)])
    attention = layers.MultiHeadAttention(1, 2)
    model = keras.Model([word, number], layers.Dense(2)(layers.Flatten()(attention(x, x))))
    attention._query_dense.trainable = False
    learner = maml_tf.MAML(model, 0.1)
    learner.compile("sgd", "mse")
    rng = np.random.default_rng(1)
    x = [rng.choice(["a", "b", "c", "z"], (5, 4)), rng.normal(10, 5, (5, 4, 3)).astype("float32")]
    x = [tf.constant(part) for part in x]
    adapted = learner.adapt(x, rng.normal(size=(5, 2)).astype("float32"))
    adapted.save(tmp_path / "adapted.keras")
    again = keras.saving.load_model(tmp_path / "adapted.keras")
    np.testing.assert_array_equal(again(x), adapted(x))
    # Loading weights into the model that looks through the learner's leaves the learner alone.
    adapted.save_weights(tmp_path / "adapted.weights.h5")
    scale.mean = scale.mean + 1
    before = scale.mean.numpy(), model.get_weights()
    adapted.load_weights(tmp_path / "adapted.weights.h5")
    np.testing.assert_array_equal(scale.mean, before[0])
    for one, other in zip(model.get_weights(), before[1], strict=True):
        np.testing.assert_array_equal(one, other)
