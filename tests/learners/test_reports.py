"""Metrics before adaptation are counted apart, and by hand they are the same."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import MAML
from maml_tf.learners.base import reports
from maml_tf.learners.base.meta_step import Answers
from tests.problems import dense_model, layers, task_batch

Y = np.array([[[1.0], [2.0]], [[3.0], [5.0]], [[0.0], [1.0]]], "float32")  # T = 3, Q = 2
Y_PRED = np.array([[[2.0], [2.0]], [[1.0], [5.0]], [[0.0], [4.0]]], "float32")
WEIGHT = np.array([[1.0, 2.0], [0.0, 1.0], [2.0, 1.0]], "float32")


def answers(y_pred, masks=None):
    return Answers(0.0, [], tf.nest.map_structure(tf.constant, y_pred), masks or {})


def counted(before, *parts):
    """Counts the tasks of each of `parts`, the loss of which is their number."""
    for part in parts:
        count = len(Y[part])
        before.update({"loss": float(count)}, Y[part], answers(Y_PRED[part]), WEIGHT[part], count)
    return {name: float(value) for name, value in before.results().items()}


def test_losses_weigh_by_tasks_and_metrics_by_queries():
    before = reports.Before(dense_model(), ["mae"], [keras.metrics.MeanSquaredError(name="mse")])
    difference = np.abs(Y - Y_PRED)[..., 0]
    expected = {
        "loss_before": (2 * 2.0 + 1 * 1.0) / 3,
        "mae_before": difference.mean(),
        "mse_before": (WEIGHT * difference**2).sum() / WEIGHT.sum(),
    }
    for _ in range(2):
        received = counted(before, slice(0, 2), slice(2, 3))
        assert received == pytest.approx(expected, rel=1e-6)
        before.reset()
    assert counted(before, slice(2, 3))["loss_before"] == 1.0


def test_what_the_learner_counts_stays_as_it_is():
    metric = keras.metrics.MeanAbsoluteError(name="mine")
    weighted = keras.metrics.MeanAbsoluteError(name="weighted")
    before = reports.Before(dense_model(), [metric], {"output": weighted})
    assert set(counted(before, slice(0, 3))) == {"loss_before", "mine_before", "weighted_before"}
    assert float(metric.result()) == float(weighted.result()) == 0.0


def test_metrics_find_their_outputs_by_name():
    x = keras.Input((3,))
    model = keras.Model(x, [layers.Dense(1, name="a")(x), layers.Dense(1, name="b")(x)])
    before = reports.Before(model, {"b": ["mae"]}, None)
    losses = {"loss": 3.0, "a_loss": 1.0, "b_loss": 2.0}
    before.update(losses, [Y, Y], answers([Y, Y + 4.0]), None, 3)
    assert before.results() == {
        **{f"{name}_before": value for name, value in losses.items()},
        "b_mae_before": 4.0,
    }


def test_masked_predictions_count_in_no_metric():
    mask = tf.constant([[True, False], [False, True], [True, False]])
    before = reports.Before(dense_model(), ["mae"], None)
    before.update({"loss": 0.0}, Y, answers(Y_PRED, {0: mask}), None, 3)
    received = float(before.results()["mae_before"])
    assert received == pytest.approx(np.abs(Y - Y_PRED)[..., 0][mask.numpy()].mean())


def test_an_adapted_model_gets_losses_and_metrics_of_its_own():
    metric = keras.metrics.MeanAbsoluteError(name="mine")
    received = reports.Before.compile_arguments(
        {"optimizer": "sgd", "loss": "mse", "metrics": [metric, "mae"], "loss_weights": None}
    )
    assert set(received) == {"loss", "metrics"}
    assert received["loss"] == "mse"
    copied, name = received["metrics"]
    assert name == "mae"
    assert copied is not metric
    assert (type(copied), copied.name) == (keras.metrics.MeanAbsoluteError, "mine")


@pytest.mark.parametrize("steps", [5, 1, 0, None])
def test_the_error_of_a_loss_that_ran_away_names_the_steps_where_there_are_any(steps):
    message = str(reports.non_finite_error(7, types.SimpleNamespace(inner_steps=steps)))
    assert "at training step 7 " in message
    assert (f"fewer inner steps than {steps}," in message) == bool(steps)
    assert "clipvalue=10" in message


HOW = [{}, {"run_eagerly": True}, {"steps_per_execution": 2}, {"jit_compile": True}]


def regressor(**settings):
    learner = MAML(dense_model(), 0.1)
    settings = {"optimizer": keras.optimizers.Adam(0.01), "loss": "mse", **settings}
    learner.compile(metrics=["mae"], **settings)
    return learner


def tasks():
    """Three batches of two tasks."""
    return tf.data.Dataset.from_tensor_slices(task_batch(tasks=6)).batch(2, drop_remainder=True)


@pytest.mark.parametrize("settings", HOW, ids=str)
def test_training_that_does_not_report_what_was_before_is_the_same_training(settings):
    both, after = regressor(**settings), regressor(report_before=False, **settings)
    expected, received = (
        learner.fit(tasks(), validation_data=tasks(), epochs=2, verbose=0).history
        for learner in (both, after)
    )
    assert set(expected) - set(received) == {"loss_before", "mae_before"}
    for name, values in received.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-5)
    assert {"val_loss_before", "val_mae_before"} <= set(received)
    for one, other in zip(after.get_weights(), both.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_not_to_report_it_is_kept_in_the_file(tmp_path):
    learner = regressor(report_before=False)
    expected = learner.train_on_batch(*task_batch(), return_dict=True)
    assert set(expected) == {"loss", "mae"}
    learner.save(tmp_path / "learner.keras")
    again = keras.saving.load_model(tmp_path / "learner.keras")
    assert set(again.train_on_batch(*task_batch(), return_dict=True)) == {"loss", "mae"}
    again.compile("adam", "mse")
    assert "loss_before" in again.train_on_batch(*task_batch(), return_dict=True)


def test_without_it_there_are_no_predictions_before():
    *_, y_pred, y_before = regressor(report_before=False).meta_gradient(*task_batch())
    assert y_before is None
    assert y_pred.shape == task_batch()[1].shape


def test_whether_to_report_it_is_true_or_false():
    with pytest.raises(TypeError, match="`report_before` to be True or False. Received: .*'no'"):
        regressor(report_before="no")
