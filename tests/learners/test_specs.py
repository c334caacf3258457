"""What an export takes: shapes, dtypes and classes of examples and labels."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf.learners.base import specs
from tests.problems import compiled, dense_model, layers, task_batch

SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)


def spec(*shape, dtype="float32"):
    """Of any number of examples of this shape."""
    return tf.TensorSpec([None, *shape], dtype)


X = spec(3)


def steps_model():
    """Four steps in, three classes for each of them out."""
    return keras.Sequential([keras.Input((4, 2)), layers.Dense(3)])


def two_outputs():
    x = keras.Input((3,), name="image")
    return keras.Model({"image": x}, [layers.Dense(5, name="a")(x), layers.Dense(1, name="b")(x)])


def learner(model, loss, **settings):
    made = maml_tf.MAML(model, 0.1)
    made.compile("sgd", loss, **settings)
    return made


# Inputs and outputs.


def test_inputs_keep_their_structure_shapes_and_dtypes():
    assert specs.x_spec(dense_model()) == X
    assert specs.x_spec(two_outputs()) == {"image": X}
    tokens = keras.Sequential([keras.Input((7,), dtype="int32"), layers.Embedding(3, 2)])
    assert specs.x_spec(tokens) == spec(7, dtype="int32")


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="mine")
        self.inside = layers.Dense(2)

    def call(self, x):
        return self.inside(x)


def test_a_model_that_does_not_know_its_inputs_is_asked_with_a_spec():
    model = Subclassed()
    model(np.zeros([1, 3], "float32"))
    with pytest.raises(ValueError, match=r"shapes of its inputs. Received: 'mine'"):
        specs.x_spec(model)
    made = maml_tf.MAML(model, 0.1)
    assert specs.output_spec(made, X).shape == (None, 2)
    with pytest.raises(ValueError, match=r"`?inputs that the model 'mine' takes. Received: x_spec"):
        specs.output_spec(made, spec(4))


# Labels that were never seen: they follow from the loss.


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (SPARSE, spec(4, dtype="int32")),
        ("sparse_categorical_crossentropy", spec(4, dtype="int32")),
        ("mse", spec(4, 3)),
        (keras.losses.CategoricalCrossentropy(from_logits=True), spec(4, 3)),
        (keras.losses.mean_absolute_error, spec(4, 3)),
    ],
    ids=["sparse", "its name", "mse", "one-hot", "function"],
)
def test_labels_follow_from_a_loss_of_keras(loss, expected):
    assert specs.y_spec(learner(steps_model(), loss), spec(4, 2)) == expected
    inner = learner(steps_model(), "mae", inner_loss=loss)
    assert specs.y_spec(inner, spec(4, 2)) == expected


def test_labels_of_several_outputs_follow_from_each_loss():
    made = learner(two_outputs(), {"a": SPARSE, "b": "mse"})
    assert specs.y_spec(made, {"image": X}) == [spec(dtype="int32"), spec(1)]
    one = learner(two_outputs(), {"a": "mse"})  # the other output has no loss
    assert specs.y_spec(one, {"image": X}) == [spec(5), spec(1)]


def mine(y, y_pred):
    return tf.reduce_mean((y - y_pred) ** 2, -1)


class MeanSquaredError(keras.losses.Loss):
    """Called as one of Keras', and none."""

    def call(self, y, y_pred):
        return mine(y, y_pred)


@pytest.mark.parametrize(
    "loss",
    [mine, MeanSquaredError(), keras.losses.Circle(), keras.losses.CTC()],
    ids=["function", "class", "Circle", "CTC"],
)
def test_labels_of_other_losses_must_be_given_or_seen(loss):
    made = learner(dense_model(), "mse", inner_loss=loss)
    with pytest.raises(ValueError, match=r"Expected `y_spec`.* Received: y_spec=None"):
        specs.y_spec(made, X)
    made._remember_labels(tf.zeros([2, 4, 7, 9], tf.int64), axis=1)
    assert specs.y_spec(made, X) == spec(7, 9, dtype="int64")


def test_labels_of_one_loss_for_several_outputs_must_be_given():
    made = learner(two_outputs(), {"a": "mse", "b": "mse"}, inner_loss="mse")
    with pytest.raises(ValueError, match=r"labels of the inner loss 'mse' are not known"):
        specs.y_spec(made, {"image": X})


# Labels that were seen.


