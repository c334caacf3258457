"""Random numbers without a seed of their own: another draw for each task, step and call."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf import noise
from maml_tf.exact import keras_internals
from maml_tf.learners.base.task import Support
from tests.problems import compiled, layers, task_batch, traced_meta_gradient


@keras.saving.register_keras_serializable("test_noise")
class Noisy(layers.Layer):
    """Adds noise that Keras' global generator seeds, in training or always."""

    def __init__(self, always=False, **settings):
        super().__init__(**settings)
        self.always = always

    def call(self, inputs, training=False):
        if not (training or self.always):
            return inputs
        return inputs + keras.random.normal(keras.ops.shape(inputs))


def noisy_model(always=False):
    glorot = [keras.initializers.GlorotNormal(seed=i) for i in range(2)]
    return keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(8, "tanh", kernel_initializer=glorot[0]),
            Noisy(always),
            layers.Dense(2, kernel_initializer=glorot[1]),
        ]
    )


def twins(tasks=3):
    inputs, query_y = task_batch(tasks=1)
    return tf.nest.map_structure(lambda t: tf.repeat(t, tasks, axis=0), (inputs, query_y))


def all_differ(predictions):
    return all(
        np.abs(one - other).max() > 1e-2
        for i, one in enumerate(predictions)
        for other in predictions[:i]
    )


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(7)


@pytest.mark.parametrize("task_map", ["loop", "vectorized"])
@pytest.mark.parametrize("steps", [0, 1])
def test_each_task_and_each_training_step_draws_its_own_noise(task_map, steps):
    inputs, query_y = twins()
    learner = compiled(
        noisy_model(),
        optimizer=keras.optimizers.SGD(0.0),
        inner_steps=steps,
        task_map=task_map,
    )
    compute = traced_meta_gradient(learner, inputs, query_y)
    first = compute()[3]
    np.testing.assert_array_equal(first, compute()[3])  # nothing was assigned
    learner.train_on_batch(inputs, query_y)
    assert all_differ([*first, *compute()[3]])


def test_inner_steps_and_queries_draw_different_noise():
    """At the same weights and examples, losses and predictions differ by their noise alone."""
    model = noisy_model()
    learner = compiled(model)
    inputs, _ = task_batch()
    weights, state = learner.initial_values()
    support = Support(inputs["support_x"][0], inputs["support_y"][0])
    objective = learner.inner_objective(support, training=True)
    query_x, mode = inputs["query_x"][0], learner.mode(training=True)
    with noise.batch(), noise.stream(0), learner.with_values(weights, state):
        losses = [objective(weights, state, step)[0].numpy() for step in range(4)]
        again = objective(weights, state, 2)[0].numpy()  # as rematerialisation does
        queries = [
            learner.predict_adapted(learner.unadapted(), query_x, mode=mode, then=lambda y: y)
            for _ in range(2)
        ]
    assert len(set(losses)) == 4
    assert again == losses[2]
    assert all_differ(queries)


def test_rematerializing_draws_the_same_noise_again():
    inputs, query_y = task_batch()
    kept, again = (
        traced_meta_gradient(
            compiled(noisy_model(), inner_steps=3, rematerialize=value, task_map="loop"),
            inputs,
            query_y,
        )()
        for value in (False, True)
    )
    for one, other in zip(kept[1], again[1], strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [{}, {"run_eagerly": True}, pytest.param({"jit_compile": True}, marks=pytest.mark.slow)],
    ids=str,
)
def test_the_noise_follows_the_seed_of_keras(settings):
    def run(seed):
        keras.utils.set_random_seed(seed)
        learner = compiled(noisy_model(), task_map="loop", **settings)
        return learner.fit(*task_batch(tasks=6), batch_size=2, shuffle=False, verbose=0).history

    assert run(1) == run(1)
    assert run(1)["loss"] != run(2)["loss"]


def test_prediction_and_evaluation_draw_anew_as_in_keras():
    inputs, query_y = twins()
    learner = compiled(noisy_model(always=True), inner_steps=0, task_map="loop")
    assert all_differ([*learner.predict_on_batch(inputs), *learner.predict_on_batch(inputs)])
    losses = [learner.test_on_batch(inputs, query_y) for _ in range(2)]
    assert losses[0] != losses[1]


def test_what_draws_nothing_leaves_the_generator_of_keras_alone():
    keras_internals.set_global_seed_generator(None)
    learner = maml_tf.MAML(
        keras.Sequential([keras.Input((3,)), layers.Dense(2), layers.Dropout(0.5, seed=1)]), 0.1
    )
    learner.compile("sgd", "mse")
    learner.train_on_batch(*task_batch())
    assert keras_internals.global_seed_generator() is None
