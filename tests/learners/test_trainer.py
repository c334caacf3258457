"""What goes through Keras' training loop arrives: settings, weights, data."""

import warnings

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
    assert learner.jit_compile is False
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


def test_examples_and_labels_are_handed_on_as_they_are():
    """A learner of a model that computes in bfloat16 does not round labels, 257 to 256."""
    dense = layers.Dense(1, use_bias=False, kernel_initializer=keras.initializers.Constant(256))
    model = keras.Sequential([keras.Input((1,)), dense])
    model.dtype_policy = dense.dtype_policy = keras.DTypePolicy("mixed_bfloat16")
    learner = maml_tf.MAML(model, 4.0)
    learner.compile("sgd", "mse", inner_loss="mse")
    one = np.ones([1, 2, 1], "float32")
    batch = {"support_x": one, "support_y": 257 * one, "query_x": one}
    np.testing.assert_array_equal(learner.predict_on_batch(batch), (256 + 2 * 4) * one)


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


def test_arrays_are_evaluated_with_their_weights():
    inputs, query_y = task_batch()
    learner = maml_tf.MAML(dense_model(), 0.1)
    learner.compile("sgd", "mse", metrics=["mse"], weighted_metrics=["mae"], run_eagerly=True)
    weight = np.array([[1.0, 2.0, 0.0], [0.5, 1.0, 1.0]], "float32")
    received = learner.evaluate(inputs, query_y, sample_weight=weight, verbose=0, return_dict=True)
    error = learner.predict_on_batch(inputs) - query_y
    expected = {
        "loss": np.mean(weight * np.mean(error**2, -1)),
        "mse": np.mean(error**2),
        "mae": np.average(np.mean(np.abs(error), -1), weights=weight),
    }
    received = {name: received[name] for name in expected}
    assert received == pytest.approx(expected, rel=1e-5)


def test_a_weight_of_a_query_is_one_of_all_steps_of_each_output():
    """As many steps as queries: without an axis more, steps would be weighted."""
    x = keras.Input((3, 2))
    outputs = {name: layers.Dense(1, name=name)(x) for name in ("a", "b")}
    learner = maml_tf.MAML(keras.Model(x, outputs), 0.1)
    learner.compile("sgd", {"a": "mse", "b": "mae"})
    random = np.random.default_rng(0)

    def drawn(*shape):
        return random.normal(size=shape).astype("float32")

    def labels():
        return {name: drawn(2, 3, 3, 1) for name in ("a", "b")}

    inputs = {"support_x": drawn(2, 3, 3, 2), "support_y": labels(), "query_x": drawn(2, 3, 3, 2)}
    query_y = labels()
    weight = {"a": np.array([[3.0, 0, 1], [1, 2, 0]], "float32"), "b": np.ones([2, 3], "float32")}
    received = learner.test_on_batch(inputs, query_y, sample_weight=weight, return_dict=True)
    error = tf.nest.map_structure(np.subtract, learner.predict_on_batch(inputs), query_y)
    a = np.mean(weight["a"][..., np.newaxis, np.newaxis] * error["a"] ** 2)
    assert received["loss"] == pytest.approx(a + np.mean(np.abs(error["b"])), rel=1e-5)


@pytest.mark.parametrize("given", ["by position", "by name"])
def test_what_fit_and_evaluate_are_given_by_position_is_checked(given):
    inputs, query_y = task_batch()
    learner, bad = compiled(dense_model()), np.array([1.0, np.nan], "float32")
    calls = {
        "by position": (
            lambda: learner.fit(inputs, query_y, 2, 1, 0, None, 0.0, None, True, None, bad),
            lambda: learner.fit(inputs, query_y, 2, 1, 0, None, 0.0, (inputs, query_y, bad)),
            lambda: learner.evaluate(inputs, query_y, 2, 0, bad),
        ),
        "by name": (
            lambda: learner.fit(inputs, query_y, sample_weight=bad),
            lambda: learner.fit(inputs, query_y, validation_data=(inputs, query_y, bad)),
            lambda: learner.evaluate(inputs, query_y, sample_weight=bad),
        ),
    }
    for call in calls[given]:
        with pytest.raises(ValueError, match="`sample_weight` to be finite"):
            call()


# Data.


def test_data_sets_keep_their_order_without_a_warning():
    data, learner = tf.data.Dataset.from_tensors(task_batch()), compiled(dense_model())
    learner.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learner.fit(data, verbose=0)


def test_a_step_for_which_there_are_no_data_is_not_counted():
    """What counts steps waits for them: it depends on nothing else that would fail."""
    data = tf.data.Dataset.from_tensors(task_batch()).repeat(5).filter(lambda *batch: True)
    learner = compiled(dense_model())
    learner.fit(data, verbose=0)
    assert int(learner.optimizer.iterations) == 5


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
