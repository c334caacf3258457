"""What a statistician would try first, beside numbers by hand and a second implementation."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf import evaluation
from tests.wrong_calls import Wrong, check


def one_batch(support_x, support_y, query_x, query_y):
    inputs = {"support_x": support_x, "support_y": support_y, "query_x": query_x}
    to_tensor = lambda a: tf.constant(a, tf.float32 if np.asarray(a).dtype.kind == "f" else None)  # noqa: E731
    return tf.data.Dataset.from_tensors(tf.nest.map_structure(to_tensor, (inputs, query_y)))


def random_task(tasks=3, support=6, query=4, features=2, outputs=1):
    normal = np.random.default_rng(0).normal
    return [
        normal(size=[tasks, n, k])
        for n, k in ((support, features), (support, outputs), (query, features), (query, outputs))
    ]


def test_the_mean_of_the_support_by_hand():
    tasks = one_batch(np.zeros([1, 2, 1]), [[[1.0], [3.0]]], np.zeros([1, 2, 1]), [[[2.0], [5.0]]])
    assert evaluation.support_mean(tasks, 1).values.tolist() == [[4.5]]
    absolute = evaluation.support_mean(tasks, 1, metric="mean_absolute_error")
    assert absolute.values.tolist() == [[1.5]]
    assert absolute.metric == "mean_absolute_error"


def test_the_most_frequent_class_by_hand():
    tasks = one_batch(
        np.zeros([1, 3, 1]), np.array([[2, 0, 2]]), np.zeros([1, 4, 1]), np.array([[2, 2, 0, 3]])
    )
    result = evaluation.support_mean(tasks, 1)
    assert (result.metric, result.values.tolist()) == ("accuracy", [[0.5]])


def test_a_ridge_by_hand():
    """Points (-1, -2), (0, 0), (1, 2) with a penalty of 2: the slope is 4 / (2 + 2)."""
    tasks = one_batch(
        [[[-1.0], [0.0], [1.0]]], [[[-1.0], [1.0], [3.0]]], [[[3.0]]], [[[4.0 + 0.5]]]
    )
    np.testing.assert_allclose(evaluation.ridge(tasks, 1, penalty=2.0).values, [[0.25]])


@pytest.mark.parametrize("penalty", [1e-3, 0.7, 50.0])
def test_a_ridge_minimises_what_it_says(penalty):
    """Least squares over the rows, one more row a slope that says it is zero."""
    support_x, support_y, query_x, query_y = random_task(outputs=2)
    tasks = one_batch(support_x, support_y, query_x, query_y)
    result = evaluation.ridge(tasks, 3, penalty=penalty)
    for t in range(3):
        rows = np.concatenate([np.ones([6, 1]), support_x[t]], axis=1)
        extra = np.concatenate([np.zeros([2, 1]), np.sqrt(penalty) * np.eye(2)], axis=1)
        y = np.concatenate([support_y[t], np.zeros([2, 2])])
        found = np.linalg.lstsq(np.concatenate([rows, extra]), y, rcond=None)[0]
        answer = np.concatenate([np.ones([4, 1]), query_x[t]], axis=1) @ found
        np.testing.assert_allclose(
            result.values[t, 0], np.mean((answer - query_y[t]) ** 2), rtol=1e-5
        )


@pytest.mark.parametrize("degree", [2, 3])
def test_a_polynomial_minimises_what_it_says(degree):
    """The same, of the inputs and their powers; it goes through points of such a curve."""
    support_x, support_y, query_x, query_y = random_task(support=9)
    tasks = one_batch(support_x, support_y, query_x, query_y)
    result = evaluation.ridge(tasks, 3, penalty=0.3, degree=degree)
    raised = lambda x: np.concatenate([x**p for p in range(1, degree + 1)], -1)  # noqa: E731
    powered = raised(support_x), raised(query_x)
    plain = one_batch(powered[0], support_y, powered[1], query_y)
    np.testing.assert_allclose(result.values, evaluation.ridge(plain, 3, penalty=0.3).values, 1e-4)
    curve = [1 + x[..., :1] - 2 * x[..., 1:] ** degree for x in (support_x, query_x)]
    tasks = one_batch(support_x, curve[0], query_x, curve[1])
    assert evaluation.ridge(tasks, 3, penalty=1e-9, degree=degree).mean[0] < 1e-9
    assert evaluation.ridge(tasks, 3, penalty=1e-9).mean[0] > 0.1


def test_a_ridge_sees_normalised_inputs_and_classes():
    support_x, _, query_x, _ = random_task(support=40, query=30)
    of = lambda x: (x[..., 0] > 0).astype(np.int32)  # noqa: E731
    tasks = one_batch(1e4 * support_x + 5e4, of(support_x), 1e4 * query_x + 5e4, of(query_x))
    layer = keras.layers.Normalization(mean=[5e4] * 2, variance=[1e8] * 2)
    assert evaluation.ridge(tasks, 3, normalization=layer).mean[0] > 0.85
    plain = one_batch(support_x, of(support_x), query_x, of(query_x))
    np.testing.assert_allclose(
        evaluation.ridge(tasks, 3, penalty=1e-2, normalization=layer).values,
        evaluation.ridge(plain, 3, penalty=1e-2).values,
    )


def test_the_mean_residual_shifts_a_model_by_hand():
    model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1, kernel_initializer="ones")])
    tasks = one_batch([[[1.0], [2.0]]], [[[11.0], [14.0]]], [[[5.0]]], [[[17.0]]])
    # It misses 10 and 12, so the answer is 5 + 11.
    assert evaluation.mean_residual(model, tasks, 1).values.tolist() == [[1.0]]


def test_the_seasonal_naive_forecast_by_hand():
    """Of 0, 1, 2, ... with a season of 3 and a horizon of 5: behind by 3, 3, 3, 6, 6."""
    series = np.stack([np.arange(40.0)] * 6)
    sets = maml_tf.tasks.windows(series, inputs=4, horizon=5, shots=2, scale=False)
    result = evaluation.seasonal_naive(sets[2], 4, season=3)
    np.testing.assert_allclose(result.values, 4.2)
    squared = evaluation.seasonal_naive(sets[2], 4, season=3, metric="mean_squared_error")
    np.testing.assert_allclose(squared.values, (3 * 9 + 2 * 36) / 5)
    last = evaluation.seasonal_naive(sets[2], 4, season=1)
    np.testing.assert_allclose(last.values, 3.0)


def test_series_of_channels():
    series = np.random.default_rng(0).normal(size=[8, 60, 2])
    sets = maml_tf.tasks.windows(series, inputs=4, horizon=3, shots=6)
    for way in (evaluation.support_mean, evaluation.ridge):
        assert np.isfinite(way(sets[2], 4, metric="mean_absolute_error").values).all()
    for season in (2, 4):  # as long as what a window shows
        assert evaluation.seasonal_naive(sets[2], 4, season=season).values.shape == (4, 1)


def test_the_seasonal_naive_forecast_of_some_channels():
    """A channel that repeats itself and one that does not: only the former is asked for."""
    channels = [np.random.default_rng(0).normal(size=[8, 60]), np.tile(np.arange(60) % 3, [8, 1])]
    sets = maml_tf.tasks.windows(np.stack(channels, -1), inputs=4, horizon=3, shots=6, targets=[1])
    result = evaluation.seasonal_naive(sets[2], 4, season=3, targets=[1])
    np.testing.assert_allclose(result.values, 0.0, atol=1e-6)


TASKS = one_batch(*random_task())
OF_ONE = one_batch(*(np.ones([2, 3, 4, channels]) for channels in (2, 1, 2, 1)))
CLASSES = one_batch(np.zeros([1, 2, 1]), np.zeros([1, 2], int), np.zeros([1, 2, 1]), [[0, 0]])
MODEL = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
WRONG = [
    Wrong(lambda: evaluation.support_mean([1]), TypeError, "`tasks`", "tasks=[1]"),
    Wrong(lambda: evaluation.ridge(TASKS, 0), ValueError, "`num_tasks`", "num_tasks=0"),
    Wrong(lambda: evaluation.ridge(TASKS, 9), ValueError, "num_tasks=9", "after 3"),
    Wrong(lambda: evaluation.ridge(TASKS, 3, penalty=0), ValueError, "`penalty`", "penalty=0"),
    Wrong(lambda: evaluation.ridge(TASKS, 3, degree=0), ValueError, "`degree`", "degree=0"),
    Wrong(lambda: evaluation.ridge(TASKS, 3, degree=1.5), TypeError, "`degree`", "degree=1.5"),
    Wrong(
        lambda: evaluation.ridge(TASKS, 3, metric="accuracy"),
        ValueError,
        "`metric`",
        "metric='accuracy'",
    ),
    Wrong(
        lambda: evaluation.support_mean(CLASSES, 1, metric="mean_squared_error"),
        ValueError,
        "`metric`",
        "'accuracy'",
    ),
    Wrong(lambda: evaluation.mean_residual(MODEL, CLASSES, 1), ValueError, "regression", "int"),
    Wrong(
        lambda: evaluation.seasonal_naive(TASKS, 3, season=4), ValueError, "`season`", "season=4"
    ),
    Wrong(lambda: evaluation.seasonal_naive(TASKS, 3, season=0.5), TypeError, "`season`", "=0.5"),
    # Both would be compared with one another's channels, or examples, all with all.
    Wrong(
        lambda: evaluation.seasonal_naive(one_batch(*windows()), 1, season=2),
        ValueError,
        "`targets`",
        "targets=None",
    ),
    Wrong(lambda: evaluation.seasonal_naive(CLASSES, 1, season=1), ValueError, "tasks of windows"),
    Wrong(
        lambda: evaluation.mean_residual(MODEL, one_batch(*random_task(outputs=3)), 1),
        ValueError,
        "shape of a label, (3,)",
        "predicts (1,)",
    ),
    Wrong(
        lambda: evaluation.seasonal_naive(TASKS, 3, season=1, targets=[0]),
        ValueError,
        "`targets`",
        "targets=[0]",
    ),
    Wrong(lambda: evaluation.seasonal_naive(OF_ONE, 2, season=1), ValueError, "`targets`", "=None"),
]


def windows():
    """Of four points with three channels, of which one is to be forecast."""
    support, query = np.zeros([1, 2, 4, 3]), np.zeros([1, 1, 4, 3])
    return support, support[..., :1], query, query[..., :1]


def test_residuals_of_labels_without_an_axis_are_those_of_each():
    support_x, support_y, query_x, query_y = random_task()
    with_axis = one_batch(support_x, support_y, query_x, query_y)
    without = one_batch(support_x, support_y[..., 0], query_x, query_y[..., 0])
    expected, received = (
        evaluation.mean_residual(MODEL, tasks, 3).values for tasks in (with_axis, without)
    )
    np.testing.assert_array_equal(received, expected)


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_wrong_calls_are_explained(wrong):
    check(wrong)
