import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import rl
from maml_tf.rl import host_policy, policies
from maml_tf.rl.sampling import Sampler


def handmade(activation="tanh", **kwargs):
    """Dense layers that are not a chain: the means see the observation again; one is frozen."""
    x = keras.Input((3,))
    frozen = keras.layers.Dense(4, use_bias=False, trainable=False)(x)
    hidden = keras.layers.Dense(5, activation, **kwargs)(frozen)
    loc = keras.layers.Dense(2)(keras.layers.Concatenate()([x, hidden]))
    return keras.Model(x, {"loc": loc, "log_scale": policies.LogScale(2, -9.0, minimum=-3.0)(x)})


POLICIES = {
    "gaussian": lambda: policies.gaussian(3, 2, hidden=(5, 4), log_scale=-0.5),
    "context": lambda: policies.gaussian(3, 2, hidden=(5,), context=3),
    "categorical": lambda: policies.categorical(3, 4, hidden=(5,)),
    "float64": lambda: policies.gaussian(3, 2, hidden=(5,), dtype="float64"),
    "handmade": handmade,
}


@pytest.mark.parametrize("name", POLICIES)
def test_computes_what_the_policy_computes(name):
    keras.utils.set_random_seed(0)
    policy = POLICIES[name]()
    rng = np.random.default_rng(1)
    weights = [
        w.numpy() + rng.normal(size=(4, *w.shape)).astype(w.dtype)
        for w in policy.trainable_variables
    ]
    observation = rng.normal(size=(4, 6, 3)).astype(np.float32)
    assert host_policy.supported(policy)
    ours = host_policy.network(policy, weights)(observation)
    given = tf.cast(observation, policy.inputs[0].dtype)
    expected = policies.apply_tasks(policy, [tf.constant(w) for w in weights], given)
    assert set(ours) == set(expected)
    for key, tensor in expected.items():
        exact = tensor.dtype == tf.float64
        assert ours[key].dtype == tensor.dtype
        np.testing.assert_allclose(ours[key], tensor, rtol=1e-12 if exact else 1e-5, atol=1e-6)


def shared():
    x, layer = keras.Input((3,)), keras.layers.Dense(3)
    return keras.Model(x, {"logits": layer(layer(x))})


def with_a_layer(layer):
    x = keras.Input((3,))
    return keras.Model(x, {"logits": keras.layers.Dense(2)(layer(x))})


def high_rank():
    x = keras.Input((3, 2))
    flat = keras.layers.Flatten()(keras.layers.Dense(2)(x))
    return keras.Model(x, {"logits": keras.layers.Dense(2)(flat)})


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2)

    def call(self, x):
        return {"logits": self.dense(x)}


@pytest.mark.parametrize(
    "make",
    [
        shared,
        high_rank,
        Subclassed,
        lambda: handmade("gelu"),
        lambda: handmade(dtype="mixed_bfloat16"),
        lambda: with_a_layer(keras.layers.LayerNormalization()),
        lambda: with_a_layer(keras.Sequential([keras.layers.Dense(2)])),
    ],
    ids=["shared", "rank", "subclass", "gelu", "mixed", "layer", "nested"],
)
def test_what_it_could_get_wrong_acts_in_the_graph(make):
    assert not host_policy.supported(make())


def test_gaussian_actions_are_distributed_as_the_policy_says():
    rng = np.random.default_rng(0)
    shape = (50_000, 2)
    outputs = {
        "loc": np.broadcast_to(np.float32([1.0, -2.0]), shape),
        "log_scale": np.broadcast_to(np.float32([-1.0, 0.5]), shape),
    }
    action = host_policy.drawn_action(outputs, rng)
    assert action.dtype == np.float32
    noise = (action - outputs["loc"]) / np.exp(outputs["log_scale"])
    # Five standard errors of: mean, variance, covariance, fourth moment (3; its variance is 96).
    error = 5 / np.sqrt(shape[0])
    np.testing.assert_allclose(noise.mean(0), 0, atol=error)
    np.testing.assert_allclose(np.cov(noise.T), np.eye(2), atol=error * 2**0.5)
    np.testing.assert_allclose((noise**4).mean(0), 3, atol=error * 96**0.5)


def test_categorical_actions_are_distributed_as_the_policy_says():
    logits = np.float32([0.0, 1.0, -2.0])
    action = host_policy.drawn_action(
        {"logits": np.broadcast_to(logits, (50_000, 3))}, np.random.default_rng(0)
    )
    assert action.dtype == np.int32
    expected = tf.nn.softmax(logits).numpy()
    frequency = np.bincount(action, minlength=3) / action.size
    error = 5 * np.sqrt(expected * (1 - expected) / action.size)
    assert (np.abs(frequency - expected) < error).all()


@pytest.mark.parametrize("activation", ["relu", "gelu"], ids=["host", "graph"])
def test_rollouts_of_either_kind_follow_policy_and_seed(activation):
    environment = rl.environments.HalfCheetahDirection(3, 2, horizon=6)
    environment.set_tasks(environment.sample_tasks(3, seed=0))
    x = keras.Input((20,))
    hidden = keras.layers.Dense(8, activation)(x)
    outputs = {"loc": keras.layers.Dense(6)(hidden), "log_scale": policies.LogScale(6)(x)}
    policy = keras.Model(x, outputs)
    assert host_policy.supported(policy) == (activation == "relu")
    weights = [np.stack([w, 2 * w, -w]) for w in policy.get_weights()]
    sampler = Sampler(policy, environment)
    drawn, again, other = (sampler.collect(weights, seed) for seed in (1, 1, 2))
    for one, two in zip(tf.nest.flatten(drawn), tf.nest.flatten(again), strict=True):
        np.testing.assert_array_equal(one, two)
    noise, other_noise = (
        ((d.action - d.outputs["loc"]) / tf.exp(d.outputs["log_scale"])).numpy()
        for d in (drawn, other)
    )
    assert np.unique(np.stack([noise, other_noise]).round(5)).size > 0.99 * 2 * noise.size
    flat = tf.reshape(drawn.observation, [3, -1, 20])
    expected = policies.apply_tasks(policy, weights, flat)["loc"]
    np.testing.assert_allclose(
        tf.reshape(drawn.outputs["loc"], expected.shape), expected, rtol=1e-4, atol=1e-5
    )
