"""What `adapt` gives where adapting makes no weights: the learner seen through its value."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf.learners.base.adapted_models import AdaptedLearner
from tests.learners.toys import Memory
from tests.problems import conv_model, dense_model

RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(size=(6, 3)).astype("float32"), np.array([0, 1, 2, 0, 1, 2], "int32")
LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def prototypical(**settings):
    learner = maml_tf.Prototypical(dense_model(), **settings)
    learner.compile("sgd", loss=LOGITS, metrics=["accuracy"])
    return learner


def test_support_sets_of_many_sizes_are_traced_twice():
    sizes = []

    class Counting(maml_tf.Prototypical):
        def fit_head(self, z, support):
            sizes.append(z.shape[0])
            return super().fit_head(z, support)

    learner = Counting(dense_model())
    for shots in (1, 2, 3, 4):
        learner.adapt(np.tile(X[:3], (shots, 1)), np.tile(Y[:3], shots))
    assert sizes == [3, None]


def test_it_trains_its_own_value_and_nothing_of_the_learner():
    learner = prototypical(learned_scale=True)
    weights = learner.get_weights()
    adapted = learner.adapt(X, Y)
    assert type(adapted) is AdaptedLearner
    assert [tuple(v.shape) for v in adapted.trainable_variables] == [(3, 2)]
    before = [v.numpy() for v in adapted.variables]
    history = adapted.fit(X, Y, epochs=4, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    moved = [
        v.path for v, b in zip(adapted.variables, before, strict=True) if np.any(v.numpy() != b)
    ]
    assert moved == [v.path for v in adapted.trainable_variables]
    for one, other in zip(learner.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_it_evaluates_with_the_loss_and_metrics_of_the_learner():
    adapted = prototypical().adapt(X, Y)
    logs = adapted.evaluate(X, Y, return_dict=True, verbose=0)
    y = adapted.predict(X, verbose=0)
    np.testing.assert_allclose(logs["loss"], float(LOGITS(Y, y)), rtol=1e-5)
    np.testing.assert_allclose(logs["accuracy"], np.mean(np.argmax(y, -1) == Y), rtol=1e-6)


def test_it_holds_the_weights_that_the_learner_had():
    learner = prototypical()
    adapted = learner.adapt(X, Y)
    expected = adapted(X).numpy()
    for variable in learner.trainable_variables:
        variable.assign(2 * variable)
    np.testing.assert_array_equal(adapted(X), expected)
    assert np.abs(learner.adapt(X, Y)(X) - expected).max() > 0.1


def test_it_is_saved_and_exported_with_any_number_of_queries(tmp_path):
    adapted = prototypical().adapt(X, Y)
    adapted.save(tmp_path / "adapted.keras")
    loaded = keras.saving.load_model(tmp_path / "adapted.keras")
    assert type(loaded) is AdaptedLearner
    np.testing.assert_array_equal(loaded(X[:2]), adapted(X[:2]))
    # Once more: what is loaded owns all that it needs.
    loaded.save(tmp_path / "again.keras")
    again = keras.saving.load_model(tmp_path / "again.keras")
    np.testing.assert_array_equal(again(X), adapted(X))
    again.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(str(tmp_path / "exported"))
    for count in (1, 5):
        np.testing.assert_allclose(exported.serve(X[:count]), adapted(X[:count]), rtol=1e-5)


@pytest.mark.parametrize("batch_norm", ["moving", "support", "transductive"])
def test_a_prediction_depends_on_its_own_example_alone(batch_norm):
    learner = maml_tf.Prototypical(conv_model(), batch_norm=batch_norm)
    images = RANDOM.normal(size=(6, 6, 6, 1)).astype("float32")
    adapted = learner.adapt(images, Y)
    queries = RANDOM.normal(size=(4, 6, 6, 1)).astype("float32")
    alone = np.concatenate([adapted(q[np.newaxis]) for q in queries])
    np.testing.assert_allclose(adapted(queries), alone, rtol=1e-4, atol=1e-5)


def test_a_value_of_several_tensors_keeps_its_structure(tmp_path):
    learner = Memory(dense_model(), 3)
    for shots in (1, 2):
        adapted = learner.adapt(X[: 3 * shots], Y[: 3 * shots])
        expected = adapted(X).numpy()
        # As many rows of memory as examples, by the name of the part.
        assert sorted(tuple(v.shape) for v in adapted.trainable_variables) == [
            (3 * shots, 2),
            (3 * shots, 3),
        ]
        adapted.save(tmp_path / f"{shots}.keras")
        loaded = keras.saving.load_model(tmp_path / f"{shots}.keras")
        np.testing.assert_array_equal(loaded(X), expected)
        assert loaded.compute_output_spec(keras.KerasTensor((None, 3))).shape == (None, 3)


def test_regularizers_of_the_network_count_when_it_is_evaluated():
    model = dense_model(kernel_regularizer=keras.regularizers.L2(0.5))
    learner = maml_tf.Prototypical(model)
    learner.compile("sgd", loss=LOGITS)
    adapted = learner.adapt(X, Y)
    penalty = 0.5 * np.sum(model.trainable_variables[0].numpy() ** 2)
    loss = adapted.evaluate(X, Y, verbose=0)
    np.testing.assert_allclose(loss, float(LOGITS(Y, adapted(X))) + penalty, rtol=1e-5)


def test_statistics_of_the_support_set_do_not_train(tmp_path):
    """They are floating numbers of the adapted value, and no weights for all that."""
    learner = maml_tf.Prototypical(conv_model(), batch_norm="support")
    learner.compile("sgd", loss=LOGITS)
    images = RANDOM.normal(size=(6, 6, 6, 1)).astype("float32")
    adapted = learner.adapt(images, Y)
    assert [tuple(v.shape) for v in adapted.trainable_variables] == [(3, 2)]
    adapted.save(tmp_path / "adapted.keras")
    loaded = keras.saving.load_model(tmp_path / "adapted.keras")
    assert [tuple(v.shape) for v in loaded.trainable_variables] == [(3, 2)]
    _, *statistics = loaded._through.adapted
    before = [v.numpy() for v in statistics]
    assert [v.shape for v in before] == [(3,), (3,)]
    loaded.compile("sgd", loss=LOGITS)
    loaded.fit(images, Y, verbose=0)
    for variable, value in zip(statistics, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_its_network_hears_of_training():
    network = keras.Sequential([keras.Input((3,)), keras.layers.Dropout(0.5, seed=1)])
    network.add(keras.layers.Dense(2))
    adapted = maml_tf.Prototypical(network).adapt(X, Y)
    assert np.abs(adapted(X, training=True) - adapted(X)).max() > 1e-2
    np.testing.assert_array_equal(adapted(X, training=False), adapted(X))
