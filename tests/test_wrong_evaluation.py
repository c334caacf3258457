"""What is wrong with a measurement is told before it begins."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import evaluation
from tests.problems import compiled, dense_model, task_batch
from tests.wrong_calls import Wrong, check


def measured(tasks=None, **options):
    tasks = tf.data.Dataset.from_tensors(task_batch()) if tasks is None else tasks
    return evaluation.evaluate(compiled(dense_model()), tasks, 2, **options)


def of_file(path, text):
    path.write_text(text)
    return evaluation.Result.from_json(path)


def baseline(tasks=None, num_tasks=2):
    tasks = tf.data.Dataset.from_tensors(task_batch()) if tasks is None else tasks
    return evaluation.nearest_neighbour(tasks, num_tasks)


def words():
    inputs, query_y = task_batch()
    texts = {name: tf.strings.as_string(inputs[name]) for name in ("support_x", "query_x")}
    return tf.data.Dataset.from_tensors(({**inputs, **texts}, query_y))


EMPTY = tf.data.Dataset.from_tensors(task_batch()).take(0)
WRONG = [
    Wrong(lambda: measured(inner_steps=1.5), TypeError, "`inner_steps`", "inner_steps=1.5"),
    Wrong(lambda: measured(inner_steps=True), TypeError, "`inner_steps`", "inner_steps=True"),
    Wrong(lambda: measured(metric="acuracy"), ValueError, "`metric`", "metric='acuracy'"),
    Wrong(lambda: measured(metric=0.5), TypeError, "`metric`", "metric=0.5"),
    Wrong(lambda: measured(metric=keras.metrics.MeanSquaredError), TypeError, "of type"),
    Wrong(lambda: measured(metric=keras.metrics.AUC()), ValueError, "mean over", "AUC"),
    Wrong(lambda: measured(EMPTY), ValueError, "`tasks`", "empty"),
    Wrong(lambda: measured([1, 2]), TypeError, "`tasks`", "[1, 2]", "maml_tf.tasks"),
    Wrong(lambda: evaluation.evaluate("a.keras", None), TypeError, "`learner`", "'a.keras'"),
    Wrong(lambda: evaluation.Result(3, np.ones([2, 2])), TypeError, "`metric`", "metric=3"),
    Wrong(lambda: evaluation.Result("loss", [1.0, 2.0]), ValueError, "`values`", "[1.0, 2.0]"),
    Wrong(lambda: evaluation.Result("loss", np.ones([0, 3])), ValueError, "shape (0, 3)"),
    Wrong(lambda: evaluation.Result("loss", [["a"]]), ValueError, "`values`", "[['a']]"),
    Wrong(lambda: baseline([1, 2]), TypeError, "`tasks`", "[1, 2]", "maml_tf.tasks"),
    Wrong(lambda: baseline(EMPTY), ValueError, "`tasks`", "empty"),
    Wrong(lambda: baseline(num_tasks=0), ValueError, "`num_tasks`", "num_tasks=0"),
    Wrong(lambda: baseline(num_tasks=50), ValueError, "num_tasks=50", "ended after"),
    Wrong(lambda: baseline(words()), TypeError, "numbers", "dtype object"),
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_wrong_calls_are_explained(wrong):
    check(wrong)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"metric": "loss"}', '{"metric": 1, "values": [[1.0]]}', '"loss"']
)
def test_a_file_that_is_no_result_is_named(tmp_path, text):
    path = tmp_path / "results.json"
    check(Wrong(lambda: of_file(path, text), ValueError, "`Result.to_json`", "results.json"))
