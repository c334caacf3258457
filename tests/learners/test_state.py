"""What state does: moving averages, dropout and its seeds, in training and in prediction."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf.learners.base.task import Support
from tests.problems import (
    adapt_by_hand,
    compiled,
    layers,
    relative_error,
    task_batch,
    traced_meta_gradient,
)


def eager(model, **settings):
    """A learner that traces nothing, which is quick for a few calls."""
    return compiled(model, **{"run_eagerly": True, "task_map": "loop", **settings})


def norm_model(momentum=0.75):
    glorot = [keras.initializers.GlorotNormal(seed=i) for i in range(2)]
    return keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4, kernel_initializer=glorot[0]),
            layers.BatchNormalization(momentum=momentum),
            layers.Dense(2, kernel_initializer=glorot[1]),
        ]
    )


def norm_by_hand(weights, x, statistics=None):
    kernel, bias, gamma, beta, last_kernel, last_bias = weights
    x = x @ kernel + bias
    mean, variance = statistics or (tf.reduce_mean(x, 0), tf.math.reduce_variance(x, 0))
    x = (x - mean) / tf.sqrt(variance + 1e-3)
    return (x * gamma + beta) @ last_kernel + last_bias


def moments_by_hand(weights, x):
    x = x @ weights[0] + weights[1]
    return tf.reduce_mean(x, 0), tf.math.reduce_variance(x, 0)


def adapted_by_hand(model, inputs, task, steps):
    weights = [tf.constant(v.numpy()) for v in model.trainable_variables]
    support = inputs["support_x"][task], inputs["support_y"][task]
    return adapt_by_hand(norm_by_hand, weights, *support, 0.1, steps)


def with_moving_averages(model):
    mean, variance = model.non_trainable_variables
    mean.assign([1.0, -1.0, 0.5, 2.0])
    variance.assign([4.0, 0.5, 1.0, 2.0])
    return model


@pytest.mark.parametrize("mode", ["transductive", "support", "moving"])
def test_what_queries_are_normalised_with_in_prediction(mode):
    model = with_moving_averages(norm_model())
    inputs, _ = task_batch(tasks=3)
    received = eager(model, batch_norm=mode, inner_steps=2).predict(inputs, verbose=0)
    for task in range(3):
        weights = adapted_by_hand(model, inputs, task, 2)
        statistics = {
            "transductive": moments_by_hand(weights, inputs["query_x"][task]),
            "support": moments_by_hand(weights, inputs["support_x"][task]),
            "moving": tuple(tf.constant(v.numpy()) for v in model.non_trainable_variables),
        }
        expected = norm_by_hand(weights, inputs["query_x"][task], statistics[mode])
        np.testing.assert_allclose(received[task], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("mode", "depends"), [("transductive", True), ("support", False), ("moving", False)]
)
def test_whether_a_prediction_depends_on_other_queries(mode, depends):
    learner = eager(with_moving_averages(norm_model()), batch_norm=mode)
    inputs, _ = task_batch()
    query_x = np.array(inputs["query_x"])
    query_x[:, 1:] = 3 - query_x[:, 1:]
    before = learner.predict(inputs, verbose=0)
    after = learner.predict({**inputs, "query_x": query_x}, verbose=0)
    assert np.array_equal(before[:, 0], after[:, 0]) != depends
    assert not np.allclose(before[:, 1:], after[:, 1:])


@pytest.mark.parametrize("mode", ["transductive", "support", "moving"])
def test_supports_are_normalised_by_themselves_whatever_the_moving_averages(mode):
    inputs, _ = task_batch()
    support = inputs["support_x"][0], inputs["support_y"][0]
    plain, moved = (
        eager(model, batch_norm=mode, inner_steps=2).adapt(*support).get_weights()
        for model in (norm_model(), with_moving_averages(norm_model()))
    )
    for one, other in zip(plain, moved, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize("mode", ["support", "moving"])
@pytest.mark.parametrize("settings", [{}, {"task_map": "loop", "rematerialize": True}], ids=str)
def test_moving_averages_after_training_are_the_mean_over_tasks(mode, settings):
    model = with_moving_averages(norm_model(momentum=0.75))
    inputs, query_y = task_batch(tasks=3)
    learner = compiled(model, batch_norm=mode, inner_steps=2, **settings)
    old = [v.numpy() for v in model.non_trainable_variables]
    kept = []
    for task in range(3):
        weights = adapted_by_hand(model, inputs, task, 2)
        if mode == "moving":  # as Keras does: the queries of a training step move the averages
            new = moments_by_hand(weights, inputs["query_x"][task])
            new = [0.75 * o + 0.25 * n for o, n in zip(old, new, strict=True)]
        else:
            new = moments_by_hand(weights, inputs["support_x"][task])
        kept.append(new)
    learner.train_on_batch(inputs, query_y)
    for variable, values in zip(
        model.non_trainable_variables, zip(*kept, strict=True), strict=True
    ):
        np.testing.assert_allclose(variable, np.mean(values, axis=0), rtol=1e-5)


def test_transductive_training_leaves_moving_averages_alone():
    model = with_moving_averages(norm_model())
    old = [v.numpy() for v in model.non_trainable_variables]
    eager(model, inner_steps=2).train_on_batch(*task_batch())
    for variable, value in zip(model.non_trainable_variables, old, strict=True):
        np.testing.assert_array_equal(variable, value)


# Dropout.


def dropout_model(rate=0.5):
    glorot = [keras.initializers.GlorotNormal(seed=i) for i in range(2)]
    return keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(32, "tanh", kernel_initializer=glorot[0]),
            layers.Dropout(rate, seed=7),
            layers.Dense(2, kernel_initializer=glorot[1]),
        ]
    )


def twins():
    """A task batch whose tasks are all the same."""
    inputs, query_y = task_batch(tasks=1)
    return tf.nest.map_structure(lambda t: tf.repeat(t, 3, axis=0), (inputs, query_y))


def test_dropout_is_off_in_prediction_evaluation_and_adapt():
    inputs, query_y = task_batch()
    support = inputs["support_x"][0], inputs["support_y"][0]
    results = []
    for rate in (0.5, 0.0):
        learner = eager(dropout_model(rate), inner_steps=2)
        results.append(
            [
                learner.predict(inputs, verbose=0),
                learner.predict_path(inputs, 2),
                learner.evaluate(inputs, query_y, verbose=0),
                learner.adapt(*support).predict(inputs["query_x"][0], verbose=0),
            ]
        )
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize("task_map", ["loop", "vectorized"])
@pytest.mark.parametrize("steps", [0, 1])
def test_each_task_and_each_training_step_draws_its_own_masks(task_map, steps):
    inputs, query_y = twins()
    learner = compiled(
        dropout_model(),
        0.1,
        optimizer=keras.optimizers.SGD(0.0),
        inner_steps=steps,
        task_map=task_map,
    )
    compute = traced_meta_gradient(learner, inputs, query_y)
    first = compute()[3]
    np.testing.assert_array_equal(first, compute()[3])  # nothing was assigned
    learner.train_on_batch(inputs, query_y)  # with a rate of 0
    drawn = [*first, *compute()[3]]
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert np.abs(one - other).max() > 1e-2


def test_inner_steps_draw_different_masks():
    """At the same weights and examples the losses differ by their masks alone."""
    model = dropout_model()
    state = [tf.convert_to_tensor(v) for v in model.non_trainable_variables]
    learner = eager(model)
    x, y = (task_batch()[0][key][0] for key in ("support_x", "support_y"))
    objective = learner.inner_objective(Support(x, y), training=True)
    weights = [tf.convert_to_tensor(v) for v in model.trainable_variables]
    losses = []
    for step in range(4):
        loss, state = objective(weights, state, step)
        losses.append(loss.numpy())
    assert len(set(losses)) == 4


def test_a_training_step_keeps_the_seeds_of_its_first_task():
    """One draw for each inner step and one for the queries, as Keras counts them."""
    model = dropout_model()
    (seed,) = model.non_trainable_variables
    before = seed.numpy()
    eager(model, inner_steps=3).train_on_batch(*task_batch(tasks=2))
    np.testing.assert_array_equal(seed, before + [0, 4])


def test_the_first_task_draws_the_masks_of_keras():
    inputs, query_y = task_batch()
    model = dropout_model()
    received = eager(model, inner_steps=0).meta_gradient(inputs, query_y)[3][0]
    np.testing.assert_allclose(received, model(inputs["query_x"][0], training=True), rtol=1e-5)


@pytest.mark.parametrize("task_map", ["loop", "vectorized"])
def test_rematerializing_draws_the_same_masks_again(task_map):
    inputs, query_y = task_batch()
    kept, again = (
        traced_meta_gradient(
            compiled(dropout_model(), inner_steps=3, rematerialize=value, task_map=task_map),
            inputs,
            query_y,
        )()
        for value in (False, True)
    )
    assert relative_error(again[1], kept[1]) < 1e-5


def test_two_runs_from_the_same_seeds_are_equal_bit_by_bit():
    def run():
        keras.utils.set_random_seed(3)
        model = keras.Sequential(
            [keras.Input((3,)), layers.Dense(8, "tanh"), layers.Dropout(0.5), layers.Dense(2)]
        )
        learner = compiled(model, optimizer="adam", inner_steps=2, task_map="loop")
        history = learner.fit(*task_batch(tasks=6), batch_size=2, epochs=2, verbose=0).history
        return history["loss"], model.get_weights()

    (losses, weights), (again, same) = run(), run()
    assert losses == again
    for one, other in zip(weights, same, strict=True):
        np.testing.assert_array_equal(one, other)


# Without adaptation.


def test_without_inner_steps_and_with_one_task_it_is_ordinary_keras_training():
    """Moving averages, dropout masks, regularizers, sample weights and Adam among them."""
    l2 = keras.regularizers.L2(0.1)

    def build():
        glorot = [keras.initializers.GlorotNormal(seed=i) for i in range(2)]
        return keras.Sequential(
            [
                keras.Input((3,)),
                layers.Dense(
                    8, use_bias=False, kernel_initializer=glorot[0], kernel_regularizer=l2
                ),
                layers.BatchNormalization(momentum=0.5),
                layers.Dropout(0.25, seed=1),
                layers.Dense(2, kernel_initializer=glorot[1], activity_regularizer=l2),
            ]
        )

    ordinary = build()
    learner = maml_tf.MAML(build(), 0.1, inner_steps=0, batch_norm="moving", task_map="loop")
    for model in (ordinary, learner):
        model.compile(optimizer=keras.optimizers.Adam(0.05), loss="mse", weighted_metrics=["mae"])
    for step in range(4):
        inputs, query_y = task_batch(tasks=1, query=6, seed=step)
        weight = np.linspace(0.5, 2.0, 6, dtype="float32")
        expected = ordinary.train_on_batch(
            inputs["query_x"][0], query_y[0], weight, return_dict=True
        )
        logs = learner.train_on_batch(inputs, query_y, weight[None], return_dict=True)
        for name, value in expected.items():
            np.testing.assert_allclose(logs[name], value, rtol=1e-5)
    for variable, received in zip(ordinary.variables, learner.model.variables, strict=True):
        np.testing.assert_allclose(received, variable, rtol=1e-4, atol=1e-6)
