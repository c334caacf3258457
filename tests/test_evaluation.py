"""The protocol against closed forms in NumPy and against plain Python loops."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf import evaluation

WAYS = 3


def task_set(arrays, batch, drop_remainder=False):
    support_x, support_y, query_x, query_y = arrays
    inputs = {"support_x": support_x, "support_y": support_y, "query_x": query_x}
    return tf.data.Dataset.from_tensor_slices((inputs, query_y)).batch(
        batch, drop_remainder=drop_remainder
    )


def line_arrays(tasks=7, support=4, queries=6, seed=0):
    random = np.random.default_rng(seed)
    slopes = random.normal(size=(tasks, 1, 1))
    x = random.normal(size=(tasks, support + queries, 1))
    x, y = x.astype(np.float32), (slopes * x).astype(np.float32)
    return x[:, :support], y[:, :support], x[:, support:], y[:, support:]


def line_learner(slope=0.5, step_size=0.1, **compiled):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.set_weights([np.array([[slope]], np.float32)])
    learner = maml_tf.MAML(model, step_size, inner_steps=2)
    learner.compile(**{"loss": "mean_squared_error", **compiled})
    return learner


def line_errors(arrays, steps, slope=0.5, step_size=0.1):
    """Mean squared errors `[tasks, steps + 1]` of y = w x under gradient descent, by hand."""
    support_x, support_y, query_x, query_y = (a.astype(np.float64)[..., 0] for a in arrays)
    w = np.full([len(support_x), 1], slope)
    errors = []
    for _ in range(steps + 1):
        errors.append(np.mean((w * query_x - query_y) ** 2, axis=1))
        slope_gradient = np.mean(2 * (w * support_x - support_y) * support_x, axis=1)
        w = w - step_size * slope_gradient[:, None]
    return np.stack(errors, axis=1)


def class_arrays(tasks=6, shots=2, queries=3, features=4, seed=0):
    random = np.random.default_rng(seed)
    centres = random.normal(size=(tasks, WAYS, 1, features))
    examples = centres + 0.6 * random.normal(size=(tasks, WAYS, shots + queries, features))
    labels = np.broadcast_to(np.arange(WAYS)[:, None], (tasks, WAYS, shots + queries))

    def part(array, which):
        rest = array.shape[3:]
        return array[:, :, which].reshape(tasks, -1, *rest)

    x, y = examples.astype(np.float32), labels.astype(np.int32)
    support, query = slice(0, shots), slice(shots, None)
    return part(x, support), part(y, support), part(x, query), part(y, query)


def class_learner(outputs=WAYS, loss=None, metrics=None, batch_norm="support", norm=True):
    keras.utils.set_random_seed(3)
    layers = [keras.Input((4,)), keras.layers.Dense(8)]
    layers += [keras.layers.BatchNormalization()] if norm else []
    model = keras.Sequential([*layers, keras.layers.ReLU(), keras.layers.Dense(outputs)])
    learner = maml_tf.MAML(model, 0.3, inner_steps=2, batch_norm=batch_norm)
    sparse = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    learner.compile(loss=loss or sparse, metrics=metrics)
    return learner


# Result.


def test_summary_is_that_of_numpy():
    values = np.array([[4.0, 1.0], [2.0, 1.0], [0.0, 4.0]])
    result = evaluation.Result("loss", values)
    np.testing.assert_allclose(result.mean, [2.0, 2.0])
    np.testing.assert_allclose(result.interval, 1.96 * np.sqrt([8 / 3, 2.0]) / np.sqrt(3))
    np.testing.assert_array_equal(result.median, [2.0, 1.0])
    np.testing.assert_array_equal(result.non_finite, [0, 0])
    assert (result.num_tasks, result.inner_steps) == (3, 1)


def test_table_has_a_row_for_each_step():
    result = evaluation.Result("accuracy", np.array([[0.25, 1.0], [0.75, 1.0]]))
    assert result.table().splitlines() == [
        "| inner steps | accuracy, mean ± 95 % | median | tasks not finite |",
        "|---:|---:|---:|---:|",
        "| 0 | 0.5000 ± 0.3465 | 0.5000 | 0 of 2 |",
        "| 1 | 1.0000 ± 0.0000 | 1.0000 | 0 of 2 |",
    ]


def test_non_finite_tasks_are_counted_and_left_in():
    values = np.array([[1.0, 1.0], [2.0, np.inf], [3.0, np.nan], [4.0, 2.0], [5.0, 3.0]])
    result = evaluation.Result("loss", values)
    assert np.isnan(result.mean[1])
    assert np.isnan(result.interval[1])
    # A NaN is as bad as infinity: 1, 2, 3, inf, inf.
    np.testing.assert_array_equal(result.median, [3.0, 3.0])
    np.testing.assert_array_equal(result.non_finite, [0, 2])
    assert "| 1 | nan ± nan | 3.0000 | 2 of 5 |" in result.table()


def test_numbers_that_ran_away_are_written_short():
    received = [evaluation.number(v) for v in (0.12345, -9999.5, 1e4, -2.5e7, np.nan, np.inf)]
    assert received == ["0.1235", "-9999.5000", "1.00e+04", "-2.50e+07", "nan", "inf"]


def test_a_summary_holds_what_json_can_hold():
    result = evaluation.Result("loss", np.array([[4.0, 1.0, np.inf], [2.0, 1.0, 3.0]]))
    half = 1.96 / np.sqrt(2)
    assert result.to_dict() == {
        "metric": "loss",
        "num_tasks": 2,
        "inner_steps": 2,
        "mean": [3.0, 1.0, "inf"],
        "interval": [half, 0.0, "nan"],
        "median": [3.0, 1.0, "inf"],
        "non_finite": [0, 0, 1],
        "values": [[4.0, 1.0, "inf"], [2.0, 1.0, 3.0]],
    }


def test_json_round_trip(tmp_path):
    values = np.random.default_rng(0).normal(size=(5, 3))
    values[1, 2], values[2, 2], values[3, 1] = np.inf, np.nan, -np.inf
    result = evaluation.Result("loss", values)
    result.to_json(tmp_path / "result.json")
    again = evaluation.Result.from_json(tmp_path / "result.json")
    assert again.metric == "loss"
    np.testing.assert_array_equal(again.values, values)

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    content = json.loads((tmp_path / "result.json").read_text(), parse_constant=refuse)
    assert content["num_tasks"] == 5
    assert content["median"] == result.median.tolist()
    assert "values" not in result.to_dict(values=False)


# Values.


def test_errors_of_a_line_are_those_by_hand():
    arrays = line_arrays()
    result = evaluation.evaluate(line_learner(), task_set(arrays, 3), num_tasks=7, inner_steps=4)
    assert result.values.dtype == np.float64
    np.testing.assert_allclose(result.values, line_errors(arrays, 4), rtol=1e-5)


def test_steps_are_the_learners_by_default():
    result = evaluation.evaluate(line_learner(), task_set(line_arrays(), 7), num_tasks=7)
    assert result.values.shape == (7, 3)


def test_accuracy_equals_a_loop_over_adapted_models():
    arrays, learner = class_arrays(), class_learner(metrics=["accuracy"])
    result = evaluation.evaluate(learner, task_set(arrays, 2), num_tasks=6, inner_steps=2)
    assert result.metric == "accuracy"
    expected = np.empty([6, 3])
    for t, (support_x, support_y, query_x, query_y) in enumerate(zip(*arrays, strict=True)):
        for step in range(3):
            mine = learner.adapt(support_x, support_y, inner_steps=step)
            labels = mine.predict_on_batch(query_x).argmax(axis=-1)
            expected[t, step] = np.mean(labels == query_y)
    np.testing.assert_allclose(result.values, expected)
    assert result.mean[2] > result.mean[0]


def test_loss_equals_a_loop_with_a_tape():
    arrays, learner = class_arrays(), class_learner(norm=False)
    result = evaluation.evaluate(learner, task_set(arrays, 4), num_tasks=6, inner_steps=2)
    assert result.metric == "loss"
    model, initial = learner.model, learner.model.get_weights()
    for t, (support_x, support_y, query_x, query_y) in enumerate(zip(*arrays, strict=True)):
        model.set_weights(initial)
        for step in range(3):
            loss = learner.loss(query_y, model(query_x))
            np.testing.assert_allclose(result.values[t, step], loss, rtol=1e-4)
            with tf.GradientTape() as tape:
                inner = learner.loss(support_y, model(support_x))
            variables = model.trainable_variables
            for v, g in zip(variables, tape.gradient(inner, variables), strict=True):
                v.assign(v - 0.3 * g)


def test_mean_of_losses_is_what_keras_evaluates():
    arrays, learner = class_arrays(), class_learner(batch_norm="transductive")
    result = evaluation.evaluate(learner, task_set(arrays, 3), num_tasks=6)
    report = learner.evaluate(task_set(arrays, 3), return_dict=True, verbose=0)
    np.testing.assert_allclose(result.mean[-1], report["loss"], rtol=1e-5)
    np.testing.assert_allclose(result.mean[0], report["loss_before"], rtol=1e-5)


def test_reduction_of_the_loss_is_kept():
    arrays = line_arrays()
    summed = line_learner(loss=keras.losses.MeanSquaredError(reduction="sum"), step_size=0.01)
    values = evaluation.evaluate(summed, task_set(arrays, 7), 7, inner_steps=0).values
    np.testing.assert_allclose(values, 6 * line_errors(arrays, 0), rtol=1e-5)


def test_an_ordinary_keras_model_is_evaluated_in_a_learner_never_fitted():
    arrays = line_arrays(tasks=5)
    learner = line_learner(slope=-0.2)
    result = evaluation.evaluate(learner, task_set(arrays, 5), 5, inner_steps=1)
    learner.model.compile(loss="mean_squared_error")
    plain = learner.model.evaluate(
        arrays[2].reshape(-1, 1), arrays[3].reshape(-1, 1), verbose=0, batch_size=30
    )
    np.testing.assert_allclose(result.mean[0], plain, rtol=1e-5)


def test_a_task_that_runs_away_shows():
    arrays = line_arrays(tasks=5)
    arrays[0][1] *= 1e4  # the gradient of this task overshoots more with every step
    arrays[1][1] *= 1e4
    result = evaluation.evaluate(line_learner(), task_set(arrays, 5), 5, inner_steps=12)
    assert result.non_finite[-1] == 1
    assert not np.isfinite(result.mean[-1])
    assert np.isfinite(result.median).all()
    assert result.median[-1] < result.median[0]


# Metrics.


@pytest.fixture(scope="module")
def expected():
    """Results of an untouched learner, which the choice of the metric must not change."""
    learner, tasks = class_learner(norm=False), task_set(class_arrays(), 6)
    return {m: evaluation.evaluate(learner, tasks, 6, 0, metric=m) for m in ("accuracy", "loss")}


class AccuracyOfAll(keras.metrics.Metric):
    """No mean over examples: it cannot be taken for each task."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        pass

    def result(self):
        return 0.0


