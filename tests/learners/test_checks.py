"""Settings that are refused, and those beside them that are not."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf.learners.base import checks
from tests.problems import compiled, dense_model, layers, task_batch
from tests.wrong_calls import Wrong, check

SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def weigh(class_weight, sample_weight=None):
    return checks.check_class_weight(class_weight, sample_weight)


CLASS_WEIGHTS = [
    Wrong(lambda: weigh({0: 1.0}, np.ones(2)), ValueError, "`sample_weight`", "both"),
    Wrong(lambda: weigh({}), ValueError, "`class_weight`", "class_weight={}"),
    Wrong(lambda: weigh([1.0, 2.0]), ValueError, "class_weight=[1.0, 2.0]"),
    Wrong(lambda: weigh("balanced"), ValueError, "class_weight='balanced'"),
    Wrong(lambda: weigh({"0": 1.0}), ValueError, "class_weight={'0': 1.0}"),
    Wrong(lambda: weigh({-1: 1.0}), ValueError, "class_weight={-1: 1.0}"),
    Wrong(lambda: weigh({0.5: 1.0}), ValueError, "class_weight={0.5: 1.0}"),
    Wrong(lambda: weigh({0: "much"}), ValueError, "class_weight={0: 'much'}"),
    Wrong(lambda: weigh({0: -1.0}), ValueError, "class_weight={0: -1.0}"),
    Wrong(lambda: weigh({0: np.inf}), ValueError, "class_weight={0: inf}"),
    Wrong(lambda: weigh({0: np.nan}), ValueError, "class_weight={0: nan}"),
    Wrong(lambda: weigh({0: 1.0, 1: None}), ValueError, "class_weight={0: 1.0, 1: None}"),
]


@pytest.mark.parametrize("wrong", CLASS_WEIGHTS, ids=str)
def test_wrong_weights_of_classes_are_explained(wrong):
    check(wrong)


@pytest.mark.parametrize(
    "class_weight", [None, {0: 0}, {0: 1, 3: 0.5}, {1.0: 2}, {np.int64(2): np.float32(2)}], ids=str
)
def test_classes_are_numbered_from_0_and_may_count_nothing(class_weight):
    weigh(class_weight)


class Stateful(layers.Layer):
    """A layer that does not say whether it keeps a state, as most do not."""

    def call(self, x):
        return x


def recurrent(stateful):
    x = keras.Input((4, 3), batch_size=2)
    return keras.Model(
        x, layers.Dense(2)(layers.GRU(2, stateful=stateful, name="gru")(Stateful()(x)))
    )


def test_layers_must_not_keep_a_state_between_tasks():
    checks.check_model(recurrent(False))
    check(Wrong(lambda: checks.check_model(recurrent(True)), ValueError, "['gru']"))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=str)
def test_weights_that_ran_away_are_refused_with_the_rate(bad):
    rate = types.SimpleNamespace(inner_optimizer=types.SimpleNamespace(learning_rate=0.25))
    weights = [tf.zeros([2]), tf.constant([[1.0, bad]])]
    checks.check_adapted(rate, weights[:1], 3)
    for learner, shown in ((rate, "learning_rate=0.25"), (None, "learning_rate=None")):
        wrong = Wrong(
            lambda learner=learner: checks.check_adapted(learner, weights, 3),
            FloatingPointError,
            "inner_steps=3",
            shown,
        )
        check(wrong)


def test_adaptation_that_runs_away_is_refused():
    inputs, _ = task_batch()
    x, y = inputs["support_x"][0], inputs["support_y"][0]
    wrong = Wrong(
        lambda: compiled(dense_model(), 1e30).adapt(x, y, inner_steps=3),
        FloatingPointError,
        "inner_steps=3",
        "1e+30",
    )
    check(wrong)


def test_a_learner_is_no_network_of_another_learner():
    check(Wrong(lambda: maml_tf.MAML(compiled(dense_model()), 0.1), TypeError, "learner.model"))


@pytest.mark.parametrize(
    "loss",
    ["mse", SPARSE, keras.losses.mean_squared_error, None],
    ids=["name", "object", "function", "none"],
)
def test_an_inner_loss_stays_as_it_was_given(loss):
    assert checks.check_inner_loss(loss) is loss


def test_an_inner_loss_of_a_configuration_becomes_a_loss():
    received = checks.check_inner_loss(keras.losses.serialize(SPARSE))
    assert isinstance(received, keras.losses.SparseCategoricalCrossentropy)


def test_files_and_names():
    checks.check_file("a.keras")
    assert checks.check_name(None) is None
    assert checks.check_name("mine") == "mine"
    assert checks.check_inner_steps(np.int64(3)) == 3
    for wrong in (
        Wrong(lambda: checks.check_file("a.h5"), ValueError, "filepath='a.h5'"),
        Wrong(lambda: checks.check_file(5), TypeError, "filepath=5"),
        Wrong(lambda: checks.check_name(5), TypeError, "name=5"),
        Wrong(lambda: checks.check_inner_steps(-1), ValueError, "inner_steps=-1"),
    ):
        check(wrong)
