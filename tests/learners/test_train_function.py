"""Several steps as one program: each batch once, in its order, and no more than there are."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf.learners.base.train_function import by_rank, in_blocks, make_compiled_loop
from tests.problems import dense_model


class Digits:
    """Stands for a learner: writes the number of each batch behind those before it."""

    reads_blocks = False

    def __init__(self, steps_per_execution):
        self.steps_per_execution = steps_per_execution
        self.written = tf.Variable(0.0)

    def train_step(self, batch):
        inputs, (digit,) = batch
        self.written.assign(10 * self.written + digit + tf.reduce_sum(inputs["zeros"]))

    def get_metrics_result(self):
        return {"written": self.written + 0.0}


def digits(number):
    """Structures of tensors, digits from 1."""
    digits = tf.data.Dataset.range(1, number + 1, output_type=tf.float32)
    return digits.map(lambda digit: ({"zeros": tf.zeros([2, 3])}, (digit,)))


def batches(number):
    return iter(digits(number))


def uncounted(data):
    """The same data set, whose number of elements nobody knows."""
    return data.filter(lambda *element: True)


CALLS = pytest.mark.parametrize(
    ("steps", "expected"),
    [(1, [1, 12, 123, 1234, 12345]), (2, [12, 1234, 12345]), (3, [123, 12345]), (9, [12345])],
)


@CALLS
def test_each_call_takes_as_many_steps_as_there_are_batches(steps, expected):
    learner, iterator = Digits(steps), batches(5)
    function = make_compiled_loop(learner)
    received = [int(function(iterator)["written"]) for _ in expected]
    assert received == expected
    with pytest.raises(StopIteration):
        function(iterator)
    np.testing.assert_array_equal(learner.written, 12345)


@CALLS
def test_blocks_hold_the_same_batches(steps, expected):
    learner = Digits(steps)
    learner.reads_blocks = True
    iterator = iter(in_blocks(learner, uncounted(digits(5)), steps_per_epoch=5))
    function = make_compiled_loop(learner)
    assert [int(function(iterator)["written"]) for _ in expected] == expected
    with pytest.raises(StopIteration):
        function(iterator)


def test_what_is_not_put_into_blocks():
    learner, data = Digits(2), uncounted(digits(5))
    assert in_blocks(learner, data, steps_per_epoch=2) is not None
    assert in_blocks(learner, data, steps_per_epoch=None) is None
    assert in_blocks(learner, data.batch(2), steps_per_epoch=2) is None  # of unknown size
    assert in_blocks(learner, digits(5), steps_per_epoch=2) is None
    assert in_blocks(learner, list(digits(5)), steps_per_epoch=2) is None


@pytest.mark.parametrize(("repeats", "expected"), [(None, True), (8, False)])
def test_fit_reads_blocks_where_keras_does_not_count_them(repeats, expected):
    seen = []

    class Seen(maml_tf.MAML):
        def train_step(self, data):
            seen.append(self.reads_blocks)
            return super().train_step(data)

    learner = Seen(dense_model(), 0.1)
    learner.compile("sgd", "mse", jit_compile=True, steps_per_execution=2)
    x, y = np.ones((2, 4, 3), np.float32), np.ones((2, 4, 2), np.float32)
    data = tf.data.Dataset.from_tensors(({"support_x": x, "support_y": y, "query_x": x}, y))
    learner.fit(data.repeat(repeats), steps_per_epoch=4, epochs=2, verbose=0)
    assert set(seen) == {expected}
    assert not learner.reads_blocks
    assert int(learner.optimizer.iterations) == 8


def test_no_batch_is_taken_that_the_next_call_needs():
    learner, iterator = Digits(2), batches(5)
    make_compiled_loop(learner)(iterator)
    assert float(next(iterator)[1][0]) == 3.0


class Traced(maml_tf.MAML):
    traces = 0

    def train_step(self, data):
        self.traces += 1
        return super().train_step(data)

    def test_step(self, data):
        self.traces += 1
        return super().test_step(data)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("fit", {}),
        ("fit", {"jit_compile": True, "steps_per_execution": 2}),
        ("evaluate", {}),
        ("train_on_batch", {}),
        ("test_on_batch", {}),
    ],
    ids=["fit", "fit-compiled-loop", "evaluate", "train-on-batch", "test-on-batch"],
)
def test_a_new_learner_is_traced_once_whatever_variables_it_lacks(method, settings):
    learner = Traced(dense_model(), 0.1)
    learner.compile("adam", "mse", metrics=["mae", keras.metrics.R2Score()], **settings)
    x, y = np.ones((2, 4, 3), np.float32), np.ones((2, 4, 2), np.float32)
    batch = {"support_x": x, "support_y": y, "query_x": x}, y
    if method in ("fit", "evaluate"):
        batch = (tf.data.Dataset.from_tensors(batch).repeat(2),)
    getattr(learner, method)(*batch)
    getattr(learner, method)(*batch)
    assert learner.traces == 1
    assert learner.optimizer.built == (method in ("fit", "train_on_batch"))


def test_what_cannot_be_known_before_the_step_is_left_to_it():
    class Odd(keras.metrics.MeanSquaredError):
        def update_state(self, y_true, y_pred, sample_weight=None):
            raise ValueError("Expected another metric.")

    learner = Traced(dense_model(), 0.1)
    learner.compile("adam", "mse", metrics=[Odd()])
    x, y = np.ones((2, 4, 3), np.float32), np.ones((2, 4, 2), np.float32)
    with pytest.raises(ValueError, match="Expected another metric"):
        learner.train_on_batch({"support_x": x, "support_y": y, "query_x": x}, y)


def test_batches_of_other_ranks_have_a_function_of_their_own():
    made = []

    def make(spec):
        made.append(len(made))
        return lambda iterator, number=made[-1]: (number, len(list(iterator)))

    function = by_rank(make)
    scalar, vector = tf.zeros([]), tf.zeros([3])
    assert function(iter([vector, vector])) == (0, 2)  # nothing of the iterator is lost
    assert function([(scalar, vector)]) == (1, 1)
    assert function(iter([tf.zeros([7])])) == (0, 1)
    assert function(iter(tf.data.Dataset.from_tensors(vector))) == (0, 1)
    assert function([(scalar, None)]) == (2, 1)
    assert len(made) == 3


@pytest.mark.parametrize("method", [maml_tf.MAML, maml_tf.Prototypical])
def test_labels_with_and_without_an_axis_of_one_are_the_same_labels(method):
    """TensorFlow would trace one function for both, with tensors of which no axis is known."""
    learner = method(dense_model(), **({"inner_optimizer": 0.1} if method is maml_tf.MAML else {}))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    learner.compile("sgd", loss=loss, metrics=["accuracy"])
    random = np.random.default_rng(0)
    x, query_x = random.normal(size=(2, 2, 4, 3)).astype("float32")
    y = np.array([[0, 1, 0, 1]] * 2)
    results = []
    for labels in (y[..., np.newaxis], y, y[..., np.newaxis]):
        inputs = {"support_x": x, "support_y": labels, "query_x": query_x}
        learner.reset_metrics()
        results.append([*learner.test_on_batch(inputs, labels), learner.predict_on_batch(inputs)])
    for other in results[1:]:
        for one_value, another in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(one_value, another)
    for labels in (y, y[..., np.newaxis]):
        assert np.isfinite(learner.train_on_batch({**inputs, "support_y": labels}, labels)[0])