@pytest.mark.parametrize(
    ("compiled", "name"),
    [
        (["accuracy"], "accuracy"),
        (["mae", "acc"], "accuracy"),
        ([keras.metrics.SparseCategoricalAccuracy(name="hits")], "hits"),
        (["sparse_categorical_accuracy"], "sparse_categorical_accuracy"),
        ([keras.metrics.sparse_categorical_accuracy], "sparse_categorical_accuracy"),
        ([keras.metrics.Mean()], "loss"),
        ([AccuracyOfAll(name="accuracy_of_all")], "loss"),
        (None, "loss"),
    ],
)
def test_default_metric_is_a_compiled_accuracy_or_else_the_loss(compiled, name, expected):
    learner = class_learner(metrics=compiled, norm=False)
    result = evaluation.evaluate(learner, task_set(class_arrays(), 6), 6, inner_steps=0)
    assert result.metric == name
    same = expected["loss" if name == "loss" else "accuracy"]
    np.testing.assert_array_equal(result.values, same.values)


def squared(y_true, y_pred):
    return tf.square(y_true - y_pred)


@pytest.mark.parametrize(
    ("metric", "name"),
    [("mean_squared_error", "mean_squared_error"), ("mse", None), (squared, "squared")],
)
def test_metric_by_name_or_function(metric, name):
    arrays = line_arrays()
    result = evaluation.evaluate(line_learner(), task_set(arrays, 3), 7, metric=metric)
    np.testing.assert_allclose(result.values, line_errors(arrays, 2), rtol=1e-5)
    assert name is None or result.metric == name


