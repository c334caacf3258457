"""Task batches taken apart: every axis and weight where it belongs."""

import numpy as np
import pytest
import tensorflow as tf

from maml_tf.learners.base import batches
from maml_tf.learners.base.task import Support


@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
def test_tasks_are_merged_into_one_axis_of_examples(known):
    steps = np.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    plain = np.arange(6).reshape(2, 3)
    shape = [2, 3, 4, 5] if known else [None, None, None, 5]
    specs = [tf.TensorSpec(shape, tf.float64), tf.TensorSpec([None, None], tf.int64)]

    @tf.function(autograph=False, input_signature=specs)
    def merged(steps, plain):
        received = batches.merge_tasks({"steps": steps, "plain": [plain]})
        assert received["steps"].shape.as_list() == [None, *shape[2:]] or known
        return received, batches.merge_tasks(steps, 3)

    received, by_steps = merged(steps, plain)
    np.testing.assert_array_equal(by_steps, steps.reshape(24, 5))
    np.testing.assert_array_equal(received["steps"], steps.reshape(6, 4, 5))
    np.testing.assert_array_equal(received["plain"][0], plain.ravel())
    assert batches.merge_tasks(None) is None


def test_masks_stay_with_their_outputs():
    first, second = tf.ones([2, 3]), tf.zeros([2, 3])
    mask = tf.constant([[True, False, True]] * 2)
    masks = batches.masks_of([first, batches.with_masks(second, {0: mask})])
    assert list(masks) == [1]
    one, other = batches.with_masks([tf.identity(first), tf.identity(second)], masks)
    assert batches.masks_of(one) == {}
    np.testing.assert_array_equal(batches.masks_of(other)[0], mask)


# Weights of classes: T = 2, Q = 3, and as Keras shapes labels of classes.

CLASSES = np.array([[0, 2, 1], [3, 0, 2]])
LABELS = {
    "numbers": CLASSES,
    "uint8": CLASSES.astype("uint8"),
    "floats": CLASSES.astype("float32"),
    "column": CLASSES[..., None],
    "one-hot": np.eye(4, dtype="float32")[CLASSES],
    "smoothed": 0.9 * np.eye(4, dtype="float32")[CLASSES] + 0.025,
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_classes_without_a_weight_count_once(labels):
    """The last one is above all that have a weight."""
    weights = batches.query_weights(tf.constant(labels), None, {0: 2.0, 2: 0.25})
    np.testing.assert_array_equal(weights, [[2.0, 0.25, 1.0], [1.0, 2.0, 0.25]])


def test_classes_weigh_in_one_output_alone():
    labels = {"a": tf.constant(CLASSES), "b": tf.constant(CLASSES)}
    with pytest.raises(ValueError, match=r"`class_weight` for a learner of one output.*'a'"):
        batches.query_weights(labels, None, {0: 2.0})


# Weights of queries and of tasks.


def test_weights_of_tasks_are_those_of_all_of_their_queries():
    y = tf.zeros([2, 3, 4])
    assert batches.query_weights(y, None) is None
    of_tasks = batches.query_weights(y, np.array([1.0, 3.0]))
    np.testing.assert_array_equal(of_tasks, [[1.0] * 3, [3.0] * 3])
    of_queries = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(batches.query_weights(y, of_queries), of_queries)


@pytest.mark.parametrize("shape", [(2,), (2, 3)], ids=["tasks", "queries"])
def test_weights_of_unknown_rank_are_told_apart_when_they_come(shape):
    """A data set may yield weights of tasks in one batch and of queries in the next one."""

    @tf.function(autograph=False, input_signature=[tf.TensorSpec(None)])
    def weights(weight):
        return batches.query_weights({"a": tf.zeros([2, 3, 4])}, {"a": weight})["a"]

    weight = np.arange(np.prod(shape), dtype="float32").reshape(shape)
    expected = np.broadcast_to(weight.reshape(2, -1), [2, 3])
    np.testing.assert_array_equal(weights(weight), expected)


def test_the_number_of_tasks_and_the_support_set_of_one():
    inputs = {"support_x": {"a": tf.ones([7, 2])}, "support_y": 1, "query_x": 2}
    assert int(batches.number_of_tasks(inputs["support_x"])) == 7
    assert Support.of(inputs) == (inputs["support_x"], 1, None)
    assert Support.of({**inputs, "support_weight": 3}).weight == 3