def test_labels_that_were_seen_are_kept_in_plain_structures():
    made = compiled(dense_model())
    y = {"a": (tf.zeros([2, 4]), [tf.zeros([2, 4, 5], tf.uint8)])}
    made._remember_labels(y, axis=1)
    received = specs.y_spec(made, X)
    assert received == {"a": (spec(), [spec(5, dtype="uint8")])}
    assert type(received) is dict
    assert [type(part) for part in (received["a"], received["a"][1])] == [tuple, list]


def test_examples_of_one_task_and_of_several():
    x = {"a": tf.zeros([2, 4, 5]), "b": tf.zeros([2, 4], tf.int32)}
    assert specs.of_examples(x) == {"a": spec(4, 5), "b": spec(4, dtype="int32")}
    assert specs.of_examples(x, axis=1) == {"a": spec(5), "b": spec(dtype="int32")}


def test_specs_go_through_a_configuration():
    for one in (X, {"a": spec(2, dtype="int64"), "b": [spec(None, 1, dtype="uint8")]}):
        assert specs.from_config(specs.to_config(one)) == one
    assert specs.from_config(None) is None
    assert specs.from_config(keras.saving.serialize_keras_object(None)) is None


def test_a_task_batch_has_any_number_of_tasks_and_examples():
    x = tf.TensorSpec([None, None, 3], tf.float32)
    assert specs.task_batch_spec(compiled(dense_model())) == {
        "support_x": x,
        "support_y": tf.TensorSpec([None, None, 2], tf.float32),
        "query_x": x,
    }
    sparse = compiled(dense_model(), loss=SPARSE)
    assert specs.task_batch_spec(sparse)["support_y"] == tf.TensorSpec([None, None], tf.int32)


# What labels may be.


def test_classes_are_told_of_labels_of_a_sparse_loss_alone():
    sparse = learner(steps_model(), SPARSE)
    assert specs.labels(sparse, spec(4, 2), spec(4, dtype="int32")) == [specs.Labels(3, -1)]
    assert specs.labels(learner(steps_model(), "mse"), spec(4, 2), spec(4, 3)) == [None]
    assert specs.labels(compiled(dense_model(), loss=mine), X, spec(9)) == [None]
    two = learner(two_outputs(), {"a": SPARSE, "b": "mse"})
    y = [spec(dtype="int64"), spec(1)]
    assert specs.labels(two, {"image": X}, y) == [specs.Labels(5, -1), None]
    # Which labels belong to which output is not clear.
    assert specs.labels(two, {"image": X}, [*y, spec()]) == [None] * 3
    one = learner(two_outputs(), {"a": "mse", "b": "mse"}, inner_loss="mse")
    assert specs.labels(one, {"image": X}, y) == [None, None]


COLUMN = keras.Sequential([keras.Input((3,)), layers.Dense(1)])
FITS = [
    (steps_model, SPARSE, spec(4, dtype="int32")),
    (steps_model, SPARSE, spec(4, 1, dtype="int32")),
    (steps_model, SPARSE, spec(None, dtype="uint8")),
    (steps_model, "mse", spec(4, 3)),
    (steps_model, "mse", spec(4, 3, 1)),
    (steps_model, "mse", spec(4, 3, dtype="bool")),
    (lambda: COLUMN, "mse", spec(1)),
    (lambda: COLUMN, "mse", spec()),
]
WRONG = [
    (steps_model, SPARSE, spec(4, 3, dtype="int32")),
    (steps_model, SPARSE, spec(dtype="int32")),
    (steps_model, SPARSE, spec(5, dtype="int32")),
    (steps_model, "mse", spec(4)),
    (steps_model, "mse", spec(4, 3, 2)),
    (steps_model, "mse", spec(3, 4)),
    (lambda: COLUMN, "mse", spec(2)),
    (lambda: COLUMN, "mse", spec(dtype="string")),
]


def shown(value):
    return f"{value.dtype.name}{value.shape}" if isinstance(value, tf.TensorSpec) else None


@pytest.mark.parametrize(("build", "loss", "y"), FITS, ids=shown)
def test_labels_that_keras_takes_fit(build, loss, y):
    model = build()
    specs.labels(learner(model, loss), specs.x_spec(model), y)


@pytest.mark.parametrize(("build", "loss", "y"), WRONG, ids=shown)
def test_labels_that_would_be_broadcast_are_refused(build, loss, y):
    model = build()
    with pytest.raises(ValueError, match=r"Expected labels of shape .* Received: y_spec=TensorSp"):
        specs.labels(learner(model, loss), specs.x_spec(model), y)


def test_training_shows_the_labels():
    made = compiled(dense_model(), loss=mine)
    inputs, query_y = task_batch()
    made.test_on_batch(inputs, query_y)
    assert specs.y_spec(made, X) == spec(2)
