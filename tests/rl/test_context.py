"""A context vector that adapts in place of the weights (Finn et al., 2017, appendix C.2)."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import inner_optimizers, rl
from maml_tf.rl.environments import Navigation2D
from tests.rl.problems import assert_training_teaches_to_adapt


def learner(adaptable="context", inner_steps=1, **kwargs):
    policy = rl.policies.gaussian(2, 2, hidden=(16,), context=4)
    made = rl.MetaPolicy(
        policy, inner_optimizers.SGD(0.5), inner_steps, adaptable=adaptable, **kwargs
    )
    made.compile(rl.TrustRegion(0.01))
    return made


def environment(tasks=4, rollouts=6):
    return Navigation2D(tasks, rollouts, horizon=15)


def is_context(made):
    return ["context" in v.path for v in made.policy.trainable_variables]


@pytest.mark.parametrize("make", [rl.policies.gaussian, rl.policies.categorical])
def test_the_vector_is_an_input_beside_the_observation(make):
    policy = make(2, 3, hidden=(5,), context=4, dtype="float64")
    vector = next(v for v in policy.trainable_variables if "context" in v.path)
    np.testing.assert_array_equal(vector, np.zeros(4))
    kernel, bias = policy.get_layer("hidden_0").get_weights()
    assert kernel.shape == (6, 5)
    vector.assign([1.0, -2.0, 0.5, 3.0])
    observation = np.random.default_rng(0).normal(size=(7, 2))
    rows = np.concatenate([observation, np.tile(vector, (7, 1))], 1)
    hidden = np.maximum(rows @ kernel + bias, 0)
    head = "loc" if make is rl.policies.gaussian else "logits"
    kernel, bias = policy.get_layer(head).get_weights()
    np.testing.assert_allclose(policy(observation)[head], hidden @ kernel + bias, rtol=1e-12)


def test_policies_save_their_vectors(tmp_path):
    policy = rl.policies.gaussian(2, 2, hidden=(5,), context=3, log_scale=-0.5)
    for v in policy.trainable_variables:
        v.assign(v + 0.1)
    policy.save(tmp_path / "policy.keras")
    outputs = policy(np.ones((2, 2)))
    loaded = keras.saving.load_model(tmp_path / "policy.keras")(np.ones((2, 2)))
    for name, value in outputs.items():
        np.testing.assert_array_equal(loaded[name], value)
    np.testing.assert_allclose(outputs["log_scale"], np.full((2, 2), -0.4), rtol=1e-6)


def test_a_scale_stays_above_its_minimum():
    layer = rl.policies.LogScale(2, initial=-5.0, minimum=-3.0)
    again = rl.policies.LogScale.from_config(layer.get_config())
    np.testing.assert_array_equal(again(np.zeros((4, 7))), np.full((4, 2), -3.0))


def test_only_the_vector_changes_in_the_inner_loop():
    made, space = learner(), environment()
    space.set_tasks(space.sample_tasks(4, seed=0))
    fast, drawn = made.adapt_and_sample(space, inner_optimizers.SGD(0.5), 2, seed=0)
    assert len(drawn) == 3
    for f, w, context in zip(fast, made.weights_of_policy(), is_context(made), strict=True):
        if context:
            # Zero at first, another one for every task afterwards.
            assert len(np.unique(f, axis=0)) == 4
            assert (np.abs(f) > 0).all()
        else:
            np.testing.assert_array_equal(f, tf.repeat(w[None], 4, 0))


def test_the_outer_loop_changes_everything():
    made = learner()
    before = made.policy.get_weights()
    made.fit(environment(), 2, verbose=0)
    assert all((a != b).any() for a, b in zip(before, made.policy.get_weights(), strict=True))


def test_learns_to_adapt_by_the_vector():
    assert_training_teaches_to_adapt(learner, environment)


CHOICES = {
    "path": "context",
    "function": lambda v: "context" in v.path,
    "list": [True, False, False, False, False, False],
}


@pytest.mark.parametrize("choice", CHOICES)
def test_what_adapts_is_chosen_as_in_maml(choice):
    made = learner(CHOICES[choice])
    assert list(made.adaptable) == is_context(made)
    assert sum(made.adaptable) == 1


def test_a_saved_choice_goes_on_bit_equal(tmp_path):
    made = learner(CHOICES["function"])
    made.fit(environment(), 1, verbose=0)
    made.save(tmp_path / "half.keras")
    made.fit(environment(), 1, verbose=0)
    resumed = keras.saving.load_model(tmp_path / "half.keras")
    assert list(resumed.adaptable) == list(made.adaptable)
    resumed.fit(environment(), 1, verbose=0)
    for a, b in zip(resumed.get_weights(), made.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_adapted_policy_differs_in_its_vector_alone():
    made, space = learner(), environment(1, 20)
    space.set_tasks([[0.4, 0.4]])
    policy, _ = made.adapt(space, 1)
    pairs = zip(policy.get_weights(), made.policy.get_weights(), strict=True)
    assert [bool((a != b).any()) for a, b in pairs] == is_context(made)
