"""Sizes and scores of all precisions in the card: those of the files, on the tasks given."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf.serving.litert import conversion
from tests.problems import compiled, dense_model
from tests.serving.litert.device import SPARSE, Device, convolutional, examples, exported, layers

SIZES = {"max_support": 8, "max_queries": 4}


def tasks_of(learner, number=6, support=6, queries=3, batch=2):
    """Task batches whose classes differ in their mean."""

    def batches():
        for start in range(0, number, batch):
            made = [
                examples(learner, support + queries, seed) for seed in range(start, start + batch)
            ]
            x = np.stack([x + y.reshape([-1] + [1] * (x.ndim - 1)) for x, y in made])
            y = np.stack([y for _, y in made])
            inputs = {"support_x": x[:, :support], "query_x": x[:, support:]}
            yield {**inputs, "support_y": y[:, :support]}, y[:, support:]

    first = tf.nest.map_structure(tf.constant, next(batches()))
    spec = tf.nest.map_structure(lambda t: tf.TensorSpec(t.shape, t.dtype), first)
    return tf.data.Dataset.from_generator(batches, output_signature=spec)


def told_of(learner, folder, **settings):
    exported(learner, folder, **SIZES, **settings)
    card = json.loads((folder / "learner.card.json").read_text())
    return card, (folder / "learner.md").read_text()


def test_each_precision_has_its_size_and_accuracy(tmp_path, monkeypatch):
    made, converted = [], conversion.converted
    monkeypatch.setattr(
        conversion, "converted", lambda *given: made.append(converted(*given)) or made[-1]
    )
    learner = convolutional(inner_steps=2, adaptable=lambda v: "dense" in v.path)
    tasks = tasks_of(learner)
    card, text = told_of(learner, tmp_path, tasks=tasks, num_tasks=5, precision="float16")
    told = card["held_out_tasks"]
    assert (told["tasks"], told["score"]) == (5, "accuracy")
    result = maml_tf.evaluation.evaluate(learner, tasks, 5, metric="accuracy")
    assert told["TensorFlow"] == pytest.approx(result.mean[-1])
    assert 0.4 < told["TensorFlow"] < 1  # it can be wrong
    assert told["float32"]["score"] == told["TensorFlow"]
    assert told["float32"]["same_decisions"] == 1
    # What would be the file of another precision was measured without being kept.
    (tmp_path / "small.tflite").write_bytes(made[0]["int8"])
    for precision, name in (("float16", "learner.tflite"), ("int8", "small.tflite")):
        device = Device(tmp_path / name)
        assert told[precision]["bytes"] == device.size
        answers, right = [], []
        for inputs, y in tasks.unbatch().take(5).as_numpy_iterator():
            x, query_x = (inputs[name].astype(np.float32) for name in ("support_x", "query_x"))
            answers.append(device.adapt_and_predict(x, inputs["support_y"], query_x, 2))
            right.append(np.mean(answers[-1].argmax(-1) == y))
        assert told[precision]["score"] == pytest.approx(np.mean(right))
    differences = [told[p]["largest_difference"] for p in ("float32", "float16", "int8")]
    assert differences[0] < 1e-4 < differences[1] < differences[2]
    assert "Of 5 held-out tasks after 2 inner steps, for which TensorFlow's accuracy is" in text
    assert text.count("| 100.00 % |") >= 1


def test_regression_is_told_by_its_loss(tmp_path):
    learner = compiled(dense_model(), 0.05)
    tasks = tasks_of_regression(learner)
    card, text = told_of(learner, tmp_path, tasks=tasks, num_tasks=4)
    told = card["held_out_tasks"]
    result = maml_tf.evaluation.evaluate(learner, tasks, 4, metric="loss")
    assert told["TensorFlow"] == pytest.approx(result.mean[-1], rel=1e-5)
    assert told["float32"]["score"] == pytest.approx(told["TensorFlow"], rel=1e-5)
    assert "same_decisions" not in told["float32"]
    assert "int8" not in told  # all of it adapts
    assert told["score"] in text


def tasks_of_regression(learner):
    x, y = examples(learner, 36)
    x, y = (part.reshape(4, 9, *part.shape[1:]) for part in (x, y))
    inputs = {"support_x": x[:, :6], "support_y": y[:, :6], "query_x": x[:, 6:]}
    return tf.data.Dataset.from_tensors((inputs, y[:, 6:]))


def test_nothing_is_measured_without_tasks(tmp_path):
    card, text = told_of(compiled(dense_model()), tmp_path)
    assert "held_out_tasks" not in card
    assert "Sizes and scores" not in text


def weighted(inputs, y):
    """Task batches of support examples that have weights."""
    return {**inputs, "support_weight": tf.ones_like(inputs["support_x"][..., 0])}, y


def shorter(inputs, y):
    """Examples of two numbers in the place of three."""
    return {**inputs, "support_x": inputs["support_x"][..., :2]}, y


def test_wrong_tasks_are_refused_before_anything_is_converted(tmp_path):
    learner = compiled(dense_model())
    tasks = tasks_of_regression(learner)
    several = keras.Model(i := keras.Input((3,)), [layers.Dense(2)(i), layers.Dense(1)(i)])
    for given, error, message in [
        ({"tasks": [1]}, TypeError, r"`tf.data.Dataset` of task batches.*tasks=\[1\]"),
        ({"tasks": tasks.map(lambda x, y: x)}, ValueError, r"task batches `\(inputs, query_y\)`"),
        ({"tasks": tasks.map(weighted)}, ValueError, "inputs with .*support_x"),
        ({"tasks": tasks, "num_tasks": 5}, ValueError, "at least num_tasks=5.*after 4"),
        ({"tasks": tasks, "num_tasks": 0}, ValueError, "num_tasks"),
        ({"tasks": tasks, "max_support": 5}, ValueError, "max_support=5.*support_x of 6"),
        ({"tasks": tasks.map(shorter)}, ValueError, r"support_x of .*\(6, 2\)"),
        ({"tasks": tasks, "max_queries": 2}, ValueError, "max_queries=2.*query_x of 3"),
        ({"card": {"held_out_tasks": 3}}, ValueError, "held_out_tasks"),
    ]:
        with pytest.raises(error, match=f"(?s)Expected.*{message}"):
            exported(learner, tmp_path, **SIZES | given)
    two = maml_tf.MAML(several, 0.1)
    two.compile(loss=["mse", "mse"])
    with pytest.raises(ValueError, match="(?s)no `tasks`.*several outputs"):
        exported(two, tmp_path, **SIZES, tasks=tasks)
    assert not list(tmp_path.iterdir())


def test_prototypes_have_a_score_without_steps(tmp_path):
    learner = maml_tf.Prototypical(keras.Sequential([keras.Input((4,)), layers.Dense(8)]))
    learner.compile(loss=SPARSE)
    card, text = told_of(learner, tmp_path, max_ways=3, tasks=tasks_of(learner), num_tasks=6)
    assert set(card["held_out_tasks"]) > {"float32", "float16", "int8"}
    assert "Of 6 held-out tasks, for which TensorFlow's accuracy is" in text
