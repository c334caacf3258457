"""What a learner may be saved to is what it can be loaded from."""

import keras
import numpy as np
import pytest

import maml_tf
from tests.problems import dense_model


def compiled():
    learner = maml_tf.MAML(dense_model(), 0.1)
    learner.compile("adam", "mse")
    return learner


def test_weights_alone_may_be_h5(tmp_path):
    learner, other = compiled(), compiled()
    for variable in other.model.variables:
        variable.assign(variable + 1.0)
    learner.save_weights(tmp_path / "a.weights.h5")
    other.load_weights(tmp_path / "a.weights.h5")
    for mine, theirs in zip(learner.model.variables, other.model.variables, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_learner_saves_to_what_it_loads_from(tmp_path):
    with pytest.raises(ValueError, match=r"\.keras"):
        compiled().save(tmp_path / "a.h5")
    assert not list(tmp_path.iterdir())
    learner = compiled()
    learner.optimizer.build(learner.trainable_variables)
    learner.save(tmp_path / "a.keras")
    assert isinstance(keras.saving.load_model(tmp_path / "a.keras"), maml_tf.MAML)