def test_accuracy_of_one_hot_labels_and_of_binary_ones():
    support_x, support_y, query_x, query_y = class_arrays()
    sparse = class_learner(metrics=["accuracy"])
    tasks = task_set((support_x, support_y, query_x, query_y), 6)
    expected = evaluation.evaluate(sparse, tasks, 6)

    one_hot = class_learner(loss=keras.losses.CategoricalCrossentropy(from_logits=True))
    hot = [np.eye(WAYS, dtype=np.float32)[y] for y in (support_y, query_y)]
    tasks = task_set((support_x, hot[0], query_x, hot[1]), 6)
    result = evaluation.evaluate(one_hot, tasks, 6, metric="accuracy")
    np.testing.assert_array_equal(result.values, expected.values)

    binary = class_learner(outputs=1, loss="mean_squared_error", norm=False)
    zero_one = [(y[..., None] == 0).astype(np.float32) for y in (support_y, query_y)]
    tasks = task_set((support_x, zero_one[0], query_x, zero_one[1]), 6)
    result = evaluation.evaluate(binary, tasks, 6, inner_steps=0, metric="accuracy")
    predicted = np.stack([binary.model(x) for x in query_x]) > 0.5
    np.testing.assert_allclose(
        result.values[:, 0], np.mean(predicted == zero_one[1], axis=(1, 2)), rtol=1e-6
    )


