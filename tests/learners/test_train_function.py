"""Several steps as one program: each batch once, in its order, and no more than there are."""

import numpy as np
import pytest
import tensorflow as tf

from maml_tf.learners.base.train_function import make_compiled_loop


class Digits:
    """Stands for a learner: writes the number of each batch behind those before it."""

    def __init__(self, steps_per_execution):
        self.steps_per_execution = steps_per_execution
        self.written = tf.Variable(0.0)

    def train_step(self, batch):
        inputs, (digit,) = batch
        self.written.assign(10 * self.written + digit + tf.reduce_sum(inputs["zeros"]))

    def get_metrics_result(self):
        return {"written": self.written + 0.0}


def batches(number):
    """Structures of tensors, digits from 1."""
    digits = tf.data.Dataset.range(1, number + 1, output_type=tf.float32)
    return iter(digits.map(lambda digit: ({"zeros": tf.zeros([2, 3])}, (digit,))))


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(1, [1, 12, 123, 1234, 12345]), (2, [12, 1234, 12345]), (3, [123, 12345]), (9, [12345])],
)
def test_each_call_takes_as_many_steps_as_there_are_batches(steps, expected):
    learner, iterator = Digits(steps), batches(5)
    function = make_compiled_loop(learner)
    received = [int(function(iterator)["written"]) for _ in expected]
    assert received == expected
    with pytest.raises(StopIteration):
        function(iterator)
    np.testing.assert_array_equal(learner.written, 12345)


def test_no_batch_is_taken_that_the_next_call_needs():
    learner, iterator = Digits(2), batches(5)
    make_compiled_loop(learner)(iterator)
    assert float(next(iterator)[1][0]) == 3.0
