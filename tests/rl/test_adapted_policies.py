"""What `adapt` gives is the policy with the adapted weights, and all else that it has."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import inner_optimizers, rl
from maml_tf.rl import policies
from maml_tf.rl.environments import Navigation2D

# Another one for every layer that is made.
FACTORS = itertools.count(2)


class Drawn(keras.layers.Layer):
    """A constant of its constructor that nothing tells of."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.factor = [float(next(FACTORS))]

    def call(self, x):
        return x * self.factor[0]


def heads(inputs, x):
    outputs = {"loc": keras.layers.Dense(2)(x), "log_scale": policies.LogScale(2)(inputs)}
    return keras.Model(inputs, outputs)


def normalised():
    layer = keras.layers.Normalization()
    layer.adapt(np.random.default_rng(0).normal(10, 5, (100, 2)))
    inputs = keras.Input((2,))
    return heads(inputs, keras.layers.Dense(5, "tanh")(layer(inputs)))


def frozen_layer():
    inputs = keras.Input((2,))
    frozen = keras.layers.Dense(5, "tanh", trainable=False)(inputs)
    return heads(inputs, keras.layers.Dense(4, "tanh")(frozen))


def frozen_inside():
    inputs = keras.Input((2,))
    inner = keras.Sequential([keras.Input((2,)), keras.layers.Dense(5), keras.layers.Dense(4)])
    policy = heads(inputs, inner(inputs))
    inner.layers[0].kernel.trainable = False
    inner.layers[1].trainable = False
    return policy


def moving_statistics():
    inputs = keras.Input((2,))
    layer = keras.layers.BatchNormalization()
    policy = heads(inputs, layer(inputs))
    layer.moving_mean.assign([0.5, -0.25])
    layer.moving_variance.assign([4.0, 0.1])
    return policy


POLICIES = {
    "adapted normalization": normalised,
    "frozen layer": frozen_layer,
    "frozen inside": frozen_inside,
    "moving statistics": moving_statistics,
}


def one_task():
    space = Navigation2D(1, 8, horizon=6)
    space.set_tasks([[0.4, -0.3]])
    return space


@pytest.mark.parametrize("name", POLICIES)
def test_an_adapted_policy_is_the_policy_at_the_fast_weights(name, tmp_path):
    keras.utils.set_random_seed(1)
    learner = rl.MetaPolicy(POLICIES[name](), inner_optimizers.SGD(0.3))
    before = learner.get_weights()
    policy, _ = learner.adapt(one_task(), 2)
    fast, _ = learner.adapt_and_sample(one_task(), None, 2, seed=0)
    x = np.random.default_rng(3).normal(size=(9, 2)).astype(np.float32)
    expected = policies.apply(learner.policy, [w[0] for w in fast], tf.constant(x))
    for key, output in policy(x).items():
        np.testing.assert_allclose(output, expected[key], rtol=1e-5, atol=1e-6)
    assert [v.trainable for v in policy.variables] == [
        v.trainable for v in learner.policy.variables
    ]
    for one, two in zip(before, learner.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    # The same of a learner that was saved.
    learner.save(tmp_path / "learner.keras")
    loaded = keras.saving.load_model(tmp_path / "learner.keras")
    again, _ = loaded.adapt(one_task(), 2)
    for key, output in again(x).items():
        np.testing.assert_allclose(output, expected[key], rtol=1e-5, atol=1e-6)
    frozen = [v.trainable for v in loaded.policy.variables]
    assert frozen == [v.trainable for v in learner.policy.variables]


def test_a_policy_that_is_another_one_when_copied_is_named():
    inputs = keras.Input((2,))
    learner = rl.MetaPolicy(heads(inputs, Drawn(name="noise")(inputs)), 0.1)
    with pytest.raises(ValueError, match="Drawn 'noise'.*computes something else"):
        learner.adapt(one_task())