# The data set.


def test_traced_once_for_all_batches_and_cut_to_the_number_of_tasks(monkeypatch):
    arrays, learner, calls = line_arrays(tasks=11), line_learner(), []
    loss_path = learner.loss_path

    def counted(*args):
        calls.append(1)
        return loss_path(*args)

    monkeypatch.setattr(learner, "loss_path", counted)
    expected = line_errors(arrays, 2)
    # Four batches, the last one smaller; then three, the last one cut.
    whole = evaluation.evaluate(learner, task_set(arrays, 3), num_tasks=11)
    assert len(calls) == 1
    np.testing.assert_allclose(whole.values, expected, rtol=1e-5)
    cut = evaluation.evaluate(learner, task_set(arrays, 3, drop_remainder=True), num_tasks=7)
    assert len(calls) == 2
    np.testing.assert_allclose(cut.values, expected[:7], rtol=1e-5)


def test_takes_no_more_batches_than_it_needs():
    endless = task_set(line_arrays(), 7).repeat()
    assert evaluation.evaluate(line_learner(), endless, num_tasks=10).num_tasks == 10


def test_data_set_that_ends_early():
    with pytest.raises(ValueError, match=r"num_tasks=8 .* after 7\. .*`num_tasks=7`"):
        evaluation.evaluate(line_learner(), task_set(line_arrays(), 3), num_tasks=8)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_tasks": 0}, ValueError, "`num_tasks` to be an integer of at least 1"),
        ({"num_tasks": 2.5}, TypeError, "`num_tasks` to be an integer"),
        ({"inner_steps": -1}, ValueError, "`inner_steps` to be an integer of at least 0"),
        ({"metric": "no_such_metric"}, ValueError, "no_such_metric"),
        ({"metric": 3}, TypeError, "metric=3"),
        ({"metric": keras.metrics.RootMeanSquaredError()}, ValueError, "mean over examples"),
        ({"metric": lambda y, p: tf.reduce_mean(y - p)}, ValueError, "Received a scalar"),
    ],
)
def test_arguments_out_of_range(arguments, error, message):
    with pytest.raises(error, match=message):
        evaluation.evaluate(
            line_learner(), task_set(line_arrays(), 7), **{"num_tasks": 7, **arguments}
        )


def test_what_is_no_learner_no_data_set_or_has_weights():
    arrays = line_arrays()
    tasks = task_set(arrays, 7)
    with pytest.raises(TypeError, match=r"maml_tf\.MAML\(model"):
        evaluation.evaluate(line_learner().model, tasks)
    with pytest.raises(TypeError, match=r"tf\.data\.Dataset"):
        evaluation.evaluate(line_learner(), list(tasks))
    with pytest.raises(ValueError, match="without sample weights"):
        evaluation.evaluate(line_learner(), tasks.map(lambda x, y: (x, y, tf.ones_like(y))))


def test_learner_without_a_loss():
    learner = maml_tf.MAML(line_learner().model, 0.1)
    with pytest.raises(ValueError, match=r"learner\.compile"):
        evaluation.evaluate(learner, task_set(line_arrays(), 7), 7)


# Padding.


def of_each_sequence(y_true, y_pred):
    return tf.reduce_sum(tf.square(y_true - y_pred), axis=[-2, -1])


