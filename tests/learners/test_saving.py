"""What a learner may be saved to is what it can be loaded from."""

import pathlib

import keras
import numpy as np
import pytest

import maml_tf
from maml_tf.learners import saving
from tests.problems import dense_model


@pytest.mark.parametrize(
    ("path", "instead", "weights"),
    [
        ("a.h5", "'a.keras'", "'a.weights.h5'"),
        (pathlib.Path("runs/a.hdf5"), "'runs/a.keras'", "'runs/a.weights.h5'"),
        ("A.H5", "'A.keras'", "'A.weights.h5'"),
        ("a.weights.h5", "'a.keras'", "'a.weights.h5'"),
    ],
)
def test_the_old_format_is_refused_with_what_to_do(path, instead, weights):
    with pytest.raises(ValueError, match=r"Expected a path that ends in `\.keras`") as raised:
        saving.check_save_path(path)
    assert f"filepath={str(path)!r}" in str(raised.value)
    assert f"Save to {instead}" in str(raised.value)
    assert f"save_weights({weights})" in str(raised.value)


@pytest.mark.parametrize(
    "path", ["a.keras", pathlib.Path("a.h5") / "b.keras", "a", "h5", b"a.keras"]
)
def test_others_are_left_to_keras(path):
    saving.check_save_path(path)


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
    with pytest.raises(ValueError, match=r"ends in `\.keras`"):
        compiled().save(tmp_path / "a.h5")
    assert not list(tmp_path.iterdir())
    learner = compiled()
    learner.optimizer.build(learner.trainable_variables)
    learner.save(tmp_path / "a.keras")
    assert isinstance(keras.saving.load_model(tmp_path / "a.keras"), maml_tf.MAML)
