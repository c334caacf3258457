"""What every learner must do. A new learner joins by a row in LEARNERS."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf.inner_optimizers import SGD, Adam
from tests.problems import (
    conv_model,
    dense_model,
    layers,
    numpy,
    relative_error,
    task_batch,
)

DENSE, IMAGES = (3,), (6, 6, 1)


def dropout_model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input(DENSE),
            layers.Dense(5, "tanh", kernel_regularizer="l2"),
            layers.Dropout(0.5, seed=1),
            layers.Dense(2),
        ]
    )


def is_last(variable):
    return variable.shape[-1] == 2


def maml(build, rate=0.1, task_map="loop", **settings):
    return lambda: maml_tf.MAML(build(), rate, task_map=task_map, **settings)


LEARNERS = {
    "maml": (maml(dense_model, inner_steps=3), DENSE),
    "maml-first-order": (maml(dense_model, first_order=True, task_map="vectorized"), DENSE),
    "maml-momentum": (
        maml(dense_model, SGD([0.2, 0.1], momentum=0.9), inner_steps=2, rematerialize=True),
        DENSE,
    ),
    "maml-adam-head": (
        maml(dense_model, Adam(0.05, epsilon=1e-3), inner_steps=2, adaptable=is_last),
        DENSE,
    ),
    "maml-dropout": (maml(dropout_model, inner_steps=2), DENSE),
    "maml-transductive-norm": (maml(conv_model, inner_steps=2, parallel_tasks=1), IMAGES),
    "maml-support-norm": (maml(conv_model, batch_norm="support"), IMAGES),
    "maml-moving-norm": (maml(conv_model, batch_norm="moving", rematerialize=True), IMAGES),
}


def ready(learner):
    learner.compile(optimizer=keras.optimizers.SGD(0.05), loss="mse", metrics=["mae"])
    return learner


class Case:
    """One learner, a task batch and what the learner makes of it; the tests change none of it."""

    def __init__(self, build, shape):
        self.build = build
        self.learner = ready(build())
        self.inputs, self.query_y = task_batch(shape, tasks=3)
        unknown = keras.tree.map_structure(
            lambda t: tf.TensorSpec([None, *t.shape[1:]], t.dtype), (self.inputs, self.query_y)
        )
        self.compute = tf.function(
            self.learner.meta_gradient, autograph=False, input_signature=unknown
        )

    @functools.cached_property
    def results(self):
        return numpy(self.compute(self.inputs, self.query_y))

    @functools.cached_property
    def predictions(self):
        return self.learner.predict(self.inputs, verbose=0)

    @property
    def drops(self):
        return any(isinstance(x, layers.Dropout) for x in self.learner.model.layers)

    @property
    def normalises(self):
        return any(isinstance(x, layers.BatchNormalization) for x in self.learner.model.layers)


@pytest.fixture(scope="module", params=LEARNERS.values(), ids=LEARNERS)
def case(request):
    return Case(*request.param)


def test_the_meta_gradient_has_the_shapes_of_what_it_belongs_to_and_assigns_nothing(case):
    model = case.learner.model
    before = model.get_weights()
    loss, gradients, state, y_pred, y_before = case.results
    assert loss.shape == ()
    for part, variables in (
        (gradients, model.trainable_variables),
        (state, model.non_trainable_variables),
    ):
        assert [p.shape for p in part] == [tuple(v.shape) for v in variables]
        assert [str(p.dtype) for p in part] == [v.dtype for v in variables]
    assert y_pred.shape == y_before.shape == case.query_y.shape
    assert all(np.isfinite(t).all() for t in (loss, *gradients, y_pred, y_before))
    assert all(np.abs(g).max() > 1e-6 for g in gradients[2:])
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_batch_of_tasks_is_the_mean_of_its_tasks(case):
    if case.drops:
        pytest.skip("each task of a batch draws its own masks")
    single = [
        numpy(
            case.compute(
                *tf.nest.map_structure(lambda t, i=i: t[i : i + 1], (case.inputs, case.query_y))
            )
        )
        for i in range(3)
    ]
    losses, gradients, states, y_pred, y_before = zip(*single, strict=True)
    np.testing.assert_allclose(case.results[0], np.mean(losses), rtol=1e-5)
    for received, parts in ((case.results[1], gradients), (case.results[2], states)):
        for one, of_tasks in zip(received, zip(*parts, strict=True), strict=True):
            assert relative_error(one + 1, np.mean(of_tasks, axis=0) + 1) < 1e-5
    np.testing.assert_allclose(case.results[3], np.concatenate(y_pred), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(case.results[4], np.concatenate(y_before), rtol=1e-4, atol=1e-5)


def test_training_applies_the_meta_gradient_and_lowers_the_loss(case):
    learner = ready(case.build())
    initial = [v.numpy() for v in learner.model.trainable_variables]
    dataset = tf.data.Dataset.from_tensors((case.inputs, case.query_y))
    logs = learner.fit(dataset, verbose=0).history
    loss, gradients, state, y_pred, y_before = case.results
    for variable, value, gradient in zip(
        learner.model.trainable_variables, initial, gradients, strict=True
    ):
        np.testing.assert_allclose(variable, value - 0.05 * gradient, rtol=1e-5, atol=1e-6)
    for variable, value in zip(learner.model.non_trainable_variables, state, strict=True):
        np.testing.assert_allclose(variable, value, rtol=1e-5, atol=1e-6)
    mae = [np.mean(np.abs(y - case.query_y)) for y in (y_pred, y_before)]
    expected = {"loss": loss, "mae": mae[0], "mae_before": mae[1]}
    for name, value in expected.items():
        np.testing.assert_allclose(logs[name], [value], rtol=1e-5)
    later = learner.fit(dataset.repeat(30), verbose=0).history
    assert later["loss"][0] < loss


def test_a_path_begins_unadapted_and_ends_with_the_prediction(case):
    learner, inputs, k = case.learner, case.inputs, case.learner.inner_steps
    path = learner.predict_path(inputs, k)
    assert path.shape == (3, k + 1, *case.query_y.shape[1:])
    np.testing.assert_allclose(path[:, k], case.predictions, rtol=1e-4, atol=1e-5)
    by_batch = case.normalises and learner.batch_norm == "transductive"
    if learner.batch_norm == "support":
        copies = [
            learner.adapt(x, y, inner_steps=0)
            for x, y in zip(inputs["support_x"], inputs["support_y"], strict=True)
        ]
    else:
        copies = [learner.model] * 3
    unadapted = [
        copy(x, training=by_batch) for copy, x in zip(copies, inputs["query_x"], strict=True)
    ]
    np.testing.assert_allclose(path[:, 0], unadapted, rtol=1e-4, atol=1e-5)
    assert np.abs(path[:, k] - path[:, 0]).max() > 1e-3


def test_the_meta_gradient_predicts_as_predict_does(case):
    if case.drops or case.learner.batch_norm == "moving":
        pytest.skip("training mode differs from prediction by design")
    np.testing.assert_allclose(case.results[3], case.predictions, rtol=1e-4, atol=1e-5)


def test_labels_of_queries_and_other_tasks_do_not_touch_a_prediction(case):
    others = {
        name: tf.concat([value[:1], 1 - 2 * value[1:]], 0) for name, value in case.inputs.items()
    }
    changed = case.compute(others, -case.query_y)
    np.testing.assert_allclose(case.results[3][0], changed[3][0], rtol=1e-4, atol=1e-5)
    assert np.abs(case.results[3][1:] - changed[3][1:]).max() > 1e-3


def test_adapt_gives_the_model_that_predicts(case):
    """With batch normalisation it is the one of `batch_norm="support"`, whatever the learner's."""
    learner, inputs = case.learner, case.inputs
    expected = case.predictions
    if case.normalises and learner.batch_norm != "support":
        config = {**learner.get_config(), "batch_norm": "support", "model": learner.model}
        config["inner_optimizer"] = learner.inner_optimizer
        expected = ready(type(learner)(**config))(inputs)
    before = learner.model.get_weights()
    adapted = learner.adapt(inputs["support_x"][1], inputs["support_y"][1])
    one_by_one = [adapted(x[None], training=False)[0] for x in inputs["query_x"][1]]
    np.testing.assert_allclose(one_by_one, expected[1], rtol=1e-4, atol=1e-5)
    for one, other in zip(learner.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_configuration_round_trip(case):
    config = case.learner.get_config()
    again = type(case.learner).from_config(config)
    assert again.get_config() == config
    again.model.set_weights(case.learner.model.get_weights())
    received = ready(again).meta_gradient(case.inputs, case.query_y)
    assert relative_error(list(received[1]), list(case.results[1])) < 1e-5


def test_file_round_trip(case, tmp_path):
    case.learner.save(tmp_path / "learner.keras")
    again = keras.saving.load_model(tmp_path / "learner.keras")
    assert type(again) is type(case.learner)
    np.testing.assert_array_equal(again(case.inputs), case.learner(case.inputs))
    assert again.get_compile_config() == case.learner.get_compile_config()


@pytest.mark.parametrize("tasks", [1, 3])
def test_so_many_tasks_are_worked_on_at_the_same_time(tasks):
    learner = ready(maml_tf.MAML(dense_model(), 0.1, task_map="loop", parallel_tasks=tasks))
    traced = tf.function(learner.meta_gradient, autograph=False)
    operations = traced.get_concrete_function(*task_batch(tasks=4)).graph.get_operations()
    loops = [op for op in operations if "While" in op.type]
    assert [op.get_attr("parallel_iterations") for op in loops] == [tasks]