def test_padding_counts_in_no_metric_of_steps():
    """A metric with a number for each step leaves padding out; one for each sequence sees all."""
    model = keras.Sequential(
        [keras.Input((5,), dtype="int32"), keras.layers.Embedding(8, 1, mask_zero=True)]
    )
    learner = maml_tf.MAML(model, 0.5, inner_steps=1)
    learner.compile(loss="mean_squared_error")
    random = np.random.default_rng(0)
    x = random.integers(1, 8, (3, 6, 5)).astype("int32")
    x[np.arange(5) >= random.integers(1, 6, (3, 6, 1))] = 0
    y = random.normal(size=(3, 6, 5, 1)).astype("float32")
    tasks = task_set((x[:, :2], y[:, :2], x[:, 2:], y[:, 2:]), 2)
    query = {"support_x": x[:, :2], "support_y": y[:, :2], "query_x": x[:, 2:]}
    path = [model.predict_on_batch(x[:, 2:].reshape(12, 5)), learner.predict_on_batch(query)]
    errors = np.stack([np.square(p.reshape(3, 4, 5, 1) - y[:, 2:]) for p in path], 1)
    counted = [[errors[t, i][x[t, 2:] != 0].mean() for i in range(2)] for t in range(3)]
    for metric in ("mean_squared_error", squared):
        result = evaluation.evaluate(learner, tasks, 3, metric=metric)
        np.testing.assert_allclose(result.values, counted, rtol=1e-5)
    result = evaluation.evaluate(learner, tasks, 3, metric=of_each_sequence)
    np.testing.assert_allclose(result.values, errors.sum(axis=(-2, -1)).mean(2), rtol=1e-5)


# What a learner should beat.


def brute_force(arrays):
    """Accuracies `[tasks]` of the nearest support example, pair by pair."""
    accuracies = []
    for support_x, support_y, query_x, query_y in zip(*arrays, strict=True):
        right = []
        for x, y in zip(query_x.astype(np.float64), query_y, strict=True):
            distances = [np.sum((x - s) ** 2) for s in support_x.astype(np.float64)]
            right.append(np.all(support_y[int(np.argmin(distances))] == y))
        accuracies.append(np.mean(right))
    return np.array(accuracies)


@pytest.mark.parametrize("batch", [1, 4])
def test_nearest_neighbour_is_that_of_all_pairs(batch):
    arrays = class_arrays(tasks=9, shots=3, queries=7)
    expected = brute_force(arrays)
    assert 0.4 < expected.mean() < 0.95  # neither chance nor all of them
    result = evaluation.nearest_neighbour(task_set(arrays, batch), num_tasks=9)
    assert result.metric == "accuracy"
    np.testing.assert_array_equal(result.values, expected[:, np.newaxis])
    fewer = evaluation.nearest_neighbour(task_set(arrays, batch), num_tasks=6)
    np.testing.assert_array_equal(fewer.values, expected[:6, np.newaxis])


def test_nearest_neighbour_of_images_and_one_hot_labels():
    support_x, support_y, query_x, query_y = class_arrays(tasks=3)
    expected = brute_force((support_x, support_y, query_x, query_y))
    shaped = [np.reshape(x, [*x.shape[:2], 2, 2, 1]) for x in (support_x, query_x)]
    one_hot = [np.eye(WAYS, dtype=np.float32)[y] for y in (support_y, query_y)]
    arrays = shaped[0], one_hot[0], shaped[1], one_hot[1]
    result = evaluation.nearest_neighbour(task_set(arrays, 3), num_tasks=3)
    np.testing.assert_array_equal(result.values[:, 0], expected)


def test_nearest_neighbour_takes_all_inputs_together():
    # By the first input alone the first support example is nearer, by both the second one is.
    support = {"a": np.array([[[0.0], [2.0]]]), "b": np.array([[[9.0, 9.0], [0.0, 0.0]]])}
    query = {"a": np.array([[[0.0]]]), "b": np.array([[[0.0, 0.0]]])}
    inputs = {"support_x": support, "support_y": np.array([[0, 1]]), "query_x": query}
    tasks = tf.data.Dataset.from_tensors((inputs, np.array([[1]])))
    np.testing.assert_array_equal(evaluation.nearest_neighbour(tasks, 1).values, [[1.0]])


def test_bright_pictures_that_differ_by_one_step_of_one_pixel_are_told_apart():
    picture = np.full([1, 84 * 84 * 3], 255, np.uint8)
    other = picture.copy()
    other[0, 17] = 254
    support = np.float32(np.concatenate([other, picture])[np.newaxis] / 255)
    inputs = {"support_x": support, "support_y": np.array([[0, 1]]), "query_x": support[:, ::-1]}
    tasks = tf.data.Dataset.from_tensors((inputs, np.array([[1, 0]])))
    np.testing.assert_array_equal(evaluation.nearest_neighbour(tasks, 1).values, [[1.0]])
