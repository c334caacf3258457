"""What easyfsl (sicara/easy-few-shot-learning) tests, with its numbers; see README.md beside."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf.tasks import class_index, sampling, streams
from tests.problems import layers

# samplers/task_sampler_test.py: lists of labels, of which the row of a label is its position.


def classes_of(labels):
    return sampling.index_by_class(np.arange(len(labels))[:, None], np.array(labels))


GRID = [
    ([0, 0, 0, 1, 1, 1, 2, 2, 2], 2, 1, 1),
    (["label0"] * 3 + [1, 1, 1, 2, 2, 2], 2, 1, 1),
    ([0, 0, 0, 1, 1, 1, 2, 2, 2], 3, 2, 1),
]


@pytest.mark.parametrize(("labels", "ways", "shots", "queries"), GRID, ids=["int", "text", "all"])
def test_five_tasks_are_of_rows_that_exist(labels, ways, shots, queries):
    """`TestTaskSamplerIter`, its three tests: whole numbers, so many of them, below so many."""
    key = streams.batch_seed(0, streams.TRAIN, 0)
    inputs, _ = sampling.sample_episodes(classes_of(labels), key, ways, shots, queries, 5)
    rows = np.concatenate([inputs["support_x"], inputs["query_x"]], 1)[..., 0]
    assert rows.dtype.kind == "i"
    assert rows.shape == (5, ways * (shots + queries))
    for task in rows:
        assert len(set(task)) == len(task)
        assert set(task) <= set(range(len(labels)))


def fits(labels, ways, shots, queries):
    class_index.check_classes(classes_of(labels), ways, shots + queries)


@pytest.mark.parametrize(("labels", "ways"), [([0, 0, 1, 1, 2, 2], 4), ([0, 0], 2)])
def test_more_ways_than_classes_are_refused(labels, ways):
    """`test_init_raises_error_when_number_of_classes_is_smaller_than_n_way`."""
    with pytest.raises(ValueError, match=f"at least ways={ways} classes"):
        fits(labels, ways, 1, 1)


@pytest.mark.parametrize(
    ("labels", "ways"), [([0, 0, 1, 1, 2, 2], 2), ([0, 0, 1, 1, 2, 2], 3), ([0, 0], 1)]
)
def test_as_many_ways_as_classes_are_not(labels, ways):
    """`test_init_raises_no_error_when_number_of_classes_is_not_smaller_than_n_way`."""
    fits(labels, ways, 1, 1)


THREE_THREE_TWO = [0, 0, 0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("labels", "shots", "queries", "small"),
    [([0, 0, 1, 1, 2, 2], 1, 2, 0), (THREE_THREE_TWO, 3, 0, 2), ([0, 0], 2, 1, 0)],
)
def test_a_class_of_too_few_examples_is_refused(labels, shots, queries, small):
    """`test_init_raises_error_when_a_label_population_is_too_small`."""
    with pytest.raises(ValueError, match=f"queries = 3 examples.*class {small} with 2 examples"):
        fits(labels, 1, shots, queries)


@pytest.mark.parametrize(
    ("labels", "shots", "queries"),
    [([0, 0, 1, 1, 2, 2], 1, 1), (THREE_THREE_TWO, 2, 0), ([0, 0], 0, 1)],
)
def test_a_class_of_just_enough_examples_is_not(labels, shots, queries):
    """`test_init_raises_no_error_when_a_label_population_is_ok`."""
    fits(labels, 1, shots, queries)


@pytest.mark.parametrize(("shots", "queries"), [(2, 0), (0, 1)])
def test_tasks_without_supports_or_queries_are_refused_here(shots, queries):
    """Where easyfsl's sampler takes them, `episodes` does not: there is nothing to learn."""
    with pytest.raises(ValueError, match="Expected `(shots|queries)`"):
        sampling.episodes(np.zeros((2, 3, 1)), ways=1, shots=shots, queries=queries)


@pytest.mark.parametrize("labels", [[0, 0.5, 1, 1], [False, True, True, True]])
def test_labels_that_name_no_class_are_refused(labels):
    """`TestCastInputDataToTensorIntTuple`: numbers with a fraction, truth values."""
    with pytest.raises(TypeError, match="`labels` to be integers"):
        sampling.index_by_class(np.ones((4, 2, 2)), labels)


def test_one_of_five_answers_is_right():
    """`test_evaluate_on_one_task_gives_correct_output`: scores .25 and .75, labels 0 0 0 0 1."""
    head = layers.Dense(2, kernel_initializer="zeros")
    model = keras.Sequential([keras.Input((28, 28, 3)), layers.Flatten(), head])
    head.bias.assign([0.25, 0.75])
    learner = maml_tf.MAML(model, 0.1, inner_steps=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    learner.compile("sgd", loss, metrics=["accuracy"])
    images, labels = tf.ones((1, 5, 28, 28, 3)), tf.constant([[0, 0, 0, 0, 1]])
    inputs = {"support_x": images, "support_y": labels, "query_x": images}
    np.testing.assert_allclose(learner.predict_on_batch(inputs), [[[0.25, 0.75]] * 5])
    results = learner.test_on_batch(inputs, labels, return_dict=True)
    np.testing.assert_allclose(results["accuracy"], 1 / 5)


def test_scores_are_distances_to_class_means():
    """`test_prototypical_networks_returns_expected_output_for_example_images`.

    Its scores, [[-15.5485, -22.0652], [-21.3081, -18.0292]], are distances (ours are squared) of
    two pictures from the means of two and of one. Here they are of points in a plane that are laid
    out so: one mean at 0, the other at 20, each query where its two circles meet.
    """
    near, far = np.array([15.5485, 21.3081]), np.array([22.0652, 18.0292])
    along = (near**2 - far**2 + 20**2) / 40
    queries = np.stack([along, np.sqrt(near**2 - along**2)], -1)
    support = np.array([[3.0, -4.0], [-3.0, 4.0], [20.0, 0.0]])
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2, kernel_initializer="identity")])
    learner = maml_tf.Prototypical(model)
    learner.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    adapted = learner.adapt(support, np.array([0, 0, 1]))
    scores = -np.sqrt(-adapted.predict(queries, verbose=0))
    np.testing.assert_allclose(scores, [[-15.5485, -22.0652], [-21.3081, -18.0292]], rtol=1e-5)
