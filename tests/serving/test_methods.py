"""Exports of learners that adapt without steps, or to something else than weights."""

import json

import keras
import numpy as np
import pytest

import maml_tf
from tests.learners.rows import ROWS
from tests.learners.toys import Memory
from tests.problems import dense_model

LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def task_of(ways, shots, seed=0):
    random = np.random.default_rng(seed)
    y = random.permutation(np.repeat(np.arange(ways, dtype=np.int32), shots))
    x = random.normal(size=(len(y), 3)).astype(np.float32)
    return {"support_x": x, "support_y": y}, random.normal(size=(5, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def free(serve, tmp_path_factory):
    """Prototypical networks for any number of classes."""
    learner = maml_tf.Prototypical(dense_model(), distance="cosine", learned_scale=True)
    path = maml_tf.serving.export(learner, tmp_path_factory.mktemp("free"))
    return learner, path, serve(path)


@pytest.fixture(scope="module")
def three(serve, tmp_path_factory):
    """Prototypical networks for three classes."""
    learner = maml_tf.Prototypical(dense_model(), ways=3)
    path = maml_tf.serving.export(learner, tmp_path_factory.mktemp("three"))
    return learner, path, serve(path)


@pytest.mark.parametrize(("ways", "shots"), [(2, 1), (3, 4), (6, 2)])
def test_ways_and_shots_are_those_of_the_request(free, ways, shots):
    learner, _, server = free
    task, query_x = task_of(ways, shots)
    batch = {name: part[np.newaxis] for name, part in {**task, "query_x": query_x}.items()}
    expected = learner.predict(batch, verbose=0)[0]
    answer = server("serving_default", **task, query_x=query_x)["predictions"]
    assert answer.shape == (5, ways)
    np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-6)
    adapted = server("adapt", **task)
    assert [part.shape for part in adapted.values()] == [(ways, 2)]
    later = server("predict_with", **adapted, query_x=query_x)["predictions"]
    np.testing.assert_array_equal(later, answer)


def test_what_does_not_make_sense_is_not_there(free, three):
    wanted = {"serving_default", "adapt_and_predict", "adapt", "predict_with"}
    beside = {"__saved_model_init_op"}
    assert set(free[2].signatures) - beside == wanted
    assert set(three[2].signatures) - beside == wanted | {"adapt_and_predict_tasks"}
    for _, path, server in (free, three):
        for name in wanted:
            assert "inner_steps" not in server.signatures[name].inputs
        card = json.loads((path / "card.json").read_text())
        assert "inner_steps" not in json.dumps(card)


def test_labels_that_leave_a_class_out_are_refused_and_the_next_request_is_unharmed(free, three):
    _, _, server = free
    task, query_x = task_of(3, 2)
    for wrong in (3, -1):
        labels = np.where(task["support_y"] == 2, wrong, task["support_y"]).astype(np.int32)
        with pytest.raises(RuntimeError, match="number the classes of a task from 0"):
            server("adapt_and_predict", **{**task, "support_y": labels}, query_x=query_x)
    with pytest.raises(RuntimeError, match="at least one support example"):
        server("adapt", **{name: part[:0] for name, part in task.items()})
    assert np.isfinite(server("adapt_and_predict", **task, query_x=query_x)["predictions"]).all()
    _, _, server = three
    with pytest.raises(RuntimeError, match="labels from 0 to 2"):
        server("adapt", **{**task, "support_y": task["support_y"] + np.int32(1)})


def test_prototypes_of_another_width_are_refused_in_words(three):
    _, _, server = three
    task, query_x = task_of(3, 1)
    (weights,) = server("adapt", **task).values()
    with pytest.raises(RuntimeError, match="the 6 weights that `adapt` gave"):
        server("predict_with", weights=weights[:4], query_x=query_x)


def test_rows_of_tasks_are_apart_and_a_wrong_row_answers_nan(three):
    _, _, server = three
    tasks = [task_of(3, 2, seed) for seed in range(3)]
    request = {
        name: np.stack([task[name] for task, _ in tasks]) for name in ("support_x", "support_y")
    }
    request["support_y"][1, 0] = 7
    request["query_x"] = np.stack([query_x for _, query_x in tasks])
    counts = {name: np.full(3, n, np.int32) for name, n in (("support", 6), ("query", 5))}
    answer = server(
        "adapt_and_predict_tasks",
        **request,
        support_count=counts["support"],
        query_count=counts["query"],
    )["predictions"]
    assert np.isnan(answer[1]).all()
    for row in (0, 2):
        task, query_x = tasks[row]
        alone = server("adapt_and_predict", **task, query_x=query_x)["predictions"]
        np.testing.assert_allclose(answer[row], alone, rtol=1e-5, atol=1e-6)


def test_an_adapted_value_of_two_tensors_is_two_entries(serve, tmp_path):
    learner = Memory(dense_model(), 3)
    learner.compile(loss=LOGITS)
    server = serve(maml_tf.serving.export(learner, tmp_path / "memory"))
    for shots in (1, 3):
        task, query_x = task_of(3, shots)
        adapted = server("adapt", **task)
        assert {name: part.shape for name, part in adapted.items()} == {
            "weights_0": (3 * shots, 2),
            "weights_1": (3 * shots, 3),
        }
        later = server("predict_with", **adapted, query_x=query_x)["predictions"]
        answer = server("adapt_and_predict", **task, query_x=query_x)["predictions"]
        np.testing.assert_array_equal(later, answer)
        expected = learner.adapt(*task.values())(query_x)
        np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-6)


def test_reptile_takes_as_many_steps_as_are_asked_for(serve, tmp_path):
    row = ROWS["reptile-minibatches"]
    learner = row.ready(row.build())
    server = serve(maml_tf.serving.export(learner, tmp_path / "reptile"))
    task, query_x = task_of(2, 3)
    for steps in (0, 1, 5):
        adapted = learner.adapt(*task.values(), inner_steps=steps)
        number = np.array(steps, np.int32)
        answer = server("adapt_and_predict", **task, query_x=query_x, inner_steps=number)
        np.testing.assert_allclose(answer["predictions"], adapted(query_x), rtol=1e-5, atol=1e-6)
