"""What goes through Keras' training loop arrives: settings, weights, data."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from tests.problems import compiled, dense_model, layers, relative_error, task_batch


def test_settings_of_compile_arrive_at_keras():
    learner = maml_tf.MAML(dense_model(), 0.1)
    settings = {"run_eagerly": True, "steps_per_execution": 7}
    learner.compile("sgd", "mse", **settings)
    assert {name: getattr(learner, name) for name in settings} == settings
    learner.compile("sgd", "mse", jit_compile=True)
    assert (learner.jit_compile, learner.run_eagerly, learner.steps_per_execution) == (
        True,
        False,
        1,
    )


def cubed(y, y_pred):
    return tf.abs(y - y_pred) ** 3


def test_an_inner_loss_that_is_a_function_is_taken_in_the_precision_of_the_model():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")  # `keras.config.floatx()` is float32 still
    try:
        model = keras.Sequential(
            [keras.Input((1,), dtype="float64"), layers.Dense(1, use_bias=False)]
        )
    finally:
        keras.config.set_dtype_policy(before)
    x = np.random.default_rng(0).normal(size=(5, 1))
    y, w = 3.0 * x, float(model.trainable_variables[0].numpy()[0, 0])
    learner = maml_tf.MAML(model, 0.1)
    learner.compile("sgd", "mse", inner_loss=cubed)
    adapted = learner.adapt(x, y).get_weights()[0]
    expected = w - 0.1 * np.mean(3 * np.abs(w * x - y) ** 2 * np.sign(w * x - y) * x)
    np.testing.assert_allclose(adapted, [[expected]], rtol=1e-13)


# Weights of queries.


def test_the_meta_gradient_takes_weights_of_queries():
    inputs, query_y = task_batch(tasks=2)
    learner = compiled(dense_model())
    whole = [
        learner.meta_gradient(
            *(
                tf.nest.map_structure(lambda t, i=i: t[i : i + 1], part)
                for part in (inputs, query_y)
            )
        )
        for i in range(2)
    ]
    weighted = learner.meta_gradient(inputs, query_y, tf.constant([3.0, 1.0]))
    expected = [(3 * a + b) / 2 for a, b in zip(whole[0][1], whole[1][1], strict=True)]
    np.testing.assert_allclose(weighted[0], (3 * whole[0][0] + whole[1][0]) / 2, rtol=1e-5)
    assert relative_error(weighted[1], expected) < 1e-5


@pytest.mark.parametrize("method", ["fit", "train_on_batch"])
def test_weights_of_classes_and_of_queries_are_not_taken_together(method):
    sparse = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    learner = compiled(dense_model(), loss=sparse)
    inputs = {**task_batch()[0], "support_y": np.zeros([2, 4], "int32")}
    query_y, weight = np.zeros([2, 3], "int32"), np.ones([2, 3], "float32")
    with pytest.raises(ValueError, match=r"`class_weight` or `sample_weight`. Received: both"):
        getattr(learner, method)(inputs, query_y, sample_weight=weight, class_weight={0: 2.0})


# Data.


def test_validation_data_are_looked_at_once_and_not_in_every_epoch():
    inputs, query_y = task_batch()
    starts = []

    def generated():
        starts.append(1)
        yield inputs, query_y

    spec = tf.nest.map_structure(tf.TensorSpec.from_tensor, (inputs, query_y))
    validation = tf.data.Dataset.from_generator(generated, output_signature=spec)
    learner = compiled(dense_model(), run_eagerly=True)
    validation = validation.apply(tf.data.experimental.assert_cardinality(1))
    learner.fit(inputs, query_y, epochs=2, validation_data=validation, verbose=0)
    assert len(starts) == 1 + 2  # before training begins, and to evaluate
