"""A saved learner by two protocols, on glyphs that need no data."""

import json

import keras
import numpy as np
import pytest

import maml_tf
from maml_tf import evaluation
from train import evaluate


@pytest.fixture(scope="module")
def learner(tmp_path_factory):
    """Small and untrained, with a normalisation that makes the two protocols differ."""
    network = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Flatten(),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(5, kernel_initializer="zeros"),
        ]
    )
    learner = maml_tf.MAML(network, 0.1)
    learner.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
    )
    path = tmp_path_factory.mktemp("learner") / "learner.keras"
    learner.save(path)
    return path


def expected(path, batch_norm, queries, tasks):
    learner = keras.saving.load_model(path)
    copy = maml_tf.MAML(learner.model, 0.1, batch_norm=batch_norm)
    copy.compile(loss=learner.loss, metrics=["accuracy"])
    test = maml_tf.tasks.glyphs(test_queries=queries, test_tasks=tasks, meta_batch=4)[2]
    result = evaluation.evaluate(copy, test, tasks, 1)
    return result.mean[-1], result.interval[-1]


def test_quick_is_eight_tasks_of_each_protocol(learner, monkeypatch, capsys, tmp_path):
    options = ["--data", "glyphs", "--quick", "--output", str(tmp_path)]
    monkeypatch.setattr(evaluate.common, "use_threads_for_tasks", lambda: None)
    monkeypatch.setattr("sys.argv", ["e", str(learner), *options])

    def measured(settings, protocol):
        """As the test below measures, but for the time that it takes."""
        assert settings.quick
        return evaluation.Result("accuracy", np.ones([protocol.tasks, 1]))

    monkeypatch.setattr(evaluate, "measure", measured)
    evaluate.main()
    protocols = json.loads((tmp_path / "evaluation.json").read_text())["protocols"]
    assert [protocol["tasks"] for protocol in protocols] == [8, 8]
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["e", *options])
    with pytest.raises(SystemExit) as ended:
        evaluate.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_both_protocols_are_what_evaluation_measures(learner, monkeypatch, capsys, tmp_path):
    options = ["--data", "glyphs", "--test-tasks", "8", "--strict-tasks", "12"]
    monkeypatch.setattr("sys.argv", ["e", str(learner), *options, "--output", str(tmp_path)])
    monkeypatch.setattr(evaluate.common, "use_threads_for_tasks", lambda: None)
    evaluate.main()
    papers, strict = json.loads((tmp_path / "evaluation.json").read_text())["protocols"]
    for found, given in (papers, ("transductive", 1, 8)), (strict, ("support", 15, 12)):
        np.testing.assert_allclose(
            [found["accuracy"], found["interval"]], expected(learner, *given)
        )
    printed = capsys.readouterr().out
    mean, interval = 100 * strict["accuracy"], 100 * strict["interval"]
    assert f"| strict | 12 | 15 | no | 1 | {mean:.2f} ± {interval:.2f} % |" in printed
    assert "| the paper's | 8 | 1 | yes | 1 |" in printed
